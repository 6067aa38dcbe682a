"""Processes that share one SQLite file, forked by a supervisor that has claimed the file, as the service's are.

    python -m tests.support.sharers URL COUNT MODULE:FUNCTION [ARGUMENT …]

Each process runs `await FUNCTION(sharer, ARGUMENT, …)` and prints lines of JSON.
"""

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from store.database import Database, claim_for_replicas
from store.sqlite.share import SqliteShare
from tests.support.waiting import DEADLINE_S

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Sharer:
    """One of the processes, as its work sees it."""

    index: int
    count: int
    url: str
    share: SqliteShare | None
    output: int

    def database(self) -> Database:
        """Makes a way to the database of the process's own."""
        return Database(self.url, share=self.share)

    def say(self, **facts: Any) -> None:
        """Tells the test something, in one piece."""
        line = {"index": self.index, "pid": os.getpid(), **facts}
        os.write(self.output, json.dumps(line).encode() + b"\n")


class Sharers:
    """The processes, as the test sees them."""

    def __init__(self, url: str, work: str, count: int, *arguments: object) -> None:
        command = [sys.executable, "-m", "tests.support.sharers", url, str(count), work, *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)
        self.lines: list[dict[str, Any]] = []
        """All that has been read so far."""
        self._unread: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._reader = Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._unread.put(json.loads(line))
        self._unread.put(None)

    def next(self, matches: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """Waits for the next line that matches; fails if the work of any process has."""
        end = time.monotonic() + DEADLINE_S
        while True:
            assert time.monotonic() < end, f"nothing that matches among {self.lines[-3:]}"
            try:
                line = self._unread.get(timeout=DEADLINE_S)
            except Empty:
                raise AssertionError(f"nothing said for {DEADLINE_S} s after {self.lines[-3:]}") from None
            if line is None:
                raise AssertionError(f"all processes have ended; the last lines are {self.lines[-3:]}")
            self.lines.append(line)
            assert "failed" not in line, line["failed"]
            if matches(line):
                return line

    def next_of(self, *indices: int) -> dict[str, Any]:
        """Waits for the next line of one of these processes."""
        return self.next(lambda line: line["index"] in indices)

    def end(self) -> list[dict[str, Any]]:
        """Waits until all have ended by themselves and in order; returns all lines."""
        while (line := self._unread.get(timeout=DEADLINE_S)) is not None:
            self.lines.append(line)
            assert "failed" not in line, line["failed"]
        assert self.process.wait(DEADLINE_S) == 0, "one of them has failed"
        return self.lines

    def close(self) -> None:
        """Kills all that is left."""
        with_group(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


def with_group(pid: int, number: int) -> None:
    """Sends a signal to a process group that may have ended."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


@contextmanager
def sharing(path: Path, work: Callable[..., Any], count: int, *arguments: object) -> Iterator[Sharers]:
    """Runs `work` in `count` processes that share the SQLite file at `path`; none outlives the block."""
    sharers = Sharers(f"sqlite+aiosqlite:///{path}", f"{work.__module__}:{work.__name__}", count, *arguments)
    try:
        yield sharers
    finally:
        sharers.close()


def main(url: str, count: str, work: str, *arguments: str) -> int:
    """Claims the file, forks the processes and waits for them; 1 if any has failed."""
    module, _, function = work.partition(":")
    run = getattr(importlib.import_module(module), function)
    share = claim_for_replicas(url)
    output = os.dup(1)
    os.dup2(2, 1)  # the log is not for the test
    pids = []
    for index in range(int(count)):
        pid = os.fork()
        if not pid:
            sharer = Sharer(index, int(count), url, share, output)
            try:
                asyncio.run(run(sharer, *arguments))
            except Exception:
                sharer.say(failed=traceback.format_exc())
                return 1
            return 0
        pids.append(pid)
    ends = [os.waitpid(pid, 0)[1] for pid in pids]
    return int(any(ends))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
