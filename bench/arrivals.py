"""Calls that come at random moments on random connections, as those of many clients through a proxy do.

The load generators in C send a call when they have an answer, or at even intervals: neither makes such a queue.
"""

import asyncio
import random
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import httpx

from bench.servers import ContenderFailed, Server
from bench.workloads import Workload

_SEED: Final = 1
"""All contenders get their calls at the same moments."""
_JSON: Final = {"content-type": "application/json"}


async def answer_times(
    server: Server, workload: Workload, *, rate: float, seconds: float, connections: int
) -> list[float]:
    """Sends `rate` calls a second on average, each on a random idle connection; returns their durations in ms.

    Raises:
        ContenderFailed: an answer is not 200.
    """
    chance = random.Random(_SEED)  # noqa: S311 - no secret
    async with AsyncExitStack() as stack:
        idle: list[httpx.AsyncClient] = []
        calls: list[asyncio.Task[float]] = []

        async def open_one() -> httpx.AsyncClient:
            return await stack.enter_async_context(httpx.AsyncClient(timeout=30, trust_env=False))

        for _ in range(connections):  # one after another, before anything counts
            idle.append(await open_one())
            await _call(idle[-1], server, workload)
        due = time.perf_counter()
        end = due + seconds
        while due < end:
            await asyncio.sleep(due - time.perf_counter())
            client = idle.pop(chance.randrange(len(idle))) if idle else await open_one()
            call = asyncio.create_task(_call(client, server, workload))
            call.add_done_callback(partial(_add, idle, client))
            calls.append(call)
            due += chance.expovariate(rate)
        return await asyncio.gather(*calls)


def _add(idle: list[httpx.AsyncClient], client: httpx.AsyncClient, _: asyncio.Task[float]) -> None:
    idle.append(client)


async def _call(client: httpx.AsyncClient, server: Server, workload: Workload) -> float:
    began = time.perf_counter()
    answer = await client.post(server.url(server.path), content=workload.body, headers=_JSON)
    if answer.status_code != 200:
        raise ContenderFailed(f"{server.name} answers {answer.status_code}: {answer.text[:500]}")
    return 1000 * (time.perf_counter() - began)
