"""Look for better values of a candidate's fields than the recipe's, by short trainings.

classy search --snapshot-uri var/data/snapshots/0123456789abcdef --run-key 2026-03-07 --candidate resnet

What it chose goes into `classy train --chosen`. Trials are judged on validation rows; golden and fresh ones are not
looked at. MLflow's runs are the only record of them: a killed search goes on from there, on this machine or another.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Param
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from pipelines.data.encoded import decoder
from pipelines.data.snapshots import need_fit, need_images, read_snapshot
from pipelines.errors import ClassyError
from pipelines.models import fitting, tracking
from pipelines.models.runs import (
    RunBook,
    alone,
    as_params,
    cost_of,
    finished_receipt,
    given_of,
    is_of,
    open_run,
    state_folder,
    tags_of,
)
from pipelines.models.searching import Ground, best_of, try_all
from pipelines.models.searchplot import draw_history
from pipelines.models.study import Study
from pipelines.models.trials import Tried
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from pipelines.training_sections import Candidate, NetworkCandidate


@dataclass(frozen=True, kw_only=True, slots=True)
class Searched:
    """One candidate's search; its trials are runs under its run."""

    run_id: str
    run_url: str
    candidate: str
    chosen: dict[str, Any]
    """Field → value of the best complete trial, for `classy train --chosen`."""
    log_loss: float
    """Of that trial on the validation rows, calibrated."""
    trials: dict[str, int]
    """How many were complete, pruned (given up early) and failed."""
    stopped_by: Literal["trials", "budget"]
    seconds: float
    """Of all trials, by all processes that worked on it."""


def run(settings: Settings, recipe: Recipe, *, snapshot_uri: str, run_key: str, candidate: str) -> Searched:
    """Search to the end, from the last finished trial of a killed search. A finished one gives its receipt again.

    Raises:
        ClassyError: the recipe has no space for this candidate, no such snapshot or one that is not fit to train on,
            every trial failed, MLflow not reachable, another process searches this now, or the disk is full.
        FitError: the device that was asked for is not there.
    """
    fitted = recipe.candidate(candidate)
    if candidate not in recipe.search.space:
        known = ", ".join(recipe.search.space) or "none"
        raise ClassyError(
            f"recipe {recipe.name}: has no space to search {candidate} in (it has: {known}); write "
            f"[search.space.{candidate}] with a line a field, such as lr = {{ low = 1e-4, high = 1e-2, log = true }}"
        )
    need_fit(snapshot_uri)
    client = tracking.connect(settings)
    # A candidate's name has no dot in it, so this is nobody else's folder.
    state = state_folder(settings, run_key, f"{candidate}.search")
    with alone(settings, state, f"run key {run_key}, search of {candidate}"):
        if recipe.search.epochs and isinstance(fitted, NetworkCandidate):
            fitted = fitted.model_copy(update={"epochs": recipe.search.epochs})
        return _search(settings, recipe, fitted, client, state, snapshot_uri, run_key)


def _search(
    settings: Settings,
    recipe: Recipe,
    candidate: Candidate,
    client: MlflowClient,
    state: Path,
    snapshot_uri: str,
    run_key: str,
) -> Searched:
    data = read_snapshot(settings, snapshot_uri)
    found = tracking.find_run(client, run_key, candidate.name, tracking.SEARCH_KEY)
    asked = _asked(recipe, candidate)
    receipt = finished_receipt(found, tracking.SEARCHED)
    if found is not None and receipt is not None:
        if not is_of(found, as_params(asked), data.snapshot_id):
            raise ClassyError(
                f"run key {run_key}: {candidate.name} was searched under it in another space or on another "
                f"snapshot (MLflow run {found.info.run_id}); a run key names one search, give this one another"
            )
        return Searched(**receipt)
    need_images(recipe, data, snapshot_uri)
    device = fitting.plan(settings, recipe, candidate, data).device
    tags = {
        tracking.SEARCH_KEY: run_key,
        MLFLOW_RUN_NAME: f"search of {candidate.name} {run_key}",
        **tags_of(settings, recipe, candidate.name, data, snapshot_uri, by="classy search"),
    }
    given = {**asked, **given_of(recipe, data)}
    book = open_run(client, found, state=state, data=data, tags=tags, parameters=given, key=tracking.SEARCH_KEY)
    ground = Ground(
        settings=settings,
        recipe=recipe,
        client=client,
        run_id=book.run_id,
        run_key=run_key,
        candidate=candidate,
        data=data,
        snapshot_uri=snapshot_uri,
        state=state,
        limit=fitting.budget_of(recipe, device, recipe.search.minutes).seconds,
        decode=decoder(settings, recipe, data, "train") if recipe.input.pipeline == "decode" else None,
    )
    return _finish(ground, book, try_all(ground), on_gpu=device.type == "cuda")


def _asked(recipe: Recipe, candidate: Candidate) -> dict[str, Any]:
    """What is searched and how, as the run's parameters; another of these is another search."""
    limits = recipe.search.model_dump(exclude={"space", "epochs"})
    space = {
        field: span.model_dump(exclude_defaults=True) for field, span in recipe.search.space[candidate.name].items()
    }
    own = candidate.model_dump(mode="json")
    return {**own, **{f"search_{name}": value for name, value in limits.items()}, "space": json.dumps(space)}


def _finish(ground: Ground, book: RunBook, tried: Sequence[Tried], *, on_gpu: bool) -> Searched:
    recipe, best, seconds = ground.recipe, best_of(tried), sum(one.seconds for one in tried)
    trials = {state: sum(one.state == state for one in tried) for state in ("complete", "pruned", "failed")}
    if best is None or best.loss is None:
        error = ClassyError(
            f"run key {ground.run_key}, search of {ground.candidate.name}: all {len(tried)} trials failed, the first "
            f"with {tried[0].values}: {tried[0].error}. Narrow [search.space.{ground.candidate.name}]"
        )
        book.fail(error)
        raise error
    receipt = Searched(
        run_id=book.run_id,
        run_url=tracking.run_url(ground.settings, book.run_id),
        candidate=ground.candidate.name,
        chosen=best.values,
        log_loss=best.loss,
        trials=trials,
        stopped_by="trials" if len(tried) >= recipe.search.trials else "budget",
        seconds=seconds,
    )
    book.client.log_figure(book.run_id, draw_history(tried), "search/history.png")
    book.client.log_dict(book.run_id, asdict(receipt), "search/chosen.json")
    chosen = as_params({f"best_{field}": value for field, value in best.values.items()})
    book.client.log_batch(book.run_id, params=[Param(name, value) for name, value in chosen.items()])
    study = Study(ground.candidate, recipe.search, tried, number=len(tried), epochs=ground.epochs)
    figures = {
        "best_val_log_loss": best.loss,
        "best_trial": best.number,
        "search_seconds": seconds,
        "search_cost": cost_of(recipe, seconds),
        "gpu_hours": seconds / 3600 if on_gpu else 0.0,
        **{f"trials_{state}": count for state, count in trials.items()},
        **{f"importance_{field}": share for field, share in study.importances().items()},
    }
    book.finish(receipt, figures, tracking.SEARCHED)
    for left in ground.state.glob("trial-*"):
        # Of a trial that was killed between its end and this.
        shutil.rmtree(left)
    return receipt
