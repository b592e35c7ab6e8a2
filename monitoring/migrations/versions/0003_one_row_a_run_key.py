"""A run key makes one generation; what people name may be as long as they like, on PostgreSQL as on SQLite."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NAMES = {
    "predictions": {"image_id": 64, "source_id": 128, "label": 128},
    "ground_truth": {"image_id": 64, "label": 128, "said_by": 128, "rejected": 64},
    "deployments": {"actor": 128, "run_key": 128},
    "decisions": {"decision_key": 128, "run_key": 128, "actor": 128},
    "golden_uses": {"run_key": 128},
}
"""Columns that somebody outside names, and the lengths that PostgreSQL kept to and SQLite did not."""


def upgrade() -> None:
    for table, columns in NAMES.items():
        with op.batch_alter_table(table) as batch:
            for column, length in columns.items():
                batch.alter_column(column, existing_type=sa.String(length), type_=sa.Text)
    op.create_index("deployments_run_key", "deployments", ["run_key"], unique=True)
