"""Lends V2's workers to the fronts, so that whoever has calls has workers, whichever front its clients came to.

Each front, and the service itself, has a need: its calls that run and wait. Workers move while calls wait anywhere,
until everyone has a share of them by need, and whose calls have waited longest is next (`app.fronts.shares`). So a call
waits as long at one front as at another, and no worker is idle for longer than a worker's move takes while a call waits
elsewhere.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary

import msgspec

from app.fronts.frames import ANY_LEASE, DEATH, DEFINITION, GATE_CLOSED, LENT, RECALLED, WITHDRAWN
from app.fronts.gate import Gate
from app.fronts.handed import handed_of, loan_of
from app.fronts.link import FrontLink
from app.fronts.messages import Death, Loan, Running
from app.fronts.shares import Party, next_move
from pools.engine import Engine
from pools.process.exits import Exit, ExitCause
from pools.process.process import WorkerProcess
from pools.protocol import PoolSnapshot, WorkerSnapshot
from pools.state import WorkerSlot, WorkerState
from poolshift.worker.definitions import Definition
from routing.catalog.definitions import encode_definition

BALANCE_S: Final = 0.05
"""Time between two looks at who has how many workers, while any is on loan or a call waits."""
REST_S: Final = 0.25
"""The same while none is, and no call waits."""

HOME_AFTER_S: Final = 1.0
"""Idle workers of a front that has told of no call for so long come back, one in each `BALANCE_S`."""

_pack: Final = msgspec.msgpack.Encoder().encode


class _OnLoan:
    """A worker on loan."""

    def __init__(
        self,
        slot: WorkerSlot,
        process: WorkerProcess,
        link: FrontLink,
        when_dead: Callable[[asyncio.Future[Exit]], None],
    ) -> None:
        self.slot = slot
        self.when_dead = when_dead
        self.process = process
        self.link = link
        self.is_recalled = False


class Loans:
    """The workers on loan of one pool (`pools.lending.Lender`)."""

    def __init__(self, engine: Engine, gate: Gate) -> None:
        self._engine = engine
        self._gate = gate
        self._links: list[FrontLink] = []
        self._on_loan: dict[int, _OnLoan] = {}
        self._leases = 0
        self._numbers: WeakKeyDictionary[Definition, int] = WeakKeyDictionary()
        """The numbers by which fronts know definitions."""
        self._next_number = 0
        self._running: dict[FrontLink, Sequence[Running]] = {}
        """The running calls that each front told last."""
        self._is_ending = False
        self._may_move_busy = True
        """Set once in `BALANCE_S`."""
        self._oldest_here = math.inf
        """The time, by `time.perf_counter`, since which the service's own oldest call had waited at the last look."""
        self._none_left = asyncio.Event()
        self._none_left.set()
        engine.lender = self

    def __repr__(self) -> str:
        return f"<Loans on_loan={len(self._on_loan)} fronts={len(self._links)}>"

    # --- fronts

    def joined(self, link: FrontLink) -> None:
        """A front serves from now on."""
        self._links.append(link)
        self._see_if_lending()

    def left(self, link: FrontLink) -> None:
        """A front is gone. Nobody knows what its workers are at, so they are killed."""
        if link in self._links:
            self._links.remove(link)
        self._gate.front_has(link.number, 0, 0)
        self._running.pop(link, None)
        for one in list(self._on_loan.values()):
            if one.link is link:
                self._engine.kill_lent(one.slot, ExitCause.CANCELLED)

    def dismiss(self, link: FrontLink) -> None:
        """Takes a front's workers back, each once its call has ended, and lends it none any more."""
        self._links.remove(link)
        for lease, one in list(self._on_loan.items()):
            if one.link is link:
                self._recall(lease)

    def close_gate(self) -> None:
        """Has all calls go through the service, until it grants again what is right by then."""
        self._gate.close()
        for link in self._links:
            link.send(GATE_CLOSED, 0, 0)

    async def end(self) -> None:
        """Takes all workers back, each once its call has ended; returns when none is on loan."""
        self._is_ending = True
        self._see_if_lending()
        await self._none_left.wait()

    async def keep(self) -> None:
        """Keeps the workers where they are needed, until it is cancelled."""
        while True:
            for lease, one in list(self._on_loan.items()):
                if one.slot.is_due:
                    self._recall(lease)
            self._see_if_lending()
            self._may_move_busy = True
            self._oldest_here = self._engine.oldest_since
            self._balance()
            self._bring_home()
            await asyncio.sleep(BALANCE_S if self._on_loan or self._engine.waiting or self.waiting else REST_S)

    def _bring_home(self) -> None:
        """Recalls workers that rest at fronts: shadow calls and others take what is idle here."""
        now = asyncio.get_running_loop().time()
        for link in self._links:
            if self._gate.idle_at(link.number) and link.ran_at < now - HOME_AFTER_S:
                self._recall_any(link, is_urgent=True)

    def _see_if_lending(self) -> None:
        """Says if fronts get workers. If they do not, the calls that wait there come here."""
        lends = not self._is_ending and bool(self._links) and self._engine.live >= len(self._links)
        if lends != self._gate.lends:
            self._gate.set_lends(lends=lends)
            if not lends:
                self.close_gate()
                for lease in list(self._on_loan):
                    self._recall(lease)

    # --- what the engine asks (`pools.lending.Lender`)

    @property
    def waiting(self) -> int:
        return sum([self._gate.waiting_at(link.number) for link in self._links])

    @property
    def idle(self) -> int:
        return sum([min(self._gate.idle_at(link.number), link.workers) for link in self._links])

    def has_idle(self) -> None:
        self._balance()

    def is_wanted(self) -> None:
        """Calls wait at a front while somebody else has an idle worker."""
        self._balance()

    def is_short(self) -> None:
        self._balance()

    def is_suspect(self) -> None:
        self.close_gate()

    def withdraw_running(self) -> None:
        for link in self._links:
            link.send(WITHDRAWN, 0, 0)

    def completed(self, snapshot: PoolSnapshot) -> PoolSnapshot:
        on_loan = {one.process.pid: lease for lease, one in self._on_loan.items()}
        runs = {one.lease: one for running in self._running.values() for one in running}
        idle = 0
        workers: list[WorkerSnapshot] = []
        for worker in snapshot.workers:
            lease = on_loan.get(worker.pid)
            if lease is not None and worker.state == WorkerState.BUSY:
                running = runs.get(lease)
                if running is None:
                    idle += 1
                    worker = replace(worker, state=WorkerState.IDLE)  # noqa: PLW2901
                else:
                    worker = replace(  # noqa: PLW2901
                        worker,
                        execution_id=running.execution_id,
                        program_id=running.program_id,
                        running_s=running.running_s,
                    )
            workers.append(worker)
        return replace(
            snapshot,
            workers=tuple(workers),
            busy=snapshot.busy - idle,
            idle=snapshot.idle + idle,
            queue_depth=snapshot.queue_depth + self.waiting,
            utilization=(snapshot.busy - idle) / max(1, snapshot.size),
        )

    # --- who gets how many

    def _balance(self) -> None:
        """Moves workers to those who have less than their share."""
        if self._gate.lends and (self.waiting or (self._engine.waiting and self._on_loan)):
            while self._move_one():
                pass
        self._gate.service_has_idle(self._engine.idle)

    def _move_one(self) -> bool:
        """Lends one worker, or recalls one; returns if another may move."""
        links, engine = [link for link in self._links if not link.is_silent], self._engine
        on_loan = sum([link.workers for link in self._links])
        coming = sum([min(link.recalled, link.workers) for link in links])
        now = time.perf_counter()
        oldest_s = max(0.0, now - self._oldest_here) if engine.waiting else 0.0
        service = Party(max(0, engine.outstanding - on_loan), engine.live - on_loan + coming, oldest_s)
        fronts = [self._party(link, now) for link in links]
        move = next_move((service, *fronts), engine.live, engine.idle)
        if move is None:
            return False
        if move.to is not None:
            return self._lend(links[move.to - 1])
        assert move.giver is not None
        self._recall_any(links[move.giver - 1], is_urgent=move.is_urgent)
        return False

    def _recall_any(self, giver: FrontLink, *, is_urgent: bool) -> None:
        """Recalls whichever of a front's workers is idle first; one at a time.

        Unless that `is_urgent`, a worker that is busy moves only once in `BALANCE_S`, since needs change all the time.
        """
        if giver.recalled:
            return
        if not is_urgent and not self._gate.idle_at(giver.number):
            if not self._may_move_busy:
                return
            self._may_move_busy = False
        giver.recalled += 1
        giver.send(RECALLED, 0, ANY_LEASE)

    def _party(self, link: FrontLink, now: float) -> Party:
        """A front's need and what it has, as it has told last."""
        waiting = self._gate.waiting_at(link.number)
        return Party(
            need=waiting + max(0, link.workers - self._gate.idle_at(link.number)),
            has=link.workers - min(link.recalled, link.workers),
            oldest_s=max(0.0, now - self._gate.oldest_us_at(link.number) / 1e6) if waiting else 0.0,
        )

    # --- one worker

    def _lend(self, link: FrontLink) -> bool:
        """Lends an idle worker to a front."""
        slot = self._engine.lend()
        if slot is None:
            return False
        process = slot.process
        assert isinstance(process, WorkerProcess)  # `can_be_lent` says so
        handed = process.hand_over()
        if handed is None:
            self._engine.give_up_lending(slot)
            return False
        ends, known = handed
        self._leases += 1
        lease = self._leases
        if not link.handover.lend(lease, ends):
            process.come_back(known)
            self._engine.give_up_lending(slot)
            return False
        self._on_loan[lease] = _OnLoan(slot, process, link, lambda exited: self._died(lease, exited.result()))
        self._none_left.clear()
        link.workers += 1
        link.send(LENT, 0, 0, _pack(loan_of(lease, process, known, partial(self.told, link))))
        process.exited.add_done_callback(self._on_loan[lease].when_dead)
        return True

    def told(self, link: FrontLink, definition: Definition) -> int:
        """Returns the number of a definition, after a front has been told it."""
        number = self._numbers.get(definition)
        if number is None:
            number = self._numbers[definition] = self._next_number
            self._next_number += 1
        if number not in link.definitions:
            link.definitions[number] = definition
            link.send(DEFINITION, 0, number, encode_definition(definition))
        return number

    def _recall(self, lease: int) -> None:
        one = self._on_loan[lease]
        if not one.is_recalled:
            one.is_recalled = True
            one.link.send(RECALLED, 0, lease)

    def returned(self, link: FrontLink, loan: Loan) -> None:
        """A front has given a worker back."""
        one = self._forget(loan.lease)
        if one is None:
            return
        one.process.come_back(handed_of(loan, link.definitions.__getitem__))
        self._engine.take_back(one.slot)

    def killed(self, lease: int, cause: ExitCause, reason: str | None, fault: str | None) -> None:
        """A front wants a worker dead."""
        one = self._on_loan.get(lease)
        if one is not None:
            one.process.fault = one.process.fault or fault
            self._engine.kill_lent(one.slot, cause, reason)

    def ran(self, lease: int, count: int, seconds: Sequence[float]) -> None:
        """Counts calls that a worker on loan, or one that was, has run."""
        one = self._on_loan.get(lease)
        self._engine.ran_elsewhere(None if one is None else one.slot, count, seconds)

    def runs(self, link: FrontLink, running: Sequence[Running]) -> None:
        """Notes what runs at a front now."""
        self._running[link] = running

    def _died(self, lease: int, end: Exit) -> None:
        one = self._forget(lease)
        if one is not None:
            death = Death(lease, end.cause, end.description, end.cpu_s, end.is_ours)
            one.link.send(DEATH, 0, 0, _pack(death))

    def _forget(self, lease: int) -> _OnLoan | None:
        one = self._on_loan.pop(lease, None)
        if one is not None:
            one.process.exited.remove_done_callback(one.when_dead)
            one.link.workers -= 1
            if not self._on_loan:
                self._none_left.set()
        return one
