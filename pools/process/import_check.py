"""Tries the modules of `PROGRAM_MODULES` at the start, in a process that is not a worker of any pool."""

import asyncio
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec
import structlog

from pools.process.interpreter import Interpreter
from poolshift.worker.framing import MALFORMED
from poolshift.worker.import_check import Imported

IMPORT_TIMEOUT_S = 60.0
"""The longest time that the start waits for the imports."""

_log = structlog.stdlib.get_logger("poolshift.spawner")
_decoder = msgspec.json.Decoder(Imported)


class InvalidProgramModules(Exception):
    """No program can come from one of the allowed modules. The message is the line that the operator sees."""


async def check_imports(
    modules: Sequence[str],
    environment: Mapping[str, str],
    *,
    interpreter: Interpreter,
    own_root: Path,
    user: tuple[int, int] | None,
) -> None:
    """Imports the modules with a worker's interpreter, path, environment and user.

    Modules that take longer than `IMPORT_TIMEOUT_S` are none of the start's business: a log line says so.

    Raises:
        InvalidProgramModules: names each module that is not found or fails on import, and its fault.
        OSError: the process could not be started.
        SpawnFailed: there is no such interpreter.
    """
    users = [str(number) for number in user or ()]
    command = interpreter.command("poolshift.worker.import_check", ",".join(modules), str(own_root), *users)
    process = _start(command, environment)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(IMPORT_TIMEOUT_S):
            written = await _read(process.stdout)
    except TimeoutError:
        _log.warning(
            "modules of PROGRAM_MODULES take long to import; the start goes on without a check of them",
            PROGRAM_MODULES=",".join(modules),
            timeout_s=IMPORT_TIMEOUT_S,
        )
        return
    finally:
        process.terminate()  # it kills what it has started, and ends
        await asyncio.shield(asyncio.to_thread(process.wait))
        process.stdout.close()
    if faults := _faults(modules, written):
        raise InvalidProgramModules(f"PROGRAM_MODULES={','.join(modules)}: {'; '.join(faults)}")


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(environment),
        start_new_session=True,
    )


async def _read(output: IO[bytes]) -> bytes:
    return await asyncio.to_thread(output.read)


def _faults(modules: Sequence[str], written: bytes) -> list[str]:
    """Tells what is wrong with each module; a module without a line has ended the process."""
    faults: list[str] = []
    lines = iter(written.splitlines())
    for module in modules:
        try:
            imported = _decoder.decode(next(lines))
        except (StopIteration, *MALFORMED):
            return [*faults, f"the module {module!r} ends the process that imports it"]
        if not imported.is_found:
            faults.append(f"the module {module!r} is not found ({imported.fault})")
        elif imported.fault is not None:
            faults.append(f"the module {module!r} fails on import: {imported.fault}")
    return faults
