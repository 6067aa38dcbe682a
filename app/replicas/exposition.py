"""The metrics of a replica as text, and those of all replicas of a machine as one text."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Final

from prometheus_client.exposition import choose_encoder

from app.replicas.replica import Presence
from app.services import Services
from routing.telemetry.ramp_figures import MAX_AGE_S
from routing.versions import Version

_EOF: Final = b"# EOF\n"
"""The last line of OpenMetrics."""
_HELP: Final = b"# HELP "
_FAMILY: Final = re.compile(rb"(?m)^# HELP ")
_NAME: Final = rb"(?m)^([a-zA-Z_:][a-zA-Z0-9_:]*)"
_LABELLED: Final = re.compile(_NAME + rb"\{(?=[^}])")
_UNLABELLED: Final = re.compile(_NAME + rb"(?:\{\})?(?= )")


async def exposition(services: Services, accept: str) -> bytes:
    """Every figure of this replica, in the format that a scraper accepts."""
    snapshots = await asyncio.gather(*(pool.snapshot() for pool in services.pools.values()))
    services.figures.update(snapshots, services.sessions.active())
    rows = await services.evidence.rows(max_age_s=MAX_AGE_S)
    counted = zip(Version, services.judge.counted(), strict=True)
    calls = {version: count for version, count in counted if version in services.pools}
    services.ramp_figures.update(rows, services.ramp.ramp, calls)
    services.recorder.tasks_counted(len(asyncio.all_tasks()))
    encode, _ = choose_encoder(accept)
    text: bytes = encode(services.registry)
    return text


def merged(texts: Mapping[int | None, bytes], presences: Sequence[tuple[int | None, Presence]]) -> bytes:
    """One text of those of all replicas: each family once, each sample with its replica, if there are several."""
    families: dict[bytes, list[bytes]] = {}
    is_openmetrics = False
    for replica, text in texts.items():
        is_openmetrics = text.endswith(_EOF)
        for block in _FAMILY.split(_of_replica(text.removesuffix(_EOF), replica))[1:]:
            name = block[: block.index(b" ")]
            if name in families:
                families[name].append(_samples(block))
            else:
                families[name] = [_HELP, block]
    parts = [part for family in families.values() for part in family]
    return b"".join([*parts, _presence_family(presences), _EOF if is_openmetrics else b""])


def _of_replica(text: bytes, replica: int | None) -> bytes:
    """Gives each sample the label `replica`. A sample is a line; what a value has of line ends is escaped."""
    if replica is None:
        return text
    label = b'replica="%d"' % replica
    return _UNLABELLED.sub(rb"\1{" + label + b"}", _LABELLED.sub(rb"\1{" + label + b",", text))


def _samples(block: bytes) -> bytes:
    """The samples of a family, without the lines that say what it is."""
    lines = block.splitlines(keepends=True)
    return b"".join(line for line in lines[1:] if not line.startswith(b"#"))


def _presence_family(presences: Sequence[tuple[int | None, Presence]]) -> bytes:
    lines = [
        "# HELP poolshift_replicas Replicas of this machine by state: 1 for the state that each is in.\n"
        "# TYPE poolshift_replicas gauge\n"
    ]
    for replica, presence in presences:
        of_replica = "" if replica is None else f'replica="{replica}",'
        lines += [f'poolshift_replicas{{{of_replica}state="{one}"}} {float(one is presence)}\n' for one in Presence]
    return "".join(lines).encode()
