"""How often the golden rows were judged on."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "golden_uses",
        sa.Column("golden_hash", sa.String(64), primary_key=True),
        sa.Column("run_key", sa.String(128), primary_key=True),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("as_of", sa.DateTime, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
    )
