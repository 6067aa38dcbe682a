"""Jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "executions",
        sa.Column("key", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("session_id", sa.String(128), nullable=False),
        sa.Column("program_id", sa.String(128), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("pool_version", sa.String(8)),
        sa.Column("body", sa.Text),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("started_at", _MOMENT),
        sa.Column("ended_at", _MOMENT),
        sa.Column("alive_at", _MOMENT, nullable=False),
        sa.Column("is_to_be_cancelled", sa.Boolean, nullable=False),
        sa.UniqueConstraint("id", name="uq_executions_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_executions_session_id_executions_key", "executions", ["session_id", "key"])
    op.create_index("ix_executions_ended_at", "executions", ["ended_at"])


def downgrade() -> None:
    op.drop_table("executions")
