"""The Python that a pool's workers run on: the service's own, or one of the user's with packages of its own."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from common.threads import in_thread
from pools.errors import SpawnFailed
from poolshift.launcher import start as launcher
from poolshift.worker.describe import Description, describe
from poolshift.worker.exception_text import truncate
from poolshift.worker.framing import MALFORMED

DESCRIBE_TIMEOUT_S: Final = 20.0
"""The longest time that an interpreter may take to say what it is, in seconds."""
_MAX_OUTPUT_LENGTH: Final = 400
_PATH_VARIABLES: Final = frozenset({"PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONPLATLIBDIR", "PYTHONUSERBASE"})
"""Variables that may lead a worker's interpreter to other packages than the service's, besides `PYTHONPATH`."""

_OWN_PATH: Final = tuple(sys.path)
"""The path at the start: a library may add packages of its own to it later, which no worker finds (setuptools does)."""

_decoder = msgspec.json.Decoder(Description)

_Question = tuple[tuple[str, ...], frozenset[tuple[str, str]]]
"""A command, and its environment."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The interpreter of a pool's workers, by its path or its name on `PATH`; None is the service's own.

    One of the user's needs msgspec alone. It runs the service's own `poolshift`, whatever version is installed in it
    (docs/adr/0011).
    """

    python: str | None = None
    setting: str | None = None
    """The setting that names it, such as `V2_PYTHON`, for texts about its faults."""

    @property
    def name(self) -> str:
        """The interpreter as texts name it."""
        name = self.python or sys.executable
        return name if self.setting is None else f"{name} ({self.setting})"

    @property
    def is_own(self) -> bool:
        """True if workers run on the Python that runs the service."""
        return self.python is None

    def command(self, module: str, *arguments: str) -> list[str]:
        """The command line that runs a module of `poolshift.worker` on this interpreter.

        Raises:
            SpawnFailed: there is no such interpreter.
        """
        if self.python is None:
            return [sys.executable, "-P", "-m", module, *arguments]
        found = shutil.which(self.python)
        if found is None:
            state = "is not executable" if Path(self.python).exists() else "is not there"
            raise SpawnFailed(f"the interpreter {self.name} {state}")
        return [found, str(launcher.__file__), module, *arguments]

    async def describe(self, environment: Mapping[str, str]) -> Description:
        """Asks the interpreter for its version and for the packages that a worker with this environment finds.

        Who asks the same meanwhile gets the same answer: at a start both pools do. The service's own interpreter is
        asked here; a process of its own would be a tenth of a start.

        Raises:
            SpawnFailed: it cannot run a worker; the text says why and, if a package is missing, how to install it.
        """
        command = self.command("poolshift.worker.describe")
        question = tuple(command), frozenset(environment.items())
        return await in_thread(lambda: _asked_now.answer(question, lambda: self._ask(command, environment)))

    def _ask(self, command: list[str], environment: Mapping[str, str]) -> Description:
        if self.is_own and not _PATH_VARIABLES & environment.keys():
            return _describe_own(environment.get("PYTHONPATH", ""))
        name = self.name
        try:
            # A session of its own, so that everything which it starts can be killed with it.
            process = subprocess.Popen(  # noqa: S603
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise SpawnFailed(f"the interpreter {name} cannot be started: {error.strerror or error}") from error
        try:
            output, faults = process.communicate(timeout=DESCRIBE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise SpawnFailed(f"the interpreter {name} did not answer within {DESCRIBE_TIMEOUT_S:g} s") from None
        finally:
            _end(process)
        return read_description(name, process.returncode, output, faults)


def _describe_own(first: str) -> Description:
    """Describes this interpreter as a worker finds it that has `first` as its `PYTHONPATH`."""
    entries = first.split(os.pathsep) if first else []
    return describe([*(str(Path(entry).absolute()) for entry in entries), *_OWN_PATH])


def read_description(name: str, status: int, output: bytes, faults: bytes) -> Description:
    """Reads what the interpreter `name` has said of itself.

    Raises:
        SpawnFailed: it cannot run a worker; the text says why and, if a package is missing, how to install it.
    """
    if status:
        reason = _last_line(faults) or f"it ends with status {status}"
        raise SpawnFailed(f"the interpreter {name} cannot run workers: {reason}")
    try:
        return _decoder.decode(output)
    except MALFORMED:
        said = truncate(output.decode(errors="replace").strip(), _MAX_OUTPUT_LENGTH)
        raise SpawnFailed(f"{name} is no Python: it answers {said!r}") from None


OWN: Final = Interpreter()
"""The Python that runs the service."""


class _AskedNow:
    """The questions that are being asked now, each once, whoever asks it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[_Question, Future[Description]] = {}

    def answer(self, question: _Question, ask: Callable[[], Description]) -> Description:
        """Returns what `ask` does, or the same call of another thread that is under way. Raises what it raises."""
        with self._lock:
            answer = self._answers.get(question)
            is_new = answer is None
            if answer is None:
                answer = self._answers[question] = Future()
        if is_new:
            try:
                answer.set_result(ask())
            except BaseException as error:
                answer.set_exception(error)
            finally:
                with self._lock:
                    del self._answers[question]
        return answer.result()


_asked_now: Final = _AskedNow()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills the process and what it has started, so that nobody holds its output open."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    process.wait()


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return truncate(lines[-1], _MAX_OUTPUT_LENGTH) if lines else ""
