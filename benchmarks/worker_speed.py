"""How fast several workers share a batch: what each of them does, called by `benchmarks.bench_training`."""

from contextlib import nullcontext
from itertools import islice

import numpy as np
import torch

from training.data import Split
from training.distributed import ALONE, Seat, joined
from training.fit import Fit
from training.models import ModelSpec, build
from training.options import FitOptions
from training.place import use_threads
from training.shards import Mapped, Rows

CPU = torch.device("cpu")
SIDE, WIDTH, BATCH = 64, 32, 128
"""Pictures, network and batch as of a shop's photos: work that is worth dividing. Pixels are random, all are alike."""


def worker_speed(threads: int, steps: int, rounds: int, apart: bool) -> list[float]:
    """In each worker: images a second of all of them, round by round, once a first round has been made.

    Args:
        apart: they work at the same time, each on its own half of a batch, and know nothing of each other: what the
            cores allow.
    """
    with nullcontext(ALONE) if apart else joined() as workers:
        use_threads(threads)
        batch = BATCH // Seat.here().world if apart else BATCH
        data = random_rows(BATCH * 4, SIDE)
        torch.manual_seed(0)
        options = {"width": WIDTH, "blocks": [1, 1, 1]}
        model = build(ModelSpec(kind="resnet", classes=10, context=1, size=SIDE, options=options))
        fitted = FitOptions(
            name="workers", seed=0, epochs=1, batch=batch, lr=1e-3, weight_decay=1e-2, label_smoothing=0.05, flip=True,
            shift=0.08,
        )  # fmt: skip
        fit = Fit(model, data, data.take(np.arange(64)), fitted, CPU, workers=workers)
        order, rng, found = np.tile(np.arange(len(data)), steps), np.random.default_rng(0), []
        model.train()
        for _ in range(rounds + 1):
            takes = islice(fit.source.batches(order, batch, share=workers.share), steps)
            started = fit._clock()
            for take in takes:
                fit.stepper.step(take(), lr=1e-3, side=SIDE, rng=rng, watch=fit.watch)
            found.append(steps * BATCH / (fit._clock() - started))
        return found[1:]


def random_rows(rows: int, size: int) -> Split:
    """So many pictures of noise, in memory."""
    images = np.random.default_rng(0).integers(0, 256, (rows, size, size, 3), np.uint8)
    return rows_of(Rows(Mapped([images], size), np.zeros(rows, int), np.arange(rows)))


def rows_of(images: Rows) -> Split:
    """Pictures with ten labels in turn and nothing else to tell them apart."""
    rows = len(images)
    names = np.array([f"{row:08d}" for row in range(rows)])
    return Split(images=images, context=np.zeros((rows, 1), np.float32), labels=np.arange(rows) % 10,
                 image_ids=names, source_ids=names, group_ids=names,
                 captured_at=np.full(rows, np.datetime64("2026-03-01", "us")),
                 stats=np.zeros((rows, 7), np.float32))  # fmt: skip
