"""Did only the mix of classes change? Estimated from the champion's answers, without a label of the window.

If photos of each class look as before (p(x | y) stays), the mean answer of a window is the mean answers of the classes,
mixed anew: q = C w, where column y of C is the mean of the answers about reference photos of class y. Solved for w
(Lipton, Wang and Smola 2018, "Detecting and Correcting for Label Shift with Black Box Predictors", with probabilities
for counts). Then the claim is tested: the reference, drawn again with that mix, must not differ from the window.

Pure: frames in, a finding out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from monitoring.columns import matrix
from monitoring.permutation import Floats

FEWEST_LABELS = 5
"""Reference labels of a class; with fewer its mean answer is not known."""
LEAST_SINGULAR = 0.1
"""Where two classes get nearly the same answers, C cannot be undone: its smallest singular value is below this."""
DRAWS = 400
LEVEL = 95.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassShare:
    """A class's share of the reference, and of the window as estimated, with a 95% bootstrap interval."""

    name: str
    reference: float
    estimated: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelShift:
    """SHIFT: the mix changed and explains the drift. NO SHIFT: it does not. `classes` are empty where UNKNOWN."""

    verdict: Literal["SHIFT", "NO SHIFT", "UNKNOWN"]
    reason: str
    classes: tuple[ClassShare, ...] = ()


def explain(
    reference: pd.DataFrame,
    window: pd.DataFrame,
    classes: Sequence[str],
    *,
    differs: Callable[[pd.DataFrame], Sequence[str]],
    min_rows: int,
    seed: int,
) -> LabelShift:
    """Whether a change of the mix is all that happened.

    Args:
        reference: `label` and `probabilities` (in the order of `classes`) of photos the model was not fitted on.
        window: `probabilities` of photos of the same kind.
        differs: the names of the columns in which the window differs from a reference.
        min_rows: of the window, and of as many as the reference, drawn again, is worth.
        seed: of the draws.
    """
    said, unknown = _answers(reference, window, classes, min_rows)
    if unknown:
        return LabelShift(verdict="UNKNOWN", reason=unknown)
    labels, known, asked = said
    estimated, draws = estimate(labels, known, asked, seed=seed)
    shares = np.bincount(labels, minlength=len(classes)) / len(labels)
    low, high = np.percentile(draws, [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)
    told = tuple(
        ClassShare(name=name, reference=float(r), estimated=float(e), low=float(min(a, e)), high=float(max(b, e)))
        for name, r, e, a, b in zip(classes, shares, estimated, low, high, strict=True)
    )
    moved = sorted(
        (c for c in told if not c.low <= c.reference <= c.high), key=lambda c: -abs(c.estimated - c.reference)
    )
    if not moved:
        return LabelShift(verdict="NO SHIFT", reason="no class has another share than in the reference", classes=told)
    weight = (estimated / np.where(shares > 0, shares, 1))[labels]
    worth = weight.sum() ** 2 / (weight**2).sum()
    if worth < min_rows:
        return LabelShift(
            verdict="UNKNOWN",
            reason=f"the reference, drawn again with this mix, is worth {worth:.0f} photos, fewer than {min_rows}",
            classes=told,
        )
    random = np.random.default_rng(seed)
    labelled = reference[reference["label"].isin(list(classes))]
    remixed = labelled.iloc[np.sort(random.choice(len(labelled), len(labelled), p=weight / weight.sum()))]
    mix = ", ".join(f"{c.name} from {c.reference:.0%} to {c.estimated:.0%}" for c in moved[:3])
    left = differs(remixed.reset_index(drop=True))
    if left:
        return LabelShift(
            verdict="NO SHIFT",
            reason=f"a changed mix of classes does not explain it: {', '.join(left[:3])} differ beyond it",
            classes=told,
        )
    return LabelShift(verdict="SHIFT", reason=f"the mix of classes changed: {mix}; nothing else did", classes=told)


def estimate(
    labels: np.ndarray, known: Floats, asked: Floats, *, seed: int, draws: int = DRAWS
) -> tuple[Floats, Floats]:
    """The shares of the classes in the window, [C], and of `draws` bootstrap draws, [draws, C].

    Reference photos are drawn again within their class, photos of the window among all.

    Args:
        labels: [N] class numbers of the reference, each class present.
        known: [N, C] answers about them.
        asked: [M, C] answers about the window.
    """
    classes = known.shape[1]
    random = np.random.default_rng(seed)
    one_hot = np.eye(classes)[labels]
    point = _solve((known.T @ one_hot / one_hot.sum(axis=0))[None], asked.mean(axis=0)[None])[0]
    confusions = np.empty((draws, classes, classes))
    for name in range(classes):
        mine = known[labels == name]
        counts = random.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=draws)
        confusions[:, :, name] = counts @ mine / len(mine)
    counts = random.multinomial(len(asked), np.full(len(asked), 1 / len(asked)), size=draws)
    return point, _solve(confusions, counts @ asked / len(asked))


def _solve(confusion: Floats, mean: Floats) -> Floats:
    """Shares from [B, C, C] and [B, C], least squares, made shares of a whole."""
    found = np.clip((np.linalg.pinv(confusion) @ mean[:, :, None])[:, :, 0], 0, None)
    return found / found.sum(axis=1, keepdims=True)


_Answers = tuple[np.ndarray, Floats, Floats]
_NOTHING: _Answers = (np.empty(0, int), np.empty((0, 0)), np.empty((0, 0)))


def _answers(
    reference: pd.DataFrame, window: pd.DataFrame, classes: Sequence[str], min_rows: int
) -> tuple[_Answers, str]:
    """Labels, answers about the reference and about the window; or why they cannot tell."""
    for side, frame, names in (
        ("reference", reference, ("label", "probabilities")),
        ("window", window, ("probabilities",)),
    ):
        if absent := [name for name in names if name not in frame]:
            return _NOTHING, f"no column {absent[0]!r} in the {side}"
    known, asked = matrix(reference["probabilities"]), matrix(window["probabilities"])
    if {known.shape[1], asked.shape[1]} != {len(classes)}:
        return (
            _NOTHING,
            f"answers are of {known.shape[1]} and {asked.shape[1]} classes, the taxonomy has {len(classes)}",
        )
    labels = pd.Categorical(reference["label"], categories=list(classes)).codes.astype(int)
    good = (labels >= 0) & np.isfinite(known).all(axis=1)
    labels, known, asked = labels[good], known[good], asked[np.isfinite(asked).all(axis=1)]
    if len(asked) < min_rows:
        return _NOTHING, f"the window has {len(asked)} answers, fewer than min_rows={min_rows}"
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < FEWEST_LABELS:
        name = classes[int(counts.argmin())]
        return _NOTHING, f"class {name} has {counts.min()} labelled reference photos, fewer than {FEWEST_LABELS}"
    one_hot = np.eye(len(classes))[labels]
    least = float(np.linalg.svd(known.T @ one_hot / counts, compute_uv=False)[-1])
    if least < LEAST_SINGULAR:
        return _NOTHING, (
            "some classes get nearly the same answers, so their shares cannot be told apart (smallest singular value "
            f"{least:.2g}, below {LEAST_SINGULAR:g})"
        )
    return (labels, known, asked), ""
