"""The rows of an epoch in their order, who takes which, and what is done to pictures before the network sees them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.options import FitOptions

PROGRESSIVE_UNTIL = 0.75
"""Share of a training from which on pictures have their full side: what is learned last is of what is served."""
SIDE_STEP = 8
"""Sides between are multiples of so many pixels."""
CONTEXT_DROP = 0.2
"""Share of training rows whose context is hidden, so that the picture alone is enough for a new sender."""


def epoch_order(options: FitOptions, recent: NDArray[np.bool_], epoch: int) -> NDArray[np.int64]:
    """Row numbers of one epoch, shuffled: every row once, recent ones `recent_weight` times on average."""
    rng = np.random.default_rng([options.seed, epoch])
    rows = np.arange(len(recent))
    extra = options.recent_weight - 1.0
    if extra > 0 and recent.any():
        again = np.flatnonzero(recent)
        part = rng.random(len(again)) < extra - int(extra)
        rows = np.concatenate([rows, np.repeat(again, int(extra)), again[part]])
    return rng.permutation(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One worker's part of whatever is divided among `world` of them."""

    rank: int = 0
    world: int = 1

    def of(self, count: int) -> slice:
        """Its part of `count` rows: as many as the others' but for one at the most, in the order of ranks."""
        return slice(count * self.rank // self.world, count * (self.rank + 1) // self.world)


WHOLE = Share()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The rows of one step that are this worker's."""

    rows: NDArray[np.int64]
    """[N], their numbers in the training split."""
    part: slice
    """Where they are in the batch."""
    count: int
    """Rows of the batch, all workers' together."""


def chunks(order: NDArray[np.int64], size: int, share: Share, first: int = 0) -> Iterator[Chunk]:
    """The rows of `order`, `size` at a time, from batch number `first` on, and of each batch the worker's share.

    A last batch of one row is left out, for batch normalisation has nothing to say about it; and one that has not a row
    for each worker.
    """
    for start in range(first * size, len(order), size):
        rows = order[start : start + size]
        if len(rows) >= max(2, share.world):
            part = share.of(len(rows))
            yield Chunk(rows=rows[part], part=part, count=len(rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """What chance does to each row of a batch; each array is [N, 1], or None where nothing is done."""

    down: NDArray[np.int64] | None
    right: NDArray[np.int64] | None
    mirrored: NDArray[np.bool_] | None
    told: NDArray[np.float32]
    """0 where the context is hidden."""

    def of(self, part: slice) -> "Moves":
        """Of the rows that lie there in the batch."""
        return Moves(
            down=None if self.down is None else self.down[part],
            right=None if self.right is None else self.right[part],
            mirrored=None if self.mirrored is None else self.mirrored[part],
            told=self.told[part],
        )


def draw(count: int, side: int, options: FitOptions, rng: np.random.Generator) -> Moves:
    """Draw for a batch of `count` pictures of `side` pixels: a shift of each, and half of them mirrored, where allowed.

    For the whole batch, whoever takes which rows of it: so a row is treated the same however many workers there are.
    """
    most = round(options.shift * side)
    down = right = mirrored = None
    if most or options.flip:
        down, right = rng.integers(-most, most + 1, (2, count, 1))
    if options.flip:
        mirrored = rng.random((count, 1)) < 0.5
    told = (rng.random((count, 1)) >= CONTEXT_DROP).astype(np.float32)
    return Moves(down=down, right=right, mirrored=mirrored, told=told)


def augment(images: Tensor, moves: Moves) -> Tensor:
    """Shift each of uint8 [N, S, S, 3], repeating its edge, and mirror some of them.

    The whole batch at once, on the device that it is on: one gather, whatever N.
    """
    if moves.down is None or moves.right is None:
        return images
    count, side = images.shape[0], images.shape[1]
    line = np.arange(side)
    rows = np.clip(line + moves.down, 0, side - 1)
    columns = np.clip(line + moves.right, 0, side - 1)
    if moves.mirrored is not None:
        columns = np.where(moves.mirrored, columns[:, ::-1], columns)
    which = torch.arange(count, device=images.device)[:, None, None]
    there = (
        torch.from_numpy(rows)[:, :, None].to(images.device),
        torch.from_numpy(columns)[:, None, :].to(images.device),
    )
    return images[which, there[0], there[1]]


def side_at(share: float, full: int, options: FitOptions) -> int:
    """Side of the pictures when a training is so far: from `progressive` of the full one to the full one, in steps."""
    part = options.progressive + (1 - options.progressive) * min(1.0, share / PROGRESSIVE_UNTIL)
    return full if part >= 1 else min(full, SIDE_STEP * max(1, round(part * full / SIDE_STEP)))
