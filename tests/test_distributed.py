"""Many workers: they share each batch, end as one does, stop together, and come back when one is killed."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_fit import OPTIONS, a_fit
from training.batches import Share, chunks, draw
from training.distributed import Seat, Workers, joined
from training.fit import Fit
from training.inputs import Batch
from training.launch import launch
from training.options import Epoch, FitError, FitOptions

UNEVEN = replace(OPTIONS, batch=30, epochs=2, ema=0.9, flip=True, progressive=0.5)
"""200 rows in batches of 30: the last has 20. An odd share is a row more for one of them."""
TOLERANCE = 1e-3
"""Of losses and accuracies after two epochs; five times that of all weights' length. Sums are taken in another order,
and AdamW makes a whole step even of a gradient that is nothing but rounding."""


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


class Struck:
    """An input to which something happens in the second epoch, from its fifth batch on."""

    name = "shards"

    def __init__(self, fit: Fit, strike: Callable[[], None]) -> None:
        self._whole, self._fit, self._strike = fit.source, fit, strike

    def batches(self, *args: Any, first: int = 0, **more: Any) -> Iterator[Callable[[], Batch]]:
        for step, take in enumerate(self._whole.batches(*args, first=first, **more), first):
            if self._fit.progress.history and step >= 4:
                self._strike()
            yield take


def once(place: Path, what: Callable[[], None]) -> Callable[[], None]:
    def strike() -> None:
        if not place.exists():
            place.touch()
            what()

    return strike


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise FitError("this worker finds no photo 17")


def enough(epoch: Epoch) -> None:
    raise FitError("enough")


def nothing(epoch: Epoch) -> None: ...


def train(state: str, options: FitOptions, how: str = "") -> dict[str, Any]:
    """In each worker: the training of `tests.test_fit`, with what is to happen to the last of them."""
    folder = Path(state)
    folder.mkdir(exist_ok=True)
    with joined() as workers:
        fit = a_fit(options, workers=workers)
        last = workers.share.rank == workers.share.world - 1
        strikes = {"killed": once(folder / "killed", die), "refused": refuse, "always killed": die}
        if last and how in strikes and workers.share.world > 1:
            fit.source = Struck(fit, strikes[how])
        if last and how == "nan":
            fit.train.context[:] = np.nan
        tell = enough if how == "one epoch" else nothing
        fitted = fit.run(folder, budget_seconds=1e9, on_epoch=tell, checkpoint_seconds=0)
        layers = [type(layer).__name__ for layer in fit.stepper.model.modules()]
        history = [(epoch.train_loss, epoch.val_loss, epoch.val_accuracy) for epoch in fit.progress.history]
        return {
            "weights": {name: value.detach().numpy() for name, value in fit.stepper.model.named_parameters()},
            "gradients": {name: value.grad.numpy() for name, value in fit.stepper.model.named_parameters()
                          if value.grad is not None},
            "figures": [value for epoch in history for value in epoch],
            "fitted": fitted, "world": workers.share.world, "norms": {name for name in layers if "Norm" in name},
        }  # fmt: skip


def launched(
    folder: Path, workers: int, options: FitOptions = UNEVEN, how: str = "", *, name: str = "", restarts: int = 0
) -> dict[str, Any]:
    state = folder / (name or str(workers))
    return launch(
        train, str(state), options, how, workers=workers, restarts=restarts, logs=folder / "logs",
        mark=lambda: state.stat().st_mtime_ns if state.exists() else 0,
    )  # fmt: skip


def far(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The length of the difference as a share of the length of all."""
    apart = np.concatenate([(value - other[name]).ravel() for name, value in one.items()])
    return float(np.linalg.norm(apart) / np.linalg.norm(np.concatenate([value.ravel() for value in one.values()])))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one worker makes of `UNEVEN`, in this process."""
    return train(str(tmp_path_factory.mktemp("whole") / "state"), UNEVEN)


def test_two_end_as_one(tmp_path: Path, whole: dict[str, Any]) -> None:
    two = launched(tmp_path, 2)
    assert (whole["world"], two["world"]) == (1, 2)
    assert (whole["norms"], two["norms"]) == ({"BatchNorm1d", "BatchNorm2d"}, {"SharedNorm"})
    assert two["figures"] == pytest.approx(whole["figures"], rel=TOLERANCE)
    assert far(whole["weights"], two["weights"]) < 5 * TOLERANCE
    report = two["fitted"].report
    assert report.exchange > 0
    assert two["fitted"].work_seconds == pytest.approx(2 * two["fitted"].seconds)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_one_step_of_three_has_the_gradients_of_one(tmp_path: Path, precision: Any, tolerance: float) -> None:
    step = replace(UNEVEN, batch=200, epochs=1, precision=precision)
    one, three = train(str(tmp_path / "one"), step), launched(tmp_path, 3, step)
    assert three["world"] == 3
    assert far(one["gradients"], three["gradients"]) < tolerance


def test_a_killed_worker_is_brought_back_and_they_end_the_same(tmp_path: Path, whole: dict[str, Any]) -> None:
    two = launched(tmp_path, 2, how="killed", restarts=1)
    assert (tmp_path / "2" / "killed").exists()
    assert (two["world"], two["fitted"].resumed_from) == (2, 1)
    assert two["figures"] == pytest.approx(whole["figures"], rel=TOLERANCE)


def test_one_that_cannot_come_back_is_done_without(tmp_path: Path, whole: dict[str, Any]) -> None:
    with pytest.raises(FitError, match=r"workers died 2 times, .*worker 1 was ended by SIGKILL, its log is /") as told:
        launched(tmp_path, 2, how="always killed", restarts=1)
    assert (Path(str(told.value).rsplit(" ", 1)[1]) / "stderr.log").is_file()
    fewer = launched(tmp_path, 2, how="always killed", restarts=2)
    assert (fewer["world"], fewer["fitted"].resumed_from) == (1, 1)
    assert fewer["figures"] == pytest.approx(whole["figures"], rel=TOLERANCE)


def test_a_checkpoint_is_taken_up_by_any_number(tmp_path: Path, whole: dict[str, Any]) -> None:
    for first, second in ((1, 2), (2, 1)):
        name = f"{first} then {second}"
        with pytest.raises(FitError, match="enough"):
            launched(tmp_path, first, how="one epoch", name=name)
        found = launched(tmp_path, second, name=name)
        assert (found["world"], found["fitted"].resumed_from) == (second, 1)
        assert found["figures"] == pytest.approx(whole["figures"], rel=TOLERANCE)


def test_what_all_refuse_is_not_begun_again(tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"^candidate resnet: the loss is nan in epoch 1 .*in batch 1 \(photos "):
        launched(tmp_path, 2, how="nan", restarts=3)
    assert len(list((tmp_path / "logs").iterdir())) == 1


def test_what_one_alone_cannot_do_ends_all(tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"worker 1 ended with exit code 1 .*alone: this worker finds no photo 17"):
        launched(tmp_path, 2, how="refused")


def test_too_many_workers_are_said_before_a_step(tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"3 workers, and batch=2 to share .*CLASSY_TRAIN_WORKERS"):
        a_fit(replace(OPTIONS, batch=2), workers=Workers(Seat(world=3)))
