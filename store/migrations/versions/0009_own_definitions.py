"""V2's own definitions of programs, in the programs' rows, so that an older replica deletes them with the program."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("programs", sa.Column("v2_definition", sa.Text))
    op.add_column("programs", sa.Column("v2_revision", sa.Integer))
    op.add_column("programs", sa.Column("v2_revised_at", _AT))
    op.add_column("programs", sa.Column("v2_revised_by", sa.String(256)))
    op.create_table(
        "program_v2_revisions",
        sa.Column("program_key", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("session_id", sa.String(128), nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("created_by", sa.String(256)),
    )
    op.create_index("ix_program_v2_revisions_session_id", "program_v2_revisions", ["session_id"])


def downgrade() -> None:
    op.drop_table("program_v2_revisions")
    with op.batch_alter_table("programs") as batch:
        for column in ("v2_definition", "v2_revision", "v2_revised_at", "v2_revised_by"):
            batch.drop_column(column)
