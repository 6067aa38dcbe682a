"""The durations of each version's calls by day."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "usage_times",
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("version", sa.String(8), primary_key=True),
        sa.Column("counts", sa.Text, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("waited_s", sa.Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("usage_times")
