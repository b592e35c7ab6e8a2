"""One search under way: its trials one after the other, until there are enough or the time is over."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from tqdm import tqdm

from pipelines.models import fitting
from pipelines.models.runs import RunBook, cost_of, given_of, open_run, tags_of
from pipelines.models.study import Study
from pipelines.models.trials import TRIAL, VALUES, State, Tried, end_trial, read_trial, read_trials
from pipelines.recipe import Recipe
from pipelines.search_sections import with_values
from pipelines.settings import Settings
from pipelines.training_sections import Candidate
from training.data import SnapshotData
from training.inputs import Decode
from training.memory import is_no_room
from training.models import BuildError
from training.options import Epoch, FitError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """What all trials of a search share."""

    settings: Settings
    recipe: Recipe
    client: MlflowClient
    run_id: str
    """The search's run, which theirs are under."""
    run_key: str
    candidate: Candidate
    """As the recipe has it, but as long as a trial."""
    data: SnapshotData
    snapshot_uri: str
    state: Path
    limit: float
    """Seconds of the whole search."""
    decode: Decode | None

    @property
    def epochs(self) -> int:
        """Of a trial; a baseline has none."""
        return getattr(self.candidate, "epochs", 1)


class GivenUp(Exception):
    """Ends a trial from within its training: others were better by then."""


def best_of(tried: Sequence[Tried]) -> Tried | None:
    """The complete trial with the lowest loss, the first of equals."""
    return min((one for one in tried if one.loss is not None), key=lambda one: (one.loss, one.number), default=None)


def try_all(ground: Ground) -> list[Tried]:
    """All trials, those of earlier processes read back; one that was killed goes on from its last epoch."""
    there, trials = read_trials(ground.client, ground.run_id), ground.recipe.search.trials
    tried = [one for one in there if one.state is not None]
    underway = next((one for one in there if one.state is None), None)
    with tqdm(
        total=trials, initial=len(tried), desc=f"search {ground.candidate.name}", unit="trial", disable=None
    ) as bar:
        while len(tried) < trials and ground.limit > sum(one.seconds for one in tried):
            tried.append(_try_one(ground, tried, underway))
            underway, best = None, best_of(tried)
            bar.set_postfix_str(f"best {best.loss:.4f}" if best else "none complete yet")
            bar.update()
    return tried


def _try_one(ground: Ground, tried: Sequence[Tried], underway: Tried | None) -> Tried:
    number = underway.number if underway else 1 + max((one.number for one in tried), default=-1)
    study = Study(ground.candidate, ground.recipe.search, tried, number=number, epochs=ground.epochs)
    values = study.ask(underway)
    book, planned = _begin(ground, tried, underway, number=number, values=values)

    def told(epoch: Epoch) -> None:
        book.log_epoch(epoch)
        if study.gives_up(epoch.epoch, epoch.val_loss):
            raise GivenUp

    started = time.perf_counter()
    state, figures, error = _fit(ground, planned, book.state, told)
    # Of a trial that was killed, what its finished epochs took counts as well.
    seconds = (underway.seconds if underway else 0.0) + time.perf_counter() - started
    figures |= {"train_seconds": seconds, "train_cost": cost_of(ground.recipe, seconds)}
    end_trial(book, state, figures, error)
    one = read_trial(ground.client, book.run_id)
    log.info("%s: trial %d is %s, loss %s, %.1f s: %s", ground.candidate.name, number, state, one.loss, seconds, values)
    return one


def _begin(
    ground: Ground, tried: Sequence[Tried], underway: Tried | None, *, number: int, values: dict[str, object]
) -> tuple[RunBook, fitting.Plan]:
    """The trial's run, under the search's, and its training as planned within what is left of the time."""
    left = ground.limit - sum(one.seconds for one in tried)
    candidate = with_values(ground.candidate, values)
    planned = fitting.plan(ground.settings, ground.recipe, candidate, ground.data, minutes=left / 60)
    tags = {
        MLFLOW_PARENT_RUN_ID: ground.run_id,
        MLFLOW_RUN_NAME: f"search of {candidate.name} {ground.run_key}, trial {number}",
        TRIAL: str(number),
        VALUES: json.dumps(values),
        **tags_of(ground.settings, ground.recipe, candidate.name, ground.data, ground.snapshot_uri, by="classy search"),
    }
    given = {**planned.parameters(), **given_of(ground.recipe, ground.data)}
    state = ground.state / f"trial-{number:04d}"
    state.mkdir(exist_ok=True)
    found = underway.run if underway else None
    return open_run(
        ground.client, found, state=state, data=ground.data, tags=tags, parameters=given, key=TRIAL
    ), planned


def _fit(
    ground: Ground, planned: fitting.Plan, state: Path, told: Callable[[Epoch], None]
) -> tuple[State, dict[str, float], str]:
    """How a trial ended, its figures, and what went wrong with it: a trial that fails is no failed search."""
    try:
        outcome = fitting.fit(planned, ground.data, state, on_epoch=told, decode=ground.decode)
    except GivenUp:
        return "pruned", {}, ""
    except (FitError, BuildError) as error:
        return "failed", {}, str(error)
    except (RuntimeError, MemoryError) as error:
        # Where a training says so itself it is a FitError; a validation or the building of a model do not.
        if not is_no_room(error):
            raise
        return "failed", {}, f"there is no memory for it: {error}"
    finally:
        if planned.device.type == "cuda":
            torch.cuda.empty_cache()
    return "complete", {f"val_{name}": value for name, value in outcome.val.items()}, ""
