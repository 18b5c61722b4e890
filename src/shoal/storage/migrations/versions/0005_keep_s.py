"""How long a prediction is kept, where that is not for whoever settles it to say."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("predictions", sa.Column("keep_s", sa.Float(), nullable=True))
