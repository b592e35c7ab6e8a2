"""Made-up worlds in which the truth is known, to count how often the judge is right about it.

A world draws photos of senders of uneven size, whose photos fail together, and two models with a chosen
disagreement and calibrated confidence. The judge then does what it does in earnest: `verdict.judge` on the
same arrays that `classy evaluate` would pass. Everything is drawn from seeds; draws run in processes.
"""

import math
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from statistics import median
from typing import Never

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import owens_t
from scipy.stats import norm
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from monitoring.comparison import Paired
from monitoring.gates import Gates
from monitoring.intervals import Bools
from monitoring.slices import Key, slice_masks
from monitoring.verdict import Judged, judge

PLANTED: Key = ("phone", "planted")
"""The slice that a planted regression loses."""
PHONES = 6
SHARED_BY_SENDER, SHARED_AND_KNOWN = 0.25, 0.4
"""Of what makes a photo hard for both models alike: the sender's part, and what confidence reflects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """One kind of world. Shares and accuracies in 0..1."""

    rows: int = 2400
    """Golden and fresh rows together."""
    fresh_share: float = 1 / 3
    senders: int = 120
    unevenness: float = 1.0
    """Standard deviation of the logarithm of a sender's share of the rows: 1 gives the top tenth about 40%."""
    classes: int = 10
    accuracy: float = 0.8
    """Of the opponent; and of the contender where nothing else is said."""
    disagreement: float = 0.12
    """Share of photos that exactly one of two equal models gets right."""
    clustering: float = 0.2
    """Share of what sets the models apart that belongs to the sender and not to the photo."""
    gain: float = 0.0
    """How much better the contender is."""
    golden_gain: float | None = None
    """The same on golden rows, where it is another."""
    loss: float = 0.0
    """How much worse it is on the planted slice instead."""
    planted_share: float = 0.05
    """Of all rows."""
    planted_by_sender: bool = False
    """Whether the planted slice is some senders with all their photos (a phone), or photos of all senders."""


# ------------------------------------------------------------------------------------------------ a draw


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """What `evaluate` would have read and predicted."""

    paired: Paired
    fresh: Bools
    masks: dict[Key, Bools]


def draw(world: World, seed: int) -> Drawn:
    """One world from a seed."""
    rng = np.random.default_rng(seed)
    senders = _senders(world, rng)
    fresh = rng.random(world.rows) < world.fresh_share
    planted = _planted(world, senders, rng)
    golden_gain = world.gain if world.golden_gain is None else world.golden_gain
    gain = np.where(fresh, world.gain, golden_gain)
    if world.loss:
        gain = np.where(planted, -world.loss, gain)
    targets = np.clip(world.accuracy + gain, 0.02, 0.995)
    labels = rng.choice(world.classes, world.rows, p=rng.dirichlet(np.full(world.classes, 20.0)))
    contender, opponent = _answers(world, labels, senders, targets, rng)
    names = np.char.add("sender-", senders.astype(str))
    phones = np.char.add("phone-", (senders % PHONES).astype(str))
    masks = slice_masks(
        labels,
        [f"class-{number}" for number in range(world.classes)],
        names,
        fresh,
        numbers={"brightness": rng.random(world.rows), "resolution": rng.random(world.rows)},
        words={"phone": np.where(planted, PLANTED[1], phones)},
        new_senders=senders % 4 == 0,
    )
    paired = Paired(labels=labels, contender=contender, opponent=opponent, senders=names)
    return Drawn(paired=paired, fresh=fresh, masks=masks)


def _senders(world: World, rng: np.random.Generator) -> NDArray[np.int64]:
    shares = np.exp(world.unevenness * rng.standard_normal(world.senders))
    return rng.choice(world.senders, world.rows, p=shares / shares.sum())


def _planted(world: World, senders: NDArray[np.int64], rng: np.random.Generator) -> Bools:
    if not world.planted_by_sender:
        return rng.random(world.rows) < world.planted_share
    # Whole senders, one after the other, until they have so many rows; the last may overshoot.
    order = rng.permutation(world.senders)
    rows = np.bincount(senders, minlength=world.senders)[order]
    before = np.cumsum(rows) - rows
    return np.isin(senders, order[before < world.planted_share * world.rows])


def _answers(
    world: World,
    labels: NDArray[np.int64],
    senders: NDArray[np.int64],
    targets: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities of contender and opponent, [N, C] each.

    A model is right about a photo if the photo's difficulty, a normal number, is below the model's skill. The
    difficulty adds up from parts: of the sender and of the photo, shared by the models or a model's own.
    """
    own = _own_share(world.accuracy, world.disagreement)
    variances = {
        "shared by sender": (1 - own) * SHARED_BY_SENDER,
        "shared and known": (1 - own) * SHARED_AND_KNOWN,
        "shared": (1 - own) * (1 - SHARED_BY_SENDER - SHARED_AND_KNOWN),
        "own by sender": own * world.clustering,
        "own": own * (1 - world.clustering),
    }

    def part(name: str, count: int) -> NDArray[np.float64]:
        return math.sqrt(variances[name]) * rng.standard_normal(count)

    known = part("shared by sender", world.senders)[senders] + part("shared and known", len(labels))
    shared = part("shared", len(labels))
    unknown = math.sqrt(variances["shared"] + variances["own"])
    answers = []
    for accuracy in (targets, np.full(len(labels), world.accuracy)):
        skill = norm.ppf(accuracy)
        mine = known + part("own by sender", world.senders)[senders]
        right = mine + shared + part("own", len(labels)) < skill
        # How likely it is to be right, given all but the unknown part: that is calibrated confidence.
        confidence = norm.cdf((skill - mine) / unknown)
        answers.append(_probabilities(labels, right, confidence, world.classes, rng))
    return answers[0], answers[1]


def _probabilities(
    labels: NDArray[np.int64],
    right: Bools,
    confidence: NDArray[np.float64],
    classes: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    said = np.where(right, labels, (labels + rng.integers(1, classes, len(labels))) % classes)
    rest = rng.dirichlet(np.ones(classes), len(labels))
    rows = np.arange(len(labels))
    # Where the answer is wrong, the truth is as a rule the next best.
    rest[rows, labels] += rng.uniform(0.2, 1.5, len(labels))
    rest[rows, said] = 0
    rest /= rest.sum(axis=1, keepdims=True)
    # What is said must be the most likely: where confidence is too low for that, it is raised to the least that is.
    most = rest.max(axis=1)
    sure = np.maximum(confidence, most / (1 + most) + 1e-6)
    found = rest * (1 - sure)[:, None]
    found[rows, said] = sure
    return found


@cache
def _own_share(accuracy: float, disagreement: float) -> float:
    """Share of the difficulty's variance that must be a model's own, so that two of them disagree so often."""
    skill = float(norm.ppf(accuracy))

    def too_much(own: float) -> float:
        # Of two normals with correlation r, both are below h with chance cdf(h) - 2 T(h, sqrt((1 - r) / (1 + r))).
        return 4 * float(owens_t(skill, math.sqrt(own / (2 - own)))) - disagreement

    return float(brentq(too_much, 1e-9, 1.0))


# ----------------------------------------------------------------------------------------------- counting


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdicts:
    """What the judge said in many draws of one world."""

    draws: int
    verdicts: dict[str, int]
    stopped_by: dict[str, int]
    """Draws in which a gate did not pass, by gate."""
    detectable: float
    """The improvement of accuracy that the fresh rows show four times in five: the median over draws."""

    @property
    def promoted(self) -> int:
        return self.verdicts.get("PROMOTE", 0)

    def share(self, verdict: str) -> float:
        return self.verdicts.get(verdict, 0) / self.draws


def judged(world: World, gates: Gates, seed: int) -> Judged:
    """One draw, judged against a champion."""
    drawn = draw(world, seed)
    return judge(drawn.paired, opponent="champion", fresh=drawn.fresh, masks=drawn.masks, gates=gates)


def _outcome(seed: int, world: World, gates: Gates) -> tuple[str, list[str], float]:
    found = judged(world, gates, seed)
    fresh = found.comparisons["fresh"]
    stopped = sorted({finding.gate for finding in found.ruling.findings if finding.outcome != "pass"})
    return found.ruling.verdict, stopped, fresh.detectable(gates.confidence) if fresh else math.nan


def simulate(
    world: World, gates: Gates, *, draws: int, seed: int = 0, processes: int = 1, say: str = "worlds"
) -> Verdicts:
    """Draw `draws` worlds, judge each, and count. The same seed gives the same counts, however many processes."""
    one, numbers = partial(_outcome, world=world, gates=gates), range(seed, seed + draws)
    with tqdm(total=draws, desc=say, unit="world", disable=None) as bar:
        if processes == 1:
            with threadpool_limits(1):  # the matrices are small: threads cost more than they bring
                return _count(map(one, numbers), bar)
        # Spawned, so that no thread of numpy or torch is forked in the middle of its work.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context, initializer=threadpool_limits, initargs=(1,)) as pool:
            return _count(pool.map(one, numbers, chunksize=max(1, min(20, draws // processes))), bar)


def _count(outcomes: Iterable[tuple[str, list[str], float]], bar: "tqdm[Never]") -> Verdicts:
    verdicts: Counter[str] = Counter()
    stopped: Counter[str] = Counter()
    detectable = []
    for verdict, gates, least in outcomes:
        verdicts[verdict] += 1
        stopped.update(gates)
        detectable.append(least)
        bar.update()
    return Verdicts(
        draws=len(detectable),
        verdicts=dict(verdicts.most_common()),
        stopped_by=dict(stopped.most_common()),
        detectable=float(median(detectable)),
    )


def power(
    world: World, gates: Gates, *, rows: Sequence[int], gains: Sequence[float], draws: int, processes: int = 1
) -> dict[int, list[Verdicts]]:
    """For each number of rows, what is said of contenders that are truly better by each of `gains`.

    Senders grow with the rows, so that each sends as much as in `world`.
    """
    found = {}
    for count in rows:
        senders = max(2, round(world.senders * count / world.rows))
        found[count] = [
            simulate(
                replace(world, rows=count, senders=senders, gain=gain),
                gates,
                draws=draws,
                processes=processes,
                say=f"{count} rows, {100 * gain:+.0f} points",
            )
            for gain in gains
        ]
    return found
