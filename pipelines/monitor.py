"""Watch one day: drift against the champion's own reference, and accuracy on the labels that have arrived.

classy monitor --day 2026-03-07
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import pandas as pd
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from monitoring import drift, ledger, reports
from monitoring.days import end_of
from monitoring.stores import Store, open_store
from monitoring.watch import Champion, Frames, detect, watch
from pipelines import files
from pipelines.cache import cache_of
from pipelines.models import links, tracking
from pipelines.models.evidence import EVIDENCE, REPORT, monitor_root, read_evidence
from pipelines.models.frames import Earlier, frames_of
from pipelines.models.health import health_of
from pipelines.models.watching import watching_of
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.pictures import STATS

SCHEMA = 2
MONITOR_URL = "classy.monitor_url"
"""Tag of a champion's run: the page of the newest day on which it was watched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Monitored:
    """What the day looked like. `accuracy` is on `accuracy_rows` labelled photos of the last truth_days."""

    day: str
    verdict: str
    reasons: list[str]
    accuracy: float | None
    accuracy_rows: int
    reference_accuracy: float | None
    evidence_uri: str
    report_uri: str
    report_url: str
    page_url: str
    run_url: str | None
    columns: dict[str, dict[str, Any]]


def run(settings: Settings, recipe: Recipe, *, day: date, run_page: str = "") -> Monitored:
    """Judge `day`'s window and write `monitor/date=D`; log it to the champion's MLflow run.

    The window holds only photos that this champion scored. A day that was watched under an earlier champion
    keeps its evidence.

    Args:
        run_page: where people see the run that asks, for the evidence's page.

    Raises:
        ClassyError: MLflow does not answer, or the champion's package cannot be fetched.
    """
    store = open_store(settings.database_url)
    # A canary beside the champion makes generations too, and changes nothing of what is watched.
    deployed = ledger.brought(store.generations())
    evidence = read_evidence(settings, day)
    if evidence is None or not _settled(evidence, deployed):
        champion = None if deployed is None else _champion(settings, deployed)
        evidence = _watch(settings, recipe, store, champion, day, evidence, run_page)
    if evidence["champion"] is not None:
        _log(settings, evidence, day)
    return _receipt(settings, evidence, day)


def _settled(evidence: dict[str, Any], deployed: Mapping[str, Any] | None) -> bool:
    """A day that was watched under another champion is history."""
    watched = evidence["champion"]
    return watched is not None and deployed is not None and watched["generation"] != deployed["generation"]


def _champion(settings: Settings, deployed: Mapping[str, Any]) -> Champion:
    card = json.loads((tracking.fetch_package(settings, deployed["champion_run_id"]) / "card.json").read_text())
    return Champion(
        version=deployed["champion_version"],
        generation=deployed["generation"],
        run_id=deployed["champion_run_id"],
        as_of=datetime.fromisoformat(card["as_of"]),
    )


def _watch(
    settings: Settings,
    recipe: Recipe,
    store: Store,
    champion: Champion | None,
    day: date,
    known: dict[str, Any] | None,
    run_page: str,
) -> dict[str, Any]:
    rules = watching_of(recipe)
    earlier = Earlier(settings, day)
    frames = frames_of(settings, recipe, store, champion, day, earlier)
    told = detect(day, rules, frames)
    found = {
        "schema": SCHEMA,
        "recipe": recipe.digest(),
        **watch(day, rules, champion, frames, earlier, told),
        "health": health_of(settings, recipe, store, day),
    }
    evidence = json.loads(json.dumps(found, allow_nan=False))
    if evidence != known:
        _write(settings, recipe, evidence, frames, told, day, run_page)
    return evidence


def _write(
    settings: Settings,
    recipe: Recipe,
    evidence: dict[str, Any],
    frames: Frames,
    found: drift.Drift,
    day: date,
    run_page: str,
) -> None:
    rules = watching_of(recipe)
    pair: tuple[pd.DataFrame | None, pd.DataFrame | None] = None, None
    if frames.reference is not None and found.columns:
        pair = drift.compared(
            frames.reference,
            frames.window,
            stats=STATS,
            min_rows=rules.min_rows,
            seed=day.toordinal(),
            trained=frames.trained,
            season=rules.season,
        )
    title = f"{recipe.name}, {day}"
    page = reports.render(found, title=title, facts=_facts(evidence), reference=pair[0], window=pair[1])
    with files.new_partition(monitor_root(settings, day)) as draft:
        (draft.folder / EVIDENCE).write_text(json.dumps(evidence, indent=1, allow_nan=False))
        (draft.folder / REPORT).write_text(page)
        draft.meta = {"day": str(day), "verdict": evidence["verdict"], "run_page": run_page}


# ------------------------------------------------------------------------------------------------- saying


def _facts(evidence: dict[str, Any]) -> list[tuple[str, str]]:
    champion, lately = evidence["champion"], evidence["lately"]
    who = "none" if champion is None else f"version {champion['version']}, generation {champion['generation']}"
    measured = lately["performance"]
    facts = [
        ("Champion", who),
        ("Accuracy", f"{_share(measured['accuracy'])}, of {measured['photos']} photos since {lately['since'][:10]}"),
        ("Reference accuracy", _share(evidence["reference_accuracy"])),
        ("Loss", _loss(lately["loss"])),
        ("Estimated accuracy", _estimated(evidence["estimate"])),
        *(("Note", note) for note in evidence["labels"]["notes"]),
    ]
    if evidence["since_drift"] is not None:
        drifted = evidence["since_drift"]
        facts += [
            ("Drift since", evidence["drift_since"]),
            ("Accuracy before", _share(evidence["accuracy_before"])),
            ("Accuracy since then", _share(drifted["performance"]["accuracy"])),
            ("Loss since then", _loss(drifted["loss"])),
            ("Labels since then", str(evidence["fresh_labels"])),
        ]
    return [*facts, *_service(evidence["health"])]


def _service(health: list[dict[str, Any]]) -> list[tuple[str, str]]:
    bad = [
        (f"Service: {fact['name'].replace('_', ' ')}", fact["sentence"]) for fact in health if fact["state"] == "BAD"
    ]
    unknown = [fact["name"].replace("_", " ") for fact in health if fact["state"] == "UNKNOWN"]
    said = f"{len(health) - len(unknown)} of {len(health)} facts known, {len(bad)} bad"
    return [("Service", f"{said}; not known: {', '.join(unknown)}" if unknown else said), *bad]


def _share(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "not known: no labelled photos"
    return f"{share['value']:.3f} [{share['low']:.3f}, {share['high']:.3f}] on {share['rows']} labelled photos"


def _estimated(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return f"not known: {found['reason']}"
    told = (
        f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}] by the confidences of {found['rows']} photos"
    )
    error = found["error"]
    days = "" if error is None else f"; {100 * error['mean']:.1f} points off on the {error['days']} days before"
    return told + days


def _loss(loss: dict[str, Any]) -> str:
    if loss["loss"] is None:
        return "not known"
    return f"{100 * loss['loss']:+.1f} points, p {loss['p']:.2g}{', significant' if loss['significant'] else ''}"


def _log(settings: Settings, evidence: dict[str, Any], day: date) -> None:
    """Metrics and files onto the champion's run. Same step, same time, same value: a second time adds nothing."""
    client = tracking.connect(settings)
    run_id = evidence["champion"]["run_id"]
    at = int(end_of(day).timestamp() * 1000)
    metrics = [Metric(name, value, at, day.toordinal()) for name, value in _metrics(evidence).items()]
    client.log_batch(run_id, metrics=metrics)
    folder = files.local(monitor_root(settings, day), cache_of(settings))
    for name in (REPORT, EVIDENCE):
        client.log_artifact(run_id, str(folder / name), f"monitor/date={day}")
    _lead(client, settings, run_id, day)


def _lead(client: MlflowClient, settings: Settings, run_id: str, day: date) -> None:
    """Make the run's page lead to the monitor: to the overview, and to the newest day that was watched."""
    page = links.monitor_url(settings, day)
    before = client.get_run(run_id).data.tags.get(MONITOR_URL, "")
    if before.rpartition("/")[2] < str(day):
        client.set_tag(run_id, MONITOR_URL, page)
        note = f"Watched by [the monitor]({links.monitor_url(settings)}), at last on [{day}]({page})."
        client.set_tag(run_id, MLFLOW_RUN_NOTE, note)


def _metrics(evidence: dict[str, Any]) -> dict[str, float]:
    columns = {c["name"]: c["effect"] for c in evidence["drift"]["columns"] if c["effect"] is not None}
    metrics = {f"monitor_distance.{name}": effect for name, effect in columns.items()}
    known = [fact for fact in evidence.get("health", []) if fact["value"] is not None]  # an older day has none
    metrics |= {f"health.{fact['name']}": float(fact["value"]) for fact in known}
    metrics["monitor_rows"] = float(evidence["drift"]["window_rows"])
    if evidence["verdict"] != "UNKNOWN":
        metrics["monitor_drift"] = float(evidence["verdict"] == "DRIFT")
    accuracy, estimated = evidence["lately"]["performance"]["accuracy"], evidence["estimate"]
    if accuracy["value"] is not None:
        metrics["monitor_accuracy"] = accuracy["value"]
    if estimated["value"] is not None:
        metrics["monitor_accuracy_estimated"] = estimated["value"]
    return metrics


def _receipt(settings: Settings, evidence: dict[str, Any], day: date) -> Monitored:
    root = monitor_root(settings, day)
    accuracy = evidence["lately"]["performance"]["accuracy"]
    champion = evidence["champion"]
    run_url = None if champion is None else tracking.run_url(settings, champion["run_id"])
    report_uri = files.join(root, REPORT)
    with_page = run_url is not None and run_url.startswith(("http://", "https://"))
    return Monitored(
        day=str(day),
        verdict=evidence["verdict"],
        reasons=evidence["drift"]["reasons"],
        accuracy=accuracy["value"],
        accuracy_rows=accuracy["rows"],
        reference_accuracy=evidence["reference_accuracy"]["value"],
        evidence_uri=files.join(root, EVIDENCE),
        report_uri=report_uri,
        page_url=links.monitor_url(settings, day),
        report_url=f"{run_url}/artifacts/monitor/date={day}/{REPORT}" if with_page else report_uri,
        run_url=run_url,
        columns={
            column["name"]: {key: column[key] for key in ("verdict", "effect", "limit", "p")}
            for column in evidence["drift"]["columns"]
        },
    )
