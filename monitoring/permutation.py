"""Chance, by shuffling: who changes sides, how far apart the sides are, and what the largest distance says.

The arithmetic under `monitoring.drift`; numpy alone, a block of shuffles at a time.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

FEWEST_SENDERS = 8
"""Whole senders are shuffled only where each side has so many; fewer leave too few arrangements."""
SHARED = 0.9
"""From this share of photos by senders on both sides, photos are shuffled within senders."""
CHUNK = 4_000_000  # elements of one block of shuffles × rows: about 50 MB at work


# ---------------------------------------------------------------------------------------------- shuffles


def shuffles(
    senders: npt.NDArray[np.intp] | None, is_window: Mask, permutations: int, random: np.random.Generator
) -> tuple[Mask, str]:
    """Which rows are "window" as it is (row 0) and in each shuffle, bool [permutations + 1, N]; and what was shuffled.

    Args:
        senders: a number a row, [N]; None where there are no senders.
        is_window: [N].
    """
    if senders is None:
        return _shuffle_within(np.zeros(len(is_window), dtype=int), is_window, permutations, random), "photos"
    shared = np.isin(senders, senders[is_window]) & np.isin(senders, senders[~is_window])
    if min(shared[is_window].mean(), shared[~is_window].mean()) >= SHARED:
        return _shuffle_within(np.where(shared, senders, -1), is_window, permutations, random), "within senders"
    if min(len(np.unique(senders[is_window])), len(np.unique(senders[~is_window]))) >= FEWEST_SENDERS:
        return _shuffle_blocks(senders * 2 + is_window, is_window, permutations, random), "senders"
    return _shuffle_within(np.where(shared, senders, -1), is_window, permutations, random), "photos"


def _shuffle_within(strata: npt.NDArray[Any], is_window: Mask, permutations: int, random: np.random.Generator) -> Mask:
    sides = np.empty((permutations + 1, len(is_window)), dtype=bool)
    sides[0] = is_window
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        sides[1:, rows] = random.permuted(np.tile(is_window[rows], (permutations, 1)), axis=1)
    return sides


def _shuffle_blocks(blocks: npt.NDArray[Any], is_window: Mask, permutations: int, random: np.random.Generator) -> Mask:
    _, codes, sizes = np.unique(blocks, return_inverse=True, return_counts=True)
    order = random.permuted(np.tile(np.arange(len(sizes)), (permutations, 1)), axis=1)
    size = sizes[order]
    before = size.cumsum(axis=1) - size
    # Blocks fill the window until it has about as many rows as it has; no side is left empty.
    chosen = before + size / 2 < is_window.sum()
    chosen[:, 0], chosen[:, -1] = True, False
    by_block = np.empty_like(chosen)
    np.put_along_axis(by_block, order, chosen, axis=1)
    return np.concatenate([is_window[None], by_block[:, codes]])


# --------------------------------------------------------------------------------------------- distances


def distances(numbers: Mapping[str, Floats], classes: npt.NDArray[np.intp] | None, sides: Mask) -> Floats:
    """Distance of each column under each shuffle, [permutations + 1, columns]; the class mix comes last."""
    step = max(1, CHUNK // sides.shape[1])
    return np.concatenate([_block(numbers, classes, sides[i : i + step]) for i in range(0, len(sides), step)])


def _block(numbers: Mapping[str, Floats], classes: npt.NDArray[np.intp] | None, sides: Mask) -> Floats:
    columns = [_kolmogorov_smirnov(values, sides) for values in numbers.values()]
    if classes is not None:
        columns.append(_total_variation(classes, sides))
    # Rounded, so that ties between shuffles are ties and whoever recomputes a distance finds the same one.
    return np.stack(columns, axis=1).round(6)


def _kolmogorov_smirnov(values: Floats, sides: Mask) -> Floats:
    finite = np.flatnonzero(np.isfinite(values))
    order = finite[np.argsort(values[finite], kind="stable")]
    ranked = values[order]
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    below = np.cumsum(sides[:, order], axis=1, dtype=np.float32)
    in_window = np.maximum(below[:, -1:], 1)
    in_reference = np.maximum(len(order) - below[:, -1:], 1)
    all_below = np.arange(1, len(order) + 1, dtype=np.float32)
    gap = below[:, last_of_tie] * (1 / in_window + 1 / in_reference) - all_below[last_of_tie] / in_reference
    return np.abs(gap).max(axis=1).astype(float)


def _total_variation(classes: npt.NDArray[np.intp], sides: Mask) -> Floats:
    one_hot = np.eye(int(classes.max()) + 1, dtype=np.float32)[classes]
    window = sides.astype(np.float32) @ one_hot
    reference = one_hot.sum(axis=0) - window
    share = window / np.maximum(window.sum(axis=1, keepdims=True), 1)
    expected = reference / np.maximum(reference.sum(axis=1, keepdims=True), 1)
    return 0.5 * np.abs(share - expected).sum(axis=1).astype(float)


def max_t(statistics: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Westfall-Young, single step, of row 0 among the shuffles: [permutations + 1, columns] → [columns] twice.

    Returns:
        the adjusted p of each column, and the distance above which that p is at most `alpha`.
    """
    mean, spread = statistics.mean(axis=0), statistics.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    z = (statistics - mean) / scale
    highest = z[1:].max(axis=1)
    adjusted = (1 + (highest[:, None] >= z[0][None] - 1e-9).sum(axis=0)) / len(z)
    allowed = max(1, int(alpha * len(z) + 1e-9))
    return adjusted, mean + scale * np.sort(highest)[-allowed]
