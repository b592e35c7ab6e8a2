"""The loop: it learns, twice the same, ends when told, and a killed run resumes as if nothing had happened."""

import json
import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_models import CONTEXT, split
from training import checkpoint
from training.baseline import standardise
from training.batches import augment, draw, epoch_order, side_at
from training.data import Split
from training.evaluation import logits_of
from training.fit import CHECKPOINT, Fit, Fitted
from training.metrics import accuracy
from training.models import Classifier, ModelSpec, build
from training.options import Epoch, FitError, FitOptions
from training.place import pick_device, pick_precision

CPU = torch.device("cpu")
OPTIONS = FitOptions(
    name="resnet",
    seed=7,
    epochs=3,
    batch=32,
    lr=5e-3,
    weight_decay=1e-2,
    label_smoothing=0.05,
    flip=False,
    shift=0.08,
    data="digits",
)


def a_fit(options: FitOptions = OPTIONS, rows: int = 200, train_rows: Split | None = None, **more: Any) -> Fit:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    spec = ModelSpec(kind="resnet", classes=10, context=CONTEXT, size=16, options={"width": 8, "blocks": [1, 1]})
    model, train_rows = build(spec), train_rows or split(rows)
    standardise(model, train_rows)
    return Fit(model, train_rows, split(80, 1000), options, CPU, **more)


def train(folder: Path, options: FitOptions = OPTIONS, *, budget: float = 1e9, rows: int = 200,
          on_epoch=lambda epoch: None, **more: Any) -> tuple[Classifier, Fitted]:  # fmt: skip
    fit = a_fit(options, rows, **more)
    return fit.stepper.model, fit.run(folder, budget_seconds=budget, on_epoch=on_epoch)


def same(one: Classifier, other: Classifier) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in mine.items())


def test_it_learns(tmp_path: Path) -> None:
    model, fitted = train(tmp_path, replace(OPTIONS, epochs=10, lr=1e-2), rows=800)
    rows = split(200, 1200)
    logits, embedding = logits_of(model, rows, CPU)
    assert accuracy(logits, rows.labels) > 0.9
    assert embedding.shape[0] == 200
    assert (fitted.epochs, fitted.stopped_by, fitted.resumed_from) == (10, "epochs", None)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_runs_give_the_same_weights(tmp_path: Path, precision: str) -> None:
    options = replace(OPTIONS, epochs=2, flip=True, recent_weight=1.5, recent_since="2026-02-01", precision=precision)
    one, _ = train(tmp_path / "one", options)
    other, _ = train(tmp_path / "other", options)
    assert same(one, other)
    another, _ = train(tmp_path / "another", replace(options, seed=8))
    assert not same(one, another)


def train_and_die(folder: Path, last: int) -> None:
    def die(finished: Epoch) -> None:
        if finished.epoch == last:
            os.kill(os.getpid(), signal.SIGKILL)

    train(folder, on_epoch=die)


def killed_after(folder: Path, epoch: int) -> None:
    """Train in another process, which gets SIGKILL when it has told of `epoch`.

    Forked of a server that has imported and not trained: autograd refuses to work in the fork of a process where it has
    worked, and a spawned one would import torch each time.
    """
    die_in_a_process(train_and_die, folder, epoch)


def die_in_a_process(work: Callable[..., object], *args: object) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_fit"])
    child = context.Process(target=work, args=args)
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL


def test_a_killed_training_resumes_at_its_last_epoch_and_ends_the_same(tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole")
    killed = tmp_path / "killed"
    killed_after(killed, 2)
    told: list[Epoch] = []
    resumed, fitted = train(killed, on_epoch=told.append)
    assert (fitted.resumed_from, fitted.epochs) == (2, 3)
    assert [epoch.epoch for epoch in told] == [2, 3], "the epoch that may not have been told is told again"
    assert same(whole, resumed)


EVERYTHING = replace(OPTIONS, flip=True, recent_weight=1.5, recent_since="2026-02-01", ema=0.9, progressive=0.5)


def train_by_steps(folder: Path, budget: float, last: int | None = None) -> tuple[Fit, Fitted]:
    """Train with a checkpoint each step and a clock that counts steps; SIGKILL itself after step `last`."""
    fit = a_fit(EVERYTHING)

    def clock() -> float:
        if last is not None and fit.stepper.updates >= last:
            os.kill(os.getpid(), signal.SIGKILL)
        return float(fit.stepper.updates)

    fit._clock = clock
    return fit, fit.run(folder, budget_seconds=budget, on_epoch=lambda _: None, checkpoint_seconds=1)


@pytest.mark.parametrize(("budget", "epochs"), [(1e9, 3.0), (19.0, 1.9)])
def test_killed_within_epochs_and_again_it_ends_the_same(tmp_path: Path, budget: float, epochs: float) -> None:
    whole, unbroken = train_by_steps(tmp_path / "whole", budget)
    killed = tmp_path / "killed"
    for last in (4, 13):
        die_in_a_process(train_by_steps, killed, budget, last)
        _, meta = checkpoint.read_tensors(killed / CHECKPOINT)
        assert meta["place"] is not None, "it died within an epoch"
    resumed, fitted = train_by_steps(killed, budget)
    assert fitted.resumed_from == 1
    assert (fitted.planned, fitted.stopped_by) == (unbroken.planned, unbroken.stopped_by)
    assert fitted.planned == pytest.approx(epochs, abs=0.1)
    assert same(whole.stepper.model, resumed.stepper.model)
    assert fitted.epochs == unbroken.epochs


def test_a_training_that_is_over_is_not_repeated(tmp_path: Path) -> None:
    once, _ = train(tmp_path)
    told: list[Epoch] = []
    again, fitted = train(tmp_path, on_epoch=told.append)
    assert [epoch.epoch for epoch in told] == [3]
    assert fitted.resumed_from == 3
    assert same(once, again)


@pytest.mark.parametrize("how", ["other options", "torn file"])
def test_a_checkpoint_that_is_not_ours_is_not_resumed(tmp_path: Path, how: str) -> None:
    train(tmp_path)
    if how == "torn file":
        path = tmp_path / CHECKPOINT
        path.write_bytes(path.read_bytes()[:1000])
        options = OPTIONS
    else:
        options = replace(OPTIONS, data="other rows")
    _, fitted = train(tmp_path, options)
    assert fitted.resumed_from is None


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / CHECKPOINT
    checkpoint.write_tensors(path, {"a": torch.ones(2)}, {"epoch": 1})
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write_tensors(path, {"a": torch.zeros(2)}, {"epoch": 2})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [CHECKPOINT], "nothing half-written stays"


def test_the_budget_ends_it_in_order_with_the_best_weights(tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=10_000)
    model, fitted = train(tmp_path, options, budget=1.0)
    assert fitted.stopped_by == "budget"
    assert 1 <= fitted.epochs < 10_000
    tensors, meta = checkpoint.read_tensors(tmp_path / CHECKPOINT)
    losses = [epoch["val_loss"] for epoch in meta["history"]]
    assert fitted.best_epoch == int(np.argmin(losses)) + 1
    best = checkpoint.without("best", tensors)
    assert all(torch.equal(value, best[key]) for key, value in model.state_dict().items())


def test_the_rate_ends_at_its_end_whatever_the_budget(tmp_path: Path) -> None:
    fit = a_fit(replace(OPTIONS, epochs=100))
    fit._clock = lambda: float(fit.stepper.updates)
    told: list[Epoch] = []
    fitted = fit.run(tmp_path, budget_seconds=40.0, on_epoch=told.append)
    assert (fitted.stopped_by, fitted.planned) == ("budget", pytest.approx(40 / 7, rel=0.05))
    assert told[-1].lr < 0.05 * OPTIONS.lr, "not cut off on its height"
    assert 35 < fitted.seconds <= 40
    assert told[-1].position == pytest.approx(fitted.planned, abs=0.15)


def test_more_time_for_a_training_that_was_over_is_used(tmp_path: Path) -> None:
    def run(budget: float) -> Fitted:
        fit = a_fit(replace(OPTIONS, epochs=100))
        fit._clock = lambda: float(fit.stepper.updates)
        return fit.run(tmp_path, budget_seconds=budget, on_epoch=lambda _: None)

    first, second, third = run(21.0), run(21.0), run(42.0)
    assert second.epochs == first.epochs
    assert third.epochs > first.epochs


def test_an_average_is_validated_and_kept(tmp_path: Path) -> None:
    options = replace(OPTIONS, ema=0.9)
    fit = a_fit(options)
    fit.stepper.model.context_std[2] = fit.stepper.average.context_std[2] = np.inf  # a column that never varies
    fitted = fit.run(tmp_path, budget_seconds=1e9, on_epoch=lambda _: None)
    tensors, meta = checkpoint.read_tensors(tmp_path / CHECKPOINT)
    live, average = (checkpoint.without(part, tensors) for part in ("model", "average"))
    assert not torch.equal(live["head.classes.weight"], average["head.classes.weight"])
    logits, _ = logits_of(fit.stepper.model, fit.val, CPU)
    assert accuracy(logits, fit.val.labels) == meta["history"][fitted.best_epoch - 1]["val_accuracy"]


def test_pictures_grow_to_their_side() -> None:
    options = replace(OPTIONS, progressive=0.5)
    sides = [side_at(share / 20, 64, options) for share in range(21)]
    assert (sides[0], sides[15], sides[-1]) == (32, 64, 64)
    assert sides == sorted(sides)
    assert all(side % 8 == 0 for side in sides)
    assert {side_at(share / 20, 64, OPTIONS) for share in range(21)} == {64}


@pytest.mark.parametrize("change", [{"channels_last": False}, {"fused": False}])
def test_what_makes_it_faster_changes_no_more_than_rounding(tmp_path: Path, change: dict[str, bool]) -> None:
    options = replace(OPTIONS, epochs=1, batch=64)
    mine: list[Epoch] = []
    theirs: list[Epoch] = []
    train(tmp_path / "one", options, on_epoch=mine.append)
    train(tmp_path / "other", replace(options, **change), on_epoch=theirs.append)
    assert theirs[0].train_loss == pytest.approx(mine[0].train_loss, rel=1e-3)


def test_a_budget_shorter_than_an_epoch_still_gives_a_model(tmp_path: Path) -> None:
    _, fitted = train(tmp_path, budget=1e-6)
    assert (fitted.epochs, fitted.stopped_by) == (1, "budget")


def test_patience_stops_a_training_that_gets_no_better(tmp_path: Path) -> None:
    # Steps too small to change anything: the first epoch stays the best.
    _, fitted = train(tmp_path, replace(OPTIONS, epochs=50, lr=1e-12, patience=2))
    assert fitted.stopped_by == "patience"
    assert fitted.epochs == fitted.best_epoch + 2


def test_a_loss_that_is_not_finite_names_epoch_rate_and_batch(tmp_path: Path) -> None:
    with pytest.raises(
        FitError, match=r"candidate resnet: the loss is (nan|inf) in epoch 1 at lr=.*lower its lr"
    ) as told:
        train(tmp_path, replace(OPTIONS, lr=1e38))
    assert re.search(r"in batch [1-7] \(photos \d{4}, \d{4}, \d{4}, …\)", str(told.value))
    assert not (tmp_path / CHECKPOINT).exists()


def test_the_photos_of_a_bad_batch_are_named_and_the_good_checkpoint_is_kept(tmp_path: Path) -> None:
    fit = a_fit(replace(OPTIONS, batch=2))
    fit.train.context[17] = np.nan
    with pytest.raises(FitError, match="the loss is nan in epoch 1") as told:
        fit.run(tmp_path / "one", budget_seconds=1e9, on_epoch=lambda _: None)
    assert "0017" in str(told.value)

    fit = a_fit()

    def spoil(finished: Epoch) -> None:
        fit.train.context[:] = np.nan if finished.epoch == 2 else fit.train.context

    with pytest.raises(FitError, match=r"nan in epoch 3.*the checkpoint of epoch 2 is kept"):
        fit.run(tmp_path / "later", budget_seconds=1e9, on_epoch=spoil)
    _, meta = checkpoint.read_tensors(tmp_path / "later" / CHECKPOINT)
    assert len(meta["history"]) == 2


def test_recent_rows_are_drawn_more_often() -> None:
    recent = np.arange(1000) >= 900
    options = replace(OPTIONS, recent_weight=2.5)
    order = epoch_order(options, recent, 1)
    drawn = np.bincount(order, minlength=1000)
    assert (drawn[:900] == 1).all()
    assert set(drawn[900:]) == {2, 3}
    assert drawn[900:].mean() == pytest.approx(2.5, abs=0.2)
    assert not np.array_equal(order, epoch_order(options, recent, 2))


def test_augmentation_shifts_and_mirrors_whole_pictures() -> None:
    side, most = 8, 2
    image = np.arange(side * side * 3, dtype=np.uint8).reshape(1, side, side, 3)
    batch = torch.from_numpy(np.repeat(image, 200, axis=0))
    options = replace(OPTIONS, shift=0.25, flip=True)
    moved = augment(batch, draw(200, side, options, np.random.default_rng(0)))
    wide = np.pad(image[0], ((most, most), (most, most), (0, 0)), mode="edge")
    allowed = {
        wide[y : y + side, x : x + side][:, ::step].tobytes()
        for y in range(2 * most + 1)
        for x in range(2 * most + 1)
        for step in (1, -1)
    }
    seen = {picture.numpy().tobytes() for picture in moved}
    assert seen <= allowed
    assert len(seen) > 25
    assert augment(batch, draw(200, side, replace(OPTIONS, shift=0.0), np.random.default_rng(0))) is batch


def test_rows_that_cannot_be_trained_on_are_refused_before_a_step() -> None:
    with pytest.raises(FitError, match="resnet: 1 training and 80 validation rows"):
        a_fit(rows=1)
    with pytest.raises(FitError, match=r"batch=32 is larger than the 20 training rows; set it to 20 or less"):
        a_fit(rows=20)
    zeros = split(200).take(np.flatnonzero(split(200).labels == 0))
    with pytest.raises(FitError, match=r"of one class only \(number 0\)"):
        a_fit(replace(OPTIONS, batch=4), train_rows=zeros)


def test_a_batch_that_has_no_room_hears_of_one_that_has() -> None:
    with pytest.raises(FitError, match=r"out of memory: batch=128 takes about .* a batch of (\d+) would fit") as told:
        a_fit(replace(OPTIONS, batch=128), free=4_000_000)
    fits = int(re.search(r"batch of (\d+) would", str(told.value))[1])
    assert 2 <= fits < 128
    a_fit(replace(OPTIONS, batch=fits), free=4_000_000)
    with pytest.raises(FitError, match="not even a batch of 2"):
        a_fit(free=100_000)


def test_memory_that_ends_in_the_middle_is_said_the_same_way(tmp_path: Path) -> None:
    fit = a_fit(rows=200)
    whole = fit.source.batches

    def huge(*args: Any, **more: Any) -> Any:
        for take in whole(*args, **more):
            far = replace(take(), images=torch.zeros(1, 16, 16, 3, dtype=torch.uint8).expand(1 << 50, -1, -1, -1))
            yield lambda far=far: far

    fit.source.batches = huge
    with pytest.raises(FitError, match=r"candidate resnet: out of memory: batch=32 .* would fit"):
        fit.run(tmp_path, budget_seconds=1e9, on_epoch=lambda _: None)


def test_device_and_precision_are_what_was_asked_or_said_why_not() -> None:
    assert pick_precision("float32", CPU) == "float32"
    assert pick_precision("auto", CPU) in ("float32", "bfloat16")
    if torch.cuda.is_available():
        assert pick_device("auto").type == "cuda"
    else:
        assert pick_device("auto").type == "cpu"
        with pytest.raises(FitError, match="CLASSY_DEVICE=cuda"):
            pick_device("cuda")


def test_a_checkpoint_is_json_and_tensors(tmp_path: Path) -> None:
    train(tmp_path)
    raw = (tmp_path / CHECKPOINT).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert json.loads(header["__metadata__"]["json"])["best_epoch"] in (1, 2, 3)
