"""The owners of global programs, and the deleted programs that can be restored."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_AT = sa.DateTime(timezone=True)
_NEW = (("owner", sa.String(128)), ("promoted_revision", sa.Integer()))


def upgrade() -> None:
    for name, kind in _NEW:
        op.add_column("programs", sa.Column(name, kind))
    op.create_table(
        "deleted_programs",
        sa.Column("key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=False),
        *_columns(),
    )
    for columns in (["deleted_at"], ["session_id", "id"], ["account"]):
        name = "_".join(f"deleted_programs_{column}" for column in columns)
        op.create_index(f"ix_{name}", "deleted_programs", columns)


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("session_id", sa.String(128), nullable=False),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("execution_count", sa.BigInteger(), nullable=False),
        sa.Column("last_executed_at", _AT),
        sa.Column("revision", sa.Integer()),
        sa.Column("revised_at", _AT),
        sa.Column("revised_by", sa.String(256)),
        sa.Column("v2_definition", sa.Text()),
        sa.Column("v2_revision", sa.Integer()),
        sa.Column("v2_revised_at", _AT),
        sa.Column("v2_revised_by", sa.String(256)),
        *(sa.Column(name, kind) for name, kind in _NEW),
        sa.Column("deleted_at", _AT, nullable=False),
        sa.Column("deleted_by", sa.String(256)),
        sa.Column("account", sa.String(256), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
    ]


def downgrade() -> None:
    op.drop_table("deleted_programs")
    with op.batch_alter_table("programs") as batch:
        for name, _ in _NEW:
            batch.drop_column(name)
