"""The steps of a generation's chain as jobs that read and wrote datasets: facts, in no format yet.

Datasets are named as OpenLineage asks (https://openlineage.io/docs/spec/naming): a partition by its storage and
path, what MLflow holds by its server.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pyarrow.parquet as pq

from pipelines import files
from pipelines.lineage import traces
from pipelines.settings import Settings

DATA_STEPS = ("gather", "validate", "prepare")
TABLES = {"raw": "records.parquet", "clean": "records.parquet", "shard": "index.parquet", "snapshot": "rows.parquet"}
"""The table of each kind of partition."""
JOBS = {"promote": "promote", "rollback": "rollback"}
"""Kind of a generation → the job that made it; the others are `canary`'s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """A dataset of the chain: named, with its version and size where they are known."""

    namespace: str
    name: str
    kind: str
    version: str | None = None
    rows: int | None = None
    size: int | None = None
    files: int | None = None
    columns: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One run of one job."""

    job: str
    key: str
    """What it did: the same key is the same run."""
    started: str
    ended: str
    inputs: Sequence[Thing] = ()
    outputs: Sequence[Thing] = ()
    parent: tuple[str, str] | None = None
    """Job and key of the run it was part of."""
    nominal: tuple[str, str] | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Mapping[str, Any]] = ()


def steps_of(settings: Settings, found: Mapping[str, Any]) -> list[Step]:
    """Every step from the gathered days to the promotion, oldest first.

    Args:
        found: what `explain.run` gave.
    """
    days = [step for day in found["partitions"] for step in _day(day)]
    return [*days, *_training(settings, found), _deployment(settings, found)]


def _training(settings: Settings, found: Mapping[str, Any]) -> list[Step]:
    """From the shards to the verdict."""
    run, judged = found["run"], found["judged"]
    snapshot, package, evidence = (
        _partition(found["snapshot"], "snapshot"),
        _package(settings, found),
        _evidence(judged),
    )
    weights = _held(settings, f"runs/{run['run_id']}/model")
    as_of = found["snapshot"]["as_of"] or found["since_data_time"]
    judged_at = judged["at"] or found["since_wall_clock"]
    # Packaging opens the run once more, so that its end is the package's; the logged model was made in between.
    started, packaged = run["started"] or judged_at, run["ended"] or judged_at
    trained = found["package"]["in_mlflow"].get("made_at") or packaged
    shared: dict[str, Any] = {"parent": ("training", str(run["run_key"])), "tags": _tags(found)}
    now = {**shared, "nominal": (as_of, as_of)}
    return [
        Step(
            job="snapshot",
            key=str(found["snapshot"]["id"]),
            started=as_of,
            ended=as_of,
            inputs=[_partition(day["shard"], "shard") for day in found["partitions"]],
            outputs=[snapshot],
            nominal=_window(found["snapshot"], as_of),
            **shared,
        ),
        Step(
            job="train",
            key=run["run_id"],
            started=started,
            ended=trained,
            inputs=[snapshot],
            outputs=[weights],
            **now,
        ),
        Step(
            job="optimize",
            key=run["run_id"],
            started=trained,
            ended=packaged,
            inputs=[weights, snapshot],
            outputs=[package],
            **now,
        ),
        Step(
            job="evaluate",
            key=str(judged["run_key"]),
            started=judged_at,
            ended=judged_at,
            inputs=[package, *_opponent(settings, found), snapshot],
            outputs=evidence,
            findings=judged["findings"],
            **now,
        ),
    ]


def _tags(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader looks a training up by."""
    return {
        "mlflow_run": found["run"]["run_id"],
        "run_key": found["run"]["run_key"],
        "candidate": found["run"]["candidate"],
        "seed": found["run"]["seed"],
        "recipe": found["recipe"]["name"],
        "recipe_hash": found["recipe"]["hash"],
        "feature_service": found["features"]["service"],
        "feature_service_hash": found["features"]["hash"],
        "verdict": found["judged"]["verdict"],
        "judged_against": found["judged"]["against"],
    }


def _deployment(settings: Settings, found: Mapping[str, Any]) -> Step:
    """The promotion or rollback that made the generation, or the change of a canary or shadow."""
    generation, at, data_time = found["generation"], found["since_wall_clock"], found["since_data_time"]
    promoted = found["kind"] == "promote"
    version = f"models/{settings.model_name}/versions/{found['version']['version']}"
    return Step(
        job=JOBS.get(found["kind"], "canary"),
        key=f"generation={generation}",
        started=at,
        ended=at,
        inputs=[_package(settings, found), *_evidence(found["judged"])],
        outputs=[_held(settings, version, version=found["package"]["sha256"])],
        parent=("training", str(found["run"]["run_key"])) if promoted else None,
        nominal=(data_time, data_time),
        tags={
            "generation": generation,
            "actor": found["by"],
            "reason": found["reason"],
            "approved_by": found["approved"] and found["approved"]["by"],
            "run_key": found["run_key"],
        },
    )


def _day(day: Mapping[str, Any]) -> list[Step]:
    raw, clean, shard = (_partition(day[part], part) for part in ("raw", "clean", "shard"))
    start = datetime.combine(datetime.fromisoformat(day["day"]).date(), time())
    over = f"{(start + timedelta(days=1)).isoformat()}+00:00"
    made = {"gather": ([], [raw]), "validate": ([raw], [clean]), "prepare": ([clean, raw], [shard])}
    return [
        Step(
            job=job,
            key=f"{outputs[0].name} {outputs[0].version}",
            # When a partition was written is not recorded: a day's data are due when the day is over.
            started=over,
            ended=over,
            inputs=inputs,
            outputs=outputs,
            parent=("data", day["day"]),
            nominal=(f"{start.isoformat()}+00:00", over),
        )
        for job, (inputs, outputs) in made.items()
        if outputs[0].name
    ]


def _window(snapshot: Mapping[str, Any], as_of: str) -> tuple[str, str]:
    days = snapshot["window_days"]
    start = datetime.fromisoformat(as_of) - timedelta(days=days) if days else datetime.fromisoformat(as_of)
    return start.isoformat(), as_of


def _partition(part: Mapping[str, Any], kind: str) -> Thing:
    """A partition as it was when it was used, where that was recorded."""
    uri = part["uri"]
    namespace, name = dataset_name(uri) if uri else ("file", "")
    columns, _ = (
        traces.ask(lambda: _columns(files.join(uri, TABLES[kind]))) if part["state"] == traces.THERE else ([], "")
    )
    rows = sum(part["counts"].values()) if kind == "snapshot" and part["counts"] else part.get("rows")
    return Thing(
        namespace=namespace,
        name=name,
        kind="FILE",
        version=part["recorded_hash"] or part["hash"],
        rows=rows,
        size=part.get("bytes"),
        files=part.get("files"),
        columns=columns or (),
    )


def _columns(uri: str) -> list[tuple[str, str]]:
    with fsspec.open(uri) as file:
        return [(column.name, str(column.type)) for column in pq.read_schema(file)]


def _package(settings: Settings, found: Mapping[str, Any]) -> Thing:
    package = found["package"]
    path = f"runs/{found['run']['run_id']}/package"
    return _held(settings, path, version=package["sha256"], size=package["bytes"])


def _opponent(settings: Settings, found: Mapping[str, Any]) -> list[Thing]:
    opponent = found["judged"]["opponent"]
    return [_held(settings, f"runs/{opponent['run_id']}/package")] if opponent and opponent["run_id"] else []


def _evidence(judged: Mapping[str, Any]) -> list[Thing]:
    if judged["uri"] is None:
        return []
    namespace, name = dataset_name(judged["uri"])
    return [Thing(namespace=namespace, name=name, kind="FILE", version=judged["sha256"], files=1)]


def _held(settings: Settings, path: str, *, version: str | None = None, size: int | None = None) -> Thing:
    """What MLflow holds, named by its server (never a password) or by the database file."""
    parts = urlsplit(settings.mlflow_uri)
    namespace, name = "mlflow", f"{parts.path.replace('//', '/')}/{path}"
    if parts.hostname is not None:
        port = f":{parts.port}" if parts.port else ""
        namespace, name = f"mlflow://{parts.hostname}{port}", f"{parts.path.strip('/')}/{path}".lstrip("/")
    return Thing(namespace=namespace, name=name, kind="MODEL", version=version, size=size)


# ------------------------------------------------------------------------------------------------- names


def dataset_name(uri: str) -> tuple[str, str]:
    """Namespace and name of what lies at a path or fsspec URI, such as ("s3://bucket", "data/raw/date=2026-03-01")."""
    if "://" not in uri:
        return "file", uri
    parts = urlsplit(uri)
    scheme = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}.get(parts.scheme, parts.scheme)
    if scheme == "file":
        return "file", parts.path
    # A bucket's keys have no slash in front, a file system's paths have one.
    path = parts.path.lstrip("/") if scheme in ("s3", "gs") else parts.path
    authority = parts.netloc.rsplit("@", 1)[-1] if ":" in parts.netloc.rsplit("@", 1)[0] else parts.netloc
    return f"{scheme}://{authority}", path
