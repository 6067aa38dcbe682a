"""A worker that runs many calls at once: each that can wait is a task of one event loop.

    a program whose function, class or module is `async`  ──► a task beside the others
    any other program, a load, a check                    ──► alone, outside of the event loop, as any worker runs it

The service sends what has to be alone only while no task runs. A task has its own context: what it prints, its trace
and DSPy's settings are those of its call. What it has started and not awaited is cancelled with its end.
"""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final

import msgspec

from poolshift.worker import coroutines
from poolshift.worker.framing import READ_BYTES, FrameDecoder, cut_in_two
from poolshift.worker.lm import LMRun
from poolshift.worker.loading import LoadedProgram
from poolshift.worker.loop import Worker, decode_request, microseconds_since
from poolshift.worker.messages import CODE_CANCELLED, Blocked, Cancel, Done, EventKind, Failed, Flow, Loaded, Reply, Run
from poolshift.worker.tracing.optional import CallTracer, Ended

BLOCKED_S: Final = 0.15
"""A step of a task that holds the event loop for longer is told: the others could not run meanwhile."""
_LOOK_S: Final = 0.05
"""Time between two signs of life of the event loop, and between two looks for them."""


class _Task:
    """One call that runs beside others."""

    def __init__(self, request: Run) -> None:
        self.request = request
        self.task: asyncio.Task[None] | None = None
        self.is_cancelled = False
        self.children: set[asyncio.Task[Any]] = set()
        """Tasks that the program has started, and that still run."""
        self.room = asyncio.Event()
        self.room.set()


class _TaskEmit:
    """Sends the events of one task."""

    def __init__(self, worker: "ConcurrentWorker", running: _Task) -> None:
        self._worker = worker
        self._running = running

    def __call__(self, data: Any, kind: EventKind = "progress") -> None:
        self._worker.emit(self._running.request, data, kind)

    async def has_room(self) -> None:
        """Waits until the listener takes more events."""
        await self._running.room.wait()


class ConcurrentWorker(Worker):
    """Answers each request with exactly one reply, in the order in which they end."""

    def _take_requests(self) -> None:
        self._tasks: dict[str, _Task] = {}
        self._alone: deque[tuple[Any, bytes | memoryview]] = deque()
        """Requests that wait until no task runs."""
        self._is_over = False
        self._decoder = FrameDecoder()
        self._write_lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._loop.set_task_factory(self._make_task)
        self._watch = _BlockWatch(self)
        self._watch.start()
        self._leftovers.accept()
        coroutines.run_by(self._loop.run_until_complete)
        self._loop.add_reader(self._requests, self._readable)
        while not self._is_over:
            self._loop.run_forever()
            while self._alone and not self._tasks and not self._is_over:
                self._take(*self._alone.popleft())
        self._end()

    def _end(self) -> None:
        """Cancels what still runs: nobody waits for it any more."""
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
            self._loop.stop()
            return
        for payload in self._decoder.feed(data):
            message, inputs = cut_in_two(payload)
            self._dispatch(decode_request(message), inputs)

    def _dispatch(self, request: Any, inputs: bytes | memoryview) -> None:
        match request:
            case Cancel():
                self._cancel(request.id)
            case Flow():
                self._set_flow(request)
            case Run() if (loaded := self._loaded.get(request.number)) is not None and loaded.is_concurrent:
                self._begin(request, inputs, loaded)
            case _:
                self._alone.append((request, inputs))
                self._look_for_rest()

    def _loaded_now(self, execution_id: str, loaded: LoadedProgram) -> Loaded:
        return Loaded(execution_id, self._generation, is_concurrent=loaded.is_concurrent)

    # --- one task

    def _begin(self, request: Run, inputs: bytes | memoryview, loaded: LoadedProgram) -> None:
        running = self._tasks[request.id] = _Task(request)
        running.task = self._loop.create_task(self._run_task(running, inputs, loaded))
        self._watch.look()

    async def _run_task(self, running: _Task, inputs: bytes | memoryview, loaded: LoadedProgram) -> None:
        request = running.request
        self._current.enter_task(request.id, request.program_id, request.traceparent)
        try:
            reply, outputs = await self._traced(request, self._ended(running, inputs, loaded))
            await self._end_children(running)
        finally:
            self._current.leave()
            del self._tasks[request.id]
        self._send(reply, outputs)
        self._look_for_rest()
        if not self._tasks:
            self._look_for_leftovers(request)

    async def _traced(self, request: Run, run: Coroutine[Any, Any, Ended]) -> Ended:
        if request.traceparent is None and request.carried is None:
            return await run
        if self._tracer is None:
            self._tracer = CallTracer()
        return await self._tracer.run_beside_others(request, run)

    async def _ended(self, running: _Task, inputs: bytes | memoryview, loaded: LoadedProgram) -> Ended:
        request = running.request
        self._programs[request.number] = request.program_id
        lm = None if request.lm is None else LMRun(request.lm, request.lm_budget_s, request.stream)
        started = time.perf_counter_ns()
        try:
            outputs = await loaded.run_beside_others(inputs, _TaskEmit(self, running), lm)
        except SystemExit:
            raise
        except BaseException as error:  # whatever a program raises is its own failure, and the worker goes on
            if running.is_cancelled:
                usage = None if lm is None else lm.usage
                us = microseconds_since(started)
                return Failed(request.id, self._generation, us, CODE_CANCELLED, "cancelled", usage=usage), b""
            return self._failed(request.id, microseconds_since(started), error, lm), b""
        run_us = microseconds_since(started)
        return Done(request.id, self._generation, run_us, usage=lm.usage if lm else None), outputs

    async def _end_children(self, running: _Task) -> None:
        """Cancels the tasks that a program has started and left: they are of no call any more."""
        children = {child for child in running.children if not child.done()}
        for child in children:
            child.cancel()
        if children:
            await asyncio.wait(children)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        """Makes a task, and notes it for the call that has started it."""
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        running = self._tasks.get(self._current.now.execution_id or "")
        if running is not None and running.request.lm is None:  # the clients of LMs share tasks between calls
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

    def _look_for_rest(self) -> None:
        """Leaves the event loop for what has to be alone."""
        if self._alone and not self._tasks:
            self._loop.stop()

    def _look_for_leftovers(self, request: Run) -> None:
        """Looks what the calls since the last look have left, now that no call runs; the last of them stands for all."""
        left = self._leftovers.before_reply() or self._leftovers.after_reply(request.number)
        if left:
            self._tell_left(request.id, left)

    # --- shared with the watch

    def current(self) -> Run | None:
        """The call whose task holds the event loop, for another thread."""
        task = asyncio.current_task(self._loop)
        for running in tuple(self._tasks.values()):
            if task is not None and (running.task is task or task in running.children):
                return running.request
        return None

    @property
    def runs_tasks(self) -> bool:
        """True while calls run in tasks."""
        return bool(self._tasks)

    def tick(self, beat: "_BlockWatch") -> None:
        """Gives a sign of life from the event loop."""
        self._loop.call_soon_threadsafe(beat.beat)

    def blocked(self, request: Run, seconds: float) -> None:
        """Tells, from another thread, of a call that holds the event loop."""
        self._send(Blocked(request.id, self._generation, seconds))

    def emit(self, request: Run, data: Any, kind: EventKind) -> None:
        """Sends an event of a call."""
        self._emit(request, data, kind)

    def _send(self, reply: Reply, payload: bytes = b"") -> None:
        if not hasattr(self, "_write_lock"):
            super()._send(reply, payload)
            return
        with self._write_lock:
            super()._send(reply, payload)


class _BlockWatch(threading.Thread):
    """Looks from outside whether the event loop goes round."""

    def __init__(self, worker: ConcurrentWorker) -> None:
        super().__init__(daemon=True, name="poolshift-block-watch")
        self._worker = worker
        self._is_wanted = threading.Event()
        self._beaten = threading.Event()

    def look(self) -> None:
        """Looks for as long as tasks run."""
        self._is_wanted.set()

    def beat(self) -> None:
        """Notes that the event loop has come round."""
        self._beaten.set()

    def run(self) -> None:
        while True:
            self._is_wanted.wait()
            self._is_wanted.clear()
            while self._worker.runs_tasks:
                self._look_once()
                time.sleep(_LOOK_S)

    def _look_once(self) -> None:
        self._beaten.clear()
        began = time.monotonic()
        self._worker.tick(self)
        if self._beaten.wait(BLOCKED_S):
            return
        request = self._worker.current()
        self._beaten.wait()
        if request is not None:
            self._worker.blocked(request, time.monotonic() - began)
