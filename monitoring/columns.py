"""What is compared of a window and a reference: its columns, and the reasons where one cannot be.

Statistics of the pictures are compared on all photos. What the champion makes of them (its answers and its embedding)
is compared on photos of senders that it was not trained on, on both sides: it knows the others better, so that their
answers differ from those of its reference while nothing changes. For the same reason the answers are those that it
gives by the picture alone, where both sides have them: what it is told of a sender grows every day.

Pure: frames in, arrays out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

from monitoring.permutation import Floats, Mask
from monitoring.season import Season, of_the_season, without_other_days

Verdict = Literal["DRIFT", "NO DRIFT", "UNKNOWN"]
Codes = npt.NDArray[np.intp]

MOST_ROWS = 2_000
"""Rows of one side that are compared; more are thinned at random, which costs power for tiny changes only."""
COMPONENTS = 3
"""Principal components of the embedding that are columns of their own."""
MOST_OUTPUTS = 20
"""Classes whose probabilities are columns of their own; more would cost more than they find."""
NEW_SHARE = 4
"""Answers are compared from `min_rows` by this many photos on, of senders that the champion was not trained on."""
CLASS_MIX = "class_mix"
CONSTANT = "the same value in every row of window and reference: nothing to compare"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column's part of the verdict: `effect` is a distance from 0 to 1, `p` is adjusted for all columns.

    `limit` is where drift begins: the distance that chance reaches in a share alpha of windows, or min_effect.
    """

    name: str
    verdict: Verdict
    reason: str
    effect: float | None = None
    limit: float | None = None
    p: float | None = None
    window_median: float | None = None
    reference_median: float | None = None


PICTURE_LABEL, PICTURE_PROBABILITIES = "picture_label", "picture_probabilities"
"""What the champion says of a photo by the picture alone, as if it came from the average sender."""


@dataclass(frozen=True, slots=True)
class Sides:
    """The rows of both sides, thinned. All arrays of `measured` are in the order window, reference, trained."""

    window: pd.DataFrame
    reference: pd.DataFrame
    trained: pd.DataFrame
    """source_id and picture statistics of rows that the champion was trained on; empty where they are not known."""
    new: Mask
    """Rows of the window by senders that the champion was not trained on."""
    by_picture: bool
    """Whether answers are those by the picture alone."""
    unseasonal: str
    """Why photos of all days are compared, where the recipe asks for those of the same season."""

    @property
    def is_window(self) -> Mask:
        """Which rows are the window's, [N]."""
        return np.arange(len(self.window) + len(self.reference) + len(self.trained)) < len(self.window)

    @property
    def is_new(self) -> Mask:
        """Which rows have answers that are compared, [N]."""
        return np.concatenate([self.new, np.ones(len(self.reference), bool), np.zeros(len(self.trained), bool)])

    @property
    def senders(self) -> Codes | None:
        """A number a sender, [N]; None where a side does not name them."""
        if _lacking("source_id", self.reference, self.window):
            return None
        frames = [side["source_id"] for side in (self.window, self.reference, self.trained) if "source_id" in side]
        return pd.factorize(pd.concat(frames, ignore_index=True))[0]


@dataclass(frozen=True, slots=True)
class Measured:
    """What is compared. NaN and -1: the row is not, in this column."""

    numbers: dict[str, Floats]
    """name → [N]"""
    classes: Codes | None
    """[N]; None: the mix of classes is not compared."""
    untold: list[Column]
    """A column with its reason for each that is missing, empty or constant."""


def sides_of(
    reference: pd.DataFrame,
    window: pd.DataFrame,
    trained: pd.DataFrame | None,
    *,
    season: Season,
    min_rows: int,
    seed: int,
) -> Sides:
    """Both sides: rows of the same season, thinned."""
    reference, days, unseasonal = of_the_season(reference, window, season, min_rows)
    by_picture = told_by_picture(reference) and told_by_picture(window)
    if by_picture:
        reference, window = as_by_picture(reference), as_by_picture(window)
    window = thin(window, seed)
    known = pd.DataFrame()
    if trained is not None and "source_id" in trained:
        known = thin(without_other_days(trained, days), seed)
    return Sides(window, thin(reference, seed), known, _new(window, trained), by_picture, unseasonal)


def told_by_picture(frame: pd.DataFrame) -> bool:
    """Whether each row has the answer by the picture alone."""
    names = (PICTURE_LABEL, PICTURE_PROBABILITIES)
    return all(name in frame and frame[name].notna().all() for name in names)


def as_by_picture(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with the answers by the picture alone for their answers."""
    alone = frame[PICTURE_PROBABILITIES]
    return frame.assign(predicted=frame[PICTURE_LABEL], probabilities=alone, confidence=matrix(alone).max(axis=1))


def of_new_senders(window: pd.DataFrame, trained: pd.DataFrame | None) -> pd.DataFrame:
    """The photos of a window by senders that the champion was not trained on; all, where that is not known."""
    return window[_new(window, trained)].reset_index(drop=True)


def _new(window: pd.DataFrame, trained: pd.DataFrame | None) -> Mask:
    if trained is None or "source_id" not in trained or "source_id" not in window:
        return np.ones(len(window), dtype=bool)
    return ~window["source_id"].isin(set(trained["source_id"])).to_numpy()


def thin(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """At most MOST_ROWS rows, drawn at random and in their order; the same ones for the same seed."""
    if len(frame) <= MOST_ROWS:
        return frame.reset_index(drop=True)
    kept = np.random.default_rng(seed).choice(len(frame), MOST_ROWS, replace=False)
    return frame.iloc[np.sort(kept)].reset_index(drop=True)


def measured(sides: Sides, stats: Sequence[str], min_rows: int) -> Measured:
    """The columns that are compared."""
    numbers: dict[str, Floats] = {}
    untold: list[Column] = []
    for name in stats:
        lacking = _lacking(name, sides.reference, sides.window)
        values = np.empty(0) if lacking else _statistic(name, sides)
        reason = lacking or _cannot_tell(values, sides.is_window, min_rows)
        if reason:
            untold.append(Column(name=name, verdict="UNKNOWN", reason=reason))
        else:
            numbers[name] = values
    told, classes, lacking_answers = _answers(sides, min_rows)
    return Measured(numbers | told, classes, untold + lacking_answers)


def _statistic(name: str, sides: Sides) -> Floats:
    frames = (sides.window, sides.reference, sides.trained)
    known = [frame[name] if name in frame else pd.Series(np.nan, index=frame.index) for frame in frames]
    values = np.concatenate([pd.to_numeric(values, errors="coerce").to_numpy(float) for values in known])
    # One value of many photos, kept as float32 on one side and as float64 on the other, would be two.
    return values.astype(np.float32).astype(float)


def _answers(sides: Sides, min_rows: int) -> tuple[dict[str, Floats], Codes | None, list[Column]]:
    """What the champion makes of photos by senders that it was not trained on."""
    new = sides.new
    least = min_rows if new.all() else ceil(min_rows / NEW_SHARE)
    if new.sum() < least:
        few = (
            f"{new.sum()} photos of the window are of senders that the champion was not trained on, fewer than "
            f"{least}: its answers about the others are no match for its reference"
        )
        names = ("confidence", "uncertainty", "embedding", CLASS_MIX)
        return {}, None, [Column(name=name, verdict="UNKNOWN", reason=few) for name in names]
    window, reference = sides.window[new].reset_index(drop=True), sides.reference
    found, untold = _numbers_of_answers(reference, window)
    is_window = np.arange(len(window) + len(reference)) < len(window)
    for name in list(found):
        reason = _cannot_tell(found[name], is_window, least)
        if reason:
            del found[name]
            untold.append(Column(name=name, verdict="UNKNOWN", reason=reason))
    classes, absent = _class_codes(reference, window)
    where = np.flatnonzero(sides.is_new)
    told = {name: _spread(values, where, len(sides.is_new), np.nan) for name, values in found.items()}
    codes = None if classes is None else _spread(classes, where, len(sides.is_new), -1)
    return told, codes, untold + absent


def _spread(values: npt.NDArray[Any], where: Codes, count: int, blank: float) -> npt.NDArray[Any]:
    full = np.full(count, blank, dtype=values.dtype)
    full[where] = values
    return full


def _numbers_of_answers(reference: pd.DataFrame, window: pd.DataFrame) -> tuple[dict[str, Floats], list[Column]]:
    found: dict[str, Floats] = {}
    untold: list[Column] = []
    for name, derive in {"confidence": "confidence", "uncertainty": "probabilities"}.items():
        lacking = _lacking(derive, reference, window)
        if lacking:
            untold.append(Column(name=name, verdict="UNKNOWN", reason=lacking))
            continue
        pooled = pd.concat([window[derive], reference[derive]], ignore_index=True)
        found[name] = (
            _entropy(pooled) if derive == "probabilities" else pd.to_numeric(pooled, errors="coerce").to_numpy(float)
        )
    found |= _outputs(reference, window)
    lacking = _lacking("embedding", reference, window)
    if lacking:
        untold.append(Column(name="embedding", verdict="UNKNOWN", reason=lacking))
    else:
        scores = components(matrix(pd.concat([window["embedding"], reference["embedding"]], ignore_index=True)))
        found |= {f"embedding_{i + 1}": scores[:, i] for i in range(scores.shape[1])}
    return found, untold


def _outputs(reference: pd.DataFrame, window: pd.DataFrame) -> dict[str, Floats]:
    """The model's probability of each class, a column each (Rabanser et al. 2019, "Failing Loudly": the univariate
    tests on the outputs find most); none where they are many, or a row lacks them."""
    if _lacking("probabilities", reference, window):
        return {}
    pooled = matrix(pd.concat([window["probabilities"], reference["probabilities"]], ignore_index=True))
    if pooled.shape[1] > MOST_OUTPUTS:
        return {}
    return {f"output_{i + 1}": pooled[:, i] for i in range(pooled.shape[1])}


def components(embedding: Floats, count: int = COMPONENTS) -> Floats:
    """Scores on the first principal components, [N, E] → [N, count]; each axis points to its largest loading.

    Window and reference are decomposed together. Axes fitted on the reference alone follow its noise: its own
    scores spread wider than new ones of the same world, and unchanged windows would look changed.
    """
    complete = np.isfinite(embedding).all(axis=1)
    scores = np.full((len(embedding), min(count, embedding.shape[1])), np.nan)
    if complete.sum() < 2:
        return scores
    centred = embedding[complete] - embedding[complete].mean(axis=0)
    scores[complete] = _leading(centred, scores.shape[1])
    return scores


def _leading(centred: Floats, count: int) -> Floats:
    """Scores on the leading axes by the smaller of the two Gram matrices: a tenth of the time of a full SVD."""
    rows, width = centred.shape
    wide = width > rows
    gram = centred @ centred.T if wide else centred.T @ centred
    last = len(gram) - 1
    # On a busy machine the threads of BLAS wait for each other: one takes 2 ms here, two took 60 to 700.
    with threadpool_limits(1, user_api="blas"):
        values, vectors = eigh(gram, subset_by_index=[max(0, last - count + 1), last])
    values, vectors = values[::-1], vectors[:, ::-1]
    axes = centred.T @ vectors if wide else vectors
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    found = (vectors * np.sqrt(np.clip(values, 0, None)) if wide else centred @ vectors) * signs
    # An axis without variance carries rounding noise only, and noise must not be compared.
    found[:, values <= 1e-12 * max(float(values[0]), 1e-300)] = 0.0
    return np.pad(found, ((0, 0), (0, count - found.shape[1])))


def _lacking(name: str, reference: pd.DataFrame, window: pd.DataFrame) -> str:
    absent = [side for side, frame in (("window", window), ("reference", reference)) if name not in frame]
    return f"no column {name!r} in the {' and the '.join(absent)}" if absent else ""


def _cannot_tell(values: Floats, is_window: Mask, least: int) -> str:
    finite = np.isfinite(values)
    for side, part in (("window", finite[is_window]), ("reference", finite[~is_window])):
        if not part.any():
            return f"the {side} has no values, all are NaN"
        if part.sum() < least:
            return f"the {side} has {part.sum()} values, fewer than min_rows={least}; the rest are NaN"
    if np.ptp(values[finite]) == 0:
        return CONSTANT
    return ""


def matrix(lists: pd.Series) -> Floats:
    """A column of equally long lists as [N, E]; a row that is missing or of another length becomes NaN."""
    width = max((len(row) for row in lists if _is_list(row)), default=1)
    blank = np.full(width, np.nan)
    return np.array([row if _is_list(row) and len(row) == width else blank for row in lists], dtype=float)


def _is_list(value: object) -> bool:
    return value.ndim == 1 if isinstance(value, np.ndarray) else isinstance(value, list | tuple)


def _entropy(probabilities: pd.Series) -> Floats:
    p = matrix(probabilities)
    return -(p * np.log(np.clip(p, 1e-12, None))).sum(axis=1)


def _class_codes(reference: pd.DataFrame, window: pd.DataFrame) -> tuple[npt.NDArray[np.intp] | None, list[Column]]:
    reason = _lacking("predicted", reference, window)
    if not reason:
        pooled = pd.concat([window["predicted"], reference["predicted"]], ignore_index=True)
        codes, names = pd.factorize(pooled, sort=True)
        if (codes < 0).any():
            reason = f"{(codes < 0).sum()} rows have no predicted class"
        elif len(names) < 2:
            reason = CONSTANT
        else:
            return codes, []
    return None, [Column(name=CLASS_MIX, verdict="UNKNOWN", reason=reason)]
