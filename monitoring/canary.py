"""Is the canary good enough: from two arms' answers to PROMOTE, DROP or CONTINUE. Pure; look as often as you like.

Three questions, each about a margin: is its accuracy more than `margin` below the champion's, is its error rate more
than `error_margin` above, is its 95th percentile of latency more than `latency_factor` times as long? Each is
answered *holds* (proven not), *broken* (proven so) or *open*, by tests that stay right under continuous peeking
(`monitoring.wealth`):

- one that is broken makes DROP; the chance of a DROP without cause is shared out among the three;
- all three that hold make PROMOTE; a canary beyond one of its margins gets there with a chance of 1 − confidence at
  most, whatever the others do;
- otherwise CONTINUE, until `max_days` are over: then DROP, out of time.

*Accuracy* is compared between senders: who sends is answered by one arm, photos of one sender are alike, and so the
senders are the sample. The difference of the two ratios has the cluster-robust (linearised) variance with each
sender one cluster. *Errors* and *latency* are compared between minutes, which count alike: what goes wrong goes wrong
for many photos at once. Errors are compared within each minute that both arms saw: what hits both tells nothing.
*Latency*: that the canary's percentile is above t, and the champion's not above t / factor, are two bets on the share
of slow photos in a minute. Shares at a larger t are smaller, and so one bet covers every t: t may be chosen by looking.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from monitoring.wealth import Floats, log_wealth_above, log_wealth_below, radius

Verdict = Literal["PROMOTE", "DROP", "CONTINUE"]
State = Literal["holds", "broken", "open"]
Gate = Literal["accuracy", "errors", "latency"]

GATES = 3
SLOW = 0.05
"""Share of photos above the percentile that is compared."""
STEP = 2 ** (1 / 8)
"""How far apart the bounds of a histogram are: a photo counted under 8 ms took more than 8 / STEP."""
TRIED = 8
"""Thresholds of latency that are tried at one look."""
MIN_SENDERS = 8
"""Of each arm: the spread between fewer is no measure of chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a canary may cost, as `recipe.serving.canary` says it."""

    confidence: float = 0.95
    margin: float = 0.02
    min_truth: int = 100
    error_margin: float = 0.01
    latency_factor: float = 1.5
    max_days: int = 14

    @property
    def alpha(self) -> float:
        return 1 - self.confidence


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Labelled answers of one arm, by sender. Who is unknown is a sender for each photo."""

    right: NDArray[np.int64]
    """[S]."""
    rows: NDArray[np.int64]
    """[S], at least 1 each."""

    @property
    def total(self) -> int:
        return int(self.rows.sum())

    @property
    def accuracy(self) -> float:
        return float(self.right.sum() / self.total) if self.total else float("nan")

    @property
    def squared(self) -> float:
        """Sum of the squared numbers of answers: how unevenly senders send."""
        rows = self.rows.astype(float)
        return float(rows @ rows)

    def spread(self) -> float:
        """Sum over senders of their squared surplus of right answers."""
        surplus = self.right - self.accuracy * self.rows
        return float(surplus @ surplus)

    def variance(self, alike: float, accuracy: float) -> float:
        """Of the accuracy, with each sender a cluster.

        The larger of two: what the senders' spread says (linearised), and what it would be at `accuracy` if answers
        of one sender were as much alike as in both arms together. The first alone is too small where the accuracy
        happens to be high: errors are then few, and of few senders.
        """
        senders, total = len(self.rows), self.total
        between = senders / (senders - 1) * self.spread() / total**2
        share = (accuracy * total + 1) / (total + 2)
        return max(between, share * (1 - share) / total * (1 + alike * (self.squared / total - 1)))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of that variance: few large senders among many small ones are worth no more than few."""
        return max(self.total**2 / self.squared - 1, 0.5)


def likeness(arms: Sequence[Answers]) -> float:
    """How alike answers of one sender are, 0 to 1: the intra-class correlation by moments, over all arms."""
    chance = [arm.accuracy * (1 - arm.accuracy) for arm in arms]
    surplus = sum(arm.spread() - plain * arm.total for arm, plain in zip(arms, chance, strict=True))
    pairs = sum(plain * (arm.squared - arm.total) for arm, plain in zip(arms, chance, strict=True))
    return float(np.clip(surplus / pairs, 0, 1)) if pairs > 0 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Minute:
    """How one arm did in one minute, all workers together."""

    at: datetime
    photos: int
    """Answered."""
    errors: int
    latencies: dict[float, int]
    """Upper bound in ms → photos."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """All that is known of one arm since the canary began."""

    answers: Answers
    minutes: Sequence[Minute]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One gate: what was found, and a sentence that says it."""

    gate: Gate
    state: State
    sentence: str
    canary: float | None = None
    champion: float | None = None
    """Accuracy or error rate as a share, latency in ms."""
    low: float | None = None
    high: float | None = None
    """Between which the difference of accuracy lies, at any time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruling:
    verdict: Verdict
    findings: tuple[Finding, ...]
    out_of_time: bool = False
    reason: str

    @property
    def reasons(self) -> list[str]:
        return [finding.sentence for finding in self.findings]


def judge(champion: Arm, canary: Arm, *, days: float, rules: Rules) -> Ruling:
    """Look at both arms since the canary began, and rule.

    Args:
        days: that the canary has run.
    """
    findings = (
        _accuracy(champion.answers, canary.answers, rules),
        _errors(champion.minutes, canary.minutes, rules),
        _latency(champion.minutes, canary.minutes, rules),
    )
    broken = [finding for finding in findings if finding.state == "broken"]
    waiting = [finding for finding in findings if finding.state == "open"]
    if broken:
        return Ruling(verdict="DROP", findings=findings, reason=" ".join(finding.sentence for finding in broken))
    if not waiting:
        return Ruling(verdict="PROMOTE", findings=findings, reason=" ".join(finding.sentence for finding in findings))
    asked = " ".join(finding.sentence for finding in waiting)
    if days >= rules.max_days:
        why = f"Out of time: {days:.1f} days have not decided it (at most {rules.max_days}). {asked}"
        return Ruling(verdict="DROP", findings=findings, reason=why, out_of_time=True)
    return Ruling(verdict="CONTINUE", findings=findings, reason=asked)


# ------------------------------------------------------------------------------------------------ accuracy


def _accuracy(champion: Answers, canary: Answers, rules: Rules) -> Finding:
    facts = {
        "canary": canary.accuracy if canary.total else None,
        "champion": champion.accuracy if champion.total else None,
    }
    fewer = min(canary.total, champion.total)
    if fewer < rules.min_truth:
        who = "the canary" if canary.total <= champion.total else "the champion"
        return Finding(
            gate="accuracy",
            state="open",
            sentence=f"Accuracy is open: {who} has {fewer} labelled answers, {rules.min_truth} are needed.",
            **facts,
        )
    senders = min(len(canary.rows), len(champion.rows))
    if senders < MIN_SENDERS:
        return Finding(
            gate="accuracy",
            state="open",
            sentence=f"Accuracy is open: one arm has labels of {senders} senders, {MIN_SENDERS} are needed.",
            **facts,
        )
    difference, below, above = _difference(champion, canary, rules)
    low, high = difference - below, difference + above
    state: State = "holds" if low > -rules.margin else "broken" if high < -rules.margin else "open"
    said = {"holds": "is not worse", "broken": "is worse", "open": "is open"}[state]
    return Finding(
        gate="accuracy",
        state=state,
        sentence=(
            f"Accuracy {said}: {canary.accuracy:.1%} on {canary.total:,} photos of {len(canary.rows):,} senders, the "
            f"champion's {champion.accuracy:.1%} on {champion.total:,} of {len(champion.rows):,}; the difference is "
            f"between {100 * low:+.1f} and {100 * high:+.1f} points, {-100 * rules.margin:+.1f} is allowed."
        ),
        low=low,
        high=high,
        **facts,
    )


def _difference(champion: Answers, canary: Answers, rules: Rules) -> tuple[float, float, float]:
    """Of accuracy, and how far the truth may be below (for PROMOTE) and above it (for DROP)."""
    alike = likeness((champion, canary))
    ours = champion.variance(alike, champion.accuracy)
    its = canary.variance(alike, float(np.clip(champion.accuracy - rules.margin, 0.0, 1.0)))
    variance = ours + its
    # Satterthwaite's degrees of freedom of a sum of two variances.
    freedom = variance**2 / (ours**2 / champion.freedom + its**2 / canary.freedom)
    below = radius(variance, freedom, alpha=rules.alpha, scale=rules.margin)
    above = radius(variance, freedom, alpha=rules.alpha / GATES, scale=rules.margin)
    return canary.accuracy - champion.accuracy, below, above


# -------------------------------------------------------------------------------------------------- errors


def _errors(champion: Sequence[Minute], canary: Sequence[Minute], rules: Rules) -> Finding:
    ours = {minute.at: minute for minute in champion}
    both = [(minute, ours[minute.at]) for minute in sorted(canary, key=_at) if minute.at in ours]
    shares = np.array([[_failed(its), _failed(our)] for its, our in both]).reshape(-1, 2)
    # A difference from −1 to 1, moved into [0, 1].
    moved = ((shares[:, :1] - shares[:, 1:]) + 1) / 2
    edge = (rules.error_margin + 1) / 2
    state: State = "open"
    if log_wealth_below(moved, edge)[0] >= np.log(1 / rules.alpha):
        state = "holds"
    if log_wealth_above(moved, edge)[0] >= np.log(GATES / rules.alpha):
        state = "broken"
    if not both:
        return Finding(gate="errors", state="open", sentence="Errors are open: no minute has answers of both arms.")
    its, our = (float(mean) for mean in shares.mean(axis=0))
    said = {"holds": "are not more", "broken": "are more", "open": "are open"}[state]
    return Finding(
        gate="errors",
        state=state,
        sentence=(
            f"Errors {said}: {its:.2%} of photos fail, the champion's {our:.2%}, in {len(both):,} minutes; "
            f"{100 * rules.error_margin:.1f} points more are allowed."
        ),
        canary=its,
        champion=our,
    )


def _failed(minute: Minute) -> float:
    return minute.errors / max(minute.photos + minute.errors, 1)


def _at(minute: Minute) -> datetime:
    return minute.at


# ------------------------------------------------------------------------------------------------- latency


def _latency(champion: Sequence[Minute], canary: Sequence[Minute], rules: Rules) -> Finding:
    seen = {bound for minute in (*champion, *canary) for bound in minute.latencies}
    bounds = np.array(sorted({_round(edge) for bound in seen for edge in (bound / STEP, bound)}))
    ours, its = (_above(minutes, bounds) for minutes in (champion, canary))
    if not len(ours) or not len(its):
        return Finding(gate="latency", state="open", sentence="Latency is open: not both arms have answered yet.")
    our_ms, its_ms = _percentile(ours, bounds), _percentile(its, bounds)
    said, state = "is open", _slower(ours, its, bounds, our_ms, its_ms, rules)
    if state != "open":
        said = {"holds": "holds", "broken": "is too long"}[state]
    return Finding(
        gate="latency",
        state=state,
        sentence=(
            f"Latency {said}: 95% of its photos take up to {its_ms:.3g} ms, of the champion's {our_ms:.3g} ms, in "
            f"{len(its):,} and {len(ours):,} minutes; {rules.latency_factor:g} times as long is allowed."
        ),
        canary=its_ms,
        champion=our_ms,
    )


def _slower(ours: Floats, its: Floats, bounds: Floats, our_ms: float, its_ms: float, rules: Rules) -> State:
    factor = rules.latency_factor
    edge = np.log(2 / rules.alpha)  # two bets that must both be won
    for threshold in _tried(bounds[(bounds >= its_ms) & (bounds <= factor * our_ms)]):
        # Proven that its percentile is at most t, and ours above t / factor.
        near = np.searchsorted(bounds, threshold / factor, side="left")
        column = np.searchsorted(bounds, threshold)
        if (
            log_wealth_below(its[:, [column]], SLOW)[0] >= edge
            and log_wealth_above(ours[:, [near]], SLOW)[0] >= edge
        ):  # fmt: skip
            return "holds"
    edge = np.log(2 * GATES / rules.alpha)
    for threshold in _tried(bounds[(bounds < its_ms) & (bounds >= factor * our_ms)]):
        near = np.searchsorted(bounds, threshold / factor, side="right") - 1
        column = np.searchsorted(bounds, threshold)
        if (
            near >= 0
            and log_wealth_above(its[:, [column]], SLOW)[0] >= edge
            and log_wealth_below(ours[:, [near]], SLOW)[0] >= edge
        ):
            return "broken"
    return "open"


def _round(bound: float) -> float:
    """To four digits, so that a bound and its neighbour's neighbour are one number."""
    return float(f"{bound:.4g}")


def _tried(thresholds: Floats) -> Floats:
    """Some of them, spread out: any choice is allowed."""
    if len(thresholds) <= TRIED:
        return thresholds
    return thresholds[np.linspace(0, len(thresholds) - 1, TRIED).round().astype(int)]


def _above(minutes: Sequence[Minute], bounds: Floats) -> Floats:
    """Share of a minute's photos above each bound: [T, B], in order of time, minutes without answers left out."""
    rounded = {bound: place for place, bound in enumerate(bounds.tolist())}
    seen = {bound for minute in minutes for bound in minute.latencies}
    column = {bound: rounded[_round(bound)] for bound in seen}
    answered = [minute for minute in sorted(minutes, key=_at) if minute.latencies]
    places = [row * len(bounds) + column[bound] for row, minute in enumerate(answered) for bound in minute.latencies]
    photos = [count for minute in answered for count in minute.latencies.values()]
    flat = np.bincount(places, weights=photos, minlength=len(answered) * len(bounds))
    counts = flat.reshape(len(answered), len(bounds))
    return 1 - np.cumsum(counts, axis=1) / counts.sum(axis=1, keepdims=True)


def _percentile(above: Floats, bounds: Floats) -> float:
    """The first bound that at most 5% of photos are above, minutes counted alike."""
    return float(bounds[int(np.argmax(above.mean(axis=0) <= SLOW + 1e-12))])
