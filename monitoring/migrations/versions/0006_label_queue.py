"""Photos that people are asked about, and what each of them said."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "label_queue",
        sa.Column("image_id", sa.Text, primary_key=True),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("source_id", sa.Text, nullable=False),
        sa.Column("captured_at", sa.DateTime, nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("probability", sa.Float, nullable=False),
        sa.Column("photos", sa.Integer, nullable=False),
        sa.Column("predicted", sa.Text, nullable=False),
        sa.Column("confidence", sa.Float, nullable=False),
        sa.Column("model_version", sa.String(32), nullable=False),
        sa.Column("wanted", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("claimed_by", sa.Text, nullable=True),
        sa.Column("claimed_until", sa.DateTime, nullable=True),
        sa.Column("said_by", sa.Text, nullable=True),
        sa.Column("labelled_at", sa.DateTime, nullable=True),
        sa.Column("before", sa.JSON, nullable=True),
    )
    op.create_index("label_queue_state", "label_queue", ["state", "day", "place"])
    op.create_index("label_queue_claimed_by", "label_queue", ["claimed_by"])
    op.create_index("label_queue_captured_at", "label_queue", ["captured_at"])
    op.create_table(
        "label_votes",
        sa.Column("vote_id", sa.Integer, primary_key=True),
        sa.Column("image_id", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("undone", sa.DateTime, nullable=True),
    )
    op.create_index("label_votes_image_id", "label_votes", ["image_id", "author"])
    op.create_index("label_votes_author", "label_votes", ["author"])
