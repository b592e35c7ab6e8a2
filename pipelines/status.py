"""What is in production, since when, on what evidence; what served when, and why.

    classy status
    classy history [--at TIME]

Read from Classy's own tables and evidence alone, so that they answer while MLflow is down.
"""

from collections.abc import Mapping
from datetime import datetime
from itertools import zip_longest
from typing import Any, Literal

from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from monitoring import ledger, migrations
from monitoring.stores import Store, StoreError, open_store
from pipelines.errors import ClassyError
from pipelines.models import judgement
from pipelines.models.links import version_url
from pipelines.settings import Settings


def status(settings: Settings) -> dict[str, Any]:
    """The current generation as plain data; `generation` is None while nothing is in production."""
    store = open_store(settings.database_url)
    current = store.current()
    if current is None:
        return {
            "generation": None,
            "version": None,
            "message": "Nothing is in production yet: `classy promote` makes the first generation.",
        }
    return {
        "generation": current["generation"],
        "version": current["champion_version"],
        "model_url": version_url(settings, current["champion_version"]),
        "run_id": current["champion_run_id"],
        "kind": current["kind"],
        "since_data_time": current["as_of"].isoformat(),
        "since_wall_clock": current["created_at"].isoformat(),
        "by": current["actor"],
        "reason": current["reason"],
        "run_key": current["run_key"],
        "previous_version": current["previous_version"],
        **_evidence(store, current),
    }


def _evidence(store: Store, row: Mapping[str, Any]) -> dict[str, Any]:
    """What brought this version: the verdict, its reasons and main numbers, and who approved it."""
    judged = next((found for found in store.decisions("judge") if found["evidence_hash"] == row["evidence_hash"]), None)
    approval = store.decision(f"approval-{judged['run_key']}") if judged else None
    about: dict[str, Any] = {
        "evidence_uri": row["evidence_uri"],
        "approved_by": approval["actor"] if approval else None,
    }
    try:
        found = judgement.of_decision(row)
    except ClassyError as error:
        return {**about, "verdict": judged["action"] if judged else None, "evidence_problem": str(error)}
    return {
        **about,
        "verdict": found["verdict"],
        "judged_against": judgement.opponent_name(found["opponent"]),
        "snapshot_id": found["snapshot"]["id"],
        "reasons": found["reasons"],
        "accuracy": {
            name: {
                "contender": part["contender"]["accuracy"],
                "opponent": part["opponent"]["accuracy"],
                "rows": part["rows"],
            }
            for name, part in found["comparisons"].items()
            if part is not None
        },
        "run_url": found["contender"]["run_url"],
    }


def history(
    settings: Settings, *, at: datetime | None = None, clock: Literal["data", "wall"] = "data"
) -> list[dict[str, Any]]:
    """Generations, oldest first: what served from when to when, who put it there and why.

    Args:
        at: only the generation that served then; an empty list before the first.
        clock: which clock `at` reads. Data time is right for a replay; on live data both agree, but for
            a rollback, whose data time is that of the newest decision before it.

    Raises:
        ClassyError: `at` has no time zone.
    """
    rows = open_store(settings.database_url).generations()
    ends = [row["created_at"].isoformat() for row in rows[1:]]
    lines = [_line(row, until) for row, until in zip_longest(rows, ends)]
    if at is None:
        return lines
    if at.tzinfo is None:
        raise ClassyError(f"at={at}: needs a time zone, such as {at.isoformat()}+00:00")
    serving = ledger.served_at(rows, at, clock="as_of" if clock == "data" else "created_at")
    return [] if serving is None else [line for line in lines if line["generation"] == serving["generation"]]


def _line(row: Mapping[str, Any], until: str | None) -> dict[str, Any]:
    return {
        "generation": row["generation"],
        "version": row["champion_version"],
        "kind": row["kind"],
        "from_data_time": row["as_of"].isoformat(),
        "from_wall_clock": row["created_at"].isoformat(),
        "until_wall_clock": until,
        "by": row["actor"],
        "run_key": row["run_key"],
        "reason": row["reason"],
        "run_id": row["champion_run_id"],
        "evidence_uri": row["evidence_uri"],
    }


def upgrade(settings: Settings) -> dict[str, Any]:
    """Bring an older database to this Classy's schema.

    Raises:
        StoreError: no such database, or it is newer than this Classy.
    """
    try:
        url = make_url(settings.database_url)
    except ArgumentError as error:
        raise StoreError(f"CLASSY_DATABASE_URL={settings.database_url!r} is no SQLAlchemy URL") from error
    shown = url.render_as_string(hide_password=True)
    try:
        before, after = migrations.upgrade(create_engine(url))
    except OperationalError as error:
        raise StoreError(f"database {shown}: not reachable: {error.orig}") from error
    return {"database": shown, "before": before, "after": after, "changed": before != after}
