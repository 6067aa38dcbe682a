"""The parent of a machine's replicas: it starts them, replaces those that die, and hands on what it is told.

No call and no connection passes through it. It has one thread, waits for signals, and has imported everything. Since a
replica is a fork, one that has died is replaced in less time than it takes to import the service. If the supervisor
dies, whatever kills it, the kernel kills the replicas.
"""

import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from app import listening
from app.replicas.mutex import Mutex
from app.replicas.page import Page, Row, State
from app.replicas.replica import Machine
from common.backoff import backoff_s
from common.terminal import ends_at_hangup
from poolshift.worker.linux import signal_at_parents_death
from store.sqlite.share import SqliteShare

LOOK_EVERY_S: Final = 0.1
SILENCE_S: Final = 30.0
"""A replica that serves, and has given no sign of life for so long, in seconds, is killed."""
STEADY_S: Final = 10.0
"""A replica that has lived for so long, in seconds, is replaced at once when it dies."""
_HANDED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_HEARD: Final = (*_HANDED_ON, signal.SIGCHLD)

_log = structlog.stdlib.get_logger("poolshift.replicas")


class _Child:
    """The process of one replica, or the wait for its next one. Times are by `time.monotonic`."""

    def __init__(self) -> None:
        self.pid = 0
        self.started_at = 0.0
        self.deaths = 0
        """In a row, each soon after its start."""
        self.due_at = 0.0

    def __repr__(self) -> str:
        return f"<Child pid={self.pid} deaths={self.deaths}>"


class Supervisor:
    """Keeps `count` replicas until it is told to stop."""

    def __init__(
        self,
        count: int,
        listeners: Sequence[socket.socket],
        share: SqliteShare | None,
        run: Callable[[Machine, int], None],
    ) -> None:
        """Takes `run`, which is the replica of a number until it is told to stop."""
        name = secrets.token_hex(8)
        self._machine = Machine(
            name=name,
            page=Page(count),
            wakers=[os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)],
            peers=[_listen_for_peers(name, index) for index in range(count)],
            token=secrets.token_hex(16),
            share=share,
            listeners=listeners,
            rotating=Mutex(),
        )
        self._page = self._machine.page
        self._run = run
        self._children = [_Child() for _ in range(count)]
        self._pid = os.getpid()
        self._is_open = False
        """The first replica has opened the database."""
        self._has_started = False
        self._start_fault = 0
        """The exit code of a replica that could not start."""
        self._is_stopping = False
        self._ends_at_hangup = ends_at_hangup()

    def __repr__(self) -> str:
        return f"<Supervisor {self._children} has_started={self._has_started} is_stopping={self._is_stopping}>"

    def run(self) -> bool:
        """Runs the replicas to their end; in a replica's process it is that replica. Returns if that is in order.

        The first one starts alone, and brings the database up to date. If it cannot start, nobody does.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        try:
            if self._start(0, before):
                return True
            while not self._is_over():
                # `any` ends with the first that is a replica: it must not go on to start the others.
                if any(self._start(index, before) for index in self._due()):
                    return True
                self._wait()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self._start_fault:
            sys.exit(self._start_fault)
        return self._is_stopping

    # --- one replica

    def _start(self, index: int, mask: set[int]) -> bool:
        """Forks a replica, and is that replica in the new process. Returns True there, once it has ended."""
        child = self._children[index]
        self._page.set(Row.STATE, index, State.STARTING)
        self._page.set(Row.CONNECTIONS, index, 0)
        self._page.beat(index)
        pid = os.fork()
        if pid:
            self._page.set(Row.PID, index, pid)
            child.pid, child.started_at = pid, time.monotonic()
            return False
        signal_at_parents_death(signal.SIGKILL)
        if os.getppid() != self._pid:  # it has died before the kernel knew
            os._exit(1)
        os.setpgid(0, 0)  # or else a terminal's Ctrl-C would come twice: from there, and from the supervisor
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._run(self._machine, index)
        return True

    def _due(self) -> list[int]:
        if self._is_stopping or not self._is_open:
            return []
        now = time.monotonic()
        return [index for index, one in enumerate(self._children) if not one.pid and now >= one.due_at]

    def _is_over(self) -> bool:
        return (self._is_stopping or not self._is_open) and not any(one.pid for one in self._children)

    # --- what happens

    def _wait(self) -> None:
        """Waits for a signal, or for the next look, and acts on what has happened."""
        told = signal.sigtimedwait(_HEARD, LOOK_EVERY_S)
        if told is not None and told.si_signo in _HANDED_ON:
            self._hand_on(signal.Signals(told.si_signo))
        self._reap()
        self._end_silent()
        self._is_open = self._is_open or self._page.get(Row.STATE, 0) >= State.OPEN
        if not self._has_started and all(state == State.SERVING for state in self._page.row(Row.STATE)):
            self._has_started = True
            urls = [listening.url(one) for one in self._machine.listeners]
            _log.info("listening", urls=urls, replicas=len(self._children))

    def _hand_on(self, number: signal.Signals) -> None:
        if number is not signal.SIGHUP or self._ends_at_hangup:
            self._is_stopping = True
        for child in self._children:
            if child.pid:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, number)

    def _reap(self) -> None:
        """Takes note of the processes that have ended. As the first process of a container it gets those of others."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for index, child in enumerate(self._children):
                if child.pid == pid:
                    self._has_ended(index, child, os.waitstatus_to_exitcode(status))

    def _has_ended(self, index: int, child: _Child, code: int) -> None:
        now = time.monotonic()
        self._page.set(Row.STATE, index, State.GONE)
        self._page.set(Row.CONNECTIONS, index, 0)
        child.pid = 0
        if self._is_stopping:
            return
        if code > 0 and not self._has_started:  # what keeps one from starting, and it has said what, keeps all
            self._start_fault = code
            self._hand_on(signal.SIGTERM)
            return
        child.deaths = child.deaths + 1 if now - child.started_at < STEADY_S else 0
        child.due_at = now + backoff_s(child.deaths)
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        _log.error("a replica has died; another takes its place", replica=index, cause=cause)

    def _end_silent(self) -> None:
        for index, child in enumerate(self._children):
            is_serving = child.pid and self._page.get(Row.STATE, index) == State.SERVING
            if is_serving and self._page.silence_s(index) > SILENCE_S:
                _log.error("a replica gives no sign of life and is killed", replica=index, silent_s=SILENCE_S)
                self._page.beat(index)
                os.kill(child.pid, signal.SIGKILL)


def _listen_for_peers(name: str, index: int) -> socket.socket:
    """Listens under a name of the kernel's own (unix(7), abstract): nobody can delete it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(f"\0poolshift-{name}-{index}")
    sock.listen(listening.BACKLOG)
    return sock
