"""Has the world changed? A window of predictions against the champion's own reference, with a known false-alarm rate.

Each column gets a distance: two-sample Kolmogorov-Smirnov for numbers, total variation for the mix of
predicted classes. How large a distance comes about by chance, at these row counts and for all columns
together, is found by permutation (Westfall and Young 1993, single-step maxT): window and reference are
shuffled together, the largest standardised distance over the columns is noted, and a column's adjusted p
is the share of shuffles that reach its own. So the chance of any false alarm in a window is at most
`alpha`, whatever the correlations between the columns, and the reference counts as the sample that it is.

What is shuffled follows how photos come about (`monitoring.permutation`): a sender's photos resemble each other, so
photos of a sender on both sides change sides within that sender, and of the others whole senders do. What is
compared, and on which photos, is `monitoring.columns`'s.

Pure: frames in, verdict out; the same input and seed give the same verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import pandas as pd

from monitoring.columns import CLASS_MIX, CONSTANT, Column, Verdict, measured, sides_of
from monitoring.permutation import Floats, Mask, distances, max_t, shuffles
from monitoring.season import Season

PERMUTATIONS = 999
FIRST_LOOK = 199
CLEARLY = 0.1
"""After FIRST_LOOK shuffles a window whose every column has a larger adjusted p than this is quiet, and no more are
made: a fifth of the time. Only a window that passes both looks is DRIFT, so this raises no alarm."""
MOST_PERMUTATIONS = 19_999
"""Resolves alpha down to 1e-4; a smaller one is UNKNOWN rather than guessed from a tail."""
ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """The verdict on one window.

    `shuffled`: what changed sides ("senders", "within senders", both, or "photos"). `new_rows`: those of the window
    that the champion's answers were compared on. `by_picture`: these are its answers by the picture alone; False where
    a side does not have them, and then what is known of senders has its say.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    columns: tuple[Column, ...]
    window_rows: int
    reference_rows: int
    new_rows: int
    permutations: int
    shuffled: str
    alpha: float
    min_effect: float
    by_picture: bool = False


def detect(
    reference: pd.DataFrame | None,
    window: pd.DataFrame,
    *,
    stats: Sequence[str],
    min_rows: int,
    alpha: float,
    min_effect: float,
    seed: int,
    trained: pd.DataFrame | None = None,
    season: Season = "none",
) -> Drift:
    """Compare a window with the reference.

    Args:
        reference: rows the model had not been fitted on, or None where the model has none. Columns: `stats`,
            `confidence`, `predicted`, `probabilities` and `embedding` (lists), and `source_id` if there are senders;
            `picture_label` and `picture_probabilities` where the model says what it would of the picture alone.
        window: the same columns for the photos in question.
        stats: names of picture statistics.
        min_rows: a side with fewer rows is UNKNOWN.
        alpha: chance of a false alarm in one window, over all columns.
        min_effect: a smaller distance is not drift, however sure.
        seed: of the shuffles.
        trained: `source_id` and `stats` of rows that the model was fitted on, so that photos of these senders have
            their pictures compared with their own, and not their answers with those of strangers. None: not known.
        season: "week": compare with rows of the window's weekdays, by `captured_at`.

    Returns:
        DRIFT if a column is both significant and changed enough; UNKNOWN if a column cannot be told and none
        drifts; a column that never varies is left out and says so. Never "no drift" for want of data.
    """
    outcome = _Outcome(len(window), 0 if reference is None else len(reference), len(window), alpha, min_effect)
    unknown = _too_little(reference, window, min_rows, alpha)
    if unknown or reference is None:
        return outcome.verdict("UNKNOWN", [unknown])
    sides = sides_of(reference, window, trained, season=season, min_rows=min_rows, seed=seed)
    outcome = replace(outcome, new_rows=int(sides.new.sum()), by_picture=sides.by_picture, unseasonal=sides.unseasonal)
    found = measured(sides, stats, min_rows)
    names = [*found.numbers] + ([] if found.classes is None else [CLASS_MIX])
    if not names:
        return outcome.judge(found.untold, 0, "nothing")
    is_window = sides.is_window
    for permutations in (FIRST_LOOK, max(PERMUTATIONS, ceil(2 / alpha) - 1)):
        shuffled, how = shuffles(sides.senders, is_window, sides.is_new, permutations, np.random.default_rng(seed))
        statistics = distances(found.numbers, found.classes, shuffled)
        adjusted, critical = max_t(statistics, alpha)
        if adjusted.min() > CLEARLY:
            break
    told = [
        _column(name, statistics[0, i], adjusted[i], critical[i], found.numbers.get(name), is_window, outcome)
        for i, name in enumerate(names)
    ]
    return outcome.judge([*told, *found.untold], permutations, how)


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
    reference: pd.DataFrame,
    window: pd.DataFrame,
    *,
    stats: Sequence[str],
    min_rows: int,
    seed: int,
    trained: pd.DataFrame | None = None,
    season: Season = "none",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows and columns that `detect` compares, named as in its verdict: reference and window, to draw them.

    What is not compared of a row is NaN or None.
    """
    sides = sides_of(reference, window, trained, season=season, min_rows=min_rows, seed=seed)
    found, is_window = measured(sides, stats, min_rows), sides.is_window
    pooled = pd.DataFrame(found.numbers, index=range(len(is_window)))
    if found.classes is not None:
        answers = pd.concat([sides.window["predicted"], sides.reference["predicted"]], ignore_index=True)
        pooled[CLASS_MIX] = answers.astype(str).reindex(pooled.index).where(found.classes >= 0, None)
    return pooled[~is_window].reset_index(drop=True), pooled[is_window]


# ----------------------------------------------------------------------------------------------- verdicts


def _column(
    name: str, effect: float, p: float, critical: float, values: Floats | None, is_window: Mask, asked: "_Outcome"
) -> Column:
    said = f"distance {effect:.2f}, adjusted p {p:.2g}"
    medians: tuple[float | None, float | None] = (None, None)
    if values is not None:
        medians = float(np.nanmedian(values[is_window])), float(np.nanmedian(values[~is_window]))
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
    new_rows: int
    alpha: float
    min_effect: float
    by_picture: bool = False
    unseasonal: str = ""

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
            reasons=tuple([*reasons, self.unseasonal] if self.unseasonal else reasons),
            columns=tuple(columns),
            window_rows=self.window_rows,
            reference_rows=self.reference_rows,
            new_rows=self.new_rows,
            permutations=permutations,
            shuffled=shuffled,
            alpha=self.alpha,
            min_effect=self.min_effect,
            by_picture=self.by_picture,
        )
