"""Who wins where: the comparison within parts of the rows, and whether a part is lost.

A contender can win over all and lose a part: one class, one kind of sender, dark photos. Each part that is
large enough is tested for harm, and since many are tested, the p-values are adjusted for that (Holm 1979).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from monitoring.intervals import Bools, Floats, accuracy_bounds, cluster_numbers, net_by_cluster, paired_test, sign_flip

if TYPE_CHECKING:
    from monitoring.comparison import Paired

Key = tuple[str, str]
"""Column and value."""

ROWS = "rows"
"""The column of golden and fresh: shown beside the slices, but each has gates of its own."""
RESAMPLES = 2000
MOST_VALUES = 30
"""Of a column of words the commonest so many values are slices of their own, the rest is one."""
THIRDS = {"brightness": ("dark", "middle", "bright"), "sender": ("small", "medium", "large")}


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceRow:
    """One line of the slice table."""

    column: str
    value: str
    rows: int
    senders: int
    contender: float
    """Accuracy."""
    opponent: float
    difference: float
    low: float
    high: float
    p_value: float
    """As of a `Comparison`: how likely so many wins are if the contender is no better here."""
    p_harm: float
    """McNemar's exact test over senders, the other way round: how likely so large a loss is if nothing was lost."""
    p_harm_holm: float | None
    """Adjusted for the number of judged slices; None where it is not judged."""
    judged: bool
    golden: float = 0.0
    """Share of its rows that are golden."""


# ------------------------------------------------------------------------------------------------- parts


def slice_masks(
    labels: NDArray[np.int64],
    classes: Sequence[str],
    senders: NDArray[np.str_],
    fresh: Bools,
    *,
    numbers: Mapping[str, Floats] | None = None,
    words: Mapping[str, NDArray[np.str_]] | None = None,
    new_senders: Bools | None = None,
) -> dict[Key, Bools]:
    """Which rows are in which slice; empty slices are left out.

    Sender sizes and numbers are cut where a third of the rows lie on each side, ties together.

    Args:
        fresh: which rows are fresh, [N]; the others are golden.
        numbers: columns to cut in thirds, each [N], such as brightness; rows without a finite number are in none.
        words: columns with a slice a value, each [N], such as the phone; the empty word is "unknown".
        new_senders: which rows are of senders that were not known before the fresh days, [N].
    """
    masks = {(ROWS, "golden"): ~fresh, (ROWS, "fresh"): fresh}
    masks |= {("class", name): labels == position for position, name in enumerate(classes)}
    _, of_row, counts = np.unique(senders, return_inverse=True, return_counts=True)
    masks |= _thirds("sender", counts[of_row].astype(float))
    if new_senders is not None:
        masks |= {("senders", "new"): new_senders, ("senders", "known"): ~new_senders}
    for column, values in (numbers or {}).items():
        masks |= _thirds(column, np.asarray(values, float))
    for column, said in (words or {}).items():
        masks |= _values(column, said)
    return {key: mask for key, mask in masks.items() if mask.any()}


def _thirds(column: str, values: Floats) -> dict[Key, Bools]:
    there = np.isfinite(values)
    if not there.any():
        return {}
    cuts = np.quantile(values[there], [1 / 3, 2 / 3])
    part = np.searchsorted(cuts, values)  # 0: up to the first cut, 2: above the second
    names = THIRDS.get(column, ("low", "middle", "high"))
    return {(column, name): there & (part == position) for position, name in enumerate(names)}


def _values(column: str, values: NDArray[np.str_]) -> dict[Key, Bools]:
    named = np.where(values == "", "unknown", values)
    found, counts = np.unique(named, return_counts=True)
    common = found[np.argsort(-counts, kind="stable")][: MOST_VALUES if len(found) > MOST_VALUES else None]
    masks = {(column, str(value)): named == value for value in sorted(common)}
    if len(common) < len(found):
        masks[column, "all others"] = ~np.isin(named, common)
    return masks


# ------------------------------------------------------------------------------------------------- tests


def slice_table(
    paired: "Paired", masks: Mapping[Key, Bools], *, confidence: float, min_rows: int, seed: int = 7
) -> list[SliceRow]:
    """The difference of accuracy within each slice, and how likely its loss is if there is none.

    Judged are slices of at least `min_rows` rows that are not all rows and not the rows of a slice before
    them: the same question is asked once.
    """
    ours, theirs = paired.rights()
    _, of_row = np.unique(paired.senders, return_inverse=True)  # numbers are sorted faster than names
    judged = _judged(masks, min_rows)
    # Photos of one sender fail together, so senders are counted: photos would be too sure of a loss.
    harm = {
        key: sign_flip(net_by_cluster(theirs[mask], ours[mask], of_row[mask]))
        for key, mask in masks.items()
        if mask.any()
    }
    adjusted = dict(zip(judged, _holm([harm[key] for key in judged]), strict=True))
    golden = masks.get((ROWS, "golden"), np.zeros(len(ours), bool))
    table = []
    for (column, value), mask in masks.items():
        if not mask.any():
            continue
        mine, other, senders = ours[mask], theirs[mask], of_row[mask]
        clusters = cluster_numbers(senders)
        low, high = accuracy_bounds(mine, other, clusters, confidence=confidence, resamples=RESAMPLES, seed=seed)
        difference = float(mine.mean() - other.mean())
        table.append(
            SliceRow(
                column=column,
                value=value,
                rows=len(mine),
                senders=len(np.unique(senders)),
                contender=float(mine.mean()),
                opponent=float(other.mean()),
                difference=difference,
                low=min(low, difference),
                high=max(high, difference),
                p_value=paired_test(mine, other, clusters, confidence=confidence),
                p_harm=harm[column, value],
                p_harm_holm=adjusted.get((column, value)),
                judged=(column, value) in adjusted,
                golden=float(golden[mask].mean()),
            )
        )
    return table


def _judged(masks: Mapping[Key, Bools], min_rows: int) -> list[Key]:
    seen: set[bytes] = set()
    found = []
    for key, mask in masks.items():
        rows = np.packbits(mask).tobytes()
        if key[0] != ROWS and mask.sum() >= min_rows and not mask.all() and rows not in seen:
            found.append(key)
        seen.add(rows)
    return found


def _holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values. (statsmodels has them too, and collects all of the process's garbage each time.)"""
    order = np.argsort(p_values)
    stepped = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted.tolist()
