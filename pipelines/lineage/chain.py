"""The links of a generation's chain on the model's side: version, run, package, features, code, recipe, verdict.

Put together from the ledger, the judge's evidence, what was kept when the generation was made, the package and
MLflow, in this order of trust. Each link says in `state` whether it is still there; see `traces`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from monitoring.stores import Store
from pipelines import files
from pipelines.lineage import traces
from pipelines.lineage.traces import CHANGED, GONE, THERE, UNKNOWN, trace
from pipelines.models import judgement
from pipelines.models.links import version_url
from pipelines.recipe import Recipe
from pipelines.settings import Settings

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

CHAIN = "chain.json"
"""What `pipelines.lineage.events.keep` leaves beside the events."""


@dataclass(slots=True, kw_only=True)
class Sources:
    """All that is known of one generation, each from where it was recorded."""

    settings: Settings
    row: Mapping[str, Any]
    judged: Mapping[str, Any] | None
    evidence: dict[str, Any] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)
    """The look at the evidence itself."""
    kept: dict[str, Any] = field(default_factory=dict)
    client: "MlflowClient | None" = None
    mlflow_problem: str | None = None
    run: "Run | None" = None
    run_problem: str | None = None
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def tags(self) -> dict[str, str]:
        return self.run.data.tags if self.run is not None else {}

    @property
    def params(self) -> dict[str, str]:
        return self.run.data.params if self.run is not None else {}

    @property
    def contender(self) -> dict[str, Any]:
        return self.evidence.get("contender", {})

    @property
    def facts(self) -> dict[str, Any]:
        """What the evidence repeats of the run."""
        return self.contender.get("facts", {})

    def was(self, part: str, name: str) -> Any:
        """What was kept of a part when this generation was made, or None."""
        return self.kept.get(part, {}).get(name)


def lineage_root(settings: Settings, generation: int) -> str:
    """The partition with a generation's chain and events, as they were when it was made."""
    return files.join(settings.data_root, "lineage", f"generation={generation}")


# -------------------------------------------------------------------------------------------- collecting


def collect(settings: Settings, store: Store, row: Mapping[str, Any], *, kept_as: int | None = None) -> Sources:
    """What is known of the model that `row` names as champion.

    Args:
        kept_as: the generation that brought this model, under which its chain was kept; default: the row's own.
    """
    judged = next((one for one in store.decisions("judge") if one["evidence_hash"] == row["evidence_hash"]), None)
    sources = Sources(settings=settings, row=row, judged=judged)
    sources.seen, evidence = traces.evidence(row["evidence_uri"], row["evidence_hash"])
    sources.evidence = evidence or {}
    sources.kept = read_kept(settings, row["generation"] if kept_as is None else kept_as) or {}
    sources.client, sources.mlflow_problem = _mlflow(settings)
    if (client := sources.client) is not None:
        sources.run, sources.run_problem = traces.ask(lambda: client.get_run(row["champion_run_id"]))
    sources.card = _card(sources)
    return sources


def _mlflow(settings: Settings) -> tuple["MlflowClient | None", str | None]:
    from pipelines.models import tracking

    database = settings.mlflow_uri.removeprefix("sqlite:///")
    if database != settings.mlflow_uri and not Path(database).is_file():
        # Connecting would make an empty one.
        return None, f"CLASSY_MLFLOW_URI={settings.mlflow_uri}: there is no such database"
    return traces.ask(lambda: tracking.connect(settings))


def read_kept(settings: Settings, generation: int) -> dict[str, Any] | None:
    """What `pipelines.lineage.events.keep` wrote when the generation was made, or None."""
    seen, manifest = traces.partition(lineage_root(settings, generation), None)
    if seen["state"] != THERE or CHAIN not in manifest["files"]:
        return None
    fs, path = fsspec.url_to_fs(files.join(lineage_root(settings, generation), CHAIN))
    return json.loads(fs.cat_file(path))


def _card(sources: Sources) -> dict[str, Any]:
    folder = _fetched(sources)
    found, _ = traces.ask(lambda: json.loads((folder / "card.json").read_text()))
    return found or {}


def _fetched(sources: Sources) -> Path:
    """Where this machine keeps the package."""
    return sources.settings.home / "cache" / "models" / (_package_sha256(sources) or "unknown")


def _package_sha256(sources: Sources) -> str | None:
    note = sources.settings.home / "cache" / "models" / "runs" / sources.row["champion_run_id"]
    noted, _ = traces.ask(lambda: note.read_text().strip())
    judged = sources.facts.get("package_sha256")
    return first(judged, sources.tags.get("classy.package_sha256"), sources.was("package", "sha256"), noted)


def first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def notes(sources: Sources) -> list[str]:
    notes = []
    if sources.client is None:
        notes.append(
            f"MLflow does not answer, so what only it knows is missing or from other records: {sources.mlflow_problem}"
        )
    if not sources.kept:
        notes.append("The chain was not kept when this generation was made; it is put together from what is there now.")
    return notes


# ------------------------------------------------------------------------------------------------- links


def version(sources: Sources) -> dict[str, Any]:
    settings, version = sources.settings, sources.row["champion_version"]
    facts: dict[str, Any] = {"version": version, "url": version_url(settings, version), "aliases": []}
    if sources.client is None:
        return trace(UNKNOWN, "MLflow does not answer", **facts)
    client = sources.client
    entry, problem = traces.ask(lambda: client.get_model_version(settings.model_name, version))
    if entry is None:
        gone = "not found" in str(problem).lower()
        return trace(GONE if gone else UNKNOWN, problem, **facts)
    facts["aliases"] = sorted(entry.aliases)
    if entry.run_id != sources.row["champion_run_id"]:
        return trace(CHANGED, f"the registry's version is run {entry.run_id}, not the one that was promoted", **facts)
    return trace(THERE, verified=True, **facts)


def run(sources: Sources) -> dict[str, Any]:
    row, run = sources.row, sources.run
    was = sources.kept.get("run", {})
    facts: dict[str, Any] = {
        "run_id": row["champion_run_id"],
        "url": first(sources.contender.get("run_url"), was.get("url"), f"runs:/{row['champion_run_id']}"),
        "run_key": first(sources.judged and sources.judged["run_key"], sources.tags.get("classy.run_key")),
        "candidate": first(sources.contender.get("candidate"), sources.card.get("candidate"), was.get("candidate")),
        "seed": first(_number(sources.params.get("seed")), sources.facts.get("seed"), was.get("seed")),
        "weights": first(sources.facts.get("parameters"), sources.card.get("parameters"), was.get("weights")),
        "val": first(sources.contender.get("val"), sources.card.get("val"), was.get("val")),
        "made_by": first(sources.facts.get("created_by"), sources.card.get("created_by"), was.get("made_by")),
        "parameters": was.get("parameters"),
        "machine": was.get("machine"),
        **{name: was.get(name) for name in ("started", "ended")},
        "seconds": first(sources.facts.get("train_seconds"), was.get("seconds")),
        "cost": first(sources.facts.get("train_cost"), was.get("cost")),
        "currency": first(sources.facts.get("currency"), was.get("currency")),
    }
    if run is None:
        state = GONE if sources.client is not None and "not found" in str(sources.run_problem).lower() else UNKNOWN
        return trace(state, sources.run_problem or "MLflow does not answer", **facts)
    numbers = run.data.metrics
    facts |= {
        "parameters": dict(sorted(run.data.params.items())),
        "machine": {k.removeprefix("system."): v for k, v in sorted(run.data.tags.items()) if k.startswith("system.")},
        "started": _moment(run.info.start_time),
        "ended": _moment(run.info.end_time),
        "seconds": first(numbers.get("train_seconds"), facts["seconds"]),
        "cost": first(numbers.get("train_cost"), facts["cost"]),
        "currency": first(sources.params.get("currency"), facts["currency"]),
    }
    if run.info.lifecycle_stage == "deleted":
        return trace(GONE, "deleted in MLflow; `mlflow experiments` and its pages can restore it", **facts)
    return trace(THERE, **facts)


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def package(sources: Sources, quick: bool) -> dict[str, Any]:
    sha256 = _package_sha256(sources)
    local = traces.package(_fetched(sources), sha256)
    model_uri = first(sources.tags.get("classy.model_uri"), sources.was("package", "model_uri"))
    remote = _logged(sources, model_uri, sha256, quick)
    size = sources.facts.get("package_bytes")
    facts: dict[str, Any] = {
        "sha256": sha256,
        "model_uri": model_uri,
        "bytes": size,
        "here": local,
        "in_mlflow": remote,
    }
    states = {local["state"], remote["state"]}
    if CHANGED in states:
        return trace(CHANGED, first(local["says"], remote["says"]), **facts)
    if THERE in states:
        return trace(THERE, verified=local["verified"] or remote["verified"], **facts)
    return trace(UNKNOWN if UNKNOWN in states else GONE, remote["says"], **facts)


def _logged(sources: Sources, model_uri: str | None, sha256: str | None, quick: bool) -> dict[str, Any]:
    from pipelines.models.tracking import PACKAGE

    if sources.client is None or model_uri is None:
        return trace(UNKNOWN, "MLflow does not answer" if sources.client is None else "no record names it", uri=None)
    client, model_id = sources.client, model_uri.rsplit("/", 1)[-1]
    if not model_uri.startswith("models:/"):
        return traces.logged_package(f"{model_uri}/artifacts/{PACKAGE}", sha256, quick=quick)
    logged, problem = traces.ask(lambda: client.get_logged_model(model_id))
    if logged is None:
        return trace(GONE if "not found" in str(problem).lower() else UNKNOWN, problem, uri=model_uri)
    root = str(logged.artifact_location).rstrip("/")
    made = _moment(logged.creation_timestamp)
    return {**traces.logged_package(f"{root}/artifacts/{PACKAGE}", sha256, quick=quick), "made_at": made}


def features(sources: Sources, manifest: Mapping[str, Any]) -> dict[str, Any]:
    named = sources.evidence.get("snapshot", {})
    service = first(sources.card.get("service"), named.get("service"), manifest.get("service"))
    used = first(sources.card.get("service_hash"), named.get("service_hash"), manifest.get("service_hash"))
    used, service = first(used, sources.was("features", "hash")), first(service, sources.was("features", "service"))
    # `materialize` leaves there what the store was last made with.
    mark = Path(sources.settings.features_root) / "applied"
    applied, _ = traces.ask(lambda: mark.read_text())
    facts: dict[str, Any] = {"service": service, "hash": used, "in_force": applied[:12] if applied else None}
    if used is None:
        return trace(UNKNOWN, "no record names it", **facts)
    if applied is None:
        return trace(UNKNOWN, f"{mark.parent}: no features there now", **facts)
    if applied.startswith(used):
        return trace(THERE, "in force now", verified=True, **facts)
    return trace(CHANGED, f"another is in force now: {applied[:12]}", **facts)


def commit(sources: Sources) -> str | None:
    return first(sources.tags.get("classy.git_commit"), sources.facts.get("git_commit"), sources.was("code", "commit"))


def recipe_of(sources: Sources, recipe: Recipe) -> dict[str, Any]:
    name = first(sources.evidence.get("recipe"), sources.card.get("recipe"), sources.was("recipe", "name"))
    used = first(sources.evidence.get("recipe_hash"), sources.card.get("recipe_hash"), sources.was("recipe", "hash"))
    facts: dict[str, Any] = {"name": name, "hash": used, "now": {"name": recipe.name, "hash": recipe.digest()}}
    if used is None:
        return trace(UNKNOWN, "no record names it", **facts)
    if name != recipe.name:
        return trace(UNKNOWN, f"CLASSY_RECIPE names {recipe.name} now; --recipe {name} compares", **facts)
    if used != recipe.digest():
        return trace(CHANGED, f"it is {recipe.digest()} now; the commit has it as it was", **facts)
    return trace(THERE, verified=True, **facts)


def judged(sources: Sources) -> dict[str, Any]:
    found, judged = sources.evidence, sources.judged
    return {
        **sources.seen,
        "decision": judged and judged["decision_key"],
        "verdict": first(found.get("verdict"), judged and judged["action"]),
        "against": judgement.opponent_name(found["opponent"]) if found else sources.was("judged", "against"),
        "opponent": found.get("opponent"),
        "reasons": found.get("reasons") or ([judged["reason"]] if judged else []),
        "findings": found.get("findings", []),
        "at": judged and judged["created_at"],
        "by": judged and judged["actor"],
        "run_key": judged and judged["run_key"],
    }


def approved(store: Store, sources: Sources) -> dict[str, Any] | None:
    approval = store.decision(f"approval-{sources.judged['run_key']}") if sources.judged else None
    if approval is None:
        return None
    names = {"by": "actor", "at": "created_at", "action": "action", "reason": "reason"}
    return {name: approval[column] for name, column in names.items()}


def asked(store: Store, sources: Sources, quick: bool) -> dict[str, Any] | None:
    """The day's decision that asked for this training, or None where a person or a schedule did."""
    if sources.judged is None:
        return None
    wanted = sources.judged["run_key"]
    row = next((one for one in store.decisions("monitor") if one["run_key"] == wanted), None)
    if row is None:
        return None
    seen, _ = traces.evidence(row["evidence_uri"], row["evidence_hash"])
    return {**seen, "decision": row["decision_key"], "reason": row["reason"], "as_of": row["as_of"]}
