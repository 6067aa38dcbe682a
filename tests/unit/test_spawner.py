"""The spawner with real processes and without descriptors: each failure is one failed start, and leaks nothing."""

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import uvloop

from common import own_process
from common.background import Background
from pools.errors import NoPreviousCode, PoolOverloaded, SpawnFailed
from pools.process import checks, spawner, zygote_link
from pools.process.exits import Exit, ExitCause
from pools.process.interface import Loads
from pools.process.process import WorkerProcess
from pools.process.program_code import ProgramCode
from pools.process.spawner import Spawner
from poolshift.worker.definitions import Definition, Field, Signature
from poolshift.worker.loading import EntrypointError
from tests.support.service import ROOT, is_alive
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.thorough

LIMIT = 256
INCREMENT = Definition(
    "python",
    Signature((Field("number", "integer"),), (Field("number", "integer"),)),
    "tests.support.programs:increment",
)


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Runs `test` on the event loop that the service has."""

    async def main() -> None:
        await test()

    uvloop.run(main())


@asynccontextmanager
async def running_spawner(
    module: str = "tests.support.programs", folder: Path = ROOT
) -> AsyncIterator[tuple[Spawner, Background]]:
    """A spawner that leaves no descriptor and no process behind. Programs come from `module` in `folder`."""
    background = Background()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder}{os.pathsep}{own_process.ROOT}"}
    made = Spawner(
        ProgramCode(allowed_modules=(module,), own_root=own_process.ROOT), environment, background=background
    )
    try:
        yield made, background
    finally:
        await asyncio.wait_for(made.aclose(), 20)
        await background.aclose()


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def zygote_of(worker: WorkerProcess) -> int:
    stat = Path(f"/proc/{worker.pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def workers(made: Spawner) -> int:
    """Returns the number of the spawner's workers, in pools or not."""
    return sum(len(zygote._workers) for zygote in made._zygotes)


async def ended(worker: WorkerProcess) -> Exit:
    return await asyncio.wait_for(asyncio.shield(worker.exited), 20)


async def until(condition: Callable[[], bool], what: str) -> None:
    async def holds() -> bool:
        return condition()

    await wait_until_async(holds, what)


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """This process can open so many files more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, hard))
    fillers = []
    try:
        while True:
            try:
                fillers.append(os.dup(0))
            except OSError:
                break
        for _ in range(count):
            os.close(fillers.pop())
        yield
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("has_zygote", [True, False])
def test_without_descriptors_a_start_fails_and_the_next_is_whole(has_zygote: bool) -> None:
    """Wherever they run out: at the zygote's start, at the worker's, or at its pidfd."""

    async def test() -> None:
        async with running_spawner() as (made, background):
            first = await made.spawn() if has_zygote else None
            before = open_fds() if has_zygote else None
            outcomes = set()
            for count in range(12 if has_zygote else 24):
                worker = None
                with descriptors_left(count):
                    try:
                        worker = await made.spawn()
                    except SpawnFailed:
                        assert background.failing() == []
                        outcomes.add("failed")
                if worker is not None:
                    outcomes.add("started")
                    worker.kill(ExitCause.SHUTDOWN)
                    await ended(worker)
                    if not has_zygote:
                        break
                await until(lambda: before is None or open_fds() == before, f"nothing is left open after {count}")
            assert outcomes == {"failed", "started"}
            last = await made.spawn()
            for one in (first, last):
                if one is not None:
                    one.kill(ExitCause.SHUTDOWN)
                    await ended(one)

    async def nothing() -> None:
        pass

    run(nothing)  # libuv opens two descriptors for signals, once for all
    at_first = open_fds()
    run(test)
    assert open_fds() == at_first


def test_a_stopped_zygote_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any program can stop its parent: no worker dies of that, and the next start is whole."""
    monkeypatch.setattr(spawner, "PING_INTERVAL_S", 0.05)

    async def test() -> None:
        async with running_spawner() as (made, _):
            worker = await made.spawn()
            os.kill(zygote_of(worker), signal.SIGSTOP)
            second = await made.spawn()
            assert zygote_of(second) == zygote_of(worker)
            assert not worker.exited.done()

    run(test)


@contextmanager
def kept_stopped(pid: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process does not continue, whatever it is told, but can be killed."""
    monkeypatch.setattr(signal, "SIGCONT", signal.SIGSTOP)
    os.kill(pid, signal.SIGSTOP)
    yield


def test_a_zygote_that_stays_silent_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The zygote's workers die with it, not by their programs' fault.

    The start that waited fails, and the next succeeds.
    """
    monkeypatch.setattr(spawner, "PING_INTERVAL_S", 0.05)

    async def test() -> None:
        async with running_spawner() as (made, _):
            worker = await made.spawn()
            pid, zygote = worker.pid, zygote_of(worker)
            with kept_stopped(zygote, monkeypatch):
                with pytest.raises(SpawnFailed):
                    await made.spawn()
                end = await ended(worker)
            assert (end.cause, end.is_ours) == (ExitCause.SIGNAL, True)
            await until(lambda: not is_alive(pid) and not is_alive(zygote), "both are dead")
            assert zygote_of(await made.spawn()) != zygote

    run(test)


@pytest.mark.parametrize("cause", [ExitCause.TIMEOUT, None])
def test_a_death_is_noticed_without_the_zygote(monkeypatch: pytest.MonkeyPatch, cause: ExitCause | None) -> None:
    """A worker that was killed, or that died, is told to be dead while the zygote that should report it is stopped."""
    monkeypatch.setattr(spawner, "PING_INTERVAL_S", 1000.0)
    monkeypatch.setattr(zygote_link, "CLOSE_TIMEOUT_S", 0.1)

    async def test() -> None:
        async with running_spawner() as (made, _):
            worker = await made.spawn()
            os.kill(zygote_of(worker), signal.SIGSTOP)
            if cause is None:
                os.kill(worker.pid, signal.SIGKILL)
            else:
                worker.kill(cause)
            end = await ended(worker)
            assert end.cause is (cause or ExitCause.CRASH)
            assert not is_alive(worker.pid)

    run(test)


def test_closing_ends_a_stopped_zygote(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its workers."""
    monkeypatch.setattr(spawner, "PING_INTERVAL_S", 1000.0)
    monkeypatch.setattr(zygote_link, "CLOSE_TIMEOUT_S", 0.1)
    pids = []

    async def test() -> None:
        async with running_spawner() as (made, _):
            worker = await made.spawn()
            pids.extend([worker.pid, zygote_of(worker)])
            os.kill(zygote_of(worker), signal.SIGSTOP)

        await until(lambda: not any(map(is_alive, pids)), "the zygote and its worker are dead")

    run(test)


def test_a_renewal_keeps_the_old_zygote_while_it_has_workers() -> None:
    """Two come one after the other; one that cannot be had changes nothing."""

    async def test() -> None:
        async with running_spawner() as (made, _):
            old = await made.spawn()
            old_zygote = zygote_of(old)
            await asyncio.gather(made.renew(), made.renew())
            new = await made.spawn()
            new_zygote = zygote_of(new)
            assert old_zygote != new_zygote
            assert len(made._zygotes) == 2
            assert not old.exited.done()
            old.retire(ExitCause.RECYCLED)
            assert (await ended(old)).cause is ExitCause.RECYCLED
            await until(lambda: not is_alive(old_zygote), "the old zygote is gone")

            with descriptors_left(1), pytest.raises(SpawnFailed):
                await made.renew()
            assert zygote_of(await made.spawn()) == new_zygote

    run(test)


CONSTANT = Definition("python", Signature((), (Field("result", "string"),)), "shop:first")


async def _loads(load: Loads) -> bool:
    try:
        await load(CONSTANT)
    except EntrypointError:
        return False
    return True


def test_the_code_before_a_renewal_comes_back(tmp_path: Path) -> None:
    """Whatever is on disk: its zygote is kept, until other code takes its place. A second time goes forward again."""
    shop = tmp_path / "shop.py"

    async def test() -> None:
        async with running_spawner("shop", tmp_path) as (made, _):
            shop.write_text("def first():\n    return 'one'\n")
            one = (await made.spawn()).revision
            with pytest.raises(NoPreviousCode):
                await made.bring_back()
            shop.write_text("def second():\n    return 'two'\n")
            await made.renew()
            two = (await made.spawn()).revision
            await made.renew()  # of the same code: it forgets nothing
            assert (made.revision, made.previous_revision) == (two, one)
            shop.write_text("def (\n")
            for expected, kept in ((one, two), (two, one)):
                await made.bring_back()
                assert (made.revision, made.previous_revision) == (expected, kept)
                assert (await made.spawn()).revision == expected
            shop.write_text("def first():\n    return 'three'\n")
            await made.renew()
            assert made.previous_revision == two
            assert len(made._zygotes) == 4  # one, two and three, and the one of the second renewal with workers

    run(test)


def test_new_code_is_tried_beside_the_present(tmp_path: Path) -> None:
    """Both load definitions as they have them, whatever is on disk by then; a refusal leaves the spawner as it was."""
    shop = tmp_path / "shop.py"

    async def refuse(new: Loads, present: Loads) -> None:
        shop.unlink()
        raise SpawnFailed(f"new {await _loads(new)}, present {await _loads(present)}")

    async def test() -> None:
        async with running_spawner("shop", tmp_path) as (made, _):
            shop.write_text("def first():\n    return 'one'\n")
            await made.spawn()
            before, zygotes = made.revision, set(made._zygotes)
            for source, loads in (("class first:\n    pass\n", False), ("def first():\n    return 1\n", True)):
                shop.write_text(source)
                with pytest.raises(SpawnFailed, match=f"new {loads}, present True"):
                    await made.renew(refuse)
                assert (made.revision, made.previous_revision, made._zygotes) == (before, None, zygotes)
                assert made.start_failure is None

    run(test)


def test_a_zygote_that_was_lost_before_does_not_outlive_the_spawner(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is being ended, and takes its time, is ended as those that are in use are."""
    monkeypatch.setattr(zygote_link, "CLOSE_TIMEOUT_S", 0.1)

    async def test() -> None:
        async with running_spawner() as (made, _):
            await made.spawn()
            (old,) = made._zygotes
            reaper = old._end.pid
            os.kill(reaper, signal.SIGSTOP)  # nothing but SIGKILL ends it
            old._lost()
            assert not made._zygotes
        assert not is_alive(reaper)

    run(test)


def test_a_lasting_failure_of_the_spawner_is_vital(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first worker that can be started again ends it."""
    monkeypatch.setattr("common.background.FAILING_AFTER_S", 0.0)

    async def test() -> None:
        async with running_spawner() as (made, background):
            with descriptors_left(1), pytest.raises(SpawnFailed):
                await made.spawn()
            assert background.failing() == ["spawner"]
            await made.spawn()
            assert background.failing() == []

    run(test)


# --- checks


def test_checks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few at once, some that wait, and the others are told to come again; each process counts until it is dead."""
    monkeypatch.setattr(checks, "QUEUE_LIMIT", 8)

    async def test() -> None:
        async with running_spawner() as (made, _):
            await made.check(INCREMENT)
            await until(lambda: not workers(made), "its worker is gone")
            most = 0
            asked = [asyncio.ensure_future(made.check(INCREMENT)) for _ in range(40)]
            while not all(check.done() for check in asked):
                most = max(most, workers(made))
                await asyncio.sleep(0)
            refused = [check.exception() for check in asked if check.exception() is not None]
            assert all(isinstance(error, PoolOverloaded) and error.retry_after_s for error in refused)
            assert len(refused) == 40 - checks.CHECKS_AT_ONCE - 8
            assert most == checks.CHECKS_AT_ONCE
            await made.check(INCREMENT)

    run(test)


def test_a_check_that_fails_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong entrypoint, a failed start of a worker and a client that leaves all free the place."""
    missing = Definition("python", INCREMENT.signature, "tests.support.programs:missing")

    async def test() -> None:
        async with running_spawner() as (made, _):
            for _ in range(2 * checks.CHECKS_AT_ONCE):
                with pytest.raises(EntrypointError):
                    await made.check(missing)
                # Its worker is dead: it gives no descriptor back while the next start is to find none.
                await until(lambda: workers(made) == 0, "no worker is left")
                with descriptors_left(1), pytest.raises(SpawnFailed):
                    await made.check(INCREMENT)
                leaving = asyncio.ensure_future(made.check(INCREMENT))
                await asyncio.sleep(0)
                leaving.cancel()
                await asyncio.wait([leaving])
            await asyncio.wait_for(made.check(INCREMENT), 20)

    run(test)
