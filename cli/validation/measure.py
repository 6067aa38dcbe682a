"""Measurements: V1 against V2 with programs of the user's, a load, and the memory under it."""

import contextlib
import itertools
import json
import re
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from cli.validation.conformance import Target
from cli.validation.outcome import Outcome, State, interval, judged, ratio_interval, worst

ROUNDS = 5
ROUND_S = 1.5
LOAD_S = 15.0
THROUGHPUT_FLOOR = 0.9
"""V2 may have a tenth less throughput than V1 and is still no slower."""
MAX_GROWTH = 1024.0
"""Bytes that a call may leave in the resident memory of the service or of a pool's workers."""
MEMORY_S = 20.0
WARM_UP = 0.25
"""The part of a memory measurement that is not looked at: caches and allocators fill up."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Calls of the user's own: a program and its inputs."""

    program: str
    inputs: dict[str, Any]


@dataclass(slots=True)
class Load:
    """The answers of a load."""

    seconds: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    elapsed_s: float = 0.0
    queued_ms: float = 0.0
    run_ms: float = 0.0
    """The time of all calls in the pool's queue and in its workers, as the answers tell it."""

    @property
    def waits(self) -> bool:
        """Tells if the calls waited for workers longer than they ran: at least as many were queued as ran."""
        return self.queued_ms > self.run_ms

    @property
    def rate(self) -> float:
        """Calls per second."""
        return len(self.seconds) / self.elapsed_s if self.elapsed_s else 0.0

    def quantiles(self) -> dict[str, float]:
        """p50, p95 and p99 in milliseconds."""
        if len(self.seconds) < 2:
            return {}
        cuts = statistics.quantiles(self.seconds, n=100, method="inclusive")
        return {name: round(1000 * cuts[index], 3) for name, index in (("p50", 49), ("p95", 94), ("p99", 98))}


def read_inputs(path: Path) -> list[Inputs]:
    """Reads JSON lines `{"program_id": …, "inputs": {…}}`. Raises ValueError, OSError."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                one = json.loads(line)
                found.append(Inputs(one["program_id"], dict(one["inputs"])))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"line {number}: {error!r}") from None
    return found


def check_benchmarks(client: httpx.Client, inputs: Sequence[Inputs], sizes: dict[str, int]) -> Outcome:
    """Calls both versions in turn, at one, some and all workers' concurrency, and compares their throughput."""
    if not inputs:
        return Outcome("benchmarks", "unknown", "no inputs were given", "poolshift migration validate --inputs FILE")
    figures: dict[str, Any] = {}
    states: list[State] = []
    told: list[str] = []
    most = max(sizes.values())
    for clients in sorted({1, max(1, most // 2), most}):
        loads = _alternate(client, inputs, clients)
        if failed := {version: errors for version, kept in loads.items() if (errors := _errors(kept))}:
            why = f"calls fail, so no throughput is known: {failed}"
            return Outcome(
                "benchmarks", "unknown", why, "poolshift programs run PROGRAM", {**figures, "errors": failed}
            )
        ratios = [two.rate / one.rate for one, two in zip(loads["v1"], loads["v2"], strict=True)]
        low, high = ratio_interval(ratios)
        states.append(judged(low, high, at_least=THROUGHPUT_FLOOR))
        told.append(f"{clients} at once: {statistics.median(ratios):.2f} × ({low:.2f} to {high:.2f})")
        figures[str(clients)] = {
            "ratios": ratios,
            "interval": [low, high],
            **{version: _summary(kept) for version, kept in loads.items()},
        }
    state = worst(states)
    how = "" if state == "met" else "more inputs or rounds; docs/performance.md"
    return Outcome("benchmarks", state, f"V2's throughput over V1's, {'; '.join(told)}", how, figures)


def _alternate(client: httpx.Client, inputs: Sequence[Inputs], clients: int) -> dict[str, list[Load]]:
    """Loads both versions in turn, so that a disturbance of the machine hits both."""
    loads: dict[str, list[Load]] = {"v1": [], "v2": []}
    for _ in range(ROUNDS):
        for version, kept in loads.items():
            kept.append(run_load(Target(client, version), inputs, clients, ROUND_S))
    return loads


def check_load(
    client: httpx.Client, inputs: Sequence[Inputs], peak_per_s: float, multiple: float, failed: Mapping[str, int]
) -> Outcome:
    """Sends V2 a multiple of the peak rate, open loop, and counts errors.

    `failed` are V2's errors in the benchmarks, by code: a V2 that fails without a load needs none.
    """
    if not inputs:
        return Outcome("load", "unknown", "no inputs were given", "poolshift migration validate --inputs FILE")
    if failed:
        told = f"V2 fails in the benchmarks already: errors {dict(failed)}"
        return Outcome("load", "not_met", told, "poolshift programs run PROGRAM --pool-version v2")
    if peak_per_s <= 0:
        return Outcome(
            "load", "unknown", "no peak is known: there were no calls", "poolshift migration validate --rate N"
        )
    rate = peak_per_s * multiple
    load = run_rate(Target(client, "v2"), inputs, rate, LOAD_S)
    figures = {"asked_per_s": rate, "reached_per_s": load.rate, "errors": load.errors, **load.quantiles()}
    told = f"{load.rate:.1f} of {rate:.1f} calls a second ({multiple:g} × the peak) for {LOAD_S:g} s"
    if load.errors:
        return Outcome("load", "not_met", f"{told}: errors {load.errors}", "poolshift migration tune", figures)
    if load.rate < 0.9 * rate and load.waits:
        return Outcome("load", "not_met", f"{told}: calls queue up on V2", "poolshift migration tune", figures)
    if load.rate < 0.9 * rate:
        return Outcome("load", "unknown", f"{told}: this machine could not send more", "run it elsewhere", figures)
    return Outcome("load", "met", f"{told} without an error", figures=figures)


def check_memory(client: httpx.Client, pid: int, sizes: dict[str, int], *, seconds: float = MEMORY_S) -> Outcome:
    """Fits a line to the resident memory of service and workers under load, over the number of calls."""
    figures: dict[str, Any] = {}
    states: list[State] = []
    told: list[str] = []
    for version, size in sizes.items():
        target = Target(client, version)
        program = target.create("work")
        samples = _sample(target, program, pid, size, seconds)
        for name in ("service", "workers"):
            slopes = _slopes([(calls, memory[name]) for calls, memory in samples])
            low, high = interval(slopes)
            states.append(judged(-high, -low, at_least=-MAX_GROWTH))
            told.append(
                f"{name} under {version}: {statistics.fmean(slopes):.0f} bytes a call ({low:.0f} to {high:.0f})"
            )
            figures[f"{name} {version}"] = {"slopes": slopes, "interval": [low, high], "calls": samples[-1][0]}
    state = worst(states)
    how = "" if state == "met" else "WORKER_MAX_RSS_MB bounds a worker; a longer run tells more (--thorough)"
    return Outcome("memory", state, "; ".join(told), how, figures)


def run_load(target: Target, inputs: Sequence[Inputs], clients: int, seconds: float) -> Load:
    """Calls the version with so many clients, each one call after another."""
    end = time.monotonic() + seconds
    return _gather(target, inputs, clients, lambda: time.monotonic() < end)


def run_rate(target: Target, inputs: Sequence[Inputs], rate: float, seconds: float) -> Load:
    """Sends calls at a rate, whether or not the ones before have been answered; none later than `seconds`."""
    count = max(1, int(rate * seconds))
    began = time.monotonic()
    numbers = itertools.count()

    def may_send() -> bool:
        number = next(numbers)
        if number >= count or time.monotonic() > began + seconds:
            return False
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        return True

    return _gather(target, inputs, min(64, max(4, int(rate))), may_send)


def _gather(target: Target, inputs: Sequence[Inputs], clients: int, goes_on: Callable[[], bool]) -> Load:
    load, turn, lock = Load(), itertools.cycle(inputs), threading.Lock()
    began = time.monotonic()

    def call() -> None:
        while goes_on():
            with lock:
                one = next(turn)
            sent = time.monotonic()
            answer = target.execute(one.program, inputs=one.inputs)
            with lock:
                load.seconds.append(time.monotonic() - sent)
                load.queued_ms += _timing(answer, "queue")
                load.run_ms += _timing(answer, "run")
                if answer.status_code != httpx.codes.OK:
                    code = answer.json().get("code", str(answer.status_code))
                    load.errors[code] = load.errors.get(code, 0) + 1

    with ThreadPoolExecutor(clients) as callers:
        for done in [callers.submit(call) for _ in range(clients)]:
            done.result()
    load.elapsed_s = time.monotonic() - began
    return load


def _timing(answer: httpx.Response, name: str) -> float:
    """A duration of the header `Server-Timing`, in milliseconds; 0 if the answer does not have it."""
    found = re.search(rf"\b{name};dur=([0-9.]+)", answer.headers.get("server-timing", ""))
    return float(found[1]) if found else 0.0


def _errors(loads: list[Load]) -> dict[str, int]:
    """The errors of several loads by code."""
    return dict(sum((Counter(load.errors) for load in loads), Counter[str]()))


def _summary(loads: list[Load]) -> dict[str, Any]:
    whole = Load([one for load in loads for one in load.seconds], {}, sum(load.elapsed_s for load in loads))
    return {"calls_per_s": round(whole.rate, 1), "calls": len(whole.seconds), **whole.quantiles()}


def _sample(target: Target, program: str, pid: int, size: int, seconds: float) -> list[tuple[int, dict[str, float]]]:
    """Resident memory over calls, sampled while all workers are busy."""
    samples: list[tuple[int, dict[str, float]]] = []
    inputs = [Inputs(program, {"size": 200})]
    with _in_background(lambda: run_load(target, inputs, size, seconds)) as is_running:
        while is_running():
            pool = target.client.get(f"/pools/{target.version}").json()
            workers = sum(worker["rss_bytes"] or 0 for worker in pool["workers"])
            samples.append((pool["totals"]["dispatched"], {"service": _resident(pid), "workers": float(workers)}))
            time.sleep(seconds / 60)
    return samples[int(WARM_UP * len(samples)) :]


@contextlib.contextmanager
def _in_background(work: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(work)
        yield lambda: not running.done()
        running.result()


def _resident(pid: int) -> float:
    """Resident memory of a process, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return float(pages * 4096)


def _slopes(points: Sequence[tuple[int, float]], *, parts: int = 5) -> list[float]:
    """The slope of the least-squares line in each of some consecutive parts: their spread gives the interval."""
    size = max(2, len(points) // parts)
    chunks = [points[start : start + size] for start in range(0, len(points) - size + 1, size)]
    return [_slope(chunk) for chunk in chunks if chunk[-1][0] > chunk[0][0]] or [0.0, 0.0]


def _slope(points: Sequence[tuple[int, float]]) -> float:
    return statistics.linear_regression([float(x) for x, _ in points], [y for _, y in points]).slope
