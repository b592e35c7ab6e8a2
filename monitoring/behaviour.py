"""What a model must do beside being right: rows of the behaviour table, from answers.

Three kinds of test (Ribeiro et al. 2020, "Beyond Accuracy: CheckList"): invariance (a small change of the photo
leaves the answer as it is), direction (what is known of the sender pushes the answer the right way), and a minimum
(each class is right often enough). Pure functions on arrays.

A share passes when its bound reaches what is asked, as everywhere in this judge. The bound is that of a binomial
(Clopper and Pearson 1934) over as many photos as these are worth: a sender's photos resemble each other, so they are
counted as the fewer independent ones that would vary as much (Korn and Graubard 1998).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class BehaviourRow:
    """One line of the behaviour table."""

    test: str
    """flip, shift, jpeg, context or class_floor."""
    contender: float
    """Share of photos on which it holds; class_floor: the accuracy of its worst class."""
    opponent: float | None
    """The same of the opponent; None where that is no model."""
    rows: int
    asked: float
    """The share that must hold."""
    passed: bool
    sentence: str

    @property
    def is_open(self) -> bool:
        """It was not passed, but what was seen is enough: the photos are too few to be sure."""
        return not self.passed and self.contender >= self.asked


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a test says, in words that go before its figures."""

    test: str
    holds: str
    fails: str


# ------------------------------------------------------------------------------------------- photo by photo


def same_answer(before: Floats, after: Floats) -> Bools:
    """Which rows of [N, C] probabilities name the same class, [N]."""
    return before.argmax(axis=1) == after.argmax(axis=1)


def not_less_likely(less: Floats, more: Floats, labels: NDArray[np.int64], *, tolerance: float) -> Bools:
    """On which rows the class `labels` [N] is in `more` at least as likely as in `less`, up to `tolerance`.

    Args:
        less, more: probabilities [N, C] of the same photos, told that the sender sends little, or much, of the class.
    """
    row = np.arange(len(labels))
    return more[row, labels].astype(float) >= less[row, labels].astype(float) - tolerance


# --------------------------------------------------------------------------------------------------- shares


def effective(held: Bools, senders: NDArray[np.str_], *, confidence: float) -> tuple[float, float]:
    """(how often it held, of how many) in independent photos: never more than the photos that there are.

    Where nothing varies, or there is one sender, nothing is known of how its photos resemble each other: then the
    photos are counted as they are.
    """
    rows, share = len(held), float(held.mean())
    names, of_row = np.unique(senders, return_inverse=True)
    clusters = len(names)
    if clusters < 2 or share in (0.0, 1.0):
        return share * rows, float(rows)
    sums = np.bincount(of_row, weights=held - share)
    variance = clusters / (clusters - 1) * float(sums @ sums) / rows**2
    if variance == 0.0:
        return share * rows, float(rows)
    # Few senders tell little of their own spread.
    wider = float(stats.t.ppf(confidence, rows - 1) / stats.t.ppf(confidence, clusters - 1))
    worth = min(share * (1 - share) / variance * wider**2, float(rows))
    return share * worth, worth


def share_bounds(held: Bools, senders: NDArray[np.str_], *, confidence: float) -> tuple[float, float]:
    """Bounds of the share of photos that hold, each of which holds with `confidence`; at least one photo."""
    hits, rows = effective(held, senders, confidence=confidence)
    low = float(stats.beta.ppf(1 - confidence, hits, rows - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(confidence, hits + 1, rows - hits)) if hits < rows else 1.0
    return low, high


def share_row(
    claim: Claim,
    ours: Bools,
    theirs: Bools | None,
    senders: NDArray[np.str_],
    *,
    asked: float,
    confidence: float,
    opponent: str = "opponent",
) -> BehaviourRow:
    """A test that holds or not on each photo.

    Args:
        claim: what is tested.
        ours, theirs: on which photos it holds for each, [N], N > 0; None where the opponent is no model.
        asked: the share; 1 asks for each of these photos, because no bound reaches 1.
        opponent: what the opponent is called.
    """
    share, low = float(ours.mean()), share_bounds(ours, senders, confidence=confidence)[0]
    row = BehaviourRow(
        test=claim.test,
        contender=share,
        opponent=None if theirs is None else float(theirs.mean()),
        rows=len(ours),
        asked=asked,
        passed=low >= asked or (asked == 1.0 == share),
        sentence="",
    )
    other = "" if row.opponent is None else f"; the {opponent} {row.opponent:.3f}"
    seen = (
        f"on {share:.3f} of {row.rows} photos of {len(np.unique(senders))} senders ({confidence:.0%} sure of at least "
        f"{low:.3f}{other}), {asked:.3g} is asked"
    )
    unsure = f"Too few photos to be sure that {claim.holds[0].lower()}{claim.holds[1:]}"
    words = claim.holds if row.passed else unsure if row.is_open else claim.fails
    return replace(row, sentence=f"{words}: it holds {seen}.")


# ------------------------------------------------------------------------------------------------- minimum


def class_floor(
    ours: Bools,
    theirs: Bools | None,
    labels: NDArray[np.int64],
    senders: NDArray[np.str_],
    classes: Sequence[str],
    *,
    floor: float,
    min_rows: int,
    confidence: float,
    opponent: str = "opponent",
) -> BehaviourRow | None:
    """Is each class right at least `floor` of the time. None where no class has `min_rows` photos.

    Fails only where a class is shown to be below: a binomial test of each class on independent photos (`effective`),
    adjusted for their number (Holm 1979), so that a good model with many classes is not failed by chance.

    Args:
        ours, theirs: which photos were right, [N].
        labels: positions in `classes`, [N].
    """
    masks = {name: labels == position for position, name in enumerate(classes)}
    masks = {name: mask for name, mask in masks.items() if mask.sum() >= min_rows}
    if not masks:
        return None
    from statsmodels.stats.multitest import multipletests  # slow to import, and only a judge needs it

    found = [_p_not_below(ours[mask], senders[mask], floor, confidence) for mask in masks.values()]
    below, adjusted, _, _ = multipletests(found, alpha=1 - confidence, method="holm")
    shares = {name: float(ours[mask].mean()) for name, mask in masks.items()}
    worst = min(shares, key=lambda name: shares[name])
    row = BehaviourRow(
        test="class_floor",
        contender=shares[worst],
        opponent=None if theirs is None else min(float(theirs[mask].mean()) for mask in masks.values()),
        rows=int(sum(mask.sum() for mask in masks.values())),
        asked=floor,
        passed=not below.any(),
        sentence="",
    )
    other = "" if row.opponent is None else f"; the {opponent}'s worst {row.opponent:.3f}"
    shown = [worst] if row.passed else [name for name, bad in zip(masks, below, strict=True) if bad]
    p_values = dict(zip(masks, adjusted, strict=True))
    seen = ", ".join(
        f"{name} right on {shares[name]:.3f} of {int(masks[name].sum())} photos"
        + ("" if row.passed else f" (adjusted p {p_values[name]:.2g})")
        for name in shown
    )
    words = "No class is shown to be below its floor: the worst is" if row.passed else "Below the floor of a class:"
    return replace(row, sentence=f"{words} {seen}{other}; {floor:.3g} is asked of each of {len(masks)} classes.")


def _p_not_below(right: Bools, senders: NDArray[np.str_], floor: float, confidence: float) -> float:
    """How likely so few right ones are in a class that is right `floor` of the time."""
    hits, rows = effective(right, senders, confidence=confidence)
    return float(stats.beta.sf(floor, hits + 1, rows - hits)) if hits < rows else 1.0
