"""One training's MLflow run: begun, taken up again, written to, ended. Writing twice adds nothing."""

import errno
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from filelock import FileLock, Timeout
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient

from pipelines import files
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.models.boundplot import draw_bound
from pipelines.recipe import ROOT, Recipe
from pipelines.settings import Settings
from training.bounds import BoundReport
from training.data import SnapshotData
from training.options import Epoch

CIRCUMSTANCES = (
    "device", "device_name", "threads", "input", "budget_seconds", "budget_named", "price_per_hour", "currency",
)  # fmt: skip
"""Parameters that may differ when a killed training is taken up again, perhaps on another machine."""
EPOCH_METRICS = {
    "train_loss": "epoch_train_loss",
    "val_loss": "epoch_val_loss",
    "val_accuracy": "epoch_val_accuracy",
    "lr": "epoch_lr",
    "seconds": "epoch_seconds",
}


def state_folder(settings: Settings, run_key: str, name: str) -> Path:
    """Where a training keeps its checkpoint and progress.json on this machine; made if it is not there."""
    if run_key in ("", ".", ".."):
        raise ClassyError(f"run_key={run_key!r}: names no training; give it a date or a word")
    folder = settings.home / "runs" / quote(run_key, safe=":+@ ") / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def alone(settings: Settings, state: Path, what: str) -> Iterator[None]:
    """Work in a state folder as the only process that does.

    Raises:
        ClassyError: another process works there, the disk is full, or MLflow went away.
    """
    try:
        with FileLock(state / "lock", timeout=0), tracking.answering(settings):
            yield
    except Timeout:
        progress = state / "progress.json"
        raise ClassyError(f"{what}: another process is training it now; see {progress}") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ClassyError(
            f"{state}: the disk is full; free some space and run it again, it goes on at its last finished epoch"
        ) from error


@dataclass(slots=True)
class RunBook:
    """A run that is open, and the folder of its progress on this machine."""

    client: MlflowClient
    run_id: str
    state: Path
    logged: set[int] = field(default_factory=set)
    """Epochs whose metrics are on the run already."""

    def note_progress(self, epoch: int) -> None:
        """progress.json: who works on this run, and how far it is."""
        progress = {"pid": os.getpid(), "epoch": epoch, "run_id": self.run_id}
        files.write_text(str(self.state / "progress.json"), json.dumps(progress))

    def log_epoch(self, epoch: Epoch) -> None:
        """The epoch's metrics at its step, once."""
        if epoch.epoch not in self.logged:
            values = {name: getattr(epoch, attribute) for attribute, name in EPOCH_METRICS.items()}
            self.log_figures(values, step=epoch.epoch)
            self.logged.add(epoch.epoch)
        self.note_progress(epoch.epoch)

    def log_figures(self, values: Mapping[str, float], step: int = 0) -> None:
        """Metrics of the run, or of one of its epochs."""
        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def log_bound(self, report: BoundReport, why: str) -> None:
        """What the steps were bound by: figures, words, a plot."""
        self.log_figures({f"bound_{name}": value for name, value in report.figures().items()})
        for key, value in (("bound", report.bound), ("remedy", report.remedy), ("input", report.input), ("why", why)):
            self.client.set_tag(self.run_id, f"classy.bound.{key}", value)
        self.client.log_dict(self.run_id, {**report.to_json(), "input_why": why}, "bound/bound.json")
        figure = draw_bound(report)
        self.client.log_figure(self.run_id, figure, "bound/bound.png")

    def finish(self, receipt: Any, figures: Mapping[str, float], tag: str = tracking.TRAINED) -> None:
        """Final metrics and the receipt, then FINISHED: the order lets a kill in between be repeated."""
        self.log_figures(figures)
        self.client.set_tag(self.run_id, tag, json.dumps(asdict(receipt)))
        self.client.set_terminated(self.run_id, "FINISHED")

    def fail(self, error: Exception) -> None:
        self.client.set_tag(self.run_id, "classy.error", str(error)[:1000])
        self.client.set_terminated(self.run_id, "FAILED")


def finished_receipt(run: Run | None, tag: str = tracking.TRAINED) -> dict[str, Any] | None:
    """What a run that is over gave back, or None."""
    if run is None or run.info.status != "FINISHED" or tag not in run.data.tags:
        return None
    return json.loads(run.data.tags[tag])


def open_run(
    client: MlflowClient,
    found: Run | None,
    *,
    state: Path,
    data: SnapshotData,
    tags: Mapping[str, str],
    parameters: Mapping[str, Any],
    key: str = tracking.RUN_KEY,
    workers: int = 1,
) -> RunBook:
    """Begin a run, or take up `found`, which was not finished.

    Metric `restarts` is how often it was taken up, and `workers` at that step how many took it up.

    An unfinished run of other parameters or another snapshot is set aside under a key of its own, so that what a
    run says of itself stays true.

    Args:
        key: the tag that the run is found by, beside its candidate.
    """
    wanted = as_params(parameters)
    if found is not None and not is_of(found, wanted, tags[tracking.SNAPSHOT_ID]):
        aside = f"{tags[key]} (set aside {found.info.run_id[:8]})"
        client.set_tag(found.info.run_id, key, aside)
        client.set_terminated(found.info.run_id, "KILLED")
        found = None
    if found is None:
        name = tags.get("mlflow.runName", f"{tags[tracking.CANDIDATE]} {tags[key]}")
        found = client.create_run(tracking.experiment_id(client), tags=dict(tags), run_name=name)
    elif found.info.status != "RUNNING":
        client.update_run(found.info.run_id, status="RUNNING")
    run_id = found.info.run_id
    missing = [Param(name, value) for name, value in wanted.items() if name not in found.data.params]
    client.log_batch(run_id, params=missing, tags=[RunTag(key, value) for key, value in _system().items()])
    if not found.inputs or not found.inputs.dataset_inputs:
        client.log_inputs(run_id, datasets=[_dataset(data, tags[tracking.SNAPSHOT_URI])])
    history = client.get_metric_history(run_id, EPOCH_METRICS["train_loss"])
    book = RunBook(client, run_id, state, {entry.step for entry in history})
    book.note_progress(max(book.logged, default=0))
    restarts = int(found.data.metrics.get("restarts", -1)) + 1
    book.log_figures({"restarts": restarts, "workers": workers}, step=restarts)
    return book


def as_params(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as MLflow's parameters, which are text."""
    return {name: json.dumps(value) if isinstance(value, list) else str(value) for name, value in values.items()}


def is_of(found: Run, wanted: Mapping[str, str], snapshot_id: str) -> bool:
    """Whether a run is of this snapshot and these parameters, whatever the circumstances."""
    if found.data.tags.get(tracking.SNAPSHOT_ID) != snapshot_id:
        return False
    given = {name: value for name, value in found.data.params.items() if name not in CIRCUMSTANCES}
    return all(wanted.get(name, value) == value for name, value in given.items())


def _dataset(data: SnapshotData, uri: str) -> DatasetInput:
    dataset = Dataset(
        name="snapshot",
        digest=data.snapshot_id,
        source_type="classy",
        source=json.dumps({"uri": uri}),
        profile=json.dumps(data.counts),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _system() -> dict[str, str]:
    return {
        "system.host": platform.node(),
        "system.machine": platform.machine(),
        "system.cores": str(os.cpu_count()),
        "system.python": platform.python_version(),
        "system.torch": torch.__version__,
    }


def tags_of(
    settings: Settings, recipe: Recipe, candidate: str, data: SnapshotData, snapshot_uri: str, *, by: str
) -> dict[str, str]:
    """What a run on a snapshot is looked up by, but for its key.

    Args:
        by: the command that makes it.
    """
    return {
        tracking.CANDIDATE: candidate,
        tracking.SNAPSHOT_ID: data.snapshot_id,
        tracking.SNAPSHOT_URI: snapshot_uri,
        tracking.RECIPE: recipe.name,
        "mlflow.user": settings.actor,
        "mlflow.source.name": by,
        **git_commit(),
    }


def given_of(recipe: Recipe, data: SnapshotData) -> dict[str, Any]:
    """Parameters that say what a run stands on: the snapshot, the recipe, what an hour costs."""
    return {
        "snapshot_id": data.snapshot_id,
        "as_of": data.meta["as_of"],
        "recipe": recipe.name,
        "recipe_hash": recipe.digest(),
        "price_per_hour": recipe.budget.price_per_hour,
        "currency": recipe.budget.currency,
        **{f"rows_{name}": count for name, count in data.counts.items()},
    }


def cost_of(recipe: Recipe, seconds: float) -> float:
    """In `budget.currency`."""
    return seconds / 3600 * recipe.budget.price_per_hour


def git_commit() -> dict[str, str]:
    """The commit of this code as tags, and whether anything was changed since; nothing where it is no git checkout."""
    try:
        commit, changed = (
            subprocess.run(["git", *asked], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True).stdout
            for asked in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {
        tracking.GIT_COMMIT: commit.strip(),
        tracking.GIT_DIRTY: "true" if changed.strip() else "false",
        "mlflow.source.git.commit": commit.strip(),
    }
