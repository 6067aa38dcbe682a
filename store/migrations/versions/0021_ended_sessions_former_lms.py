"""The sessions that ended lately with something of their own, and the LMs that others have replaced."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ended_sessions",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("owner", sa.String(128)),
    )
    op.create_index("ix_ended_sessions_ended_at", "ended_sessions", ["ended_at"])
    op.create_table(
        "former_lms",
        sa.Column("holder", sa.String(128), primary_key=True),
        sa.Column("model", sa.String(256)),
        sa.Column("api_base", sa.Text),
        sa.Column("api_key", sa.Text),
        sa.Column("sealed_api_key", sa.Text),
        sa.Column("temperature", sa.Float),
        sa.Column("max_tokens", sa.Integer),
        sa.Column("replaced_by", sa.String(256), nullable=False),
        sa.Column("replaced_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("former_lms")
    op.drop_index("ix_ended_sessions_ended_at", "ended_sessions")
    op.drop_table("ended_sessions")
