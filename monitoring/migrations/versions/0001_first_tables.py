"""The first four tables: predictions, ground_truth, deployments, decisions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "predictions",
        sa.Column("prediction_id", sa.String(64), primary_key=True),
        sa.Column("image_id", sa.String(64), nullable=False),
        sa.Column("source_id", sa.String(128), nullable=False),
        sa.Column("captured_at", sa.DateTime, nullable=False),
        sa.Column("predicted_at", sa.DateTime, nullable=False),
        sa.Column("label", sa.String(128), nullable=False),
        sa.Column("confidence", sa.Float, nullable=False),
        sa.Column("probabilities", sa.JSON, nullable=False),
        sa.Column("model_version", sa.String(32), nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("arm", sa.String(16), nullable=False),
        sa.Column("channel", sa.String(16), nullable=False),
        sa.Column("service_hash", sa.String(64), nullable=False),
        sa.Column("defaulted", sa.Boolean, nullable=False),
    )
    op.create_index("predictions_captured_at", "predictions", ["captured_at"])
    op.create_index("predictions_image_id", "predictions", ["image_id"])
    op.create_table(
        "ground_truth",
        sa.Column("image_id", sa.String(64), primary_key=True),
        sa.Column("label", sa.String(128), nullable=False),
        sa.Column("labelled_at", sa.DateTime, nullable=False),
        sa.Column("said_by", sa.String(128), nullable=False),
        sa.Column("rejected", sa.String(64), nullable=True),
    )
    op.create_index("ground_truth_labelled_at", "ground_truth", ["labelled_at"])
    op.create_table(
        "deployments",
        sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("champion_version", sa.String(32), nullable=False),
        sa.Column("champion_run_id", sa.String(64), nullable=False),
        sa.Column("previous_version", sa.String(32), nullable=True),
        sa.Column("canary_version", sa.String(32), nullable=True),
        sa.Column("canary_weight", sa.Float, nullable=False),
        sa.Column("shadow_version", sa.String(32), nullable=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("evidence_uri", sa.Text, nullable=True),
        sa.Column("evidence_hash", sa.String(64), nullable=True),
        sa.Column("run_key", sa.String(128), nullable=False),
        sa.Column("as_of", sa.DateTime, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "decisions",
        sa.Column("decision_key", sa.String(128), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("run_key", sa.String(128), nullable=True),
        sa.Column("evidence_uri", sa.Text, nullable=True),
        sa.Column("evidence_hash", sa.String(64), nullable=True),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("as_of", sa.DateTime, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
    )
    op.create_index("decisions_kind_as_of", "decisions", ["kind", "as_of"])


def downgrade() -> None:
    for name in ("decisions", "deployments", "ground_truth", "predictions"):
        op.drop_table(name)
