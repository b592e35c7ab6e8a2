"""Has the world changed? A window of predictions against the champion's own reference, with a known false-alarm rate.

Each column gets a distance: two-sample Kolmogorov-Smirnov for numbers, total variation for the mix of
predicted classes. How large a distance comes about by chance, at these row counts and for all columns
together, is found by permutation (Westfall and Young 1993, single-step maxT): window and reference are
shuffled together, the largest standardised distance over the columns is noted, and a column's adjusted p
is the share of shuffles that reach its own. So the chance of any false alarm in a window is at most
`alpha`, whatever the correlations between the columns, and the reference counts as the sample that it is.

What is shuffled follows how photos come about. A sender's photos resemble each other, so where window and
reference hold different senders, whole senders change sides; where they are the same senders, photos
change sides within each sender. Without senders, photos are shuffled freely.

Pure: frames in, verdict out; the same input and seed give the same verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

from monitoring.permutation import Floats, distances, max_t, shuffles

Verdict = Literal["DRIFT", "NO DRIFT", "UNKNOWN"]

PERMUTATIONS = 999
FIRST_LOOK = 199
CLEARLY = 0.1
"""After FIRST_LOOK shuffles a window whose every column has a larger adjusted p than this is quiet, and no more are
made: a fifth of the time. Only a window that passes both looks is DRIFT, so this raises no alarm."""
MOST_PERMUTATIONS = 19_999
"""Resolves alpha down to 1e-4; a smaller one is UNKNOWN rather than guessed from a tail."""
MOST_ROWS = 2_000
"""Rows of one side that are compared; more are thinned at random, which costs power for tiny changes only."""
COMPONENTS = 3
"""Principal components of the embedding that are columns of their own."""
MOST_OUTPUTS = 20
"""Classes whose probabilities are columns of their own; more would cost more than they find."""
CLASS_MIX = "class_mix"
ROUNDING = 1e-6


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """The verdict on one window. `shuffled`: what changed sides ("senders", "within senders", "photos")."""

    verdict: Verdict
    reasons: tuple[str, ...]
    columns: tuple[Column, ...]
    window_rows: int
    reference_rows: int
    permutations: int
    shuffled: str
    alpha: float
    min_effect: float


def detect(
    reference: pd.DataFrame | None,
    window: pd.DataFrame,
    *,
    stats: Sequence[str],
    min_rows: int,
    alpha: float,
    min_effect: float,
    seed: int,
) -> Drift:
    """Compare a window with the reference.

    Args:
        reference: rows the model had not been fitted on, or None where the model has none. Columns: `stats`,
            `confidence`, `predicted`, `probabilities` and `embedding` (lists), and `source_id` if there are senders.
        window: the same columns for the photos in question.
        stats: names of picture statistics.
        min_rows: a side with fewer rows is UNKNOWN.
        alpha: chance of a false alarm in one window, over all columns.
        min_effect: a smaller distance is not drift, however sure.
        seed: of the shuffles.

    Returns:
        DRIFT if a column is both significant and changed enough; UNKNOWN if a column cannot be told and none
        drifts; a column that never varies is left out and says so. Never "no drift" for want of data.
    """
    outcome = _Outcome(len(window), 0 if reference is None else len(reference), alpha, min_effect)
    unknown = _too_little(reference, window, min_rows, alpha)
    if unknown or reference is None:
        return outcome.verdict("UNKNOWN", [unknown])
    window, reference = thin(window, seed), thin(reference, seed)
    numbers, untold = measured(reference, window, stats, min_rows)
    classes, absent = _class_codes(reference, window)
    names = [*numbers] + ([] if classes is None else [CLASS_MIX])
    if not names:
        return outcome.judge([*untold, *absent], 0, "nothing")
    senders = _senders(reference, window)
    is_window = np.arange(len(window) + len(reference)) < len(window)
    for permutations in (FIRST_LOOK, max(PERMUTATIONS, ceil(2 / alpha) - 1)):
        sides, shuffled = shuffles(senders, is_window, permutations, np.random.default_rng(seed))
        statistics = distances(numbers, classes, sides)
        adjusted, critical = max_t(statistics, alpha)
        if adjusted.min() > CLEARLY:
            break
    told = [
        _column(name, statistics[0, i], adjusted[i], critical[i], numbers.get(name), len(window), outcome)
        for i, name in enumerate(names)
    ]
    return outcome.judge([*told, *untold, *absent], permutations, shuffled)


def _too_little(reference: pd.DataFrame | None, window: pd.DataFrame, min_rows: int, alpha: float) -> str:
    if reference is None:
        return "the model has no reference"
    if len(window) < min_rows:
        return f"the window has {len(window)} rows, fewer than min_rows={min_rows}"
    if len(reference) < min_rows:
        return f"the reference has {len(reference)} rows, fewer than min_rows={min_rows}"
    if ceil(2 / alpha) - 1 > MOST_PERMUTATIONS:
        return f"alpha={alpha:g} is finer than {MOST_PERMUTATIONS} shuffles can tell; take {2 / MOST_PERMUTATIONS:.1g}"
    return ""


def compared(
    reference: pd.DataFrame, window: pd.DataFrame, *, stats: Sequence[str], min_rows: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows and columns that `detect` compares, named as in its verdict: reference and window, to draw them."""
    window, reference = thin(window, seed), thin(reference, seed)
    numbers, _ = measured(reference, window, stats, min_rows)
    pooled = pd.DataFrame(numbers, index=range(len(window) + len(reference)))
    if _class_codes(reference, window)[0] is not None:
        pooled[CLASS_MIX] = [*window["predicted"].astype(str), *reference["predicted"].astype(str)]
    return pooled[len(window) :].reset_index(drop=True), pooled[: len(window)]


def thin(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """At most MOST_ROWS rows, drawn at random and in their order; the same ones for the same seed."""
    if len(frame) <= MOST_ROWS:
        return frame.reset_index(drop=True)
    kept = np.random.default_rng(seed).choice(len(frame), MOST_ROWS, replace=False)
    return frame.iloc[np.sort(kept)].reset_index(drop=True)


# ----------------------------------------------------------------------------------------------- columns


def measured(
    reference: pd.DataFrame, window: pd.DataFrame, stats: Sequence[str], min_rows: int
) -> tuple[dict[str, Floats], list[Column]]:
    """The numbers that are compared, window rows first, and the columns that cannot be.

    Returns:
        name → float [window + reference]; and a column with its reason for each that is missing, empty or constant.
    """
    found: dict[str, Floats] = {}
    untold: list[Column] = []
    for name, derive in {**{stat: stat for stat in (*stats, "confidence")}, "uncertainty": "probabilities"}.items():
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
        scores = components(_matrix(pd.concat([window["embedding"], reference["embedding"]], ignore_index=True)))
        found |= {f"embedding_{i + 1}": scores[:, i] for i in range(scores.shape[1])}
    for name in list(found):
        reason = _cannot_tell(found[name], len(window), min_rows)
        if reason:
            del found[name]
            untold.append(Column(name=name, verdict="UNKNOWN", reason=reason))
    return found, untold


def _outputs(reference: pd.DataFrame, window: pd.DataFrame) -> dict[str, Floats]:
    """The model's probability of each class, a column each (Rabanser et al. 2019, "Failing Loudly": the univariate
    tests on the outputs find most); none where they are many, or a row lacks them."""
    if _lacking("probabilities", reference, window):
        return {}
    pooled = _matrix(pd.concat([window["probabilities"], reference["probabilities"]], ignore_index=True))
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


def _cannot_tell(values: Floats, window_rows: int, min_rows: int) -> str:
    finite = np.isfinite(values)
    for side, part in (("window", finite[:window_rows]), ("reference", finite[window_rows:])):
        if not part.any():
            return f"the {side} has no values, all are NaN"
        if part.sum() < min_rows:
            return f"the {side} has {part.sum()} values, fewer than min_rows={min_rows}; the rest are NaN"
    if np.ptp(values[finite]) == 0:
        return CONSTANT
    return ""


CONSTANT = "the same value in every row of window and reference: nothing to compare"


def _matrix(lists: pd.Series) -> Floats:
    """A column of equally long lists as [N, E]; a row that is missing or of another length becomes NaN."""
    width = max((len(row) for row in lists if _is_list(row)), default=1)
    blank = np.full(width, np.nan)
    return np.array([row if _is_list(row) and len(row) == width else blank for row in lists], dtype=float)


def _is_list(value: object) -> bool:
    return isinstance(value, np.ndarray | list | tuple)


def _entropy(probabilities: pd.Series) -> Floats:
    p = _matrix(probabilities)
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


def _senders(reference: pd.DataFrame, window: pd.DataFrame) -> npt.NDArray[np.intp] | None:
    if _lacking("source_id", reference, window):
        return None
    return pd.factorize(pd.concat([window["source_id"], reference["source_id"]], ignore_index=True))[0]


# ----------------------------------------------------------------------------------------------- verdicts


def _column(
    name: str, effect: float, p: float, critical: float, values: Floats | None, rows: int, asked: "_Outcome"
) -> Column:
    said = f"distance {effect:.2f}, adjusted p {p:.2g}"
    medians: tuple[float | None, float | None] = (None, None)
    if values is not None:
        medians = float(np.nanmedian(values[:rows])), float(np.nanmedian(values[rows:]))
        said += f", median {medians[0]:.3g} (reference {medians[1]:.3g})"
    if p > asked.alpha:
        said += "; chance alone goes that far"
    elif effect < asked.min_effect:
        said += f"; sure, but below min_effect={asked.min_effect:g}"
    return Column(
        name=name,
        verdict="DRIFT" if p <= asked.alpha and effect >= asked.min_effect else "NO DRIFT",
        reason=said,
        effect=float(effect),
        limit=float(max(critical, asked.min_effect - ROUNDING)),
        p=float(p),
        window_median=medians[0],
        reference_median=medians[1],
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    window_rows: int
    reference_rows: int
    alpha: float
    min_effect: float

    def judge(self, columns: Sequence[Column], permutations: int, shuffled: str) -> Drift:
        drifted = sorted((c for c in columns if c.verdict == "DRIFT"), key=lambda c: (-(c.effect or 0), c.name))
        # A column that never varies has nothing to say; one that is not there could have said "drift".
        missing = [c for c in columns if c.verdict == "UNKNOWN" and c.reason != CONSTANT]
        reasons = [f"{c.name}: {c.reason}" for c in drifted + missing]
        tested = [c for c in columns if c.verdict != "UNKNOWN"]
        if drifted:
            verdict: Verdict = "DRIFT"
        elif missing or not tested:
            verdict = "UNKNOWN"
            reasons = reasons or ["no column varies"]
        else:
            verdict = "NO DRIFT"
            nearest = min(tested, key=lambda c: (c.p or 0, c.name))
            reasons = [f"none of {len(tested)} columns changed; nearest is {nearest.name}: {nearest.reason}"]
        return self.verdict(verdict, reasons, columns, permutations, shuffled)

    def verdict(
        self,
        verdict: Verdict,
        reasons: Sequence[str],
        columns: Sequence[Column] = (),
        permutations: int = 0,
        shuffled: str = "nothing",
    ) -> Drift:
        return Drift(
            verdict=verdict,
            reasons=tuple(reasons),
            columns=tuple(columns),
            window_rows=self.window_rows,
            reference_rows=self.reference_rows,
            permutations=permutations,
            shuffled=shuffled,
            alpha=self.alpha,
            min_effect=self.min_effect,
        )
