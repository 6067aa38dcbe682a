"""Keeps a pool's workers warm: each has loaded the programs that were used lately before a call needs them.

A worker that starts is warmed before it is idle, within `WarmOptions.timeout_s`. Idle workers are warmed in the
background when programs become used or change. A program that cannot be loaded ahead is told once in the log and left
out until its definition or the code changes. It keeps no worker from starting, and is no evidence against anybody.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

import structlog

from pools.calls import Program
from pools.errors import ExecutionError, LoadFailed, LoadTimeout, WorkerCrashed, WorkerFull, WorkerLost
from pools.process.interface import LoadOrder
from pools.state import PoolState, WorkerSlot, WorkerState
from pools.supervisor import MIB, Supervisor
from poolshift.worker.definitions import Definition

DEFAULT_MAX_RSS_BYTES: Final = 1024 * MIB
"""A worker whose resident memory is larger is warmed no further, unless the pool has a limit of its own."""
INTERVAL_S: Final = 1.0
"""Time between two looks at idle workers in the background."""
POLL_S: Final = 0.05
"""Time between two looks of somebody who waits for warm workers."""
MEASURE_TIMEOUT_S: Final = 1.0
"""The longest time that a node may take to tell the memory of a worker."""
LOOKS: Final = 64
"""The idle workers that one look in the background compares."""

_T = TypeVar("_T")
_log = structlog.stdlib.get_logger("poolshift.pools")


def _no_programs() -> Sequence[Program]:
    return ()


@dataclass(frozen=True, slots=True)
class WarmOptions:
    """The programs to warm a pool's workers for, and the bounds of that."""

    programs: Callable[[], Sequence[Program]] = _no_programs
    """Tells the programs that were used lately, some hundred at most, the most used first. It is asked often."""
    timeout_s: float = 0.0
    """The time that one worker's start may take for it, in seconds; 0 warms no worker."""
    max_rss_bytes: int = DEFAULT_MAX_RSS_BYTES
    """The resident memory of a worker beyond which it is warmed no further."""


class Warming:
    """The warmth of one pool's workers."""

    def __init__(
        self,
        version: str,
        state: PoolState,
        supervisor: Supervisor,
        options: WarmOptions,
        *,
        load_timeout_s: float,
        is_busy: Callable[[], bool],
        serve_queue: Callable[[], None],
        loaded: Callable[[Definition], None],
    ) -> None:
        """`is_busy` tells if calls wait. `loaded` is told of each program that an idle worker has loaded."""
        self._version = version
        self._state = state
        self._supervisor = supervisor
        self._options = options
        self._load_timeout_s = load_timeout_s
        self._is_busy = is_busy
        self._serve_queue = serve_queue
        self._loaded = loaded
        self._loop = asyncio.get_running_loop()
        self._in_background: set[WorkerSlot] = set()
        self._faulty: WeakKeyDictionary[Definition, None] = WeakKeyDictionary()
        """The programs that cannot be loaded ahead, for as long as the code is of `_revision`."""
        self._seconds: WeakKeyDictionary[Definition, float] = WeakKeyDictionary()
        """The time that a load took last; infinite if a start's time was used up before its end."""
        self._revision: str | None = None
        self._since: WeakKeyDictionary[Definition, float] = WeakKeyDictionary()
        """The time of the loop at which a program was wanted first."""
        self._cold_starts = 0
        """The next starts that are not warmed, since the workers that they replace have used up the time."""

    def __repr__(self) -> str:
        return f"<Warming in_background={len(self._in_background)} faulty={len(self._faulty)}>"

    @property
    def count(self) -> int:
        """The workers that are warmed in the background at the moment."""
        return len(self._in_background)

    # --- a worker that starts

    async def warm(self, slot: WorkerSlot) -> None:
        """Loads programs into a worker that has just started, until the time or the memory is used up. Never raises."""
        if self._cold_starts:
            self._cold_starts -= 1
            return
        due = self._loop.time() + self._options.timeout_s
        try:
            for program in self._missing(slot, self._wanted()):
                left_s = due - self._loop.time()
                if left_s <= 0 or not await self._warm_for(slot, program, left_s):
                    return
        except Exception:
            _log.exception("a worker could not be warmed", pool_version=self._version)

    async def _warm_for(self, slot: WorkerSlot, program: Program, left_s: float) -> bool:
        """Loads one program, if that is likely to be done in time. Returns False if the worker is to load no more."""
        if self._seconds.get(program.definition, 0.0) > left_s:
            return True
        ended: asyncio.Future[None] = self._loop.create_future()
        began = self._loop.time()

        def end(failure: ExecutionError | None) -> None:
            # At once, since the worker that follows a dead one is about to ask what to load.
            is_cut_off = left_s < self._load_timeout_s and isinstance(failure, LoadTimeout)
            self._note(program, failure, math.inf if is_cut_off else self._loop.time() - began)
            self._cold_starts += is_cut_off
            _once(ended)(None)

        try:
            self._supervisor.load(slot, program, LoadOrder(limit_s=left_s), end)
        except WorkerLost:
            return False
        except WorkerFull:
            slot.is_full = True
            return False
        except ExecutionError as error:
            end(error)
        await ended
        if slot.state is not WorkerState.STARTING:
            return False
        await self._look_at_memory(slot)
        return not slot.is_full

    async def _look_at_memory(self, slot: WorkerSlot) -> None:
        """Notes if a worker has grown past the bound."""
        assert slot.process is not None
        measured: asyncio.Future[int] = self._loop.create_future()
        slot.process.ask_memory(_once(measured))
        try:
            async with asyncio.timeout(MEASURE_TIMEOUT_S):
                self._note_memory(slot, await measured)
        except TimeoutError:
            pass  # a node that does not answer

    def _note_memory(self, slot: WorkerSlot, rss_bytes: int) -> None:
        slot.is_full = rss_bytes > self._options.max_rss_bytes

    # --- idle workers

    async def keep(self) -> None:
        """Warms idle workers whenever programs become used or change, until it is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self._look()

    def _look(self) -> None:
        """Has the coldest idle workers load what they lack: a quarter of the pool at once, at least one."""
        wanted = self._wanted()
        while wanted and len(self._in_background) < max(1, self._state.size // 4) and self._is_idle():
            missing = [(self._missing(slot, wanted), slot) for slot in islice(self._state.idle, LOOKS)]
            programs, slot = max(missing, key=lambda one: len(one[0]))
            if not programs or not self._begin(slot, programs[0]):
                return

    def _is_idle(self) -> bool:
        """Tells if a worker may be taken from the calls for a load: none waits, and another one stays idle for them."""
        idle = len(self._state.idle)
        kept = max(1, min(2, self._state.live, self._state.size))
        return not self._state.is_closing and not self._is_busy() and idle >= kept

    def _begin(self, slot: WorkerSlot, program: Program) -> bool:
        if self._state.take_to_load(slot) is None:
            return False
        self._in_background.add(slot)
        began = self._loop.time()
        try:
            self._supervisor.load(slot, program, LoadOrder(), lambda error: self._ended(slot, program, error, began))
        except WorkerLost:
            self._in_background.discard(slot)
        except WorkerFull:
            self._in_background.discard(slot)
            slot.is_full = True
            self._supervisor.give_back(slot)
        except ExecutionError as error:
            self._ended(slot, program, error, began)
            return False
        return True

    def _ended(self, slot: WorkerSlot, program: Program, failure: ExecutionError | None, began: float) -> None:
        self._in_background.discard(slot)
        self._note(program, failure, self._loop.time() - began)
        if failure is None and slot.process is not None:
            slot.process.ask_memory(lambda rss_bytes: self._note_memory(slot, rss_bytes))
        self._supervisor.give_back(slot)
        if failure is None:
            self._loaded(program.definition)
        self._serve_queue()
        self._loop.call_soon(self._look)

    # --- what to load

    def _wanted(self) -> Sequence[Program]:
        """The programs that workers are to have loaded, the most used first."""
        if not self._options.timeout_s:
            return ()
        if self._revision != self._supervisor.programs_revision:
            self._revision = self._supervisor.programs_revision
            self._faulty.clear()
            self._seconds.clear()
        now = self._loop.time()
        wanted = [one for one in self._options.programs() if one.definition not in self._faulty]
        for program in wanted:
            self._since.setdefault(program.definition, now)
        return wanted

    def _missing(self, slot: WorkerSlot, wanted: Sequence[Program]) -> list[Program]:
        if slot.is_full or slot.process is None:
            return []
        return [program for program in wanted if not slot.process.has_loaded(program.definition)]

    def _note(self, program: Program, failure: ExecutionError | None, seconds: float) -> None:
        """Notes how a load ended: one that failed is tried no more."""
        definition = program.definition
        self._seconds[definition] = seconds
        if failure is None:
            self._faulty.pop(definition, None)
        elif math.isfinite(seconds) and _is_fault(failure) and definition not in self._faulty:
            self._faulty[definition] = None
            _log.warning(
                "program cannot be loaded ahead of its calls; workers are warmed without it until it changes",
                pool_version=self._version,
                program_id=program.id,
                reason=str(failure),
            )

    # --- how warm the pool is

    @property
    def warm_workers(self) -> int:
        """The live workers that have ended their warming, the one for programs that became used lately included."""
        wanted, oldest = self._wanted(), self._loop.time() - self._options.timeout_s
        lately = [program for program in wanted if self._since[program.definition] > oldest]
        return sum(1 for slot in self._state.slots if slot.is_live and self._is_warm(slot, lately))

    def _is_warm(self, slot: WorkerSlot, lately: Sequence[Program]) -> bool:
        """Tells if a worker has the programs that became wanted lately; it has had the time for the others."""
        return not self._missing(slot, lately)

    def is_warm_for(self, share: float) -> bool:
        """Tells if as many workers are warm as a share of the traffic, 0 to 1, needs."""
        return share <= 0 or self.warm_workers >= max(1, math.ceil(share * self._state.size))

    async def warmed(self, share: float) -> bool:
        """Waits until the pool is warm for a share; returns False if the time for that has passed before.

        A pool that cannot start workers is not waited for.
        """
        due = self._loop.time() + self._options.timeout_s
        while not self.is_warm_for(share):
            is_down = not self._state.live and self._supervisor.fault is not None
            if is_down or self._state.is_closing or self._loop.time() >= due:
                return False
            await asyncio.sleep(POLL_S)
        return True


def _is_fault(failure: ExecutionError) -> bool:
    """Tells if a load failed because of the program: not if the service has ended the worker, or stops."""
    if isinstance(failure, WorkerCrashed):
        return not failure.is_ours
    return isinstance(failure, (LoadFailed, LoadTimeout))


def _once(future: asyncio.Future[_T]) -> Callable[[_T], None]:
    """Sets a future that may be cancelled meanwhile."""
    return lambda result: None if future.done() else future.set_result(result)
