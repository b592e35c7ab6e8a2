"""Live answers: what they were made of and whom they went to; keys, and how each arm does by the minute."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("predictions") as batch:
        batch.add_column(sa.Column("content_hash", sa.String(64), nullable=True))
        batch.add_column(sa.Column("context", sa.JSON, nullable=True))
        batch.add_column(sa.Column("timings", sa.JSON, nullable=True))
        batch.add_column(sa.Column("cached", sa.Boolean, nullable=False, server_default=sa.false()))
        batch.add_column(sa.Column("request_id", sa.Text, nullable=True))
        batch.add_column(sa.Column("key_id", sa.String(32), nullable=True))
    op.create_index("predictions_content_hash", "predictions", ["content_hash", "generation"])
    op.create_index("predictions_generation", "predictions", ["generation", "arm"])
    with op.batch_alter_table("deployments") as batch:
        batch.add_column(sa.Column("canary_run_id", sa.String(64), nullable=True))
        batch.add_column(sa.Column("canary_name", sa.String(16), nullable=True))
        batch.add_column(sa.Column("shadow_run_id", sa.String(64), nullable=True))
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(32), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("rate", sa.Text, nullable=True),
        sa.Column("daily_quota", sa.Integer, nullable=True),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("expires_at", sa.DateTime, nullable=True),
        sa.Column("revoked_at", sa.DateTime, nullable=True),
    )
    op.create_table(
        "key_usage",
        sa.Column("key_id", sa.String(32), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("photos", sa.Integer, nullable=False),
    )
    op.create_table(
        "arm_minutes",
        sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("arm", sa.String(16), primary_key=True),
        sa.Column("minute", sa.DateTime, primary_key=True),
        sa.Column("worker", sa.String(64), primary_key=True),
        sa.Column("photos", sa.Integer, nullable=False),
        sa.Column("errors", sa.Integer, nullable=False),
        sa.Column("latencies", sa.JSON, nullable=False),
    )
