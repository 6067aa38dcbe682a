"""A mutex of several processes."""

import asyncio
import os
import signal

import pytest

from app.replicas.mutex import Mutex

pytestmark = pytest.mark.anyio


async def take(mutex: Mutex, order: list[str], name: str) -> None:
    """Holds it for a turn of the event loop."""
    async with mutex.held():
        order.append(f"{name} has it")
        await asyncio.sleep(0)
        order.append(f"{name} has had it")


def held_by_a_fork(mutex: Mutex) -> int:
    """Forks a process that holds it until it is killed; returns when that has it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        assert mutex._try()
        os.write(writer, b".")
        signal.pause()
        os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"."
    os.close(reader)
    return pid


def kill(pid: int) -> None:
    """Kills a fork, and returns when it is dead."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


async def test_of_two_tasks_one_goes_first() -> None:
    """They are of one process, to which the kernel would give the file's lock twice."""
    order: list[str] = []
    mutex = Mutex()
    await asyncio.gather(take(mutex, order, "one"), take(mutex, order, "other"))
    assert order == ["one has it", "one has had it", "other has it", "other has had it"]


async def test_a_process_waits_for_another_and_gets_it_from_a_dead_one() -> None:
    """A holder that is killed leaves nobody waiting."""
    order: list[str] = []
    mutex = Mutex()
    pid = held_by_a_fork(mutex)
    waiting = asyncio.create_task(take(mutex, order, "this"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not mutex._try()
    assert order == []
    kill(pid)
    await waiting
    assert order == ["this has it", "this has had it"]


async def test_one_that_gives_up_waiting_leaves_it_to_others() -> None:
    """A task that is cancelled while it waits does not keep it from those of its process."""
    order: list[str] = []
    mutex = Mutex()
    pid = held_by_a_fork(mutex)
    waiting = asyncio.create_task(take(mutex, order, "cancelled"))
    await asyncio.sleep(0)
    waiting.cancel()
    kill(pid)
    await take(mutex, order, "other")
    assert order == ["other has it", "other has had it"]
