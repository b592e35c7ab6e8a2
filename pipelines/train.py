"""Fit one candidate on one snapshot.

classy train --snapshot-uri var/data/snapshots/0123456789abcdef --run-key 2026-03-07 --candidate resnet

Where CLASSY_TRAIN_WORKERS asks for several workers, each is a process that runs this same step.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from pipelines.data.encoded import decoder
from pipelines.data.snapshots import need_fit, need_images, read_snapshot
from pipelines.errors import ClassyError
from pipelines.models import crowd, fitting, tracking
from pipelines.models.runs import (
    RunBook,
    alone,
    cost_of,
    finished_receipt,
    given_of,
    open_run,
    state_folder,
    tags_of,
)
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
    chosen: Mapping[str, Any] | None = None,
) -> Trained:
    """Train to the end, from the last finished epoch of a killed run. A finished run gives its receipt again.

    Args:
        chosen: values of the candidate's fields instead of the recipe's, as `classy search` chose them.

    Raises:
        ClassyError: no such snapshot or candidate, a snapshot that is not fit to train on, a chosen value that its
            field cannot have, MLflow not reachable, another process trains this now, or the disk is full.
        FitError, BuildError: the candidate cannot be trained as the recipe says.
    """
    picked = fitting.choose(recipe, candidate, epochs, chosen or {})
    if budget_minutes is not None and not budget_minutes > 0:
        raise ClassyError(f"budget_minutes={budget_minutes}: must be more than 0")
    need_fit(snapshot_uri)
    state = state_folder(settings, run_key, candidate)
    if settings.train_workers > 1 and isinstance(picked, NetworkCandidate) and not is_worker():
        work = partial(
            run, settings, recipe, snapshot_uri=snapshot_uri, candidate=candidate, run_key=run_key, epochs=epochs,
            budget_minutes=budget_minutes, chosen=chosen,
        )  # fmt: skip
        return crowd.run(settings, work, state)
    with joined() as workers:
        # While no other process does, but for this one's fellow workers.
        what = f"run key {run_key}, candidate {candidate}"
        with alone(settings, state, what) if workers.leads else tracking.answering(settings):
            text = json.dumps(dict(chosen or {}), sort_keys=True)
            return _train(settings, recipe, picked, text, workers, state, snapshot_uri, run_key, budget_minutes)


def _train(
    settings: Settings,
    recipe: Recipe,
    candidate: Candidate,
    chosen: str,
    workers: Workers,
    state: Path,
    snapshot_uri: str,
    run_key: str,
    budget_minutes: float | None,
) -> Trained:
    client = tracking.connect(settings) if workers.leads else None
    data = read_snapshot(settings, snapshot_uri)
    found = tracking.find_run(client, run_key, candidate.name) if client else None
    receipt = workers.told(lambda: _receipt(found, data, run_key, candidate.name, chosen))
    if receipt is not None:
        return Trained(**receipt)
    need_images(recipe, data, snapshot_uri)
    planned = fitting.plan(settings, recipe, candidate, data, minutes=budget_minutes, workers=workers)
    tags = {
        tracking.RUN_KEY: run_key,
        **tags_of(settings, recipe, candidate.name, data, snapshot_uri, by="classy train"),
    }
    given = {**planned.parameters(), "chosen": chosen, **given_of(recipe, data)}
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
    return Trained(**workers.told(lambda: asdict(_finish(settings, recipe, book, planned, outcome))))


def _receipt(found: Run | None, data: SnapshotData, run_key: str, candidate: str, chosen: str) -> dict[str, Any] | None:
    """Of a run that is over; None: it is to be trained."""
    receipt = finished_receipt(found)
    if found is None or receipt is None:
        return None
    known, before = found.data.tags.get(tracking.SNAPSHOT_ID), found.data.params.get("chosen", "{}")
    other = None
    if known != data.snapshot_id:
        other = f"on snapshot {known}, not {data.snapshot_id}"
    elif before != chosen:
        other = f"with chosen values {before}, not {chosen}"
    if other:
        raise ClassyError(
            f"run key {run_key}: {candidate} was trained under it {other}; a run key names one training, give this "
            "one another"
        )
    return receipt


def _nobody(epoch: Epoch) -> None:
    """Is told of nothing."""


def _finish(
    settings: Settings, recipe: Recipe, book: RunBook | None, planned: fitting.Plan, outcome: fitting.Outcome
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
        "train_cost": cost_of(recipe, outcome.seconds),
        "gpu_hours": outcome.work_seconds / 3600 if planned.device.type == "cuda" else 0.0,
        "budget_saved_seconds": saved,
        "budget_saved_cost": cost_of(recipe, saved),
        "planned_epochs": outcome.planned,
        "model_parameters": sum(weight.numel() for weight in outcome.model.parameters()),
    }
    book.finish(receipt, figures)
    (book.state / CHECKPOINT).unlink(missing_ok=True)
    return receipt
