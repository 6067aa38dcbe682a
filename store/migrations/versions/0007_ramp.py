"""Ramps, verdicts, the judge's evidence, replicas, leases, and the outbox of notifications."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "ramps",
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("at", _AT, nullable=False),
    )
    op.create_table(
        "rollout_decisions",
        sa.Column("key", _KEY, primary_key=True, autoincrement=True),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("guardrail", sa.String(32)),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("at", _AT, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "judge_evidence",
        sa.Column("generation", sa.String(64), primary_key=True),
        sa.Column("replica", sa.String(64), primary_key=True),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("at", _AT, nullable=False),
    )
    op.create_table(
        "replicas",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("seen_at", _AT, nullable=False),
        sa.Column("rollout_revision", sa.Integer, nullable=False),
        sa.Column("v1_calls", sa.BigInteger, nullable=False),
        sa.Column("v2_calls", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("expires_at", _AT, nullable=False),
    )
    op.create_table(
        "outbox",
        sa.Column("key", _KEY, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("at", _AT, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", _AT),
        sa.Column("delivered_at", _AT),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_next_at", "outbox", ["next_at"])


def downgrade() -> None:
    for name in ("outbox", "leases", "replicas", "judge_evidence", "rollout_decisions", "ramps"):
        op.drop_table(name)
