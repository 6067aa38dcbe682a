"""A peer's settings as environment variables, since mosec and LitServe start processes that know nothing else."""

import importlib
import os
from collections.abc import Callable
from typing import Any

ENTRYPOINT = "BENCH_ENTRYPOINT"
WORKERS = "BENCH_WORKERS"
PORT = "BENCH_PORT"
RAY_ADDRESS = "PEER_RAY_ADDRESS"


def program() -> Callable[..., Any]:
    """The function to serve."""
    module, _, function = os.environ[ENTRYPOINT].partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def workers() -> int:
    """Returns the number of worker processes."""
    return int(os.environ[WORKERS])


def port() -> int:
    """Returns the port to listen on, on loopback."""
    return int(os.environ[PORT])


def ray_address() -> str:
    """Returns the address of the Ray cluster to serve on."""
    return os.environ[RAY_ADDRESS]
