"""A candidate of the recipe, fitted: where the recipe's words become the training room's numbers."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.search_sections import with_values
from pipelines.settings import Settings
from pipelines.training_sections import Candidate, Input, NetworkCandidate, ResnetCandidate, SklearnCandidate
from training import metrics
from training.baseline import fit_baseline, standardise
from training.bounds import BoundReport
from training.calibrate import fit_temperature
from training.data import SnapshotData, Split
from training.distributed import ALONE, Workers
from training.evaluation import logits_of
from training.fit import Fit
from training.inputs import Decode, pick_input
from training.models import Classifier, ModelSpec, build, load_weights, torchvision_side
from training.options import Epoch, FitOptions
from training.place import pick_device, pick_precision, use_threads
from training.schedule import Budget, tightest

SMALL = 32
"""Pictures up to this side are trained on one thread: sharing a batch out costs as much as it saves, and threads
that wait for each other stand still on a machine that does other things."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One training, decided: what is built, how, and where it runs."""

    candidate: Candidate
    spec: ModelSpec
    drift_from: str | None
    """The day from which on rows count `drift_weight` times; None: all count alike."""
    options: FitOptions | None
    """None for a baseline, which has no epochs."""
    input: Input
    budget: Budget
    device: torch.device
    precision: str
    threads: int

    def parameters(self) -> dict[str, Any]:
        """Every value that was used, for the run."""
        return {
            **self.candidate.model_dump(mode="json"),
            "drift_from": self.drift_from or "",
            "device": self.device.type,
            "device_name": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "precision": self.precision,
            "threads": self.threads,
            "input": self.input.pipeline,
            "budget_seconds": self.budget.seconds,
            "budget_named": self.budget.named,
            "image_size": self.spec.size,
            "context_width": self.spec.context,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A fitted candidate."""

    model: Classifier
    temperature: float
    val: dict[str, float]
    """Calibrated metrics on the validation rows."""
    epochs: int
    best_epoch: int
    resumed_from: int | None
    stopped_by: str
    seconds: float
    work_seconds: float
    """The same times the workers there were."""
    planned: float
    """Epochs that the schedule was fitted to in the end."""
    report: BoundReport | None
    """What a network's steps were bound by."""
    input_why: str


def choose(recipe: Recipe, name: str, epochs: int | None, chosen: Mapping[str, Any] | None = None) -> Candidate:
    """The recipe's candidate, with what was chosen for it and another number of epochs if one was asked for.

    Raises:
        ClassyError: no such candidate, no such number, or a value that its field cannot have.
    """
    candidate = recipe.candidate(name)
    try:
        candidate = with_values(candidate, chosen or {})
    except ValueError as error:
        raise ClassyError(f"chosen values of {name}: {error}") from None
    if epochs is None or isinstance(candidate, SklearnCandidate):
        return candidate
    if epochs < 1:
        raise ClassyError(f"epochs={epochs}: a training has at least one")
    return candidate.model_copy(update={"epochs": epochs})


def plan(
    settings: Settings, recipe: Recipe, candidate: Candidate, data: SnapshotData, *, minutes: float | None = None,
    workers: Workers = ALONE,
) -> Plan:  # fmt: skip
    """Decide device, precision, shape and budget of a training on this snapshot.

    Args:
        minutes: instead of the recipe's `budget.train_minutes`.
        workers: this process's place among those that train it.

    Raises:
        FitError: the device that was asked for is not there.
    """
    seat, device = workers.seat, torch.device("cpu")
    if not isinstance(candidate, SklearnCandidate):
        device = pick_device(settings.device, seat.local_rank, seat.local_world)
    spec = ModelSpec(
        kind=candidate.kind,
        classes=len(data.classes),
        context=len(data.context_names),
        size=int(data.meta["size"]),
        options=options_of(candidate, int(data.meta["size"])),
    )
    drift_from = data.meta.get("drift_from")
    precision, options = "float32", None
    if isinstance(candidate, NetworkCandidate):
        precision = pick_precision(candidate.precision, device)
        options = _fit_options(candidate, data, precision)
    return Plan(
        candidate=candidate,
        spec=spec,
        drift_from=drift_from,
        options=options,
        input=recipe.input,
        budget=budget_of(recipe, device, minutes, seat.world),
        device=device,
        precision=precision,
        threads=use_threads(settings.threads or (1 if spec.size <= SMALL else 0), seat.local_world),
    )


def budget_of(recipe: Recipe, device: torch.device, minutes: float | None = None, workers: int = 1) -> Budget:
    """The limit of the recipe that a training by so many workers on such devices reaches first."""
    limits = recipe.budget
    return tightest(
        minutes=limits.train_minutes if minutes is None else minutes,
        gpu_hours=limits.gpu_hours,
        money=limits.money,
        price_per_hour=limits.price_per_hour,
        gpus=workers if device.type == "cuda" else 0,
    )


def options_of(candidate: Candidate, size: int) -> dict[str, Any]:
    """`ModelSpec.options` of a candidate for images of `size` pixels."""
    if isinstance(candidate, SklearnCandidate):
        return {"pixels": candidate.pixels}
    if isinstance(candidate, ResnetCandidate):
        return {"width": candidate.width, "blocks": list(candidate.blocks)}
    side = torchvision_side(candidate.architecture, size, pretrained=bool(candidate.weights))
    options = {"architecture": candidate.architecture, "side": side}
    return {**options, "pixels": "caffe"} if candidate.pixels == "caffe" else options


def _fit_options(candidate: NetworkCandidate, data: SnapshotData, precision: str) -> FitOptions:
    same = (
        "name", "seed", "epochs", "batch", "lr", "weight_decay", "label_smoothing", "flip", "shift", "ema", "compile",
    )  # fmt: skip
    return FitOptions(
        **{field: getattr(candidate, field) for field in same},
        recent_weight=candidate.drift_weight,
        recent_since=data.meta.get("drift_from"),
        patience=candidate.patience,
        progressive=getattr(candidate, "progressive", 1.0),
        precision=precision,  # type: ignore[arg-type]
        data=data.snapshot_id,
    )


def fit(
    planned: Plan,
    data: SnapshotData,
    state: Path,
    *,
    on_epoch: Callable[[Epoch], None],
    decode: Decode | None = None,
    workers: Workers = ALONE,
) -> Outcome:
    """Fit, then calibrate on the validation rows.

    Args:
        state: folder of the checkpoint; a killed training goes on from there.
        on_epoch: told of each finished epoch of a network, by the leader of the workers.
        decode: a training row's photo, decoded from what came; None where those are kept no longer.

    Raises:
        FitError, BuildError: it cannot be trained as planned.
    """
    train, val = data.split("train"), data.split("val")
    if planned.options is None:
        return _fit_baseline(planned, train, val)
    torch.manual_seed(planned.candidate.seed)
    model = build(planned.spec)
    weights = getattr(planned.candidate, "weights", "")
    if weights:
        load_weights(model, weights)
    standardise(model, train, pixels=not weights)
    picked = pick_input(
        planned.input.pipeline,
        train,
        planned.device,
        batch=planned.options.batch,
        decode=decode,
        threads=planned.input.workers,
        workers=workers,
    )
    loop = Fit(model, train, val, planned.options, planned.device, source=picked.input, workers=workers)
    fitted = loop.run(state, budget_seconds=planned.budget.seconds, on_epoch=on_epoch)
    temperature, figures = _calibrated(model, val, planned.device)
    return Outcome(
        model=model.cpu(),
        temperature=temperature,
        val=figures,
        epochs=fitted.epochs,
        best_epoch=fitted.best_epoch,
        resumed_from=fitted.resumed_from,
        stopped_by=fitted.stopped_by,
        seconds=fitted.seconds,
        work_seconds=fitted.work_seconds,
        planned=fitted.planned,
        report=fitted.report,
        input_why=picked.why,
    )


def _fit_baseline(planned: Plan, train: Split, val: Split) -> Outcome:
    candidate = planned.candidate
    if not isinstance(candidate, SklearnCandidate):
        raise TypeError(f"{candidate.name}: is no baseline")
    started = time.perf_counter()
    model = fit_baseline(
        planned.spec,
        train,
        c=candidate.c,
        seed=candidate.seed,
        recent_weight=candidate.drift_weight,
        recent_since=planned.drift_from,
    )
    seconds = time.perf_counter() - started
    temperature, figures = _calibrated(model, val, planned.device)
    return Outcome(
        model=model,
        temperature=temperature,
        val=figures,
        epochs=1,
        best_epoch=1,
        resumed_from=None,
        stopped_by="epochs",
        seconds=seconds,
        work_seconds=seconds,
        planned=1.0,
        report=None,
        input_why="a baseline has no batches",
    )


def _calibrated(model: Classifier, val: Split, device: torch.device) -> tuple[float, dict[str, float]]:
    logits, _ = logits_of(model, val, device)
    temperature = fit_temperature(logits, val.labels)
    return temperature, metrics.summary(metrics.softmax(logits, temperature), val.labels)
