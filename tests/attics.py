"""A made-up world of old and young things, for tests of what may go: nothing is trained."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from monitoring.stores import Store, open_store
from pipelines import files, prune
from pipelines.models import tracking
from pipelines.prune import Pruned
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from tests.judged import ready_mlflow

NOW = datetime.now(UTC) + timedelta(days=100)
"""MLflow dates a version by the real clock: seen from here, what a test makes is a hundred days old."""
OLD = NOW - timedelta(days=60)
YOUNG = NOW - timedelta(days=2)


def milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


@dataclass(kw_only=True, slots=True)
class World:
    """Records and things by hand: nothing is trained."""

    settings: Settings
    recipe: Recipe
    client: MlflowClient
    store: Store
    runs: dict[str, str] = field(default_factory=dict)
    """Run key → run id."""
    versions: dict[str, str] = field(default_factory=dict)

    def train(self, key: str, *, at: datetime = OLD, finished: bool = True, version: bool = True) -> str:
        """A snapshot, a run on it, its checkpoint folder, its fetched package and its version, all of one time."""
        self.snapshot(f"snap-{key}", at=at)
        tags = {
            tracking.RUN_KEY: key, tracking.CANDIDATE: "resnet", tracking.SNAPSHOT_ID: f"snap-{key}",
            tracking.PACKAGE_SHA256: f"sha-{key}", **({tracking.TRAINED: "{}"} if finished else {}),
        }  # fmt: skip
        run = self.client.create_run(tracking.experiment_id(self.client), start_time=milliseconds(at), tags=tags)
        run_id = self.runs[key] = run.info.run_id
        if finished:
            self.client.set_terminated(run_id, end_time=milliseconds(at))
            self.client.log_metric(run_id, "package_bytes", 1000, timestamp=milliseconds(at))
        state = self.settings.home / "runs" / key / "resnet"
        touch(state / "checkpoint.safetensors", at)
        touch(self.settings.home / "cache" / "models" / f"sha-{key}" / "model.onnx", at)
        touch(self.settings.home / "cache" / "models" / "references" / f"{run_id}.parquet", at)
        if version:
            name = self.settings.model_name
            made = self.client.create_model_version(name, f"runs:/{run_id}/model", run_id, tags={"classy.run_key": key})
            self.versions[key] = str(made.version)
        return run_id

    def snapshot(self, name: str, *, at: datetime = OLD) -> str:
        uri = files.join(self.settings.data_root, "snapshots", name)
        with files.new_partition(uri) as draft:
            (draft.folder / "rows.parquet").write_bytes(b"r" * 500)
            draft.meta = {"snapshot_id": name, "as_of": "2020-01-01T00:00:00+00:00", "ok": True}
        touch(Path(uri) / files.MANIFEST, at)
        return uri

    def judge(self, key: str, verdict: str = "PROMOTE", *, at: datetime = OLD, against: str | None = None) -> None:
        """The verdict on the contender of `key`; `against` is the champion's run key."""
        row = {
            "run_key": key,
            "contender": {"run_id": self.runs[key], "version": self.versions[key], "trained_on": f"snap-{key}"},
            "opponent": {"run_id": self.runs.get(against or ""), "version": self.versions.get(against or "")},
            "champion_version": self.versions.get(against or ""),
            "snapshot": {"id": f"snap-{key}"},
        }
        uri = files.join(self.settings.data_root, "judge", key, "evidence.json")
        files.write_text(uri, json.dumps(row))
        digest = hashlib.sha256(json.dumps(row).encode()).hexdigest()
        self.decide(f"judge-{key}", "judge", verdict, key, at, uri, digest)

    def decide(
        self, name: str, kind: str, action: str, key: str, at: datetime, uri: str | None = None, sha: str | None = None
    ) -> None:
        self.store.record_decision(
            {
                "decision_key": name,
                "kind": kind,
                "action": action,
                "reason": "",
                "run_key": key,
                "evidence_uri": uri,
                "evidence_hash": sha,
                "actor": "tester",
                "as_of": at,
                "created_at": at,
            }
        )

    def promote(self, key: str, *, at: datetime = OLD) -> None:
        current, judged = self.store.current(), self.store.decision(f"judge-{key}")
        assert judged is not None
        self.store.add_generation(
            {
                "generation": current["generation"] + 1 if current else 1,
                "champion_version": self.versions[key],
                "champion_run_id": self.runs[key],
                "canary_version": None,
                "canary_weight": 0.0,
                "previous_version": current["champion_version"] if current else None,
                "shadow_version": None,
                "canary_run_id": None,
                "canary_name": None,
                "shadow_run_id": None,
                "kind": "promote",
                "actor": "tester",
                "reason": "",
                "run_key": key,
                "as_of": at,
                "created_at": at,
                "evidence_uri": judged["evidence_uri"],
                "evidence_hash": judged["evidence_hash"],
            }
        )

    def prune(self, **given: Any) -> Pruned:
        return prune.run(self.settings, self.recipe, now=NOW, **given)

    def left(self) -> dict[str, set[str]]:
        """What is there: snapshots, versions, runs by run key, checkpoints by run key, fetched packages."""
        name = f"name = '{self.settings.model_name}'"
        active = self.client.search_runs([tracking.experiment_id(self.client)])
        home = self.settings.home
        return {
            "snapshots": {path.name for path in (Path(self.settings.data_root) / "snapshots").iterdir()},
            "versions": {version.tags["classy.run_key"] for version in self.client.search_model_versions(name)},
            "runs": {run.data.tags[tracking.RUN_KEY] for run in active},
            "checkpoints": {path.name for path in (home / "runs").iterdir()},
            "packages": {path.name for path in (home / "cache" / "models").glob("sha-*")},
        }


def touch(path: Path, at: datetime) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(b"x" * 100)
    for one in (path, path.parent):
        os.utime(one, (at.timestamp(), at.timestamp()))


def make_attic(settings: Settings, recipe: Recipe) -> World:
    """`champion` serves, `before` did; `lost`, `old` and `given-up` are of nobody's interest any more."""
    ready_mlflow(settings)
    client = tracking.connect(settings)
    client.create_registered_model(settings.model_name)
    made = World(settings=settings, recipe=recipe, client=client, store=open_store(settings.database_url))
    for key in ("before", "champion", "lost", "old"):
        made.train(key)
    made.train("given-up", finished=False, version=False)
    made.judge("before")
    made.promote("before")
    made.judge("old", against="before")
    made.judge("champion", against="before")
    made.promote("champion")
    made.judge("lost", "HOLD", against="champion")
    return made
