"""How fast a network is trained: beside the plain recipe, feature by feature, and in how much memory.

    python -m benchmarks.bench_training            # `make bench` does; some minutes
    python -m benchmarks.bench_training --quick    # tries everything on a few photos; its figures mean nothing
    python -m benchmarks.bench_training --only time_to_accuracy,features

Parts: time_to_accuracy, bound, input, features, accuracy, memory, two_workers. What a call leaves out stays in the
file as it was measured. Digits need nothing; the clothing photos are measured where CLASSY_CLOTHING names them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import plain_training, training_photos
from benchmarks.record import Row, before, path_of, record
from benchmarks.training_photos import Photos
from benchmarks.worker_speed import rows_of, worker_speed
from pipelines.models.boundplot import draw_bound
from pipelines.recipe import load_recipe
from training.baseline import standardise
from training.fit import Fit, Fitted
from training.inputs import pick_input
from training.launch import launch
from training.models import ModelSpec, build
from training.options import Epoch, FitOptions
from training.place import pick_precision, use_threads
from training.shards import Mapped, Rows, open_shard, write_shard

CPU = torch.device("cpu")
PARTS = ("time_to_accuracy", "bound", "input", "features", "accuracy", "memory", "two_workers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    digits: int
    clothing: int
    """0: all there are."""
    rounds: int
    epochs: dict[str, int]
    target: dict[str, float]
    """Accuracy on unseen senders that both must reach."""
    feature_epochs: dict[str, int]
    feature_rounds: dict[str, int]
    input_seconds: float
    seeds: int
    memory_rows: int
    worker_steps: int


FULL = Size(
    digits=1797, clothing=0, rounds=3,
    epochs={"digits": 12, "clothing": 12}, target={"digits": 0.97, "clothing": 0.6},
    feature_epochs={"digits": 8, "clothing": 8}, feature_rounds={"digits": 3, "clothing": 2},
    input_seconds=3.0, seeds=5, memory_rows=2_000, worker_steps=12,
)  # fmt: skip
QUICK = Size(
    digits=200, clothing=80, rounds=1, epochs={"digits": 1, "clothing": 1}, target={"digits": 0.0, "clothing": 0.0},
    feature_epochs={"digits": 1, "clothing": 1}, feature_rounds={"digits": 1, "clothing": 1},
    input_seconds=0.1, seeds=1, memory_rows=100, worker_steps=2,
)  # fmt: skip


def options_for(name: str, seed: int, epochs: int) -> FitOptions:
    """The recipe's network, at a number of epochs of the bench."""
    chosen = load_recipe(name).candidate("resnet")
    same = ("batch", "lr", "weight_decay", "label_smoothing", "flip", "shift", "ema")
    return FitOptions(
        name=name, seed=seed, epochs=epochs, precision=pick_precision("auto", CPU), progressive=chosen.progressive,
        **{field: getattr(chosen, field) for field in same},
    )  # fmt: skip


def train(
    photos: Photos, seed: int, options: FitOptions, pipeline: str = "auto"
) -> tuple[list[tuple[float, float]], Fitted]:
    """Seconds since the beginning and accuracy after each epoch, and how it ended. The choice of the input counts.

    On every core, as `CLASSY_THREADS` sets it: the plain recipe has them too, and there is nothing else on the machine.
    """
    use_threads(0)
    torch.manual_seed(seed)
    where, unseen = photos.splits(seed)
    model, rows, val = build(photos.model), photos.rows(where), photos.rows(unseen)
    standardise(model, rows)
    told: list[tuple[float, float]] = []
    started = time.perf_counter()

    def tell(epoch: Epoch) -> None:
        told.append((time.perf_counter() - started, epoch.val_accuracy))

    with tempfile.TemporaryDirectory() as state:
        source = pick_input(pipeline, rows, CPU, batch=options.batch).input  # type: ignore[arg-type]
        fit = Fit(model, rows, val, options, CPU, source=source)
        fitted = fit.run(Path(state), budget_seconds=1e9, on_epoch=tell)
    return told, fitted


def until(epochs: Iterator[tuple[float, float]] | list[tuple[float, float]], target: float) -> float | None:
    """Seconds to the target; None where it was not reached."""
    return next((seconds for seconds, accuracy in epochs if accuracy >= target), None)


def spread(values: list[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}, {len(values)} runs"


# ---------------------------------------------------------------------------------------------------- parts


def time_to_accuracy(photos: Photos, size: Size) -> list[Row]:
    """Ours and the plain recipe in turns, to the same accuracy; and what ours waited for."""
    name, ours, plain, waits = photos.name, [], [], []
    # The first steps of a process choose and compile kernels, for both.
    train(photos, 0, options_for(name, 0, 1))
    next(plain_training.epochs(photos, 0, options_for(name, 0, 1)))
    for seed in range(size.rounds):
        options = options_for(name, seed, size.epochs[name])
        told, fitted = train(photos, seed, options)
        mine = until(told, size.target[name])
        use_threads(0)
        theirs = until(plain_training.epochs(photos, seed, options), size.target[name])
        if mine is None or theirs is None:
            print(f"{name}, seed {seed}: {size.target[name]:.0%} was not reached (ours {mine}, plain {theirs})")
            return []
        ours.append(mine)
        plain.append(theirs)
        waits.append(fitted.report.waiting if fitted.report else 0.0)
    wait, mine, theirs = (statistics.median(found) for found in (waits, ours, plain))
    return [
        Row(name=f"time_to_accuracy_{name}", ours=round(mine, 2), other=round(theirs, 2),
            other_name=f"DataLoader + Pillow, float32, to {size.target[name]:.0%}", unit="s", better="less",
            spread=f"ours {spread(ours)}; plain {spread(plain)}", goal=3.0),
        Row(name=f"loader_wait_{name}", ours=max(round(wait, 6), 1e-6), other=0.02, other_name="limit",
            unit="share of steps", better="less", spread=spread(waits)),
    ]  # fmt: skip


def bound(photos: Photos, size: Size) -> None:
    """Draw what bounds a training to HOME/bench/bound-NAME.png."""
    options = options_for(photos.name, 0, size.epochs[photos.name])
    train(photos, 0, replace(options, epochs=1))  # kernels are chosen
    _, fitted = train(photos, 0, options)
    if fitted.report and size is FULL:
        draw_bound(fitted.report).savefig(path_of(f"bound-{photos.name}.png"), dpi=110)


def input_speed(photos: Photos, size: Size) -> list[Row]:
    """Batches alone, without a network."""
    options = options_for(photos.name, 0, 1)
    where, _ = photos.splits(0)
    rows = photos.rows(where)
    source = pick_input("shards", rows, CPU, batch=options.batch).input
    order = np.tile(np.arange(len(rows)), 1000)
    plain = plain_training.loader(photos, where, options, train=True)
    ours, theirs = [], []
    for _ in range(max(size.rounds, 1)):
        ours.append(_images_per_s(lambda: (len(take().rows) for take in source.batches(order, options.batch)), size))
        theirs.append(_images_per_s(lambda: (len(labels) for _, labels in plain), size))
    return [
        Row(name=f"input_images_per_s_{photos.name}", ours=round(statistics.median(ours)),
            other=round(statistics.median(theirs)), other_name="DataLoader + Pillow", unit="images/s", better="more",
            spread=f"ours {spread(ours)}; plain {spread(theirs)}", goal=10.0)
    ]  # fmt: skip


def _images_per_s(batches: Callable[[], Iterator[int]], size: Size) -> float:
    """Once the first batch has come: workers have started then."""
    counts = batches()
    next(counts)
    started, seen = time.perf_counter(), 0
    for count in counts:
        seen += count
        if time.perf_counter() - started > size.input_seconds:
            break
    return seen / (time.perf_counter() - started)


FEATURES: dict[str, dict[str, Any]] = {
    "as the recipe says": {},
    "without channels-last": {"channels_last": False},
    "without the fused optimiser": {"fused": False},
    "bfloat16": {"precision": "bfloat16"},
    "float32": {"precision": "float32"},
    "progressive 0.5": {"progressive": 0.5},
    "whole pictures": {"progressive": 1.0},
    "average 0.99": {"ema": 0.99},
    "without an average": {"ema": 0.0},
    "torch.compile": {"compile": True},
    "early stop after 3": {"patience": 3},
}


def features(photos: Photos, size: Size, rounds: int) -> list[dict[str, Any]]:
    """Each feature switched, the others as the recipe has them: seconds of a training and to the accuracy that
    time_to_accuracy asks for, and the best accuracy."""
    base = options_for(photos.name, 0, size.feature_epochs[photos.name])
    wanted = {name: replace(base, **change) for name, change in FEATURES.items()}
    wanted = {name: options for name, options in wanted.items() if name == "as the recipe says" or options != base}
    if size is QUICK:
        del wanted["torch.compile"]  # a minute of compiling
    found: dict[str, list[tuple[float, float, float | None]]] = {name: [] for name in wanted}
    for seed in range(rounds):
        for name, options in wanted.items():
            told, _ = train(photos, seed, replace(options, seed=seed), "memory")
            best = max(accuracy for _, accuracy in told)
            found[name].append((told[-1][0], best, until(told, size.target[photos.name])))
            print(f"  {photos.name}, {name}: {told[-1][0]:.1f} s", flush=True)
    return [
        {
            "data": photos.name,
            "feature": name,
            "epochs": base.epochs,
            "seconds": round(statistics.median(run[0] for run in runs), 2),
            "accuracy": round(statistics.mean(run[1] for run in runs), 4),
            "accuracies": [round(run[1], 4) for run in runs],
            "seconds_to_target": [run[2] and round(run[2], 2) for run in runs],
        }
        for name, runs in found.items()
    ]


def accuracy_by_sender(photos: Photos, size: Size) -> dict[str, Any]:
    """The recipe's network as the recipe trains it, seed by seed, each with other senders held out."""
    epochs = load_recipe(photos.name).candidate("resnet").epochs if size is FULL else 1
    found, seconds = [], []
    for seed in range(size.seeds):
        told, _ = train(photos, seed, options_for(photos.name, seed, epochs))
        found.append(max(accuracy for _, accuracy in told))
        seconds.append(told[-1][0])
    deviation = statistics.stdev(found) if len(found) > 1 else 0.0
    return {"data": photos.name, "epochs": epochs, "accuracies": [round(value, 4) for value in found],
            "mean": round(statistics.mean(found), 4), "stdev": round(deviation, 4),
            "seconds": round(statistics.median(seconds), 1)}  # fmt: skip


# -------------------------------------------------------------------------------------------------- workers


def two_workers(size: Size) -> list[Row]:
    """Two workers of a thread each, in turns with one of one thread, one of two, and two that never exchange a word."""
    ways = ((2, 1, False), (1, 1, False), (1, 2, False), (2, 1, True))
    speeds: dict[tuple[int, int, bool], list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as logs:
        for _ in range(size.rounds):
            for (workers, threads, apart), found in speeds.items():
                found += launch(worker_speed, threads, size.worker_steps, 1, apart, workers=workers, restarts=0,
                                logs=Path(logs), mark=lambda: None)  # fmt: skip
    two, *others = (statistics.median(found) for found in speeds.values())
    ours, *told = (spread(found) for found in speeds.values())
    beside = (("two_workers", "one worker, one thread", 1.6),
              ("two_workers_beside_two_threads", "one worker, two threads", 0.0),
              ("two_workers_beside_two_apart", "two that exchange nothing: what the cores allow", 0.0))  # fmt: skip
    return [
        Row(name=name, ours=round(two, 1), other=round(other, 1), other_name=what, unit="images/s", better="more",
            spread=f"two {ours}; other {theirs}", goal=goal)
        for (name, what, goal), other, theirs in zip(beside, others, told, strict=True)
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------------- memory

ALONE = "--memory-rows"


def memory_of(rows: int) -> None:
    """In a process of its own: train on so many rows of random pictures, print the most private memory it had."""
    from pipelines.data.images import spec_of

    size = spec_of(load_recipe("clothing")).size
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        write_shard(Path(folder), (rng.integers(0, 256, (size, size, 3), np.uint8) for _ in range(rows)), rows, size)
        data = rows_of(Rows(Mapped([open_shard(Path(folder))], size), np.zeros(rows, int), np.arange(rows)))
        use_threads(1)
        spec = ModelSpec(kind="resnet", classes=10, context=1, size=size, options={"width": 4, "blocks": [1]})
        model = build(spec)
        standardise(model, data)
        options = replace(options_for("clothing", 0, 1), batch=32)
        fit = Fit(model, data, data.take(np.arange(50)), options, CPU)
        most = _private()
        step = fit.stepper.step

        def measured(*args: Any, **more: Any) -> torch.Tensor:
            nonlocal most
            most = max(most, _private())
            return step(*args, **more)

        fit.stepper.step = measured  # type: ignore[method-assign]
        fit.run(Path(folder), budget_seconds=1e9, on_epoch=lambda _: None)
    print(json.dumps({"bytes": most}))


def _private() -> int:
    """Bytes that are of this process alone: pages of files can be given back at any time."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def memory_growth(size: Size) -> list[Row]:
    """Peak memory at ten times the rows beside that at one time."""
    found = []
    for rows in (size.memory_rows, 10 * size.memory_rows):
        command = [sys.executable, "-m", "benchmarks.bench_training", ALONE, str(rows)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1])["bytes"] / 2**20)
    pictures = 9 * size.memory_rows * 64 * 64 * 3 / 2**20
    return [
        Row(name="memory_growth", ours=round(found[1], 1), other=round(found[0], 1), better="less", goal=0.95,
            other_name=f"{size.memory_rows} rows; ours has ten times as many", unit="MiB private",
            spread=f"{pictures:.0f} MiB more of pictures")
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------- main


def measure(size: Size, only: list[str], data: list[str], say: Callable[[str], None]) -> Path | None:
    """Part by part, each kept when it is done: the next one may take minutes."""
    kept: list[Path] = []

    def done(rows: list[Row], **more: list[dict[str, Any]]) -> None:
        for entry in (*(row.as_json() for row in rows), *(entry for part in more.values() for entry in part)):
            say(json.dumps(entry))
        if size is not QUICK:
            kept.append(keep(rows, more))

    with tempfile.TemporaryDirectory() as scratch:
        made = [training_photos.digits(Path(scratch, "digits"), size.digits)] if "digits" in data else []
        photos = training_photos.clothing(Path(scratch, "clothing"), size.clothing) if "clothing" in data else None
        made += [photos] if photos else []
        for photos in made:
            say(f"{photos.name}: {len(photos.files)} photos")
            if "time_to_accuracy" in only:
                done(time_to_accuracy(photos, size))
            if "bound" in only:
                bound(photos, size)
            if "input" in only:
                done(input_speed(photos, size))
            if "features" in only:
                done([], features=features(photos, size, size.feature_rounds[photos.name]))
            if "accuracy" in only:
                done([], accuracy=[accuracy_by_sender(photos, size)])
        if "memory" in only:
            done(memory_growth(size))
        if "two_workers" in only:
            done(two_workers(size))
    return kept[-1] if kept else None


def keep(rows: list[Row], more: dict[str, Any]) -> Path:
    """Write it, beside what an earlier call measured and this one did not."""
    there = before("training")
    for part in ("features", "accuracy"):
        entries = more.get(part, [])
        new = {entry["data"] for entry in entries}
        more[part] = [entry for entry in there.get(part, []) if entry["data"] not in new] + entries
    return record("training", rows, beside=True, **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--data", default="digits,clothing")
    parser.add_argument(ALONE, type=int, default=0)
    given = parser.parse_args()
    if given.memory_rows:
        memory_of(given.memory_rows)
        return
    only = given.only.split(",")
    if unknown := sorted(set(only) - set(PARTS)):
        parser.error(f"--only {', '.join(unknown)}: parts are {', '.join(PARTS)}")
    print(measure(QUICK if given.quick else FULL, only, given.data.split(","), print) or "no figure was recorded")


if __name__ == "__main__":
    main()
