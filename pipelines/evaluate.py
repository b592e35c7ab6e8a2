"""Judge the best candidate against the champion on the same golden and fresh rows.

    classy evaluate --run-id RUN [--run-id RUN …] --snapshot-uri URI --run-key KEY

What is judged is what ships: both models answer from their ONNX packages. The verdict, its reasons and
pictures go to the contender's MLflow run and to its model version; the row `judge-KEY` of `decisions` is
what `promote` reads. The same key judges once.

A champion that was made for other classes, another image or other context cannot answer these rows. The
contender is then shown against a baseline, and the verdict is HOLD: nobody knows whether it is better.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from monitoring.comparison import Paired, SeedSpread, compare_seeds
from monitoring.gates import Finding
from monitoring.slices import slice_masks
from monitoring.stores import Store, open_store
from monitoring.verdict import Judged, OpponentKind, deciding_mask, judge
from pipelines import files
from pipelines.cache import cache_of
from pipelines.data.snapshots import read_snapshot
from pipelines.models import behaviour, contest, judgement, registry, tracking
from pipelines.models.contest import Contest, Exam
from pipelines.models.facts import Facts, facts_of, ratios
from pipelines.models.links import version_url
from pipelines.recipe import Recipe
from pipelines.review import approval
from pipelines.review import report as review
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
    data, current = read_snapshot(settings, snapshot_uri), store.current()
    given = contest.exam(data, recipe.gates.slice_columns)
    sides = contest.arrange(settings, data, run_ids, current)
    paired, siblings = contest.predict(data, given, sides)
    facts = [facts_of(client, side.run_id, side.card) for side in (sides.contender, sides.opponent)]
    compared = [found for found in [contest.latency(data, sides, recipe.gates.confidence), *ratios(*facts)] if found]
    behaved = behaviour.examine(data, sides.contender, sides.opponent, recipe.behaviour, recipe.gates, paired=paired)
    seeds = _seeds(recipe, given, sides, [paired, *siblings])
    judged = judge(
        paired,
        opponent=_kind(sides),
        fresh=given.fresh,
        drifted=given.drifted if data.meta.get("drift_from") else None,
        changed_days=_changed_days(data),
        masks=_masks(data, given),
        gates=recipe.gates,
        # A baseline is no measure of how small, fast and cheap a network must be.
        ratios=[] if sides.opponent.card.get("kind") == "sklearn" else compared,
        seeds=seeds,
        objections=(
            *(_objection(current, text) for text in sides.objections),
            *behaviour.findings(behaved, recipe.behaviour.gating),
        ),
    )
    snapshot = _snapshot(data, snapshot_uri, given)
    version = registry.register(client, settings, sides.contender.run_id, _tags(run_key, snapshot, recipe.name))
    found = {
        "format": 2,
        "run_key": run_key,
        "recipe": recipe.name,
        "recipe_hash": recipe.digest(),
        "verdict": judged.ruling.verdict,
        "reasons": judged.ruling.reasons,
        "findings": [asdict(finding) for finding in judged.ruling.findings],
        "gates": recipe.gates.model_dump(mode="json"),
        "contender": {
            **_who(sides.contender, facts[0]),
            "version": version,
            "run_url": tracking.run_url(settings, sides.contender.run_id),
        },
        "opponent": _who(sides.opponent, facts[1]),
        "champion_version": current["champion_version"] if current else None,
        "snapshot": snapshot,
        "golden": _golden(store, given, run_key, data),
        "ratios": [asdict(ratio) for ratio in compared],
        "behaviour": [asdict(row) for row in behaved],
        "seeds": _seed_rows(client, sides, facts[0], seeds),
        "spent": {"money": tracking.spent(client, run_key), "currency": recipe.budget.currency},
        **_numbers(judged),
    }
    with files.new_partition(judgement.folder_of(settings, run_key)) as draft:
        draft.meta = {"run_key": run_key, "verdict": judged.ruling.verdict, "snapshot_id": data.snapshot_id}
        (draft.folder / judgement.FILE).write_text(json.dumps(found, indent=1, allow_nan=False))
        photos = review.Photos(image_ids=given.image_ids, senders=given.senders, images=given.images)
        review.write(draft.folder, found, paired, judged.slices, data.classes, photos)


def _masks(data: SnapshotData, given: Exam) -> dict[tuple[str, str], Any]:
    return slice_masks(
        given.labels,
        data.classes,
        given.senders,
        given.fresh,
        numbers=given.numbers,
        words=given.words,
        new_senders=given.new_senders,
    )


def _seeds(recipe: Recipe, given: Exam, sides: Contest, several: list[Paired]) -> SeedSpread | None:
    """What the contender's candidate gains over all its seeds, on the rows that decide; None for a single seed."""
    mask = deciding_mask(_kind(sides), fresh=given.fresh, drifted=given.drifted, gates=recipe.gates)
    if len(several) < 2 or not mask.any():
        return None
    rows = [paired.where(mask) for paired in several]
    return compare_seeds(rows, confidence=recipe.gates.confidence, metric=recipe.gates.metric)


def _changed_days(data: SnapshotData) -> int:
    """For how long there was drift when the training asked for its rows; 0 where no drift asked for it."""
    since = data.meta.get("drift_from")
    if since is None:
        return 0
    began = datetime.fromisoformat(since).replace(tzinfo=UTC)
    return (datetime.fromisoformat(data.meta["as_of"]) - began).days


def _kind(sides: Contest) -> OpponentKind:
    return sides.opponent.kind  # type: ignore[return-value]


def _objection(current: Mapping[str, Any] | None, text: str) -> Finding:
    version = current["champion_version"] if current else "?"
    return Finding(
        gate="inputs",
        outcome="fail",
        sentence=f"The champion's (version {version}) {text}; cannot be compared. Go back to the champion's recipe, or "
        "keep a changed one as a model of its own (its own CLASSY_HOME and CLASSY_MODEL_NAME).",
    )


# ------------------------------------------------------------------------------------------- the evidence


def _who(side: contest.Side, facts: Facts) -> dict[str, Any]:
    card = side.card
    return {
        "kind": side.kind,
        "run_id": side.run_id or None,
        "version": side.version,
        "candidate": card.get("candidate"),
        "model": card.get("kind"),
        "trained_on": card.get("snapshot_id"),
        "val": card.get("val"),
        "facts": facts.as_json(),
    }


def _snapshot(data: SnapshotData, uri: str, given: Exam) -> dict[str, Any]:
    kept = ("as_of", "drift_from", "service", "service_hash", "partitions")
    return {
        "id": data.snapshot_id,
        "uri": uri,
        "counts": data.counts,
        "test_rows_sha256": _hash(given.image_ids.tolist()),
        **{name: data.meta.get(name) for name in kept},
    }


def _hash(image_ids: Sequence[str]) -> str:
    """SHA-256 over image ids in order, so that two judgements can be told to be on the same rows."""
    return hashlib.sha256("\n".join(image_ids).encode()).hexdigest()


def _golden(store: Store, given: Exam, run_key: str, data: SnapshotData) -> dict[str, Any]:
    """Which golden rows these are, and how often they were judged on."""
    ids = sorted(given.image_ids[~given.fresh].tolist())
    use = {
        "golden_hash": _hash(ids),
        "run_key": run_key,
        "rows": len(ids),
        "as_of": datetime.fromisoformat(data.meta["as_of"]),
        "created_at": datetime.now(UTC),
    }
    return {"hash": use["golden_hash"], "rows": len(ids), "uses": store.use_golden(use)}


def _seed_rows(client: MlflowClient, sides: Contest, own: Facts, spread: SeedSpread | None) -> dict[str, Any] | None:
    if spread is None:
        return None
    others = [facts_of(client, side.run_id, side.card) for side in sides.siblings]
    pairs = zip((sides.contender, *sides.siblings), (own, *others), spread.gains, strict=True)
    return {
        "runs": [{"run_id": side.run_id, "seed": facts.seed, "gain": gain} for side, facts, gain in pairs],
        "gain": spread.gain,
        "low": spread.low,
        "high": spread.high,
    }


def _numbers(judged: Judged) -> dict[str, Any]:
    return {
        "comparisons": {name: asdict(found) if found else None for name, found in judged.comparisons.items()},
        "slices": [asdict(row) for row in judged.slices],
    }


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
    client.log_artifacts(run_id, str(files.local(folder, cache_of(settings))), "judge")
    about = {
        "classy.verdict": found["verdict"],
        "classy.judged_against": judgement.opponent_name(found["opponent"]),
        "classy.evidence_uri": files.join(folder, judgement.FILE),
    }
    tags = {**_tags(found["run_key"], found["snapshot"], found["recipe"]), **about}
    approval.forget(client, settings, version)
    registry.describe(client, settings, version, review.markdown(found, settings), tags)


def _decision(settings: Settings, found: dict[str, Any], uri: str, sha256: str) -> dict[str, Any]:
    return {
        "decision_key": f"judge-{found['run_key']}",
        "kind": "judge",
        "action": found["verdict"],
        "reason": " ".join(found["reasons"]),
        "run_key": found["run_key"],
        "evidence_uri": uri,
        "evidence_hash": sha256,
        "evidence": {"spent": found["spent"]} if "spent" in found else None,
        "actor": settings.actor,
        "as_of": datetime.fromisoformat(found["snapshot"]["as_of"]),
        "created_at": datetime.now(UTC),
    }
