"""What lies about on disk and in MLflow, how old it is, and how it is taken away. What may go is `retention`'s word.

Folders are moved aside in one step and then deleted, so that a reader sees a whole one or none; on a store that
cannot rename, the manifest goes first. Either way a deletion that was killed is found again and finished.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
from filelock import FileLock, Timeout
from fsspec.implementations.local import LocalFileSystem
from mlflow.entities import Run, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

from monitoring.stores import Store
from pipelines import files
from pipelines.cache import KINDS as CACHED
from pipelines.cache import size_of
from pipelines.errors import ClassyError
from pipelines.models import judgement, tracking
from pipelines.retention.rules import Records, Thing, Training
from pipelines.settings import Settings

KINDS = ("versions", "checkpoints", "caches", "snapshots")
"""In the order in which they are deleted: a version goes before the snapshot that it was trained on."""
ASIDE = ".pruned"
MARK = "pruned.json"
"""On a store without a rename: in a folder that is being deleted."""
PAGE = 1_000
EPOCHS = "epoch_train_loss"
"""The metric that a training logs after each epoch."""


class StillNeeded(ClassyError):
    """It came into use since it was looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attic:
    """One look at everything. Evidence never changes, so it is read once; all else is asked again each time."""

    settings: Settings
    store: Store
    client: MlflowClient
    evidence: dict[str, dict[str, Any] | None] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------- records

    def records(self) -> Records:
        generations, decisions = self.store.generations(), self.store.decisions()
        for row in [*generations, *(row for row in decisions if row["kind"] == "judge")]:
            if row["evidence_uri"] and self.evidence.get(row["evidence_uri"]) is None:
                self.evidence[row["evidence_uri"]] = _document(row)
        return Records(
            generations=generations,
            decisions=decisions,
            evidence=self.evidence,
            trainings=self._trainings(),
            aliases={version: ", ".join(version_.aliases) for version, version_ in self._versions().items()
                     if version_.aliases},
        )  # fmt: skip

    def _runs(self) -> Iterator[Run]:
        experiment, token = tracking.experiment_id(self.client), None
        while True:
            page = self.client.search_runs(
                [experiment], run_view_type=ViewType.ACTIVE_ONLY, max_results=PAGE, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _trainings(self) -> list[Training]:
        return [self._training(run) for run in self._runs()]

    def _training(self, run: Run) -> Training:
        tags = run.data.tags
        times = [run.info.start_time, run.info.end_time]
        if run.info.status == "RUNNING":
            # It may have begun long ago, or have been taken up again: its newest epoch tells.
            times += [epoch.timestamp for epoch in self.client.get_metric_history(run.info.run_id, EPOCHS)]
        newest = max((time for time in times if time is not None), default=None)
        return Training(
            run_id=run.info.run_id,
            run_key=tags.get(tracking.RUN_KEY),
            candidate=tags.get(tracking.CANDIDATE),
            snapshot_id=tags.get(tracking.SNAPSHOT_ID),
            finished=tracking.TRAINED in tags,
            newest=_moment(newest) or datetime.max.replace(tzinfo=UTC),
            package_sha256=tags.get(tracking.PACKAGE_SHA256),
        )

    def _versions(self) -> dict[str, ModelVersion]:
        name, token = self.settings.model_name, None
        found: dict[str, ModelVersion] = {}
        while True:
            page = self.client.search_model_versions(f"name = '{name}'", max_results=PAGE, page_token=token)
            found |= {str(version.version): version for version in page}
            token = page.token
            if not token:
                break
        if found:
            # A search leaves the aliases out.
            for alias, version in self.client.get_registered_model(name).aliases.items():
                there = found[str(version)]
                there.aliases = sorted({*there.aliases, alias})
        return found

    # -------------------------------------------------------------------------------------------- things

    def things(self, kind: str) -> list[Thing]:
        """Everything of a kind, by name."""
        finders = {"snapshots": self._snapshots, "checkpoints": self._checkpoints,
                   "versions": self._model_versions, "caches": self._caches}  # fmt: skip
        return sorted(finders[kind](), key=lambda thing: thing.name)

    def _snapshots(self) -> Iterator[Thing]:
        root = files.join(self.settings.data_root, "snapshots")
        used: dict[str, datetime] = {}
        for training in self._trainings():
            if training.snapshot_id is not None:
                used[training.snapshot_id] = max(training.newest, used.get(training.snapshot_id, training.newest))
        for name in files.list_partitions(root):
            uri = files.join(root, name)
            manifest = files.need_manifest(uri, "snapshot")
            snapshot_id = str(manifest.get("snapshot_id", name))
            times = [_written(uri, manifest), used.get(snapshot_id)]
            yield Thing(
                what="snapshot",
                name=snapshot_id,
                uri=uri,
                bytes=sum(entry["bytes"] for entry in manifest["files"].values()),
                newest=max((time for time in times if time is not None), default=None),
                because="no generation, no open verdict and no recent run uses it",
            )
        yield from _left_over("snapshot", root)

    def _checkpoints(self) -> Iterator[Thing]:
        root = self.settings.home / "runs"
        known = {(run.run_key, run.candidate): run for run in self._trainings()}
        for folder in sorted(path for path in root.glob("*/*") if path.is_dir()):
            run_key, candidate = unquote(folder.parent.name), folder.name
            if candidate.endswith(ASIDE):
                yield Thing(what="checkpoint", name=f"{run_key}/{candidate}", uri=str(folder), bytes=size_of(folder),
                            newest=None, because="a deletion was killed", left_over=True)  # fmt: skip
                continue
            run = known.get((run_key, candidate))
            yield Thing(
                what="checkpoint",
                name=f"{run_key}/{candidate}",
                uri=str(folder),
                bytes=size_of(folder),
                newest=max(_touched(folder), run.newest) if run else _touched(folder),
                because="its training is over" if run and run.finished else "nobody went on with its training",
                run_key=run_key,
            )

    def _model_versions(self) -> Iterator[Thing]:
        runs = {run.info.run_id: run for run in self._runs()}
        for version, entry in self._versions().items():
            run = runs.get(entry.run_id)
            size = run.data.metrics.get("package_bytes") if run else None
            times = [_moment(entry.creation_timestamp), self._training(run).newest if run else None]
            yield Thing(
                what="version",
                name=version,
                uri=f"models:/{self.settings.model_name}/{version}",
                bytes=None if size is None else int(size),
                newest=max((time for time in times if time is not None), default=None),
                because="no generation names it, and it can be none any more",
                run_ids=(entry.run_id,) if entry.run_id else (),
                run_key=entry.tags.get(tracking.RUN_KEY),
            )

    def _caches(self) -> Iterator[Thing]:
        cache = self.settings.home / "cache"
        owners: dict[str, set[str]] = {}
        for run in self._trainings():
            if run.package_sha256:
                owners.setdefault(run.package_sha256, set()).add(run.run_id)
        for note in _entries(cache / "models" / "runs"):
            owners.setdefault(note.read_text().strip(), set()).add(note.name)
        for path in _entries(cache / "models"):
            if path.name not in ("runs", "references"):
                yield self._cached(path, "a fetched package that can be fetched again", owners.get(path.name, ()))
        for path in _entries(cache / "models" / "references"):
            yield self._cached(path, "a fetched reference that can be fetched again", {path.stem})
        for kind in CACHED:
            for path in _entries(cache / kind):
                yield self._cached(path, "a copy that can be made again", ())
        for path in cache.glob(".optimize-*"):
            yield self._cached(path, "a step that was killed left it", ())

    def _cached(self, path: Path, because: str, run_ids: Any) -> Thing:
        name = str(path.relative_to(self.settings.home / "cache"))
        return Thing(what="cache", name=name, uri=str(path), bytes=size_of(path), newest=_touched(path),
                     because=because, run_ids=tuple(sorted(run_ids)), left_over=path.name.endswith(ASIDE))  # fmt: skip

    # ------------------------------------------------------------------------------------------- removal

    def remove(self, thing: Thing) -> None:
        """Take it away, whole.

        Raises:
            StillNeeded: another process works on it now.
        """
        if thing.what == "version":
            self._remove_version(thing)
        elif thing.what == "checkpoint":
            _remove_checkpoint(Path(thing.uri), thing.left_over)
        else:
            remove_folder(thing.uri)

    def _remove_version(self, thing: Thing) -> None:
        # The run first: a kill in between leaves the version, which the next prune finds.
        for run_id in thing.run_ids:
            if self.client.get_run(run_id).info.lifecycle_stage == "active":
                self.client.delete_run(run_id)
        self.client.delete_model_version(self.settings.model_name, thing.name)


def _document(row: Any) -> dict[str, Any] | None:
    try:
        return judgement.of_decision(row)
    except (ClassyError, OSError):
        # Retention keeps whatever it might have named.
        return None


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


# ---------------------------------------------------------------------------------------------- on disk


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _touched(path: Path) -> datetime:
    newest = max(file.lstat().st_mtime for file in [path, *path.rglob("*")])
    return datetime.fromtimestamp(newest, UTC)


def _written(uri: str, manifest: dict[str, Any]) -> datetime | None:
    """When a partition was made: as its manifest says, as its store says, or its data time where neither does."""
    if "created_at" in manifest:
        return datetime.fromisoformat(manifest["created_at"])
    fs, path = fsspec.url_to_fs(uri)
    try:
        found = fs.modified(f"{path}/{files.MANIFEST}")
    except NotImplementedError:
        return datetime.fromisoformat(manifest["as_of"]) if "as_of" in manifest else None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _left_over(what: str, root: str) -> Iterator[Thing]:
    """What a deletion that was killed left behind."""
    fs, path = fsspec.url_to_fs(root)
    if not fs.exists(path):
        return
    for entry in fs.ls(path, detail=False):
        name = entry.rstrip("/").rsplit("/", 1)[-1]
        marked = fs.exists(f"{entry}/{MARK}") and not fs.exists(f"{entry}/{files.MANIFEST}")
        if name.endswith(ASIDE) or marked:
            uri = files.join(root, name)
            size = sum(fs.size(file) or 0 for file in fs.find(entry))
            yield Thing(what=what, name=name, uri=uri, bytes=size, newest=None, because="a deletion was killed",
                        left_over=True)  # fmt: skip


def _remove_checkpoint(folder: Path, left_over: bool) -> None:
    try:
        if not left_over:
            with FileLock(folder / "lock", timeout=0):
                folder = _aside(folder)
    except Timeout:
        raise StillNeeded(f"{folder}: a training is working there now") from None
    shutil.rmtree(folder)
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def _aside(path: Path) -> Path:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}{ASIDE}")
    os.rename(path, aside)
    return aside


def remove_folder(uri: str) -> None:
    """Take away a folder or file, so that nobody ever sees half of it. One that is gone already is no error."""
    fs, path = fsspec.url_to_fs(uri)
    if not isinstance(fs, LocalFileSystem):
        _remove_remote(fs, path)
        return
    target = Path(path)
    if not target.exists():
        return
    aside = target if target.name.endswith(ASIDE) else _aside(target)
    if aside.is_dir():
        shutil.rmtree(aside)
    else:
        aside.unlink()


def _remove_remote(fs: Any, path: str) -> None:
    if not fs.exists(path):
        return
    mark, manifest = f"{path}/{MARK}", f"{path}/{files.MANIFEST}"
    fs.pipe_file(mark, json.dumps({"deleting": path}).encode())
    if fs.exists(manifest):
        fs.rm_file(manifest)
    for file in fs.find(path):
        if not file.endswith(f"/{MARK}"):
            fs.rm_file(file)
    fs.rm(path, recursive=True)
