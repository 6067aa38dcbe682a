"""Changes of the rollout as one replica tells the others of its machine, which act on them before their next call."""

from dataclasses import dataclass
from datetime import datetime

import msgspec

from routing.rollout.model import Change, Rollout, Source, source_of


@dataclass(frozen=True, slots=True)
class News:
    """A revision that is written, or a rollback that is in force before it is."""

    what: Rollout | Change
    after: int = 0
    """The newest revision in the log when a rollback was asked for; 0 for a change that is written."""


class _Revision(msgspec.Struct, tag="revision", omit_defaults=True):
    revision: int
    canary_basis_points: int
    previous_basis_points: int | None
    source: str
    updated_by: str
    reason: str | None
    updated_at: datetime
    rollback_revision: int
    shadow_basis_points: int
    v1_pool: str | None
    rotation_revision: int


class _Rollback(msgspec.Struct, tag="rollback"):
    source: str
    by: str
    reason: str | None
    after: int


_decoder = msgspec.json.Decoder(_Revision | _Rollback)


def encode_news(news: News) -> bytes:
    """Returns the news as JSON."""
    if isinstance(news.what, Change):
        change = news.what
        return msgspec.json.encode(_Rollback(str(change.source), change.by, change.reason, news.after))
    rollout = news.what
    return msgspec.json.encode(
        _Revision(
            rollout.revision,
            rollout.canary_basis_points,
            rollout.previous_basis_points,
            str(rollout.source),
            rollout.updated_by,
            rollout.reason,
            rollout.updated_at,
            rollout.rollback_revision,
            rollout.shadow_basis_points,
            rollout.v1_pool,
            rollout.rotation_revision,
        )
    )


def decode_news(data: bytes) -> News:
    """Reads what `encode_news` made, by a process of the same release."""
    told = _decoder.decode(data)
    if isinstance(told, _Rollback):
        return News(Change(0, Source(told.source), told.by, told.reason), told.after)
    return News(Rollout(**{**msgspec.structs.asdict(told), "source": source_of(told.source)}))
