"""The worker's end of its pipes: one child process that runs one execution at a time, until they close."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, cast

import msgspec

from poolshift.worker.definitions import Definition
from poolshift.worker.errors import ExecutionError, LoadFailed, SignatureError
from poolshift.worker.exception_text import MAX_MESSAGE_LENGTH, describe, traceback_of, truncate
from poolshift.worker.framing import (
    MAX_COPIED_BYTES,
    PIPE_BYTES,
    FrameError,
    make_room,
    read_pairs,
    start_of_two,
    write_all,
)
from poolshift.worker.leftovers import Leftovers
from poolshift.worker.lm import LMRun
from poolshift.worker.loading import EntrypointError, LoadedProgram, check, load, try_out
from poolshift.worker.messages import (
    CODE_OUTDATED,
    MAX_EVENT_BYTES,
    MAX_RETRY_AFTER_S,
    Check,
    Checked,
    Done,
    EventKind,
    Failed,
    Left,
    Load,
    Loaded,
    Progress,
    Ready,
    Reply,
    Request,
    Run,
)
from poolshift.worker.revision import CodeRevision
from poolshift.worker.stdio import CurrentExecution, tell_parent
from poolshift.worker.tracing.optional import CallTracer, Ended

decode_request: Final[Callable[[bytes], Request]] = msgspec.json.Decoder(Request).decode
"""Decodes a request. Raises msgspec.DecodeError."""
_encode: Final = msgspec.json.Encoder().encode
_perf_counter_ns: Final = time.perf_counter_ns


class Worker:
    """Answers each request with exactly one reply, through pipes that it alone owns."""

    def __init__(
        self,
        requests: int,
        replies: int,
        generation: int,
        allowed_modules: tuple[str, ...],
        code: CodeRevision,
        write_lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        """Takes the descriptors that requests come from and replies go to.

        With a `write_lock` several threads may send, and programs that can run beside others are told as such.
        """
        self._requests = requests
        self._replies = replies
        self._generation = generation
        self._allowed_modules = allowed_modules
        self._code = code
        self._definitions: dict[int, Definition] = {}
        """By the numbers that the service gives them."""
        self.loaded: dict[int, LoadedProgram] = {}
        """The programs that are loaded, by the numbers of their definitions."""
        self.callers: dict[int, str] = {}
        """The program that a definition was last called by, for what its teardown prints."""
        self.current = CurrentExecution()
        self.leftovers = Leftovers()
        self._tracer: CallTracer | None = None
        self._is_fork = False
        self._write_lock = write_lock
        self._room = PIPE_BYTES
        """The room of the pipe to the service."""

    def serve(self) -> None:
        """Says that it is ready, then answers until the service closes its end."""
        self.serve_by(self._take_requests)

    def serve_by(self, take_requests: Callable[[], None]) -> None:
        """Says that it is ready, then has `take_requests` answer, which returns once the service closes its end."""
        tell_parent(self.current)
        os.register_at_fork(after_in_child=self._forked)
        self.leftovers.accept()
        self.send(Ready(gen=self._generation, pid=os.getpid(), revision=self._code.at_start))
        try:
            take_requests()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the service needs this worker no more, or is gone
        if not self._is_fork:
            self._unload()

    def _take_requests(self) -> None:
        for message, inputs in read_pairs(self._requests):
            self.take(decode_request(message), inputs)

    def take(self, request: Request, inputs: bytes | memoryview) -> None:
        """Answers a request to its end."""
        match request:
            case Run():
                self._answer(request, inputs)
            case Load():
                self.send(self._load_ahead(request))
            case Check():
                self.send(self._check(request))

    def _answer(self, request: Run, inputs: bytes | memoryview) -> None:
        reply, outputs = self._execute(request, inputs)
        if left := self.leftovers.before_reply():
            self.send(Left(request.id, self._generation, left))
        self.send(reply, outputs)
        if not left and (left := self.leftovers.after_reply(request.number)):
            self.send(Left(request.id, self._generation, left))

    def _execute(self, request: Run, inputs: bytes | memoryview) -> Ended:
        if request.definition is not None:
            self._remember(request.number, request.definition)
        if request.traceparent is None and request.carried is None:
            return self._run(request, inputs)
        return self.tracer().run(request, lambda: self._run(request, inputs))

    def tracer(self) -> CallTracer:
        """The tracer of calls, made for the first that has a trace."""
        if self._tracer is None:
            self._tracer = CallTracer()
        return self._tracer

    def _run(self, request: Run, inputs: bytes | memoryview) -> Ended:
        self.current.enter(request.id, request.program_id, request.traceparent)
        loaded = self.loaded.get(request.number)
        if loaded is None:
            try:
                loaded = self._load(request.number)
            except BaseException as error:  # a module that exits while it is imported ends no worker
                self.current.leave()
                return self._load_failed(request.id, error), b""
            self.send(self._loaded_now(request.id, loaded))
        self.callers[request.number] = request.program_id
        lm = None if request.lm is None else LMRun(request.lm, request.lm_budget_s, request.stream)
        started = _perf_counter_ns()
        try:
            outputs = loaded.run(inputs, partial(self.emit, request), lm)
        except SystemExit:
            raise
        except BaseException as error:  # whatever a program raises is its own failure, and the worker goes on
            return self.failed(request.id, microseconds_since(started), error, lm), b""
        finally:
            self.current.leave()
        run_us = microseconds_since(started)
        return Done(request.id, self._generation, run_us, usage=lm.usage if lm else None), outputs

    def _load_ahead(self, request: Load) -> Reply:
        """Loads a program that no call has to wait for from now on."""
        if request.definition is not None:
            self._remember(request.number, request.definition)
        self.current.enter(request.id, request.program_id, request.traceparent)
        try:
            loaded = self.loaded.get(request.number) or self._load(request.number)
        except BaseException as error:  # a module that exits while it is imported ends no worker
            return self._load_failed(request.id, error)
        finally:
            self.current.leave()
        self.callers[request.number] = request.program_id
        return self._loaded_now(request.id, loaded)

    def _loaded_now(self, execution_id: str, loaded: LoadedProgram) -> Loaded:
        is_concurrent = self._write_lock is not None and loaded.beside_others is not None
        return Loaded(execution_id, self._generation, is_concurrent=is_concurrent)

    def _check(self, request: Check) -> Reply:
        return self._try_out(request) if request.as_called else self._check_new(request)

    def _try_out(self, request: Check) -> Reply:
        try:
            try_out(request.definition, self._allowed_modules)
        except BaseException as error:  # as in a call: a module that exits while it is imported ends no worker
            return self._load_failed(request.id, error)
        return Checked(request.id, self._generation)

    def _check_new(self, request: Check) -> Reply:
        if (revision := self._code.now()) != self._code.at_start:
            return Failed(request.id, self._generation, 0, code=CODE_OUTDATED, detail=revision)
        try:
            derived = check(request.definition, self._allowed_modules)
        except (EntrypointError, SignatureError) as error:
            detail = truncate(str(error), MAX_MESSAGE_LENGTH)
            return Failed(request.id, self._generation, 0, code="invalid_request", detail=detail, field=error.at)
        return Checked(request.id, self._generation, derived)

    def _remember(self, number: int, definition: Definition) -> None:
        if number == 0:
            self._unload()
            self._definitions.clear()
            self.leftovers.forget_programs()
        self._definitions[number] = definition

    def _load(self, number: int) -> LoadedProgram:
        try:
            loaded = self.loaded[number] = load(self._definitions[number], self._allowed_modules)
        finally:
            self.leftovers.accept()
        return loaded

    def _unload(self) -> None:
        """Drops all loaded programs, each after its teardown."""
        for number, loaded in self.loaded.items():
            self.current.leave(program_id=self.callers.get(number))
            loaded.close()
        self.current.leave()
        self.loaded.clear()
        self.callers.clear()

    def _load_failed(self, execution_id: str, error: BaseException) -> Failed:
        # Its message says all; its cause is the program's exception.
        is_told = issubclass(type(error), EntrypointError | SignatureError)
        raised = error.__cause__ if is_told else error
        return Failed(
            id=execution_id,
            gen=self._generation,
            run_us=0,
            code=LoadFailed.code,
            detail=truncate(str(error) if is_told else describe(error).detail, MAX_MESSAGE_LENGTH),
            traceback=None if raised is None else traceback_of(raised),
        )

    def failed(self, execution_id: str, run_us: int, error: BaseException, lm: LMRun | None) -> Failed:
        """The reply to a call whose program has raised `error`."""
        # Not by `isinstance`, which asks the program's own `__class__`.
        known = cast("ExecutionError", error) if issubclass(type(error), ExecutionError) else describe(error)
        field: str | None = getattr(known, "field", None)
        return Failed(
            id=execution_id,
            gen=self._generation,
            run_us=run_us,
            code=known.code,
            detail=truncate(known.detail, MAX_MESSAGE_LENGTH),  # it may have a field's name in it, or what an LM said
            field=None if field is None else truncate(field, MAX_MESSAGE_LENGTH),
            traceback=None if known is error else traceback_of(error),
            retry_after_s=_pause(known.retry_after_s),
            usage=lm.usage if lm else None,
        )

    def emit(self, request: Run, data: Any, kind: EventKind = "progress") -> None:
        """Sends an event of a call, if somebody listens. Raises ValueError if it is too large or no JSON."""
        encoded = _encode(data)  # a value without a JSON is the program's error, streamed or not
        if len(encoded) > MAX_EVENT_BYTES:
            raise ValueError(f"an event of {len(encoded)} bytes is over the limit of {MAX_EVENT_BYTES}")
        if request.stream:
            self.send(Progress(request.id, self._generation, kind), encoded)

    def _forked(self) -> None:
        """Marks a process that a program has forked: it has the worker's pipes too, and must not write to them."""
        self._is_fork = True

    def send(self, reply: Reply, payload: bytes = b"") -> None:
        """Sends a reply, with the outputs or the event's data behind it; a fork of the worker ends instead."""
        if self._is_fork:
            sys.exit(isinstance(reply, Failed))
        message = _encode(reply)
        try:
            start = start_of_two(message, len(payload))
        except FrameError as error:
            assert not isinstance(reply, (Ready, Left))
            self.send(Failed(reply.id, self._generation, 0, "invalid_outputs", f"outputs: {error}"))
            return
        if self._write_lock is None:
            self._write(start, payload)
        else:
            with self._write_lock:
                self._write(start, payload)

    def _write(self, start: bytes, payload: bytes) -> None:
        if len(payload) <= MAX_COPIED_BYTES:
            write_all(self._replies, start + payload)
        else:
            self._room = make_room(self._replies, len(start) + len(payload), self._room)
            write_all(self._replies, start, payload)


def _pause(seconds: float | None) -> float | None:
    """A pause that an LM asks for, as the service takes it; None if the LM asks for none that makes sense."""
    return min(seconds, MAX_RETRY_AFTER_S) if seconds is not None and seconds >= 0 else None


def microseconds_since(started_ns: int) -> int:
    """The time since `started_ns`, of `time.perf_counter_ns`, in microseconds."""
    return (_perf_counter_ns() - started_ns) // 1000
