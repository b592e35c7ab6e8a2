"""Classy's own SQL tables, for SQLite and PostgreSQL alike. Changed only by a migration beside this file.

What somebody outside names (senders, labels, people, run keys) is `Text`: SQLite keeps to no length, PostgreSQL does.
"""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
)
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python, naive UTC in the database: SQLite keeps no zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; Classy keeps UTC")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


METADATA = MetaData()

predictions = Table(
    "predictions",
    METADATA,
    Column("prediction_id", String(64), primary_key=True),
    Column("image_id", Text, nullable=False),
    Column("source_id", Text, nullable=False),
    Column("captured_at", UtcDateTime, nullable=False),
    Column("predicted_at", UtcDateTime, nullable=False),
    Column("label", Text, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("probabilities", JSON, nullable=False),
    Column("model_version", String(32), nullable=False),
    Column("run_id", String(64), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("arm", String(16), nullable=False),
    Column("channel", String(16), nullable=False),
    Column("service_hash", String(64), nullable=False),
    Column("defaulted", Boolean, nullable=False),
    Column("content_hash", String(64), nullable=True),
    Column("context", JSON, nullable=True),
    Column("timings", JSON, nullable=True),
    Column("cached", Boolean, nullable=False, default=False, server_default=false()),
    Column("request_id", Text, nullable=True),
    Column("key_id", String(32), nullable=True),
    Index("predictions_captured_at", "captured_at"),
    Index("predictions_image_id", "image_id"),
    Index("predictions_content_hash", "content_hash", "generation"),
    Index("predictions_generation", "generation", "arm"),
)
"""One answer. `arm`: champion, canary (or its name), shadow; `channel`: batch or online; `defaulted`: sender unknown to
Feast. Live answers also say what they were made of: the bytes' SHA-256, the context that the model was told,
milliseconds by stage, whether they came from memory, and whose request it was."""

ground_truth = Table(
    "ground_truth",
    METADATA,
    Column("image_id", Text, primary_key=True),
    Column("label", Text, nullable=False),
    Column("labelled_at", UtcDateTime, nullable=False),
    Column("said_by", Text, nullable=False),
    Column("rejected", Text, nullable=True),
    Index("ground_truth_labelled_at", "labelled_at"),
)
"""What somebody said a photo shows, and when. `rejected`: why validation does not take it, or null."""

deployments = Table(
    "deployments",
    METADATA,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("champion_version", String(32), nullable=False),
    Column("champion_run_id", String(64), nullable=False),
    Column("previous_version", String(32), nullable=True),
    Column("canary_version", String(32), nullable=True),
    Column("canary_weight", Float, nullable=False, default=0.0),
    Column("shadow_version", String(32), nullable=True),
    Column("canary_run_id", String(64), nullable=True),
    Column("canary_name", String(16), nullable=True),
    Column("shadow_run_id", String(64), nullable=True),
    Column("kind", String(16), nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence_uri", Text, nullable=True),
    Column("evidence_hash", String(64), nullable=True),
    Column("run_key", Text, nullable=False),
    Column("as_of", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("deployments_run_key", "run_key", unique=True),
)
"""Append-only truth of what is in production: one row a generation, the primary key lets one writer win.
A run key makes one generation. `kind`: promote, rollback, canary (set up or changed), shadow, drop.
`canary_name`: how its arm is called, in requests and in `predictions`; default canary. `as_of` is data time,
`created_at` is when it happened."""

decisions = Table(
    "decisions",
    METADATA,
    Column("decision_key", Text, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("action", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("run_key", Text, nullable=True),
    Column("evidence_uri", Text, nullable=True),
    Column("evidence_hash", String(64), nullable=True),
    Column("evidence", JSON, nullable=True),
    Column("incident", Text, nullable=True),
    Column("actor", Text, nullable=False),
    Column("as_of", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("decisions_kind_as_of", "kind", "as_of"),
)
"""What was decided and on what. `kind`: monitor (KEEP, WATCH, LABEL, RETRAIN, ROLLBACK, PAGE), judge (PROMOTE, HOLD,
INSUFFICIENT DATA) or approval. A RETRAIN and the judge's row that answers it share `run_key`. `evidence`: what the
policy looked at and its rules, so that the decision can be made again; `incident`: the trouble that it belongs to."""

golden_uses = Table(
    "golden_uses",
    METADATA,
    Column("golden_hash", String(64), primary_key=True),
    Column("run_key", Text, primary_key=True),
    Column("rows", Integer, nullable=False),
    Column("as_of", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
"""Each time that the frozen golden rows were judged on: a set that is asked often is learned by selection."""

api_keys = Table(
    "api_keys",
    METADATA,
    Column("key_id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("secret_hash", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("rate", Text, nullable=True),
    Column("daily_quota", Integer, nullable=True),
    Column("created_by", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=True),
    Column("revoked_at", UtcDateTime, nullable=True),
)
"""Who may ask. The key itself is shown once and kept nowhere; `secret_hash` is its SHA-256."""

key_usage = Table(
    "key_usage",
    METADATA,
    Column("key_id", String(32), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("photos", Integer, nullable=False),
)
"""Photos that a key was answered on a day (UTC)."""

arm_minutes = Table(
    "arm_minutes",
    METADATA,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("arm", String(16), primary_key=True),
    Column("minute", UtcDateTime, primary_key=True),
    Column("worker", String(64), primary_key=True),
    Column("photos", Integer, nullable=False),
    Column("errors", Integer, nullable=False),
    Column("latencies", JSON, nullable=False),
)
"""How an arm did in a minute, as one worker saw it: photos answered, photos failed by the server's fault, and the
answered ones' latencies as {upper bound in ms: photos}."""

label_queue = Table(
    "label_queue",
    METADATA,
    Column("image_id", Text, primary_key=True),
    Column("day", String(10), nullable=False),
    Column("place", Integer, nullable=False),
    Column("source_id", Text, nullable=False),
    Column("captured_at", UtcDateTime, nullable=False),
    Column("reason", String(16), nullable=False),
    Column("probability", Float, nullable=False),
    Column("photos", Integer, nullable=False),
    Column("predicted", Text, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("model_version", String(32), nullable=False),
    Column("wanted", Integer, nullable=False),
    Column("state", String(16), nullable=False, default="open"),
    Column("claimed_by", Text, nullable=True),
    Column("claimed_until", UtcDateTime, nullable=True),
    Column("said_by", Text, nullable=True),
    Column("labelled_at", UtcDateTime, nullable=True),
    Column("before", JSON(none_as_null=True), nullable=True),
    Index("label_queue_state", "state", "day", "place"),
    Index("label_queue_claimed_by", "claimed_by"),
    Index("label_queue_captured_at", "captured_at"),
)
"""Photos that people are asked about: why (`reason`), with which probability each was chosen of how many `photos`, what
the model said, how many opinions are `wanted`, and who has it in hands until when. `state`: open, disputed, labelled,
undecided, unclear (`monitoring.opinions`). `said_by`, `labelled_at`: of the row of `ground_truth` that was made of the
opinions; `before`: the row that it replaced."""

label_votes = Table(
    "label_votes",
    METADATA,
    Column("vote_id", Integer, primary_key=True),
    Column("image_id", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("label", Text, nullable=True),
    Column("at", UtcDateTime, nullable=False),
    Column("undone", UtcDateTime, nullable=True),
    Index("label_votes_image_id", "image_id", "author"),
    Index("label_votes_author", "author"),
)
"""What each person said of a photo of the queue; no label: they cannot tell. `undone`: when it was taken back."""
