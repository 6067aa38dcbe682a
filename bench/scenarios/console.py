"""Measures the processor time that live tabs of the console take from the service."""

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from bench.arena import V2, Arena
from bench.outcome import Figure, Outcome, at_most
from bench.servers import ContenderFailed, Server
from bench.workloads import TRIVIAL

PAGES = ("overview", "overview", "failures", "pools", "overview")
"""The page of each viewer. Those of one page get the same frames, which are made once."""
SECONDS = 5
"""Length of one measurement; each second has a frame."""


def run(arena: Arena) -> Outcome:
    """An idle service amid a split, so that every difference is the viewers'; without and with five of them in turn."""
    without, viewed = [], []
    with arena.running([arena.v2(CANARY_PERCENT="30", V1_POOL_SIZE="4")], TRIVIAL, arena.plan.workers) as servers:
        server = servers[V2]
        server.check(TRIVIAL)
        with _viewers(server):
            pass  # the templates are compiled at their first use
        for _ in range(arena.plan.rounds):
            without.append(_busy_share(server))
            with _viewers(server):
                viewed.append(_busy_share(server))
            arena.say(f"  {100 * without[-1]:.2f} % of a processor, with viewers {100 * viewed[-1]:.2f} %")
    added = statistics.median(after - before for before, after in zip(without, viewed, strict=True))
    return Outcome(
        scenario="console",
        conditions=f"idle service, {len(PAGES)} live tabs, {SECONDS} s each way",
        figures=[
            Figure("processor time of the service without viewers", 100 * statistics.median(without), "% of one"),
            Figure("with viewers", 100 * statistics.median(viewed), "% of one"),
        ],
        goals=[at_most("share of a processor that five live tabs take", 0.01, added, contender=V2)],
    )


def _busy_share(server: Server) -> float:
    before, began = _ran_s(server), time.monotonic()
    time.sleep(SECONDS)
    return (_ran_s(server) - before) / (time.monotonic() - began)


def _ran_s(server: Server) -> float:
    """Seconds in which threads of the service ran, by the scheduler: it counts each nanosecond, not each tick."""
    tasks = Path(f"/proc/{server.process.pid}/task")
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks.iterdir()) / 1e9


@contextlib.contextmanager
def _viewers(server: Server) -> Iterator[None]:
    """Opens the live tabs, which read until the end of the block. Raises ContenderFailed if one gets no frame."""
    is_over = threading.Event()
    frames = [threading.Event() for _ in PAGES]
    threads = [
        threading.Thread(target=_read, args=(server.url(f"/console/live?page={page}"), frame, is_over))
        for page, frame in zip(PAGES, frames, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        if not all(frame.wait(10) for frame in frames):
            raise ContenderFailed("a live tab got no frame")
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def _read(url: str, has_frame: threading.Event, is_over: threading.Event) -> None:
    with httpx.Client(timeout=30, trust_env=False) as client, client.stream("GET", url) as stream:
        for _ in stream.iter_raw():
            has_frame.set()
            if is_over.is_set():
                return
