"""Many workers: they share each batch, end as one does, stop together, and come back when one is killed."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.test_fit import CPU, OPTIONS, a_fit
from training import checkpoint
from training.batches import Share, chunks, draw
from training.distributed import Seat, joined
from training.fit import CHECKPOINT, Fit
from training.launch import launch
from training.models import ModelSpec
from training.options import Epoch, FitError, FitOptions

UNEVEN = replace(OPTIONS, batch=30, epochs=2, ema=0.9, flip=True, progressive=0.5)
"""200 rows in batches of 30: the last has 20. An odd share is a row more for one of them."""
TOLERANCE = 2e-3
"""Of weights after two epochs, as a share of the largest in their tensor: sums are taken in another order."""


@given(count=st.integers(0, 300), world=st.integers(1, 9), size=st.integers(2, 64), first=st.integers(0, 4))
def test_shares_are_each_batch_whole_and_level(count: int, world: int, size: int, first: int) -> None:
    order = np.random.default_rng(count).permutation(count)
    shares = [list(chunks(order, size, Share(rank=rank, world=world), first)) for rank in range(world)]
    assert len({len(taken) for taken in shares}) == 1, "as many steps in each"
    for step, parts in enumerate(zip(*shares, strict=True), first):
        rows = order[step * size : (step + 1) * size]
        np.testing.assert_array_equal(np.concatenate([part.rows for part in parts]), rows)
        sizes = [len(part.rows) for part in parts]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        assert {part.count for part in parts} == {len(rows)}
        moves = draw(len(rows), 16, UNEVEN, np.random.default_rng(step))
        told = np.concatenate([moves.of(part.part).told for part in parts])
        np.testing.assert_array_equal(told, moves.told)


# ------------------------------------------------------------------------------- what workers do, by name


def train(state: str, options: FitOptions, how: str = "") -> dict[str, Any]:
    """In each worker: the training of `tests.test_fit`, with what is to happen to it."""
    with joined() as workers:
        fit = a_fit(options, workers=workers)
        if how == "nan for the second" and not workers.leads:
            fit.train.context[:] = np.nan
        if how == "a refusal of the second" and not workers.leads:
            fit.source = Broken(fit, FitError("this one has no photo"))
        fitted = fit.run(
            Path(state), budget_seconds=1e9, on_epoch=lambda epoch: after(how, epoch), checkpoint_seconds=0
        )
        weights = {key: value.tolist() for key, value in fit.stepper.model.state_dict().items()}
        return {
            "weights": weights, "best": fitted.best_epoch, "resumed": fitted.resumed_from, "world": workers.share.world,
            "report": None if fitted.report is None else fitted.report.to_json(), "losses": losses(fit),
            "norms": sorted({type(layer).__name__ for layer in fit.stepper.model.modules() if "Norm" in type(layer).__name__}),
        }  # fmt: skip


def losses(fit: Fit) -> list[float]:
    return [value for epoch in fit.progress.history for value in (epoch.train_loss, epoch.val_loss, epoch.val_accuracy)]


def after(how: str, epoch: Epoch) -> None:
    pass


class Broken:
    name = "shards"

    def __init__(self, fit: Fit, error: Exception) -> None:
        self._whole, self._error = fit.source, error

    def batches(self, *args: Any, **more: Any) -> Any:
        for step, take in enumerate(self._whole.batches(*args, **more)):
            if step == 3:
                raise self._error
            yield take


def together(
    tmp_path: Path, options: FitOptions, workers: int, how: str = "", name: str = "state", restarts: int = 0
) -> Any:
    state = tmp_path / name
    return launch(train, str(state), options, how, workers=workers, restarts=restarts, logs=tmp_path / "logs",
                  mark=lambda: None)  # fmt: skip


def far(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of weights, as a share of the largest weight of their tensor."""
    found = 0.0
    for key, value in one["weights"].items():
        mine, theirs = torch.tensor(value), torch.tensor(other["weights"][key])
        if mine.is_floating_point() and torch.isfinite(mine).all():
            found = max(found, float((mine - theirs).abs().max() / mine.abs().max().clamp_min(1e-3)))
    return found


def test_two_end_as_one(tmp_path: Path) -> None:
    one, two = (together(tmp_path, UNEVEN, workers, name=str(workers)) for workers in (1, 2))
    assert (one["world"], two["world"]) == (1, 2)
    assert one["norms"] == ["BatchNorm1d", "BatchNorm2d"]
    assert two["norms"] == ["SharedNorm"]
    print(far(one, two), one["losses"], two["losses"], two["report"])
    assert far(one, two) < TOLERANCE
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-3)
