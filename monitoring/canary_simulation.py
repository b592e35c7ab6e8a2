"""How often the canary's judge is right: made-up arms of which the truth is known, looked at after every batch.

Senders differ (their accuracies are Beta with an intra-class correlation), some send far more than others, and each
is answered by one arm throughout. The share of stories in which a verdict was reached at any look is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from scipy import stats

from monitoring.canary import STEP, Answers, Arm, Finding, Gate, Minute, Rules, State, judge

START = datetime(2026, 3, 1, tzinfo=UTC)
Minutes = tuple[list[Minute], list[Minute]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """One world, told many times."""

    name: str
    accuracy: float = 0.9
    """The champion's."""
    change: float = 0.0
    """The canary's accuracy minus the champion's."""
    senders: int = 300
    weight: float = 0.2
    icc: float = 0.05
    """How alike one sender's photos are: 0 not at all, 1 entirely."""
    sizes: float = 1.0
    """Spread of how much senders send: sigma of a log-normal."""
    photos: int = 200
    """Labelled in each batch, both arms together."""
    looks: int = 60
    failing: float = 0.0
    """Error rate of the canary beyond the champion's."""
    slower: float = 1.0
    """How many times as long the canary takes."""
    minutes: int = 1_000
    """In which both arms answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Shares of the stories."""

    story: Story
    stories: int
    promoted: float
    dropped: float
    undecided: float
    looks: float
    """Median look at which it was decided, or all of them."""
    photos: float
    """Labelled answers of the canary by then (median)."""

    def bound(self, share: float, *, confidence: float = 0.95) -> float:
        """Upper bound of a share by Clopper & Pearson."""
        count = round(share * self.stories)
        return float(stats.beta.ppf(confidence, count + 1, self.stories - count)) if count < self.stories else 1.0


def measure(story: Story, *, stories: int, seed: int, rules: Rules, gate: Gate | None = None) -> Measured:
    """Tell a story many times.

    Args:
        gate: the one that decides alone, as if the others held; None: all three.
    """
    verdicts, looks, photos = [], [], []
    for number in range(stories):
        rng = np.random.default_rng([seed, number])
        verdict, look, count = _tell(story, rng, rules, gate)
        verdicts.append(verdict)
        looks.append(look)
        photos.append(count)
    told = np.array(verdicts)
    return Measured(
        story=story,
        stories=stories,
        promoted=float(np.mean(told == "PROMOTE")),
        dropped=float(np.mean(told == "DROP")),
        undecided=float(np.mean(told == "CONTINUE")),
        looks=float(np.median(looks)),
        photos=float(np.median(photos)),
    )


def _tell(story: Story, rng: np.random.Generator, rules: Rules, gate: Gate | None) -> tuple[str, int, int]:
    ours, its = _senders(story, rng)
    verdict, count = "CONTINUE", 0
    minutes: Minutes = ([], []) if gate == "accuracy" else _minutes(story, rng)
    for look in range(1, story.looks + 1):
        for arm in (ours, its):
            arm.batch(rng)
        count = int(its.rows.sum())
        done = len(minutes[0]) * look // story.looks
        ruling = judge(
            Arm(answers=ours.answers(), minutes=minutes[0][:done]),
            Arm(answers=its.answers(), minutes=minutes[1][:done]),
            days=0,
            rules=rules,
        )
        verdict = ruling.verdict if gate is None else _alone(ruling.findings, gate)
        if verdict != "CONTINUE":
            return verdict, look, count
    return verdict, story.looks, count


def _alone(findings: Sequence[Finding], gate: Gate) -> str:
    says: dict[State, str] = {"holds": "PROMOTE", "broken": "DROP", "open": "CONTINUE"}
    return says[next(finding.state for finding in findings if finding.gate == gate)]


@dataclass(slots=True)
class _Side:
    """One arm's senders, and what is known of them so far."""

    chances: np.ndarray
    shares: np.ndarray
    photos: float
    right: np.ndarray
    rows: np.ndarray

    def batch(self, rng: np.random.Generator) -> None:
        rows = rng.poisson(self.photos * self.shares)
        self.rows += rows
        self.right += rng.binomial(rows, self.chances)

    def answers(self) -> Answers:
        seen = self.rows > 0
        return Answers(right=self.right[seen], rows=self.rows[seen])


def _senders(story: Story, rng: np.random.Generator) -> tuple[_Side, _Side]:
    sizes = rng.lognormal(0, story.sizes, story.senders)
    its = rng.random(story.senders) < story.weight
    sides = []
    for mine, mean in ((~its, story.accuracy), (its, story.accuracy + story.change)):
        count = int(mine.sum())
        if story.icc:
            strength = (1 - story.icc) / story.icc
            chances = rng.beta(mean * strength, (1 - mean) * strength, count)
        else:
            chances = np.full(count, mean)
        zeros = np.zeros((2, count), np.int64)
        sides.append(
            _Side(
                chances=chances,
                shares=sizes[mine] / sizes.sum(),
                photos=float(story.photos),
                right=zeros[0],
                rows=zeros[1],
            )
        )
    return sides[0], sides[1]


def _minutes(story: Story, rng: np.random.Generator) -> Minutes:
    """Minutes in which both fail one photo in 500, in bursts that hit both."""
    burst = np.where(rng.random(story.minutes) < 0.02, 0.1, 0.0002)
    ours = [_minute(rng, at, 40, min(rate, 1.0), 1.0) for at, rate in enumerate(burst)]
    its = [_minute(rng, at, 10, min(rate + story.failing, 1.0), story.slower) for at, rate in enumerate(burst)]
    return ours, its


def _minute(rng: np.random.Generator, at: int, photos: int, rate: float, slower: float) -> Minute:
    answered = int(rng.poisson(photos))
    errors = int(rng.binomial(answered, rate))
    times = slower * rng.lognormal(np.log(5), 0.5, answered - errors)
    bounds, counts = np.unique(0.25 * STEP ** np.ceil(np.log2(times / 0.25) / np.log2(STEP)), return_counts=True)
    latencies = {float(bound): int(photos) for bound, photos in zip(bounds, counts, strict=True)}
    return Minute(at=START + timedelta(minutes=at), photos=answered - errors, errors=errors, latencies=latencies)
