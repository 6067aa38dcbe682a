"""The tables. `store/migrations` creates them; a test compares both."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

GLOBAL = ""
"""The session id of programs that belong to none: SQL's NULL is equal to nothing, so it could not be unique."""


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone. SQLite keeps no zone, so all times are UTC there."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is not None:
            return value  # type: ignore[no-any-return]
        return value.replace(tzinfo=UTC)  # type: ignore[no-any-return]


# Names for constraints, so that a migration can refer to them on every database.
metadata = MetaData(naming_convention={"uq": "uq_%(table_name)s_%(column_0_N_name)s", "ix": "ix_%(column_0_N_label)s"})


def _program_columns() -> list[Column[Any]]:
    """The columns of a program beside its key."""
    return [
        Column("session_id", String(128), nullable=False),
        Column("id", String(128), nullable=False),
        Column("definition", Text, nullable=False),
        Column("created_at", UtcDateTime, nullable=False),
        Column("execution_count", BigInteger, nullable=False, default=0),
        Column("last_executed_at", UtcDateTime),
        Column("revision", Integer),
        Column("revised_at", UtcDateTime),
        Column("revised_by", String(256)),
        # V2's own definition, if it has one. The revision counts up if that is taken back, too.
        Column("v2_definition", Text),
        Column("v2_revision", Integer),
        Column("v2_revised_at", UtcDateTime),
        Column("v2_revised_by", String(256)),
        Column("owner", String(128)),
        Column("promoted_revision", Integer),  # the last revision that a promotion of V2's own definition made
    ]


programs = Table(
    "programs",
    metadata,
    Column("key", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    *_program_columns(),
    UniqueConstraint("session_id", "id"),
    sqlite_autoincrement=True,  # a key is never used twice: counts and quarantines are by it
)

# Deleted programs in their grace period, under the keys that they had. Their revisions are where they were.
deleted_programs = Table(
    "deleted_programs",
    metadata,
    Column("key", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    *_program_columns(),
    Column("deleted_at", UtcDateTime, nullable=False),
    Column("deleted_by", String(256)),
    Column("account", String(256), nullable=False),  # whose deleted programs are counted together
    Column("size", BigInteger, nullable=False),  # of all definitions, the former ones too
    Index(None, "deleted_at"),
    Index(None, "session_id", "id"),
    Index(None, "account"),
)


def _former_definitions(name: str) -> Table:
    """The definitions that programs had before those in force, which the programs' own rows have."""
    return Table(
        name,
        metadata,
        Column("program_key", BigInteger, primary_key=True, autoincrement=False),
        Column("revision", Integer, primary_key=True, autoincrement=False),
        Column("session_id", String(128), nullable=False),
        Column("definition", Text, nullable=False),
        Column("created_at", UtcDateTime, nullable=False),
        Column("created_by", String(256)),
        Index(None, "session_id"),
    )


program_revisions = _former_definitions("program_revisions")
program_v2_revisions = _former_definitions("program_v2_revisions")
"""Definitions that V2 alone had."""

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_seen_at", UtcDateTime, nullable=False),
    Column("pool_version", String(8)),
    Column("execution_count", BigInteger, nullable=False, default=0),
    Column("owner", String(128)),
    Index(None, "last_seen_at"),
)

# The sessions that ended lately and held programs or an LM of their own. `programs` are the ids that are not there
# again, as a JSON array.
ended_sessions = Table(
    "ended_sessions",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("ended_at", UtcDateTime, nullable=False),
    Column("owner", String(128)),
    Column("programs", Text),
    Column("had_lm", Boolean),
    Column("has_begun_again", Boolean),
    Index(None, "ended_at"),
)

executions = Table(
    "executions",
    metadata,
    Column("key", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False),
    Column("session_id", String(128), nullable=False),
    Column("program_id", String(128), nullable=False),
    Column("status", String(16), nullable=False),
    Column("pool_version", String(8)),
    Column("body", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("alive_at", UtcDateTime, nullable=False),
    Column("is_to_be_cancelled", Boolean, nullable=False),
    Column("owner", String(128)),
    Column("webhook", Text),
    UniqueConstraint("id"),
    Index(None, "session_id", "key"),
    Index(None, "ended_at"),
    sqlite_autoincrement=True,  # a cursor stays where it was, whatever is forgotten
)

rollout_revisions = Table(
    "rollout_revisions",
    metadata,
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("canary_basis_points", Integer, nullable=False),
    Column("previous_basis_points", Integer),
    Column("source", String(32), nullable=False),
    Column("updated_by", String(256), nullable=False),
    Column("reason", Text),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("shadow_basis_points", Integer),
    Column("v1_pool", Text),
)

# The V1 that the newest rotation replaced, as JSON.
rotations = Table(
    "rotations",
    metadata,
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("former", Text, nullable=False),
)

# The programs whose definition was V2's own until that rotation: V1's former one, and the revision that replaced it.
rotated_programs = Table(
    "rotated_programs",
    metadata,
    Column("program_key", BigInteger, primary_key=True, autoincrement=False),
    Column("rotation", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("definition", Text, nullable=False),
)

# By the identity of a V2: its calls and faults, and how its last ramp ended.
trials = Table(
    "trials",
    metadata,
    Column("identity", String(64), primary_key=True),
    Column("served", BigInteger, nullable=False),
    Column("faults", BigInteger, nullable=False),
    Column("run", Integer),
    Column("outcome", String(16)),
    Column("by", String(256)),
    Column("reason", Text),
    Column("at", UtcDateTime),
    Column("seen_at", UtcDateTime, nullable=False),
)

# One row for each session that has an LM of its own, one for everyone's, one for each version's, and V1's former one.
lms = Table(
    "lms",
    metadata,
    Column("session_id", String(128), primary_key=True),
    Column("model", String(256), nullable=False),
    Column("api_base", Text),
    Column("api_key", Text),
    Column("temperature", Float),
    Column("max_tokens", Integer),
    Column("overrides", String(64)),
    Column("updated_by", String(256), nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("sealed_api_key", Text),
)

# The LMs that those of versions and of everyone replaced; the environment's had no row and has no model here.
former_lms = Table(
    "former_lms",
    metadata,
    Column("holder", String(128), primary_key=True),
    Column("model", String(256)),
    Column("api_base", Text),
    Column("api_key", Text),
    Column("sealed_api_key", Text),
    Column("temperature", Float),
    Column("max_tokens", Integer),
    Column("replaced_by", String(256), nullable=False),
    Column("replaced_at", UtcDateTime, nullable=False),
)

# What replicas tell each other: each reads what is after the last row that it has read.
changes = Table(
    "changes",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("kind", String(32), nullable=False),
    Column("ref", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

rollout_sources = Table(
    "rollout_sources",
    metadata,
    Column("source", String(32), primary_key=True),
    Column("last_seen", Text, nullable=False),
)

# Each move of a ramp, counted up from 1 without a gap; `data` is the ramp as JSON.
ramps = Table(
    "ramps",
    metadata,
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("data", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

rollout_decisions = Table(
    "rollout_decisions",
    metadata,
    Column("key", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("verdict", String(16), nullable=False),
    Column("guardrail", String(32)),
    Column("evidence", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)

# The judge's counters, one row for each replica and generation of evidence.
judge_evidence = Table(
    "judge_evidence",
    metadata,
    Column("generation", String(64), primary_key=True),
    Column("replica", String(64), primary_key=True),
    Column("data", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

# The evidence of shadow calls and scores, one row for each replica.
shadow_evidence = Table(
    "shadow_evidence",
    metadata,
    Column("generation", String(64), primary_key=True),
    Column("replica", String(64), primary_key=True),
    Column("data", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("rollout_revision", Integer, nullable=False),
    Column("v1_calls", BigInteger, nullable=False),
    Column("v2_calls", BigInteger, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

# Notifications that are to be delivered, and those that were.
outbox = Table(
    "outbox",
    metadata,
    Column("key", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("kind", String(32), nullable=False),
    Column("data", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", UtcDateTime),
    Column("delivered_at", UtcDateTime),
    Column("target", String(300)),
    Index(None, "next_at"),
    sqlite_autoincrement=True,
)

# The keys of calls that are carried out once, each with the answer once that is known.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", String(128), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("execution_id", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("alive_until", UtcDateTime, nullable=False),
    Column("status", Integer),
    Column("headers", Text),
    Column("body", LargeBinary),
    Column("size", BigInteger, nullable=False),
    Index(None, "created_at"),
)

# Secrets that the service makes for itself, such as the one that signs the console's cookies.
service_secrets = Table(
    "service_secrets",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

# The results of `poolshift migration validate`; `data` is the checklist and the figures as JSON.
validations = Table(
    "validations",
    metadata,
    Column("key", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    Column("by", String(256), nullable=False),
    Column("data", Text, nullable=False),
    sqlite_autoincrement=True,
)

# Items of the checklist that a person has confirmed.
migration_ticks = Table(
    "migration_ticks",
    metadata,
    Column("item", String(256), primary_key=True),
    Column("by", String(256), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("note", Text),
)

# The calls of each version by day (UTC) and reason.
usage_days = Table(
    "usage_days",
    metadata,
    Column("day", String(10), primary_key=True),
    Column("version", String(8), primary_key=True),
    Column("reason", String(16), primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("peak_per_minute", BigInteger, nullable=False),
)

# The durations of each version's calls by day (UTC); `counts` are by bucket, as JSON.
usage_times = Table(
    "usage_times",
    metadata,
    Column("day", String(10), primary_key=True),
    Column("version", String(8), primary_key=True),
    Column("counts", Text, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("waited_s", Float, nullable=False),
)

# The release that first brought the database to each schema. Releases before this table have left no row.
schema_releases = Table(
    "schema_releases",
    metadata,
    Column("revision", String(32), primary_key=True),
    Column("release", String(64), nullable=False),
    Column("at", UtcDateTime, nullable=False),
)
