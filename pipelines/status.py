"""What is in production, since when, on what evidence; what served when, and why.

    classy status
    classy history [--at TIME] [--clock data|wall]

Read from Classy's own tables and evidence alone, so that they answer while MLflow is down.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from monitoring import ledger, migrations
from monitoring.stores import Store, make_engine, making_tables, open_store
from pipelines.errors import ClassyError
from pipelines.models import judgement
from pipelines.models.links import version_url
from pipelines.settings import Settings


def status(settings: Settings) -> dict[str, Any]:
    """What serves as plain data: the champion, and what answers beside it. `generation` is None while nothing does.

    Who, when and why are of the promotion or rollback that brought the champion: a canary changes none of it.
    """
    store = open_store(settings.database_url)
    generations = store.generations()
    brought = ledger.brought(generations)
    if brought is None:
        return {
            "generation": None,
            "version": None,
            "message": "Nothing is in production yet: `classy promote` makes the first generation.",
        }
    return {
        "generation": generations[-1]["generation"],
        "version": brought["champion_version"],
        "model_url": version_url(settings, brought["champion_version"]),
        "run_id": brought["champion_run_id"],
        "kind": brought["kind"],
        "since_data_time": brought["as_of"].isoformat(),
        "since_wall_clock": brought["created_at"].isoformat(),
        "by": brought["actor"],
        "reason": brought["reason"],
        "run_key": brought["run_key"],
        "previous_version": brought["previous_version"],
        **_beside(settings, generations),
        **_evidence(store, brought),
    }


def _beside(settings: Settings, generations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The canary and the shadow of now, each None or who, since when, by whom and why."""
    now = generations[-1]
    found: dict[str, Any] = {"canary": None, "shadow": None}
    for role in found:
        run_id = now[f"{role}_run_id"]
        if run_id is None:
            continue
        same = [row for row in generations if row[f"{role}_run_id"] == run_id and row["kind"] == role]
        began = ledger.trial(generations)[0] if role == "canary" else same[-1]
        found[role] = {
            "version": now[f"{role}_version"],
            "run_id": run_id,
            "model_url": version_url(settings, now[f"{role}_version"]),
            "since_wall_clock": began["created_at"].isoformat(),
            "by": began["actor"],
            "reason": began["reason"],
        }
        if role == "canary":
            found[role] |= {"name": now["canary_name"], "weight": now["canary_weight"]}
    return found


def _evidence(store: Store, row: Mapping[str, Any]) -> dict[str, Any]:
    """What brought this version: the verdict, its reasons and main numbers, and who approved it."""
    judged = next((found for found in store.decisions("judge") if found["evidence_hash"] == row["evidence_hash"]), None)
    return _about(row, judged, store.decision(f"approval-{judged['run_key']}") if judged else None)


def _about(
    row: Mapping[str, Any], judged: Mapping[str, Any] | None, approval: Mapping[str, Any] | None
) -> dict[str, Any]:
    about: dict[str, Any] = {
        "evidence_uri": row["evidence_uri"],
        "approved_by": approval["actor"] if approval and approval["action"] == "APPROVE" else None,
        "verdict": judged["action"] if judged else None,
        "judged_against": None,
        "snapshot_id": None,
        "reasons": [],
        "accuracy": {},
        "run_url": None,
        "evidence_problem": None,
    }
    if row["evidence_uri"] is None:
        return {**about, "evidence_problem": "no evidence is recorded for this generation"}
    try:
        found = judgement.of_decision(row)
    except (ClassyError, OSError) as error:
        return {**about, "evidence_problem": str(error)}
    return {
        **about,
        "verdict": found["verdict"],
        "judged_against": judgement.opponent_name(found["opponent"]),
        "snapshot_id": found["snapshot"]["id"],
        "reasons": found["reasons"],
        "accuracy": {name: _accuracy(part) for name, part in found["comparisons"].items() if part is not None},
        "run_url": found["contender"]["run_url"],
    }


def _accuracy(part: Mapping[str, Any]) -> dict[str, Any]:
    """Both sides' accuracy on one part of the test rows, and the gain with its interval."""
    # The first evidence had one difference, of accuracy; now each metric has its own.
    gained = part["differences"]["accuracy"] if "differences" in part else {**part, "gain": part["difference"]}
    return {
        "contender": part["contender"]["accuracy"],
        "opponent": part["opponent"]["accuracy"],
        "rows": part["rows"],
        **{name: gained[name] for name in ("gain", "low", "high")},
    }


def history(
    settings: Settings, *, at: datetime | None = None, clock: Literal["data", "wall"] = "data"
) -> list[dict[str, Any]]:
    """Generations, oldest first: what served from when to when, who put it there, why and on what evidence.

    Args:
        at: only the generation that served then; an empty list before the first.
        clock: which clock `at` reads. Data time is right for a replay; on live data both agree, but for
            a rollback, whose data time is that of the newest decision before it.

    Raises:
        ClassyError: `at` has no time zone.
    """
    store = open_store(settings.database_url)
    rows = store.generations()
    wanted: Sequence[Mapping[str, Any]] = rows
    if at is not None:
        if at.tzinfo is None:
            raise ClassyError(f"at={at}: needs a time zone, such as {at.isoformat()}+00:00")
        serving = ledger.served_at(rows, at, clock="as_of" if clock == "data" else "created_at")
        wanted = [] if serving is None else [serving]
    judged = {row["evidence_hash"]: row for row in store.decisions("judge")}
    approvals = {row["run_key"]: row for row in store.decisions("approval")}
    after = dict(zip((row["generation"] for row in rows), rows[1:], strict=False))
    lines = []
    for row in wanted:
        verdict = judged.get(row["evidence_hash"])
        lines.append(
            {
                **_line(settings, row, after.get(row["generation"])),
                **_about(row, verdict, approvals.get(verdict["run_key"]) if verdict else None),
            }
        )
    return lines


def _line(settings: Settings, row: Mapping[str, Any], following: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "generation": row["generation"],
        "version": row["champion_version"],
        "kind": row["kind"],
        "from_data_time": row["as_of"].isoformat(),
        "until_data_time": following["as_of"].isoformat() if following else None,
        "from_wall_clock": row["created_at"].isoformat(),
        "until_wall_clock": following["created_at"].isoformat() if following else None,
        "by": row["actor"],
        "run_key": row["run_key"],
        "reason": row["reason"],
        "run_id": row["champion_run_id"],
        "model_url": version_url(settings, row["champion_version"]),
        "canary_version": row["canary_version"],
        "canary_weight": row["canary_weight"],
        "shadow_version": row["shadow_version"],
    }


def upgrade(settings: Settings) -> dict[str, Any]:
    """Bring an older database to this Classy's schema.

    Raises:
        StoreError: no such database, its user may make no tables, or it is newer than this Classy.
    """
    engine = make_engine(settings.database_url)
    with making_tables(engine):
        before, after = migrations.upgrade(engine)
    shown = engine.url.render_as_string(hide_password=True)
    return {"database": shown, "before": before, "after": after, "changed": before != after}
