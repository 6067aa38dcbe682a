"""The last end that speaks against a V2 stays known while its next ramps begin, and its counts begin again with it."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("ends", sa.Integer),
    ("tried", sa.Text),
    ("against", sa.String(16)),
    ("against_by", sa.String(256)),
    ("against_reason", sa.Text),
    ("against_at", sa.DateTime(timezone=True)),
    ("against_run", sa.Integer),
)


def upgrade() -> None:
    for name, kind in _COLUMNS:
        op.add_column("trials", sa.Column(name, kind))


def downgrade() -> None:
    with op.batch_alter_table("trials") as batch:
        for name, _ in _COLUMNS:
            batch.drop_column(name)
