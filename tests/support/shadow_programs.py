"""Programs whose answer depends on the version that runs them, and metrics, for the tests of shadow calls.

A worker knows its version by the variable `VERSION`, which the tests set by `V1_WORKER_ENV_FILE` and
`V2_WORKER_ENV_FILE`. Each run adds a line to the ledger, if `LEDGER` names one.
"""

import math
import os
import random
import time
from pathlib import Path
from typing import Any

VERSION = os.environ.get("VERSION", "v1")


def _note(program: str, nonce: Any) -> None:
    if ledger := os.environ.get("LEDGER"):
        with Path(ledger).open("a") as file:
            file.write(f"{program} {nonce} {VERSION}\n")


def total(n: int) -> dict[str, Any]:
    """Rounds differently on V2, for every third input."""
    _note("total", n)
    cents = n + 1 if VERSION == "v2" and n % 3 == 0 else n
    return {"total": cents / 100, "currency": "EUR", "password": f"secret-{VERSION}"}


def rounds_rarely(n: int) -> int:
    """Is wrong on V2 for one input of two hundred."""
    return n + (VERSION == "v2" and n % 200 == 7)


def hiccups(n: int) -> int:
    """Is noisy in one run of ten, on both versions."""
    return random.randrange(10**9) if random.random() < 0.1 else n


def same(n: int) -> int:
    _note("same", n)
    return n


def nested(n: int) -> dict[str, Any]:
    """Nests the version in `n` levels of arrays, beside an output that is the same on both."""
    value: Any = VERSION
    for _ in range(n):
        value = [value]
    return {"deep": value, "flat": n}


def once(n: int) -> int:
    """Stands for a program that is not idempotent, such as a payment."""
    _note("once", n)
    return n


def noisy(n: int) -> dict[str, Any]:
    """Differs from run to run on both versions: a clock, a random order, a pid and a rare class."""
    return {
        "at": time.time(),
        "order": random.sample(range(3), 3),
        "pid": os.getpid(),
        "names": list({"ash", "birch", "cedar", "elm", "fir"}),
        "label": random.random() < 0.5,
    }


def fails_on_v2(n: int) -> int:
    if VERSION == "v2":
        raise ValueError("not on this version")
    return n


def dies_on_v2(n: int) -> int:
    if VERSION == "v2":
        os._exit(3)
    return n


def hangs_on_v2(n: int) -> int:
    if VERSION == "v2":
        time.sleep(600)
    return n


def large_on_v2(n: int) -> str:
    return "x" * (60_000_000 if VERSION == "v2" else 10)


def slow(n: int, seconds: float) -> int:
    time.sleep(seconds)
    return n


def answer(n: int) -> str:
    """Gives worse answers on V2."""
    return "good" if VERSION == "v1" or n % 2 else "bad"


def is_good(inputs: dict[str, Any], outputs: dict[str, Any]) -> float:
    return 1.0 if outputs["result"] == "good" else 0.0


def dspy_metric(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(example.n >= 0 and prediction.result == "good")


def bad_metric(inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
    """Fails in every way, by the input."""
    kind = inputs["n"] % 5
    if kind == 0:
        raise RuntimeError("no score")
    if kind == 1:
        time.sleep(600)
    return {2: math.nan, 3: "good", 4: 7.0}[kind]


def takes_one(outputs: dict[str, Any]) -> float:
    return 1.0
