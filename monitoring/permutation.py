"""Chance, by shuffling: who changes sides, how far apart the sides are, and what the largest distance says.

The arithmetic under `monitoring.drift`; numpy alone, a block of shuffles at a time.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

FEWEST_SENDERS = 8
"""Whole senders are shuffled only where each side has so many; fewer leave too few arrangements."""
SHARED = 0.1
"""From this share of photos by senders on both sides, these are enough: few senders of one side stay where they are.
And from this share of the window on, strangers must be compared, although the reference has nobody like them."""
CHUNK = 4_000_000  # elements of one block of shuffles × rows: about 50 MB at work


# ---------------------------------------------------------------------------------------------- shuffles


def shuffles(
    senders: npt.NDArray[np.intp] | None,
    is_window: Mask,
    is_new: Mask,
    permutations: int,
    random: np.random.Generator,
) -> tuple[Mask, str]:
    """Which rows are "window" as it is (row 0) and in each shuffle, bool [permutations + 1, N]; and what was shuffled.

    Photos of a sender on both sides change sides within the sender: what differs between senders says nothing of time.
    The others are of senders of one side, and whole senders change sides. New senders and those that the champion was
    trained on are shuffled apart.

    Args:
        senders: a number a row, [N]; None where there are no senders.
        is_window: [N].
        is_new: [N]; senders are on one side of it.
    """
    sides = np.tile(is_window, (permutations + 1, 1))
    if senders is None:
        _within(sides, np.arange(len(is_window)), np.zeros(len(is_window), dtype=int), random)
        return sides, "photos"
    said: list[str] = []
    for part in (is_new, ~is_new):
        rows = np.flatnonzero(part)
        if is_window[rows].any() and not is_window[rows].all():
            said += _shuffle(sides, rows, senders[rows], random)
    return sides, " and ".join(dict.fromkeys(said)) or "nothing"


def _shuffle(sides: Mask, rows: Rows, senders: Rows, random: np.random.Generator) -> list[str]:
    """Shuffle these rows in place, and say how."""
    is_window = sides[0, rows]
    shared = np.isin(senders, senders[is_window]) & np.isin(senders, senders[~is_window])
    alone, said = ~shared, []
    strangers = len(np.unique(senders[alone & is_window]))
    leavers = len(np.unique(senders[alone & ~is_window]))
    if min(strangers, leavers) >= FEWEST_SENDERS:
        _blocks(sides, rows[alone], senders[alone], random)
        said = ["senders"]
    elif strangers >= FEWEST_SENDERS and alone[is_window].mean() >= SHARED and shared.any():
        # Strangers are many, and nobody of the reference has left: they change sides with the reference of those who
        # stayed. These are then on one side more than they were, so chance reaches further, if anything.
        there = alone | ~is_window
        _blocks(sides, rows[there], senders[there], random)
        said = ["senders"]
    elif alone.any() and min(shared[is_window].mean(), shared[~is_window].mean()) < SHARED:
        _within(sides, rows[alone], np.zeros(alone.sum(), dtype=int), random)
        said = ["photos"]
    if shared.any():
        _within(sides, rows[shared], senders[shared], random)
        said.insert(0, "within senders")
    return said


def _within(sides: Mask, rows: Rows, strata: Rows, random: np.random.Generator) -> None:
    for stratum in np.unique(strata):
        here = rows[strata == stratum]
        sides[1:, here] = random.permuted(sides[1:, here], axis=1)


def _blocks(sides: Mask, rows: Rows, blocks: Rows, random: np.random.Generator) -> None:
    _, codes, sizes = np.unique(blocks, return_inverse=True, return_counts=True)
    order = random.permuted(np.tile(np.arange(len(sizes)), (len(sides) - 1, 1)), axis=1)
    size = sizes[order]
    before = size.cumsum(axis=1) - size
    # Blocks fill the window until it has about as many rows as it has; no side is left empty.
    chosen = before + size / 2 < sides[0, rows].sum()
    chosen[:, 0], chosen[:, -1] = True, False
    by_block = np.empty_like(chosen)
    np.put_along_axis(by_block, order, chosen, axis=1)
    sides[1:, rows] = by_block[:, codes]


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
    one_hot = (classes[:, None] == np.arange(int(classes.max()) + 1)).astype(np.float32)  # -1 is none of them
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
