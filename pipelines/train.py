"""Fit one candidate on one snapshot.

classy train --snapshot-uri var/data/snapshots/0123456789abcdef --run-key 2026-03-07 --candidate resnet
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from pipelines.data.encoded import decoder
from pipelines.data.snapshots import need_fit, need_images, read_snapshot
from pipelines.errors import ClassyError
from pipelines.models import fitting, tracking
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
from pipelines.training_sections import Candidate
from training.checkpoint import save_model
from training.fit import CHECKPOINT
from training.models import BuildError
from training.options import FitError


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
    client = tracking.connect(settings)
    state = state_folder(settings, run_key, candidate)
    with alone(settings, state, f"run key {run_key}, candidate {candidate}"):
        text = json.dumps(dict(chosen or {}), sort_keys=True)
        return _train(settings, recipe, picked, text, client, state, snapshot_uri, run_key, budget_minutes)


def _train(
    settings: Settings,
    recipe: Recipe,
    candidate: Candidate,
    chosen: str,
    client: MlflowClient,
    state: Path,
    snapshot_uri: str,
    run_key: str,
    budget_minutes: float | None,
) -> Trained:
    data = read_snapshot(settings, snapshot_uri)
    found = tracking.find_run(client, run_key, candidate.name)
    receipt = finished_receipt(found)
    if found is not None and receipt is not None:
        known = found.data.tags.get(tracking.SNAPSHOT_ID)
        if known != data.snapshot_id:
            raise ClassyError(
                f"run key {run_key}: {candidate.name} was trained under it on snapshot {known}, not "
                f"{data.snapshot_id}; a run key names one training, give this one another"
            )
        before = found.data.params.get("chosen", "{}")
        if before != chosen:
            raise ClassyError(
                f"run key {run_key}: {candidate.name} was trained under it with chosen values {before}, not {chosen}; "
                "a run key names one training, give this one another"
            )
        return Trained(**receipt)
    need_images(recipe, data, snapshot_uri)
    planned = fitting.plan(settings, recipe, candidate, data, minutes=budget_minutes)
    tags = {
        tracking.RUN_KEY: run_key,
        **tags_of(settings, recipe, candidate.name, data, snapshot_uri, by="classy train"),
    }
    given = {**planned.parameters(), "chosen": chosen, **given_of(recipe, data)}
    book = open_run(client, found, state=state, data=data, tags=tags, parameters=given)
    try:
        # `auto` is not offered it: the shards are decoded already, and a trial would leave a day's photos in the cache.
        decode = decoder(settings, recipe, data, "train") if recipe.input.pipeline == "decode" else None
        outcome = fitting.fit(planned, data, state, on_epoch=book.log_epoch, decode=decode)
    except (FitError, BuildError) as error:
        book.fail(error)
        raise
    return _finish(settings, recipe, book, planned, outcome)


def _finish(
    settings: Settings, recipe: Recipe, book: RunBook, planned: fitting.Plan, outcome: fitting.Outcome
) -> Trained:
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
        "gpu_hours": outcome.seconds / 3600 if planned.device.type == "cuda" else 0.0,
        "budget_saved_seconds": saved,
        "budget_saved_cost": cost_of(recipe, saved),
        "planned_epochs": outcome.planned,
        "model_parameters": sum(weight.numel() for weight in outcome.model.parameters()),
    }
    book.finish(receipt, figures)
    (book.state / CHECKPOINT).unlink(missing_ok=True)
    return receipt
