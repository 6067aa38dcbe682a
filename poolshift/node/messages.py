"""Messages between the service (`pools.ray`) and the agent on a node: frames of JSON over TCP.

Every connection begins with a `Hello`. One of a zygote goes on with `Begin`, then orders one way and notices the other.
One of a worker is handed on to the worker itself, which has it as its socket or as its output.
"""

from typing import Literal

import msgspec

from poolshift.worker.notices import Exited, Fork, Forked, NotForked, Ping, Pong, Preloaded

Purpose = Literal["zygote", "channel", "output", "run"]


class Hello(msgspec.Struct, tag="hello", omit_defaults=True):
    """Opens a connection. `zygote` and `generation` name the worker that a channel or an output is for."""

    token: str
    purpose: Purpose
    zygote: str = ""
    generation: int = 0


class Code(msgspec.Struct):
    """The code that the service brings along: a ZIP with the folders `own` and `programs`, and variables."""

    archive: bytes
    environment: dict[str, str]
    python: str | None = None
    """The interpreter, as a path or a name on the node's `PATH`; None is the one that Ray runs on there."""


class Begin(msgspec.Struct, tag="begin"):
    """Starts a zygote; `arguments` are its first ones, to which the agent adds those that are the node's own."""

    zygote: str
    arguments: list[str]
    code: Code


class RunModule(msgspec.Struct, tag="run"):
    """Runs a module of `poolshift.worker` to its end."""

    module: str
    arguments: list[str]
    code: Code
    timeout_s: float


class Ran(msgspec.Struct, tag="ran"):
    """The end of such a run; a `status` of None is a run that was ended since it took too long."""

    status: int | None
    output: str
    faults: str
    python: str


class Signal(msgspec.Struct, tag="signal", omit_defaults=True):
    """Sends a signal to a worker, or to the zygote if `generation` is 0."""

    number: int
    generation: int = 0


class Measure(msgspec.Struct, tag="measure"):
    """Asks for the figures of all workers of the zygote."""


class Started(msgspec.Struct, tag="started"):
    """The zygote's process runs."""

    pid: int


class Refused(msgspec.Struct, tag="refused"):
    """Nothing could be started, and why."""

    reason: str


class Lost(msgspec.Struct, tag="lost"):
    """The zygote is dead; the connection ends."""


Figures = tuple[int, float, int | None]
"""Resident bytes, processor time in seconds, and open files; None if the kernel does not count these."""


class Measured(msgspec.Struct, tag="measured"):
    """The figures of each worker, by its generation, and the count of processes that the kernel killed for memory."""

    figures: dict[int, Figures]
    oom_kills: int


Order = Fork | Ping | Signal | Measure
Notice = Preloaded | Forked | NotForked | Exited | Pong | Started | Refused | Lost | Measured
