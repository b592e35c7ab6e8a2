"""Whether a training can be done at all, said before it is tried: its rows, and the room for a batch of them."""

import math

from training.bounds import Work
from training.data import Split
from training.options import FitError, FitOptions

NO_ROOM = ("out of memory", "can't allocate memory", "not enough memory")
"""How torch says it, in small letters: `torch.OutOfMemoryError` on a GPU, a bare RuntimeError on a CPU."""


def need_room(name: str, batch: int, work: Work, weights: int, free: int | None, workers: int = 1) -> None:
    """Refuse a batch whose kept maps alone are more than there is.

    Args:
        weights: bytes of the weights; their gradients and moments take three times as much more.
        free: bytes for one worker; None: nobody knows, and it is tried.
        workers: that share the batch.

    Raises:
        FitError: with the batch that would fit.
    """
    if free is not None and math.ceil(batch / workers) * work.kept + 4 * weights > free:
        raise FitError(no_room(name, batch, work, weights, free, workers))


def no_room(name: str, batch: int, work: Work, weights: int, free: int, workers: int = 1) -> str:
    """The message: what is needed, what there is, what would fit."""
    fits = workers * int((free - 4 * weights) / max(work.kept, 1))
    advice = f"a batch of {fits} would fit" if fits >= 2 else "not even a batch of 2 would fit: take a smaller network"
    need = (math.ceil(batch / workers) * work.kept + 4 * weights) / 1e9
    each = f" in each of {workers} workers" if workers > 1 else ""
    there = f"takes about {need:.1f} GB{each}, {free / 1e9:.1f} GB are free"
    return f"candidate {name}: out of memory: batch={batch} {there}; {advice}"


def is_no_room(error: RuntimeError | MemoryError) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_ROOM)


def check_rows(options: FitOptions, train: Split, val: Split, workers: int = 1) -> None:
    """Say what is wrong with the rows before a step is made.

    Raises:
        FitError: too few of them, one class only, a batch larger than all, or one that has not a row for each worker.
    """
    name = f"candidate {options.name}"
    if len(train) < 2 or not len(val):
        raise FitError(f"{name}: {len(train)} training and {len(val)} validation rows are too few to train")
    if (train.labels == train.labels[0]).all():
        raise FitError(
            f"{name}: the {len(train)} training rows are of one class only (number {train.labels[0]}): nothing to tell "
            "apart; widen snapshot.window_days, or look at the labels"
        )
    if options.batch > len(train):
        raise FitError(
            f"{name}: batch={options.batch} is larger than the {len(train)} training rows; "
            f"set it to {len(train)} or less"
        )
    if workers > min(options.batch, len(val)):
        what = f"batch={options.batch}" if options.batch <= len(val) else f"{len(val)} validation rows"
        raise FitError(f"{name}: {workers} workers, and {what} to share among them: take fewer (CLASSY_TRAIN_WORKERS)")
