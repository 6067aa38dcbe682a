"""The specification that a rotation gives V1's pool. Revisions of any other kind have none (NULL)."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rollout_revisions", sa.Column("v1_pool", sa.Text))


def downgrade() -> None:
    with op.batch_alter_table("rollout_revisions") as batch:
        batch.drop_column("v1_pool")
