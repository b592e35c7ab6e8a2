"""Trials of a search, each a run under the search's run: read back, begun, ended. MLflow is their only record."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from pipelines.models import tracking
from pipelines.models.runs import EPOCH_METRICS, RunBook

TRIAL = "classy.trial"
"""The trial's number, from 0."""
STATE = "classy.trial_state"
"""Its presence says that a trial is over."""
VALUES = "classy.trial_values"
"""What it tried, as JSON: parameters are text, and rounded by none who reads them."""
LOSS = "val_log_loss"

State = Literal["complete", "pruned", "failed"]
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One trial: what it tried and what came of it."""

    number: int
    run: Run
    values: dict[str, Any]
    """Field of the candidate → value."""
    state: State | None
    """None: it was killed under way."""
    loss: float | None = None
    """Log loss on the validation rows, calibrated; of a complete trial."""
    losses: dict[int, float] = field(default_factory=dict)
    """Epoch → log loss on the validation rows, not calibrated."""
    seconds: float = 0.0
    error: str = ""


def read_trials(client: MlflowClient, run_id: str) -> list[Tried]:
    """The trials under a search's run, in their order."""
    runs = [run for run in tracking.children(client, run_id) if run.data.tags.get(TRIAL, "").isdigit()]
    return sorted((_read(client, run) for run in runs), key=lambda one: one.number)


def read_trial(client: MlflowClient, run_id: str) -> Tried:
    """One of them."""
    return _read(client, client.get_run(run_id))


def _read(client: MlflowClient, run: Run) -> Tried:
    tags, metrics = run.data.tags, run.data.metrics
    state: State | None = tags.get(STATE)  # type: ignore[assignment]
    if state is not None and run.info.status != STATUS[state]:
        # Killed between the two.
        client.set_terminated(run.info.run_id, STATUS[state])
    return Tried(
        number=int(tags[TRIAL]),
        run=run,
        values=json.loads(tags[VALUES]),
        state=state,
        loss=metrics.get(LOSS),
        losses=_history(client, run, "val_loss"),
        seconds=metrics.get("train_seconds", sum(_history(client, run, "seconds").values())),
        error=tags.get("classy.error", ""),
    )


def _history(client: MlflowClient, run: Run, name: str) -> dict[int, float]:
    if EPOCH_METRICS[name] not in run.data.metrics:
        return {}
    return {entry.step: entry.value for entry in client.get_metric_history(run.info.run_id, EPOCH_METRICS[name])}


def end_trial(book: RunBook, state: State, figures: Mapping[str, float], error: str) -> None:
    """Figures, then the state, then the status: the order lets a kill in between be repeated. Frees the checkpoint."""
    book.log_figures(figures)
    if error:
        book.client.set_tag(book.run_id, "classy.error", error[:1000])
    book.client.set_tag(book.run_id, STATE, state)
    book.client.set_terminated(book.run_id, STATUS[state])
    shutil.rmtree(book.state)
