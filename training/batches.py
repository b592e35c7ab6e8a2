"""The rows of an epoch in their order, and what is done to a batch of pictures before the network sees it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.options import FitOptions

PROGRESSIVE_UNTIL = 0.75
"""Share of a training from which on pictures have their full side: what is learned last is of what is served."""
SIDE_STEP = 8
"""Sides between are multiples of so many pixels."""


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


def augment(images: Tensor, options: FitOptions, rng: np.random.Generator) -> Tensor:
    """Shift each of uint8 [N, S, S, 3] at random, repeating its edge, and mirror half of them where it is allowed.

    The whole batch at once, on the device that it is on: one gather, whatever N.
    """
    count, side = images.shape[0], images.shape[1]
    most = round(options.shift * side)
    if not most and not options.flip:
        return images
    line = np.arange(side)
    down, right = rng.integers(-most, most + 1, (2, count, 1))
    rows = np.clip(line + down, 0, side - 1)
    columns = np.clip(line + right, 0, side - 1)
    if options.flip:
        columns = np.where(rng.random((count, 1)) < 0.5, columns[:, ::-1], columns)
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
