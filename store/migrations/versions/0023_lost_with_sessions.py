"""What ended sessions had of their own, and those of them that have begun again without all of it."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ended_sessions", sa.Column("programs", sa.Text))
    op.add_column("ended_sessions", sa.Column("had_lm", sa.Boolean))
    op.add_column("ended_sessions", sa.Column("has_begun_again", sa.Boolean))


def downgrade() -> None:
    for column in ("has_begun_again", "had_lm", "programs"):
        op.drop_column("ended_sessions", column)
