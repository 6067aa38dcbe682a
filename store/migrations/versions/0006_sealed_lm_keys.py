"""Encrypted keys of LMs, beside those in the clear: an older replica sees no key, and not a wrong one."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("lms", sa.Column("sealed_api_key", sa.Text))


def downgrade() -> None:
    with op.batch_alter_table("lms") as batch:
        batch.drop_column("sealed_api_key")
