"""Judge the best candidate against the champion on the same golden and fresh rows.

    classy evaluate --run-id RUN [--run-id RUN …] --snapshot-uri URI --run-key KEY

What is judged is what ships: both models answer from their ONNX packages. The verdict, its reasons and
pictures go to the contender's MLflow run and to its model version; the row `judge-KEY` of `decisions` is
what `promote` reads. The same key judges once.

A champion that was made for other classes, another image or other context cannot answer these rows. The
contender is then shown against a baseline, and the verdict is HOLD: nobody knows whether it is better.
"""

import csv
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from monitoring import figures
from monitoring.comparison import Paired, SliceRow, compare, slice_masks, slice_table
from monitoring.stores import Store, open_store
from monitoring.verdict import Finding, Latency, OpponentKind, rule
from pipelines import files
from pipelines.data.snapshots import read_snapshot
from pipelines.models import contest, judgement, registry, tracking
from pipelines.models.links import version_url
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from training.data import SnapshotData


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    verdict: str
    """PROMOTE, HOLD or INSUFFICIENT DATA."""
    reasons: list[str]
    """Sentences with numbers; what decided it comes first."""
    run_id: str
    """The contender."""
    version: str
    champion_version: str | None
    metrics: dict[str, float]
    evidence_uri: str
    run_url: str
    version_url: str


def run(settings: Settings, recipe: Recipe, *, run_ids: list[str], snapshot_uri: str, run_key: str) -> Evaluated:
    """Judge once a run key.

    Args:
        run_ids: the packaged runs of all candidates.
        snapshot_uri: its golden and fresh rows are the test.
        run_key: names the training that asked for this.

    Raises:
        ClassyError: a run is not packaged, or the contender cannot read the snapshot's rows.
    """
    client, store = tracking.connect(settings), open_store(settings.database_url)
    folder = judgement.folder_of(settings, run_key)
    uri = files.join(folder, judgement.FILE)
    decided = store.decision(f"judge-{run_key}")
    if decided is None:
        # Killed between the evidence and the decision: what was found then is what is decided on.
        if files.read_manifest(folder) is None:
            _judge(settings, recipe, client, store, run_ids=run_ids, snapshot_uri=snapshot_uri, run_key=run_key)
        sha256 = files.need_manifest(folder, "evaluate")["files"][judgement.FILE]["sha256"]
        found = judgement.read(uri, sha256)
        _publish(settings, client, folder, found)
        store.record_decision(_decision(settings, found, uri, sha256))
    else:
        found = judgement.of_decision(decided)
    registry.project(client, settings, store)
    return Evaluated(
        verdict=found["verdict"],
        reasons=found["reasons"],
        run_id=found["contender"]["run_id"],
        version=found["contender"]["version"],
        champion_version=found["champion_version"],
        metrics=judgement.flat_metrics(found),
        evidence_uri=uri,
        run_url=found["contender"]["run_url"],
        version_url=version_url(settings, found["contender"]["version"]),
    )


# ---------------------------------------------------------------------------------------------- the verdict


def _judge(
    settings: Settings,
    recipe: Recipe,
    client: MlflowClient,
    store: Store,
    *,
    run_ids: Sequence[str],
    snapshot_uri: str,
    run_key: str,
) -> None:
    """Compare, rule, and write the evidence partition."""
    data, current, gates = read_snapshot(settings, snapshot_uri), store.current(), recipe.gates
    contender, opponent, objections = contest.sides(settings, data, run_ids, current)
    paired, fresh, brightness = contest.predict(data, contender, opponent)
    comparisons = {
        "golden": compare(paired.where(~fresh), confidence=gates.confidence),
        "fresh": compare(paired.where(fresh), confidence=gates.confidence),
        "pooled": compare(paired, confidence=gates.confidence),
    }
    latency = contest.latency(data, contender, opponent)
    kind: OpponentKind = opponent.kind  # type: ignore[assignment]
    ruling = rule(
        opponent=kind,
        **comparisons,
        latency=Latency(**latency) if None not in latency.values() else None,  # type: ignore[arg-type]
        gates=gates,
        objections=tuple(_objection(current, text) for text in objections),
    )
    masks = slice_masks(paired.labels, data.classes, paired.senders, brightness, fresh)
    table = slice_table(paired, masks, confidence=gates.confidence)
    snapshot = {
        "id": data.snapshot_id,
        "uri": snapshot_uri,
        "as_of": data.meta["as_of"],
        "counts": data.counts,
        "test_rows_sha256": _rows_hash(data),
    }
    version = registry.register(client, settings, contender.run_id, _tags(run_key, snapshot, recipe.name))
    found = {
        "run_key": run_key,
        "verdict": ruling.verdict,
        "reasons": ruling.reasons,
        "findings": [asdict(finding) for finding in ruling.findings],
        "contender": {
            **_who(contender),
            "version": version,
            "run_url": tracking.run_url(settings, contender.run_id),
        },
        "opponent": _who(opponent),
        "candidates": list(run_ids),
        "champion_version": current["champion_version"] if current else None,
        "champion_generation": current["generation"] if current else None,
        "snapshot": snapshot,
        "recipe": recipe.name,
        "recipe_hash": recipe.digest(),
        "gates": gates.model_dump(mode="json"),
        "comparisons": {name: asdict(part) if part else None for name, part in comparisons.items()},
        "latency_ms": latency,
        "slices": [asdict(row) for row in table],
    }
    with files.new_partition(judgement.folder_of(settings, run_key)) as draft:
        _write(draft.folder, found, paired, table, data.classes, gates.confidence)
        draft.meta = {"run_key": run_key, "verdict": ruling.verdict}


def _objection(current: Mapping[str, Any] | None, text: str) -> Finding:
    version = current["champion_version"] if current else "?"
    return Finding(
        gate="inputs",
        outcome="fail",
        sentence=f"The champion's (version {version}) {text}; cannot be compared. Go back to the champion's recipe, or "
        "keep a changed one as a model of its own (its own CLASSY_HOME and CLASSY_MODEL_NAME).",
    )


def _who(side: contest.Side) -> dict[str, Any]:
    card = side.card
    return {
        "kind": side.kind,
        "run_id": side.run_id or None,
        "version": side.version,
        "candidate": card.get("candidate"),
        "model": card.get("kind"),
        "trained_on": card.get("snapshot_id"),
        "val": card.get("val"),
    }


def _rows_hash(data: SnapshotData) -> str:
    """SHA-256 over the judged image ids, so that two judgements can be told to be on the same rows."""
    ids = [image_id for name in contest.PARTS for image_id in data.split(name).image_ids]
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _write(
    folder: Path,
    found: dict[str, Any],
    paired: Paired,
    table: list[SliceRow],
    classes: Sequence[str],
    confidence: float,
) -> None:
    (folder / judgement.FILE).write_text(json.dumps(found, indent=1, allow_nan=False))
    with (folder / "slices.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(SliceRow)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in table)
    if len(paired.labels) == 0:
        return
    names = f"contender: {found['contender']['candidate']}", judgement.opponent_name(found["opponent"])
    figures.draw_confusion(folder / "confusion.png", paired, classes, *names)
    figures.draw_reliability(folder / "reliability.png", paired, *names)
    figures.draw_slices(folder / "slices.png", table, confidence)


# -------------------------------------------------------------------------------------------------- results


def _tags(run_key: str, snapshot: Mapping[str, Any], recipe: str) -> dict[str, str]:
    """What a version is known by from the start."""
    return {
        registry.RUN_KEY: run_key,
        "classy.snapshot_id": snapshot["id"],
        "classy.as_of": snapshot["as_of"],
        "classy.recipe": recipe,
    }


def _publish(settings: Settings, client: MlflowClient, folder: str, found: dict[str, Any]) -> None:
    """Numbers and pictures onto the contender's run, the verdict in words onto its version."""
    run_id, version = found["contender"]["run_id"], found["contender"]["version"]
    now = int(time.time() * 1000)
    numbers = [Metric(f"judge_{name}", float(value), now, 0) for name, value in judgement.flat_metrics(found).items()]
    client.log_batch(run_id, metrics=numbers)
    client.log_artifacts(run_id, str(files.local(folder, settings.home / "cache" / "partitions")), "judge")
    about = {
        "classy.verdict": found["verdict"],
        "classy.judged_against": judgement.opponent_name(found["opponent"]),
        "classy.evidence_uri": files.join(folder, judgement.FILE),
    }
    tags = {**_tags(found["run_key"], found["snapshot"], found["recipe"]), **about}
    registry.describe(client, settings, version, judgement.markdown(found), tags)


def _decision(settings: Settings, found: dict[str, Any], uri: str, sha256: str) -> dict[str, Any]:
    return {
        "decision_key": f"judge-{found['run_key']}",
        "kind": "judge",
        "action": found["verdict"],
        "reason": " ".join(found["reasons"]),
        "run_key": found["run_key"],
        "evidence_uri": uri,
        "evidence_hash": sha256,
        "actor": settings.actor,
        "as_of": datetime.fromisoformat(found["snapshot"]["as_of"]),
        "created_at": datetime.now(UTC),
    }
