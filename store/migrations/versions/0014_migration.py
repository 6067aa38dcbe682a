"""Validations, what people have confirmed, and the calls of each version by day."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "validations",
        sa.Column("key", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at", _AT, nullable=False),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "migration_ticks",
        sa.Column("item", sa.String(256), primary_key=True),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("at", _AT, nullable=False),
        sa.Column("note", sa.Text),
    )
    op.create_table(
        "usage_days",
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("version", sa.String(8), primary_key=True),
        sa.Column("reason", sa.String(16), primary_key=True),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("peak_per_minute", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in ("usage_days", "migration_ticks", "validations"):
        op.drop_table(table)
