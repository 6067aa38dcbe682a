"""Starts modules of the service's own as processes, whatever is in `PYTHONPATH`."""

import asyncio
import os
import re
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the service's packages."""
HAND_OVER_TIMEOUT_S = 30.0
"""The longest time that a new process may take to read its variables."""

_READ_AT_START = re.compile(r"PATH|HOME|TZ|LANG(UAGE)?|GLIBC_TUNABLES|(LC|LD|MALLOC|COVERAGE)_\w+|PYTHON\w+")
"""Variables that the loader, the C library and Python read before the first line of ours runs; none is a secret."""


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs one of the service's own modules; it takes `environment`."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of such a process: with the service's packages on its path, and no user's modules."""
    return {**inherited, "PYTHONPATH": str(ROOT)}


async def start(
    module: str,
    *arguments: str,
    variables: Mapping[str, str],
    pass_fds: Sequence[int] = (),
    stdin: int = DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> Process:
    """Starts a module in a process that is closed to others of its user, in a session of its own.

    `variables` are handed over once the process is closed: /proc/PID/environ shows none of them, not even to root.

    Raises:
        OSError: it could not be started, or did not take its variables in time.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = await asyncio.create_subprocess_exec(
            *command("common.hidden_process", str(theirs.fileno()), module, *arguments),
            pass_fds=[*pass_fds, theirs.fileno()],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={name: value for name, value in os.environ.items() if _READ_AT_START.fullmatch(name)} | environment({}),
            start_new_session=True,
        )
        theirs.close()
        try:
            await _hand_over(ours, environment(variables))
        except BaseException:
            await end(process)
            raise
    return process


async def end(process: Process, within_s: float = 0.0) -> None:
    """Waits for the end of a process, and kills it if it has not ended by itself in time, or if this is cancelled.

    A cancellation is honoured once the process has ended: nobody would ever wait for it otherwise.
    """
    try:
        async with asyncio.timeout(within_s):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await _whatever_happens(process.wait())


async def _whatever_happens(work: Coroutine[Any, Any, object]) -> None:
    """Waits until `work` is done; a cancellation meanwhile is honoured afterwards."""
    waiting = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not waiting.done():
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def _hand_over(link: socket.socket, variables: Mapping[str, str]) -> None:
    """Sends the variables. A process that has died takes none, and its end shows that.

    Raises:
        TimeoutError: the process does not read them.
    """
    link.setblocking(False)
    data = b"\0".join(os.fsencode(f"{name}={value}") for name, value in variables.items())
    with suppress(BrokenPipeError, ConnectionResetError):
        async with asyncio.timeout(HAND_OVER_TIMEOUT_S):
            await asyncio.get_running_loop().sock_sendall(link, data)
