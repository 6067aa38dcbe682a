"""Every call of the operating system that the event loop makes for workers fails once: each time all comes back."""

import asyncio
import itertools
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from common import own_process
from common.background import Background
from pools import supervisor
from pools.calls import Call, Program
from pools.engine import Engine, PoolOptions
from pools.process import channel, handle, local_zygote, output
from pools.process import ends as worker_ends
from pools.process.program_code import ProgramCode
from pools.process.spawner import Spawner
from pools.session_pool_v2 import SessionPoolV2
from poolshift.worker.definitions import Definition, Field, Signature
from tests.support.fake_pools import FakeObserver
from tests.support.pools import executed
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.thorough

MODULES: dict[str, tuple[ModuleType, ...]] = {
    "os": (channel, handle, local_zygote, output, worker_ends),
    "signal": (handle,),
    "socket": (local_zygote,),
}
FAILING: dict[str, tuple[str, ...]] = {
    "os": ("pipe", "close", "read", "set_blocking", "killpg", "kill"),
    "signal": ("pidfd_send_signal",),
    "socket": ("socketpair", "send_fds", "recv_fds"),
}
OF_LOOP = ("add_reader", "remove_reader", "add_writer", "remove_writer")
DONE_ALL_THE_SAME = ("close", "remove_reader", "remove_writer")
"""The kernel closes a descriptor whatever it says of it."""

_numbers = itertools.count()


class Faults:
    """Raises at the call whose turn it is, and never again."""

    def __init__(self) -> None:
        self.calls = 0
        self.turn = -1
        self.failed: str | None = None

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls != self.turn:
                return function(*args, **options)
            self.failed = name
            if name in DONE_ALL_THE_SAME:
                function(*args, **options)
            raise OSError(24, f"{name} fails for once")

        return call


class Proxy:
    """A module some of whose functions fail."""

    def __init__(self, module: ModuleType, names: tuple[str, ...], faults: Faults) -> None:
        self._module = module
        self._functions = {name: faults.wrap(name, getattr(module, name)) for name in names}

    def __getattr__(self, name: str) -> Any:
        return self._functions.get(name) or getattr(self._module, name)


@asynccontextmanager
async def pool_with(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    """A pool of real workers, on an event loop and modules that fail as `faults` has it."""
    for name, modules in MODULES.items():
        real = {"os": os, "signal": signal, "socket": socket}[name]
        for module in modules:
            monkeypatch.setattr(module, name, Proxy(real, FAILING[name], faults))
    loop = asyncio.get_running_loop()
    for name in OF_LOOP:
        monkeypatch.setattr(loop, name, faults.wrap(name, getattr(loop, name)))
    monkeypatch.setattr(supervisor, "backoff_s", lambda _: 0.0)
    background = Background()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(own_process.ROOT)}
    made = Spawner(
        ProgramCode(allowed_modules=("tests.support.programs",), own_root=own_process.ROOT),
        environment,
        background=background,
    )
    pool = SessionPoolV2("v2", PoolOptions(1), made, FakeObserver(), background)
    await pool.start()
    yield pool
    await pool.aclose()
    await made.aclose()
    await background.aclose()


def program(function: str) -> Program:
    signature = Signature((), (Field("result", "object"),))
    return Program(function, function, Definition("python", signature, f"tests.support.programs:{function}"))


async def ends(pool: Engine, function: str, seconds: float = 20.0) -> BaseException | None:
    """Runs a call, which must end, and returns its error."""
    deadline = asyncio.get_running_loop().time() + seconds
    made = program(function)
    made.key = f"{function} {next(_numbers)}"  # another each time, so that none is quarantined
    task = asyncio.ensure_future(executed(pool, Call("e-1", made, b"{}", deadline)))
    done, _ = await asyncio.wait([task], timeout=30)
    assert done, f"{function} never ends"
    return task.exception()


async def is_whole(pool: Engine) -> bool:
    return len(pool._state.idle) == len(pool._state.slots) == 1


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("function", ["whoami", "segfaults", "spins"])
def test_a_failure_at_any_call_costs_one_call_at_most(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """The call that is under way ends; then the pool is whole, serves the next one, and has lost no descriptor."""
    asyncio.run(fail_at_each_call(monkeypatch, function))


async def fail_at_each_call(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    faults = Faults()
    failed: set[str] = set()
    async with pool_with(faults, monkeypatch) as pool:
        assert await ends(pool, "whoami") is None
        before = open_fds()
        faults.calls, turn = 0, 0
        while True:
            turn += 1
            faults.calls, faults.turn, faults.failed = 0, turn, None
            await ends(pool, function, seconds=0.05 if function == "spins" else 20.0)
            for slot in list(pool._state.idle):  # a worker starts and ends in each round
                pool._supervisor._make_due(slot)
            await wait_until_async(lambda: is_whole(pool), f"the pool is whole after {faults.failed}")
            faults.turn = -1
            assert await ends(pool, "whoami") is None, faults.failed
            await wait_until_async(lambda: has(before), f"no descriptor is lost after {faults.failed}: {open_fds()}")
            if faults.failed is None:
                break
            failed.add(faults.failed)
    assert len(failed) > 5, failed  # in an order that is a little different each time


async def has(count: int) -> bool:
    return open_fds() == count
