"""Owners of sessions and jobs; rows without one are everyone's, as are those that an older replica writes."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("sessions", "executions"):
        op.add_column(table, sa.Column("owner", sa.String(128)))


def downgrade() -> None:
    for table in ("sessions", "executions"):
        with op.batch_alter_table(table) as batch:
            batch.drop_column("owner")
