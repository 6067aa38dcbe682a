"""The share of shadow calls in the rollout's history. An older replica writes none, which is read as 0."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rollout_revisions", sa.Column("shadow_basis_points", sa.Integer))


def downgrade() -> None:
    with op.batch_alter_table("rollout_revisions") as batch:
        batch.drop_column("shadow_basis_points")
