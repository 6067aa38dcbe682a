"""The V1 that a rotation replaced, for the way back, and the trials of V2."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rotations",
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("former", sa.Text, nullable=False),
    )
    op.create_table(
        "rotated_programs",
        sa.Column("program_key", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("rotation", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
    )
    op.create_table(
        "trials",
        sa.Column("identity", sa.String(64), primary_key=True),
        sa.Column("served", sa.BigInteger, nullable=False),
        sa.Column("faults", sa.BigInteger, nullable=False),
        sa.Column("run", sa.Integer),
        sa.Column("outcome", sa.String(16)),
        sa.Column("by", sa.String(256)),
        sa.Column("reason", sa.Text),
        sa.Column("at", sa.DateTime(timezone=True)),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("trials")
    op.drop_table("rotated_programs")
    op.drop_table("rotations")
