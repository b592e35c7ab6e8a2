"""Fit one candidate on one snapshot.

classy train --snapshot-uri var/data/snapshots/0123456789abcdef --run-key 2026-03-07 --candidate resnet

Where CLASSY_TRAIN_WORKERS asks for several workers, each is a process that runs this same step.
"""

import errno
import tempfile
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout
from mlflow.entities import Run

from pipelines import files
from pipelines.data.encoded import decoder
from pipelines.data.images import spec_of
from pipelines.data.snapshots import read_snapshot
from pipelines.errors import ClassyError
from pipelines.models import crowd, fitting, tracking
from pipelines.models.runs import RunBook, finished_receipt, git_commit, open_run
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from pipelines.training_sections import Candidate, NetworkCandidate
from training.checkpoint import save_model
from training.data import SnapshotData
from training.distributed import Workers, is_worker, joined
from training.fit import CHECKPOINT
from training.models import BuildError
from training.options import Epoch, FitError


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """One candidate, fitted; the weights are on the run."""

    run_id: str
    run_url: str
    candidate: str
    epochs: int
    """Finished epochs; the best one's weights are kept."""
    resumed_from: int | None
    """The last finished epoch of a training that was killed, if this one went on from there."""
    stopped_by: str
    """epochs, budget or patience."""
    val: dict[str, float]
    """accuracy, macro_f1, log_loss and ece on the validation rows, calibrated."""


def run(
    settings: Settings,
    recipe: Recipe,
    *,
    snapshot_uri: str,
    candidate: str,
    run_key: str,
    epochs: int | None = None,
    budget_minutes: float | None = None,
) -> Trained:
    """Train to the end, from the last finished epoch of a killed run. A finished run gives its receipt again.

    Raises:
        ClassyError: no such snapshot or candidate, a snapshot that is not fit to train on, MLflow not reachable,
            another process trains this now, or the disk is full.
        FitError, BuildError: the candidate cannot be trained as the recipe says.
    """
    chosen = fitting.choose(recipe, candidate, epochs)
    if budget_minutes is not None and not budget_minutes > 0:
        raise ClassyError(f"budget_minutes={budget_minutes}: must be more than 0")
    manifest = files.need_manifest(snapshot_uri, "snapshot")
    if not manifest["ok"]:
        raise ClassyError(f"{snapshot_uri}: is not fit to train on: {'; '.join(manifest['reasons'])}")
    state = state_folder(settings, run_key, candidate)
    if settings.train_workers > 1 and isinstance(chosen, NetworkCandidate) and not is_worker():
        work = partial(
            run, settings, recipe, snapshot_uri=snapshot_uri, candidate=candidate, run_key=run_key, epochs=epochs,
            budget_minutes=budget_minutes,
        )  # fmt: skip
        return crowd.run(settings, work, state)
    with joined() as workers:
        return _alone(settings, recipe, chosen, workers, state, snapshot_uri, run_key, budget_minutes)


def _alone(
    settings: Settings, recipe: Recipe, chosen: Candidate, workers: Workers, state: Path, snapshot_uri: str,
    run_key: str, budget_minutes: float | None,
) -> Trained:  # fmt: skip
    """Train while no other process does, but for this one's fellow workers."""
    lock = FileLock(state / "lock", timeout=0) if workers.leads else nullcontext()
    try:
        with lock, tracking.answering(settings):
            return _train(settings, recipe, chosen, workers, state, snapshot_uri, run_key, budget_minutes)
    except Timeout:
        progress = state / "progress.json"
        raise ClassyError(
            f"run key {run_key}, candidate {chosen.name}: another process is training it now; see {progress}"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ClassyError(
            f"{state}: the disk is full; free some space and run it again, it goes on at its last finished epoch"
        ) from error


def state_folder(settings: Settings, run_key: str, candidate: str) -> Path:
    """Where a training keeps its checkpoint and progress.json on this machine; made if it is not there."""
    if run_key in ("", ".", ".."):
        raise ClassyError(f"run_key={run_key!r}: names no training; give it a date or a word")
    folder = settings.home / "runs" / quote(run_key, safe=":+@ ") / candidate
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _train(
    settings: Settings,
    recipe: Recipe,
    chosen: Candidate,
    workers: Workers,
    state: Path,
    snapshot_uri: str,
    run_key: str,
    budget_minutes: float | None,
) -> Trained:
    client = tracking.connect(settings) if workers.leads else None
    data = read_snapshot(settings, snapshot_uri)
    found = tracking.find_run(client, run_key, chosen.name) if client else None
    receipt = workers.told(lambda: _receipt(found, data, run_key, chosen.name))
    if receipt is not None:
        return Trained(**receipt)
    if data.meta["spec_hash"] != spec_of(recipe).digest():
        raise ClassyError(
            f"{snapshot_uri}: its images are {data.meta['spec_hash']}, the recipe's [image] makes "
            f"{spec_of(recipe).digest()}; run `classy prepare` for each day and `classy snapshot` again"
        )
    planned = fitting.plan(settings, recipe, chosen, data, minutes=budget_minutes, workers=workers)
    tags = {
        tracking.RUN_KEY: run_key,
        tracking.CANDIDATE: chosen.name,
        tracking.SNAPSHOT_ID: data.snapshot_id,
        tracking.SNAPSHOT_URI: snapshot_uri,
        tracking.RECIPE: recipe.name,
        "mlflow.user": settings.actor,
        "mlflow.source.name": "classy train",
        **git_commit(),
    }
    given = {
        **planned.parameters(),
        "snapshot_id": data.snapshot_id,
        "as_of": data.meta["as_of"],
        "recipe": recipe.name,
        "recipe_hash": recipe.digest(),
        "price_per_hour": recipe.budget.price_per_hour,
        "currency": recipe.budget.currency,
        **{f"rows_{name}": count for name, count in data.counts.items()},
    }
    # The leader's alone: the others train along.
    book = None
    if client:
        many = workers.share.world
        book = open_run(client, found, state=state, data=data, tags=tags, parameters=given, workers=many)
    try:
        # `auto` is not offered it: the shards are decoded already, and a trial would leave a day's photos in the cache.
        decode = decoder(settings, recipe, data, "train") if recipe.input.pipeline == "decode" else None
        on_epoch = book.log_epoch if book else _nobody
        outcome = fitting.fit(planned, data, state, on_epoch=on_epoch, decode=decode, workers=workers)
    except (FitError, BuildError) as error:
        if book:
            book.fail(error)
        raise
    price = recipe.budget.price_per_hour
    return Trained(**workers.told(lambda: asdict(_finish(settings, book, planned, outcome, price))))


def _receipt(found: Run | None, data: SnapshotData, run_key: str, candidate: str) -> dict[str, Any] | None:
    """Of a run that is over; None: it is to be trained."""
    receipt = finished_receipt(found)
    if found is None or receipt is None:
        return None
    known = found.data.tags.get(tracking.SNAPSHOT_ID)
    if known != data.snapshot_id:
        raise ClassyError(
            f"run key {run_key}: {candidate} was trained under it on snapshot {known}, not {data.snapshot_id}; "
            "a run key names one training, give this one another"
        )
    return receipt


def _nobody(epoch: Epoch) -> None:
    """Is told of nothing."""


def _finish(
    settings: Settings, book: RunBook | None, planned: fitting.Plan, outcome: fitting.Outcome, price_per_hour: float
) -> Trained:
    if book is None:
        raise TypeError("the leader of the workers keeps the run")
    receipt = Trained(
        run_id=book.run_id,
        run_url=tracking.run_url(settings, book.run_id),
        candidate=planned.candidate.name,
        epochs=outcome.epochs,
        resumed_from=outcome.resumed_from,
        stopped_by=outcome.stopped_by,
        val=outcome.val,
    )
    with tempfile.TemporaryDirectory(dir=book.state, prefix=".model-") as scratch:
        path = Path(scratch) / tracking.WEIGHTS.name
        save_model(path, outcome.model, {"temperature": outcome.temperature, "val": outcome.val})
        book.client.log_artifact(book.run_id, str(path), str(tracking.WEIGHTS.parent))
    if outcome.report is not None:
        book.log_bound(outcome.report, outcome.input_why)
    saved = max(0.0, planned.budget.seconds - outcome.seconds)
    figures = {
        **{f"val_{name}": value for name, value in outcome.val.items()},
        "temperature": outcome.temperature,
        "best_epoch": outcome.best_epoch,
        "train_seconds": outcome.seconds,
        "train_cost": outcome.seconds / 3600 * price_per_hour,
        "gpu_hours": outcome.work_seconds / 3600 if planned.device.type == "cuda" else 0.0,
        "budget_saved_seconds": saved,
        "budget_saved_cost": saved / 3600 * price_per_hour,
        "planned_epochs": outcome.planned,
        "model_parameters": sum(weight.numel() for weight in outcome.model.parameters()),
    }
    book.finish(receipt, figures)
    (book.state / CHECKPOINT).unlink(missing_ok=True)
    return receipt
