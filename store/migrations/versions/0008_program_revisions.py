"""The revision of each program and the revisions before it. Rows of an older replica have revision 1 (NULL)."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("programs", sa.Column("revision", sa.Integer))
    op.add_column("programs", sa.Column("revised_at", _AT))
    op.add_column("programs", sa.Column("revised_by", sa.String(256)))
    op.create_table(
        "program_revisions",
        sa.Column("program_key", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("session_id", sa.String(128), nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("created_by", sa.String(256)),
    )
    op.create_index("ix_program_revisions_session_id", "program_revisions", ["session_id"])


def downgrade() -> None:
    op.drop_table("program_revisions")
    with op.batch_alter_table("programs") as batch:
        for column in ("revision", "revised_at", "revised_by"):
            batch.drop_column(column)
