"""Programs, sessions and the rollout's history."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "programs",
        sa.Column("key", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("session_id", sa.String(128), nullable=False),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("execution_count", sa.BigInteger, nullable=False),
        sa.Column("last_executed_at", _MOMENT),
        sa.UniqueConstraint("session_id", "id", name="uq_programs_session_id_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("last_seen_at", _MOMENT, nullable=False),
        sa.Column("pool_version", sa.String(8)),
        sa.Column("execution_count", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_sessions_last_seen_at", "sessions", ["last_seen_at"])
    op.create_table(
        "rollout_revisions",
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("canary_basis_points", sa.Integer, nullable=False),
        sa.Column("previous_basis_points", sa.Integer),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("updated_by", sa.String(256), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("updated_at", _MOMENT, nullable=False),
    )
    op.create_table(
        "rollout_sources",
        sa.Column("source", sa.String(32), primary_key=True),
        sa.Column("last_seen", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in ("rollout_sources", "rollout_revisions", "sessions", "programs"):
        op.drop_table(table)
