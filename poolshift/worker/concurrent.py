"""A worker that runs many calls at once: each that can wait is a task of one event loop.

    a program whose function, class or module is `async`  ──► a task beside the others
    a load                                                ──► between two turns of the event loop: tasks wait meanwhile
    any other program, a check                            ──► alone, while no task runs, as any worker runs it

A task has its own context: what it prints, its trace and DSPy's settings are those of its call. What it has started
and not awaited is cancelled with its end.
"""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Coroutine, Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from poolshift.worker import coroutines
from poolshift.worker.framing import READ_BYTES, FrameDecoder, cut_in_two
from poolshift.worker.lm import LMRun
from poolshift.worker.loading import RunBesideOthers
from poolshift.worker.loop import Worker, decode_request, microseconds_since
from poolshift.worker.messages import (
    CODE_CANCELLED,
    Blocked,
    Cancel,
    Done,
    EventKind,
    Failed,
    Flow,
    Left,
    Load,
    Request,
    Run,
)
from poolshift.worker.revision import CodeRevision
from poolshift.worker.tracing.optional import Ended

BLOCKED_S: Final = 0.15
"""A step of a task that holds the event loop for longer is told: the others could not run meanwhile."""
_LOOKS: Final = 3
"""The looks in that time."""
_LATE: Final = 2.0
"""A look that takes this many times as long as it should is late: the machine is busy, and nothing is told."""
_PAUSE_S: Final = 0.05
"""Time between the event loop's sign of life and the next question for one."""


class _Task:
    """One call that runs beside others."""

    def __init__(self, request: Run) -> None:
        self.request = request
        self.task: asyncio.Task[None] | None = None
        self.is_cancelled = False
        self.reply: Ended | None = None
        """The reply and the outputs, once the program has run."""
        self.children: set[asyncio.Task[Any]] = set()
        """Tasks that the program has started, and that still run."""
        self.room = asyncio.Event()
        """Set while the listener takes events."""
        self.room.set()

    def __repr__(self) -> str:
        return f"<_Task {self.request.id} children={len(self.children)} cancelled={self.is_cancelled}>"


class _TaskEmit:
    """Sends the events of one task."""

    def __init__(self, worker: Worker, running: _Task) -> None:
        self._worker = worker
        self._running = running

    def __call__(self, data: Any, kind: EventKind = "progress") -> None:
        self._worker.emit(self._running.request, data, kind)

    async def has_room(self) -> None:
        """Waits until the listener takes more events."""
        await self._running.room.wait()


class ConcurrentWorker:
    """Answers each request with exactly one reply, in the order in which they end."""

    def __init__(
        self, requests: int, replies: int, generation: int, allowed_modules: tuple[str, ...], code: CodeRevision
    ) -> None:
        """Takes the descriptors that requests come from and replies go to."""
        self._requests = requests
        self._requests_inode = os.fstat(requests).st_ino
        self._worker = Worker(requests, replies, generation, allowed_modules, code, threading.Lock())
        self._generation = generation
        self._current = self._worker.current
        self._tasks: dict[str, _Task] = {}
        self._alone: deque[tuple[Request, bytes | memoryview]] = deque()
        """Requests that wait until no task runs."""
        self._loads: deque[tuple[Load, bytes | memoryview]] = deque()
        self._is_serving = False
        """True while the event loop runs for tasks alone, so that it may be left amid them."""
        self._is_over = False
        self._decoder = FrameDecoder()
        self._loop = asyncio.new_event_loop()
        self._watch = _BlockWatch(self)

    def __repr__(self) -> str:
        return f"<ConcurrentWorker tasks={len(self._tasks)} alone={len(self._alone)}>"

    def serve(self) -> None:
        """Says that it is ready, then answers until the service closes its end."""
        self._worker.serve_by(self._take_requests)

    def _take_requests(self) -> None:
        self._loop.set_task_factory(self._make_task)
        self._watch.start()
        self._worker.leftovers.accept()
        coroutines.run_by(self._loop.run_until_complete)
        self._loop.add_reader(self._requests, self._readable)
        while not self._is_over:
            if not self._must_leave_loop():
                self._is_serving = True
                self._loop.run_forever()
                self._is_serving = False
            if self._loads:
                self._worker.take(*self._loads.popleft())
            elif self._alone and not self._tasks and not self._is_over:
                self._worker.take(*self._alone.popleft())
                self._end_if_deaf()
        self._end()

    def _end(self) -> None:
        """Cancels what still runs: nobody waits for it any more."""
        with suppress(OSError):  # a program has closed it
            self._loop.remove_reader(self._requests)
        for running in self._tasks.values():
            running.is_cancelled = True
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())

    def _readable(self) -> None:
        data = os.read(self._requests, READ_BYTES)
        if not data:
            self._is_over = True
            self._leave_loop()
            return
        for payload in self._decoder.feed(data):
            message, inputs = cut_in_two(payload)
            self._dispatch(decode_request(message), inputs)

    def _dispatch(self, request: Request, inputs: bytes | memoryview) -> None:
        match request:
            case Cancel():
                self._cancel(request.id)
            case Flow():
                self._set_flow(request)
            case Run() if (run := self._beside_others(request.number)) is not None:
                self._begin(request, inputs, run)
            case Load():
                self._loads.append((request, inputs))
                self._leave_loop()
            case _:
                self._alone.append((request, inputs))
                self._leave_loop()

    def _beside_others(self, number: int) -> RunBesideOthers | None:
        loaded = self._worker.loaded.get(number)
        return None if loaded is None else loaded.beside_others

    # --- one task

    def _begin(self, request: Run, inputs: bytes | memoryview, run: RunBesideOthers) -> None:
        running = self._tasks[request.id] = _Task(request)
        running.task = self._loop.create_task(self._run_task(running, inputs, run))
        running.task.add_done_callback(partial(self._answer, running))
        self._watch.look()

    async def _run_task(self, running: _Task, inputs: bytes | memoryview, run: RunBesideOthers) -> None:
        request = running.request
        self._current.enter_task(request.id, request.program_id, request.traceparent)
        try:
            running.reply = await self._traced(request, self._ended(running, inputs, run))
            await self._end_children(running)
        finally:
            self._current.leave()

    def _answer(self, running: _Task, task: asyncio.Task[None]) -> None:
        """Sends the reply to a call whose task has ended: whenever it was cancelled, even before its first step."""
        request = running.request
        del self._tasks[request.id]
        if not task.cancelled() and isinstance(task.exception(), SystemExit):
            return  # it ends the worker
        cancelled = Failed(request.id, self._generation, 0, CODE_CANCELLED, "cancelled"), b""
        try:
            self._worker.send(*(running.reply or cancelled))
        except (BrokenPipeError, ConnectionResetError):
            self._is_over = True  # the service needs this worker no more, or is gone
        self._end_if_deaf()
        self._leave_loop()
        if not self._tasks:
            self._look_for_leftovers(request)

    async def _traced(self, request: Run, run: Coroutine[Any, Any, Ended]) -> Ended:
        if request.traceparent is None and request.carried is None:
            return await run
        return await self._worker.tracer().run_beside_others(request, run)

    async def _ended(self, running: _Task, inputs: bytes | memoryview, run: RunBesideOthers) -> Ended:
        request = running.request
        self._worker.callers[request.number] = request.program_id
        lm = None if request.lm is None else LMRun(request.lm, request.lm_budget_s, request.stream)
        started = time.perf_counter_ns()
        try:
            outputs = await run(inputs, _TaskEmit(self._worker, running), lm)
        except SystemExit:
            raise
        except BaseException as error:  # whatever a program raises is its own failure, and the worker goes on
            us = microseconds_since(started)
            if running.is_cancelled:
                usage = None if lm is None else lm.usage
                return Failed(request.id, self._generation, us, CODE_CANCELLED, "cancelled", usage=usage), b""
            return self._worker.failed(request.id, us, error, lm), b""
        us = microseconds_since(started)
        return Done(request.id, self._generation, us, usage=None if lm is None else lm.usage), outputs

    async def _end_children(self, running: _Task) -> None:
        """Cancels the tasks that a program has started and left: they are of no call any more.

        Clients of LMs have tasks that calls share, so those of a DSPy program end by themselves.
        """
        if running.request.lm is not None:
            return
        children = {child for child in running.children if not child.done()}
        for child in children:
            child.cancel()
        if children:
            await asyncio.wait(children)

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **options: Any,
    ) -> asyncio.Task[Any]:
        """Makes a task, and notes it for the call that has started it."""
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        running = self._tasks.get(self._current.now.execution_id or "")
        if running is not None:
            running.children.add(task)
            task.add_done_callback(running.children.discard)
        return task

    def _cancel(self, execution_id: str) -> None:
        running = self._tasks.get(execution_id)
        if running is not None and running.task is not None:
            running.is_cancelled = True
            running.task.cancel()

    def _set_flow(self, request: Flow) -> None:
        running = self._tasks.get(request.id)
        if running is None:
            return
        if request.is_open:
            running.room.set()
        else:
            running.room.clear()

    def _end_if_deaf(self) -> None:
        """Ends a worker whose requests a program has closed: the event loop would wait for ever, without an error."""
        try:
            self._is_over = self._is_over or os.fstat(self._requests).st_ino != self._requests_inode
        except OSError:
            self._is_over = True

    def _must_leave_loop(self) -> bool:
        return self._is_over or bool(self._loads) or (bool(self._alone) and not self._tasks)

    def _leave_loop(self) -> None:
        """Leaves the event loop after this turn, if there is anything to do outside of it."""
        if self._is_serving and self._must_leave_loop():
            self._loop.stop()

    def _look_for_leftovers(self, request: Run) -> None:
        """Tells what the calls since the last look have left, now that none runs; the last stands for all."""
        left = self._worker.leftovers.before_reply() or self._worker.leftovers.after_reply(request.number)
        if left:
            self._worker.send(Left(request.id, self._generation, left))

    # --- for the watch, which is another thread

    def current(self) -> Run | None:
        """The call whose task holds the event loop."""
        task = asyncio.current_task(self._loop)
        for running in tuple(self._tasks.values()):
            if task is not None and (running.task is task or task in running.children):
                return running.request
        return None

    @property
    def runs_tasks(self) -> bool:
        """True while calls run in tasks."""
        return bool(self._tasks)

    def ask_for_life(self, give_sign: threading.Event) -> None:
        """Has the event loop give a sign when it comes round."""
        self._loop.call_soon_threadsafe(give_sign.set)

    def tell_blocked(self, request: Run, seconds: float, *, is_over: bool) -> None:
        """Tells the service of a call that holds the event loop, or has held it."""
        self._worker.send(Blocked(request.id, self._generation, seconds, is_over))


class _BlockWatch(threading.Thread):
    """Looks from outside if the event loop goes round, for as long as tasks run."""

    def __init__(self, worker: ConcurrentWorker) -> None:
        super().__init__(daemon=True, name="poolshift-block-watch")
        self._worker = worker
        self._is_wanted = threading.Event()

    def look(self) -> None:
        """Has the thread look again."""
        self._is_wanted.set()

    def run(self) -> None:
        while True:
            self._is_wanted.wait()
            self._is_wanted.clear()
            while self._worker.runs_tasks:
                self._look_once()
                time.sleep(_PAUSE_S)

    def _look_once(self) -> None:
        sign, began = threading.Event(), time.monotonic()
        self._worker.ask_for_life(sign)
        request = self._blocking(sign)
        if request is not None:
            self._worker.tell_blocked(request, time.monotonic() - began, is_over=False)
        sign.wait()
        if request is not None:
            self._worker.tell_blocked(request, time.monotonic() - began, is_over=True)

    def _blocking(self, sign: threading.Event) -> Run | None:
        """The call that has held the event loop at each look; None if the sign came, or if no one call is the cause.

        A turn of the event loop may be long because many calls have a step in it, or because the machine is busy: time
        in which the thread could run and had no processor does not count.
        """
        blocking: Run | None = None
        began_waiting = _waited_for_processor_s()
        for look in range(_LOOKS):
            began = time.monotonic()
            if sign.wait(BLOCKED_S / _LOOKS) or time.monotonic() - began > _LATE * BLOCKED_S / _LOOKS:
                return None
            current = self._worker.current()
            if current is None or (look and current is not blocking):
                return None
            blocking = current
        waited_s = _waited_for_processor_s() - began_waiting
        return blocking if waited_s < BLOCKED_S / _LOOKS else None


def _waited_for_processor_s() -> float:
    """The time that the first thread of this process, which has the event loop, has waited for a processor so far.

    In seconds, by the second number of `schedstat` (proc(5)); 0 if the kernel does not keep it.
    """
    try:
        with Path(f"/proc/self/task/{os.getpid()}/schedstat").open("rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
