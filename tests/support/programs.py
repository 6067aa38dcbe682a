"""Programs for the tests: well behaved ones, and one for each way to misbehave."""

import ctypes
import inspect
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from poolshift.worker.framing import frame_of_two, write_all

_REQUESTS_FD, _REPLIES_FD = 3, 4  # a worker's pipes (poolshift/worker/child.py)


def echo(nonce: str) -> str:
    return nonce


def increment(number: int) -> dict[str, int]:
    return {"number": number + 1}


def echo_object(nonce: str) -> dict[str, str]:
    return {"nonce": nonce}


def shout(nonce: str) -> str:
    """`echo` with another answer."""
    return nonce.upper()


def slow_echo(nonce: str, seconds: float) -> str:
    time.sleep(seconds)
    return nonce


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def whoami() -> dict[str, Any]:
    return {"pid": os.getpid(), "ppid": os.getppid(), "pgid": os.getpgid(0)}


def forks_for_ever(refused: str) -> None:
    """A fork bomb: starts processes whenever the system starts one, and says by a file when it was first refused."""
    while True:
        try:
            child = os.fork()
        except OSError:
            Path(refused).touch()
            time.sleep(0.001)
            continue
        if child == 0:
            time.sleep(600)
            os._exit(0)


def stops_its_parent(seconds: float) -> int:
    """Stops the process that it was forked from, and does so again each time that it goes on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        os.kill(os.getppid(), signal.SIGSTOP)
        time.sleep(0.01)
    return os.getppid()


def environment() -> dict[str, str]:
    return {"environment": dict(os.environ)}  # type: ignore[dict-item]


def open_files() -> list[str]:
    return [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink() and path.exists()]


def interval(seconds: float) -> dict[str, float]:
    """When it began and ended, by a clock that all processes of a machine share."""
    began = time.clock_gettime(time.CLOCK_MONOTONIC)
    time.sleep(seconds)
    return {"began": began, "ended": time.clock_gettime(time.CLOCK_MONOTONIC)}


def meet(directory: str, name: str, count: int) -> int:
    """Waits until `count` executions are here at once; only so many workers at once let it return."""
    place = Path(directory)
    (place / name).touch()
    while (present := len(list(place.iterdir()))) < count:
        time.sleep(0.005)
    return present


def hold(directory: str, name: str) -> str:
    """Says that it runs, and runs until it is told to go on (a file `go`)."""
    place = Path(directory)
    (place / f"{name}.{os.getpid()}").touch()
    while not (place / "go").exists():
        time.sleep(0.005)
    return name


def hold_and_shout(directory: str, name: str) -> str:
    """`hold` with another answer."""
    return hold(directory, name).upper()


def steps(count: int) -> Generator[int, None, int]:
    yield from range(count)
    return count


def steps_then_fail(count: int) -> Generator[int, None, None]:
    yield from range(count)
    raise ValueError("out of steps")


def steps_then_crash(directory: str, count: int) -> Generator[int, None, None]:
    """Leaves a file for each time that it was run."""
    (Path(directory) / f"run-{len(list(Path(directory).iterdir()))}").touch()
    yield from range(count)
    os._exit(1)


def steps_then_hold(directory: str, name: str) -> Generator[int, None, str]:
    """Yields its process id, then does as `hold`."""
    yield os.getpid()
    return hold(directory, name)


def many_steps(path: str, count: int, size: int) -> Generator[dict[str, Any], None, int]:
    """Yields `count` events of about `size` bytes each, and writes down how many it got rid of."""
    for number in range(count):
        yield {"number": number, "padding": "x" * size}
        Path(path).write_text(str(number + 1))
    return count


def write_down(path: str, line: str) -> int:
    """Adds a line to a file, so that a test can count the runs; one write adds the whole line."""
    with Path(path).open("a") as file:
        return file.write(f"{line}\n")


def big_step(size: int) -> Generator[str, None, int]:
    yield "x" * size
    return size


def raises_if(nonce: str) -> str:
    """Raises if it is told `raise`."""
    if nonce == "raise":
        raise ValueError("as told")
    return nonce


def exits_if(nonce: str) -> str:
    """Ends its worker if it is told `exit`."""
    if nonce == "exit":
        os._exit(1)
    return nonce


def fail(message: str) -> str:
    raise ValueError(message)


def fail_at_length(size: int) -> str:
    raise ValueError("z" * size)


def fail_unsendably() -> str:
    raise ValueError("\ud800 x")


class _Untellable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


def fail_untellably() -> str:
    raise _Untellable


class _Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class _OfNoName(Exception, metaclass=_Nameless):
    pass


def fail_namelessly() -> str:
    raise _OfNoName("it says")


class _OfNoClass(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise RuntimeError("no class")


def fail_classlessly() -> str:
    raise _OfNoClass("it says")


def fail_deeply(depth: int) -> str:
    """Raises with a traceback of `depth` frames whose lines take turns, so that none is left out for a repetition."""
    return fail_deeply(depth - 1) if depth % 2 else str(_fail_deeper(depth))


def _fail_deeper(depth: int) -> str:
    if depth <= 0:
        raise ValueError("the bottom")
    return fail_deeply(depth - 1)


def says_surrogates(way: str) -> Any:
    """Says half a character, which has no JSON, in one way or another."""
    match way:
        case "returns":
            return "\ud800"
        case "returns inside":
            return {"inner": ["\udfff"]}
        case "prints":
            print("printed \ud800")
            print("printed \ud800", file=sys.stderr)
        case "logs":
            logging.getLogger("surrogate \ud800").warning("logged \ud800")
    return "said"


def prints_bytes(nonce: str) -> dict[str, str | None]:
    """Writes as programs do that have bytes, or that hand their output to another process; how it is encoded."""
    line = f"{nonce} ä in two\n".encode()
    sys.stdout.buffer.write(line[: len(nonce) + 2])  # half of the ä
    sys.stdout.buffer.write(line[len(nonce) + 2 :])
    sys.stderr.buffer.write(f"{nonce} no text ".encode() + b"\xff")
    sys.stderr.buffer.flush()
    subprocess.run(["echo", f"{nonce} by a child"], stdout=sys.stdout, check=True)
    return {"encoding": sys.stdout.encoding}


def yields_surrogates() -> Generator[str, None, str]:
    yield "\ud800"
    return "yielded"


def logs_oddly() -> str:
    """A level of its own, a record that cannot be formatted, and a line that looks like a record and is none."""
    logging.getLogger("odd").log(25, "a level between")
    logging.getLogger("odd").warning("%d", "no number")
    os.write(2, b'\x1e{"text":"\xff","source":"odd"}\n')
    logging.getLogger("odd").warning("and on")
    return "logged"


def forks() -> str:
    """Forks a child that returns as well, as if the child were the program."""
    child = os.fork()
    if child == 0:
        return "child"
    _, status = os.waitpid(child, 0)
    return f"parent, whose child ended with {os.waitstatus_to_exitcode(status)}"


def forks_and_fails() -> str:
    child = os.fork()
    if child == 0:
        raise ValueError("the child's own")
    _, status = os.waitpid(child, 0)
    return f"parent, whose child ended with {os.waitstatus_to_exitcode(status)}"


def forks_and_yields() -> Generator[str, None, str]:
    child = os.fork()
    if child == 0:
        yield "child"
    else:
        os.waitpid(child, 0)
        yield "parent"
    return "child" if child == 0 else "parent"


def wrong_output() -> int:
    return "not a number"  # type: ignore[return-value]


def not_json() -> Any:
    return object()


def big(size: int) -> str:
    return "x" * size


def prints(text: str) -> str:
    print(text)
    print(text, file=sys.stderr)
    logging.getLogger("program").warning("logged %s", text)
    subprocess.run(["echo", f"child {text}"], check=True)
    return text


def exits(code: int) -> None:
    sys.exit(code)


def exits_hard(code: int) -> None:
    os._exit(code)


def segfaults() -> None:
    ctypes.string_at(0)


def kills_itself(signal_number: int) -> None:
    os.kill(os.getpid(), signal_number)
    time.sleep(60)


def crashes_once(directory: str) -> str:
    """Dies the first time and ends well the second."""
    been_here = Path(directory) / "been-here"
    if not been_here.exists():
        been_here.touch()
        os._exit(1)
    return "second time"


def crashes_while(path: str) -> str:
    """Dies as long as `path` is there."""
    if Path(path).exists():
        os._exit(1)
    return "mended"


def spins() -> None:
    while True:
        pass


def hangs_in_c() -> None:
    """Sleeps in C with the interpreter's lock held: no Python signal handler can run."""
    ctypes.PyDLL(None).sleep(600)


def ignores_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(60)


def stops_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)


_kept: list[bytes] = []


def keeps_memory(megabytes: int) -> int:
    """Leaks: what it takes it keeps for as long as its worker lives."""
    _kept.append(b"x" * (megabytes * 1024 * 1024))
    return len(_kept)


def closes_channel() -> None:
    os.close(_REPLIES_FD)
    time.sleep(60)


def closes_requests() -> str:
    """Takes no more calls, after this one is answered."""
    os.close(_REQUESTS_FD)
    return "closed"


def writes_garbage() -> None:
    os.write(_REPLIES_FD, b"\xff" * 4096)
    time.sleep(60)


def writes_half_a_frame() -> None:
    os.write(_REPLIES_FD, (1000).to_bytes(4, "big") + b'{"op":"done"')
    os._exit(0)


def forges_a_reply(execution_id: str) -> str:
    """Answers in the name of another execution, then for itself."""
    forged = b'{"op":"done","id":"%s","gen":1,"run_us":1}' % execution_id.encode()
    write_all(_REPLIES_FD, frame_of_two(forged, b'{"result":"forged"}'))
    return "genuine"


def forges(body: str, payload: str, end: str = "", repeat: int = 0) -> None:
    """Answers for itself with a message of its own making: members and second part are given as Latin-1."""
    _forge(body, payload + end * repeat)
    time.sleep(60)


def forges_and_exits(body: str) -> None:
    _forge(body, "")
    os._exit(0)


def _forge(body: str, payload: str) -> None:
    frame = inspect.currentframe()
    while frame is not None and "request" not in frame.f_locals:
        frame = frame.f_back
    assert frame is not None
    known = {"id": frame.f_locals["request"].id, "gen": frame.f_locals["self"]._generation}
    members = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in known.items() if f'"{name}":' not in body]
    forged = b"{%s}" % ",".join([*members, body]).encode("latin-1")
    write_all(_REPLIES_FD, frame_of_two(forged, payload.encode("latin-1")))


def leaves_children(escape: bool) -> int:
    """Starts a process that would outlive it, in a session of its own where it is to escape; its pid."""
    return subprocess.Popen(["sleep", "600"], start_new_session=escape).pid


def starts_a_thread() -> str:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return "started"


def keyword_count(**keywords: str) -> int:
    return len(keywords)


async def async_echo(nonce: str) -> str:
    return nonce


def hogs_memory(megabytes: int) -> None:
    """Takes memory and does not let go of it."""
    keeps_memory(megabytes)
    time.sleep(60)


def fails_by_environment(call: int) -> int:
    """Crashes, raises or is slow at the rates in the worker's environment, so that a pool can be worse than another.

    With `FUSE` it is fine until the file of that name is there.
    """
    if "FUSE" in os.environ and not Path(os.environ["FUSE"]).exists():
        return call
    rates = {name: float(os.environ.get(name, "0")) for name in ("CRASH_RATE", "RAISE_RATE")}
    chance = random.random()
    if chance < rates["CRASH_RATE"]:
        os._exit(3)
    if chance < rates["CRASH_RATE"] + rates["RAISE_RATE"]:
        raise ValueError(f"call {call}")
    time.sleep(float(os.environ.get("SLOW_S", "0")))
    return call


def slow_by_environment(call: int) -> int:
    """Sleeps for `TAIL_S` in the share `TAIL_RATE` of its calls."""
    if random.random() < float(os.environ.get("TAIL_RATE", "0")):
        time.sleep(float(os.environ["TAIL_S"]))
    return call
