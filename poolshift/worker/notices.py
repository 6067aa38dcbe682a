"""Messages between the service (`pools.process.spawner`) and the zygote: packets of JSON on a SOCK_SEQPACKET pair."""

import msgspec

MAX_PACKET_BYTES = 4096

CALLS_OF_SHARED = "many"
"""The argument CALLS of a zygote whose workers run many calls at once."""


class Fork(msgspec.Struct, tag="fork", omit_defaults=True):
    """Asks for a worker of this generation; the worker's three descriptors come along.

    `user` is the user id and the group id that the worker changes to before a program's code loads.
    """

    generation: int
    user: tuple[int, int] | None = None


class Ping(msgspec.Struct, tag="ping", omit_defaults=True):
    """Asks the zygote for a sign of life, and for the revision of the code on disk if `asks_revision`."""

    asks_revision: bool = False


Order = Fork | Ping


class Preloaded(msgspec.Struct, tag="preloaded"):
    """The zygote's first message: it is up.

    `revision` is that of the code which its workers have, and `commit` its git commit. `failures` are the modules of
    `PRELOAD` that cannot be imported, each with the reason, and `broken` those that programs named recently.
    """

    revision: str
    failures: dict[str, str]
    broken: dict[str, str]
    commit: str | None = None


class Forked(msgspec.Struct, tag="forked"):
    """The process id of a new worker; its pidfd comes along."""

    generation: int
    pid: int


class NotForked(msgspec.Struct, tag="not_forked"):
    """A start that the system refused, such as a fork over the limit of processes; `reason` is the system's."""

    generation: int
    reason: str


class Exited(msgspec.Struct, tag="exited"):
    """A worker that is dead and reaped; `status` is as waitpid(2) gives it, `cpu_s` the time it used, in seconds."""

    generation: int
    status: int
    cpu_s: float


class Pong(msgspec.Struct, tag="pong", omit_defaults=True):
    """The answer to a ping: the zygote is alive."""

    revision: str | None = None
    """The revision of the code on disk, if it was asked for."""


Notice = Preloaded | Forked | NotForked | Exited | Pong
