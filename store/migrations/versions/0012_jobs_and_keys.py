"""Idempotency keys with their answers; the webhook of a job; the receiver of a notification."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("executions", sa.Column("webhook", sa.Text))
    op.add_column("outbox", sa.Column("target", sa.String(300)))
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.String(128), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("execution_id", sa.String(64), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("alive_until", _AT, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("headers", sa.Text),
        sa.Column("body", sa.LargeBinary),
        sa.Column("size", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def downgrade() -> None:
    op.drop_table("idempotency_keys")
    with op.batch_alter_table("outbox") as batch:
        batch.drop_column("target")
    with op.batch_alter_table("executions") as batch:
        batch.drop_column("webhook")
