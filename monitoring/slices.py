"""Who wins where: the comparison within parts of the rows, and whether a part is lost.

A contender can win over all and lose a part: one class, one kind of sender, dark photos. Each part that is
large enough is tested for harm, and since many are tested, the p-values are adjusted for that (Holm 1979).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from monitoring.intervals import Bools, Floats, accuracy_bounds, cluster_numbers, net_by_cluster, paired_test, sign_flip

if TYPE_CHECKING:
    from monitoring.comparison import Paired

Key = tuple[str, str]
"""Column and value."""

CLASS = "class"
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
    to_come: float | None = None
    """After a drift the difference on the photos to come (`photos_to_come`), else None."""
    f1: float | None = None
    """Of a class, the difference of its F1 on all rows, or on the photos to come: on a class's own photos nothing beats
    a model that gives that one answer to everything."""


def slice_row(kept: Mapping[str, Any]) -> SliceRow:
    """A line as evidence keeps it; fields of an earlier Classy are left out."""
    return SliceRow(**{field.name: kept[field.name] for field in fields(SliceRow) if field.name in kept})


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
    masks |= {(CLASS, name): labels == position for position, name in enumerate(classes)}
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
    paired: "Paired",
    masks: Mapping[Key, Bools],
    *,
    confidence: float,
    min_rows: int,
    since: Bools | None = None,
    odds: float = 1.0,
    seed: int = 7,
) -> list[SliceRow]:
    """The difference of accuracy within each slice, and how likely its loss is if there is none.

    Judged are slices of at least `min_rows` rows that are not all rows and not the rows of a slice before
    them: the same question is asked once.

    Args:
        since: which rows came since a drift began, [N]; None where there is none.
        odds: that a photo to come is like them, to 1.
    """
    _, of_row = np.unique(paired.senders, return_inverse=True)  # numbers are sorted faster than names
    ours, theirs = paired.rights()
    sides = {key: (mask, ours[mask], theirs[mask]) for key, mask in masks.items() if mask.any()}
    judged = _judged(masks, min_rows)
    # Photos of one sender fail together, so senders are counted: photos would be too sure of a loss.
    harm = {key: sign_flip(net_by_cluster(other, mine, of_row[mask])) for key, (mask, mine, other) in sides.items()}
    adjusted = dict(zip(judged, _holm([harm[key] for key in judged]), strict=True))
    table = []
    weights = np.ones(len(of_row)) if since is None else _weights(since, odds)
    for (column, value), (mask, mine, other) in sides.items():
        senders = of_row[mask]
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
                to_come=None if since is None else photos_to_come(mine, other, mask, since, odds),
                f1=_f1_gain(paired, mask, weights) if column == CLASS else None,
            )
        )
    return table


def _weights(since: Bools, odds: float) -> Floats:
    """How many photos to come each row stands for, [N]: those since the drift together `odds` to 1."""
    return np.where(since, odds / max(since.sum(), 1), 1 / max((~since).sum(), 1))


def _f1_gain(paired: "Paired", mask: Bools, weights: Floats) -> float:
    position = paired.labels[mask][0]
    scores = []
    for probabilities in (paired.contender, paired.opponent):
        said = probabilities.argmax(axis=1) == position
        either = (weights * said).sum() + (weights * mask).sum()
        scores.append(2 * (weights * (said & mask)).sum() / either)
    return float(scores[0] - scores[1])


def photos_to_come(ours: Bools, theirs: Bools, mask: Bools, since: Bools, odds: float) -> float:
    """What a slice gains a photo, after a drift, if it were as common among the photos to come as it ever was.

    Of the photos to come `odds` to 1 are like those since the drift. So a slice of both worlds is their weighted mean,
    and one of the world before, such as bright photos where all are dark now, is `odds` + 1 times as rare as it was.

    Args:
        ours, theirs: which of the slice's n rows each model is right about, [n].
        mask: which rows are the slice's, [N].
        since: which came since the drift began, [N].
    """
    gained = (_weights(since, odds)[mask] * (ours.astype(float) - theirs)).sum() / (odds + 1)
    most = max((mask & side).sum() / max(side.sum(), 1) for side in (since, ~since))
    return float(gained / most)


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
