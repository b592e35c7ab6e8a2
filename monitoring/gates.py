"""The gates a contender goes through: each looks at one thing and says pass, fail or unknown, in a sentence.

"Unknown" means that the rows can tell neither: what was seen is no loss, or one that is allowed, and they are too few
to rule out a larger one. Then the sentence says how many more rows would tell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from scipy import stats

from monitoring.comparison import POWER, Comparison, Difference, MetricName, SeedSpread, spread
from monitoring.slices import SliceRow

Outcome = Literal["pass", "fail", "unknown"]


class Gates(Protocol):
    """The recipe's `gates`, as far as the judge reads them."""

    @property
    def confidence(self) -> float: ...
    @property
    def metric(self) -> Literal["accuracy", "macro_f1", "log_loss"]: ...
    @property
    def require(self) -> Literal["better", "not_worse"]: ...
    @property
    def after_drift(self) -> Literal["better", "not_worse"]: ...
    @property
    def margin(self) -> float: ...
    @property
    def f1_margin(self) -> float: ...
    @property
    def log_loss_margin(self) -> float: ...
    @property
    def calibration_margin(self) -> float: ...
    @property
    def drift_trade(self) -> float: ...
    @property
    def latency_factor(self) -> float: ...
    @property
    def size_factor(self) -> float: ...
    @property
    def cost_factor(self) -> float: ...
    @property
    def min_rows(self) -> int: ...
    @property
    def slices(self) -> bool: ...
    @property
    def slice_margin(self) -> float: ...
    @property
    def slice_min_rows(self) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """The photos to come, after a drift: `odds` to 1 they are like those since it began, else like the golden ones."""

    since: Comparison
    """On rows since the drift began."""
    odds: float

    def with_golden(self, golden: Comparison, metric: MetricName) -> Difference:
        """The difference on both kinds of rows, weighted by how often they will come, as if they were independent."""
        weights = self.odds / (self.odds + 1), 1 / (self.odds + 1)
        sides = [found.differences[metric] for found in (self.since, golden)]
        gain = sum(weight * side.gain for weight, side in zip(weights, sides, strict=True))
        low = gain - math.hypot(*(w * (side.gain - side.low) for w, side in zip(weights, sides, strict=True)))
        high = gain + math.hypot(*(w * (side.high - side.gain) for w, side in zip(weights, sides, strict=True)))
        return Difference(gain=gain, low=low, high=high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one gate found."""

    gate: str
    outcome: Outcome
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """What both models cost in one way, such as milliseconds a photo."""

    gate: Literal["latency", "size", "cost"]
    contender: float
    opponent: float
    high: float
    """Upper bound of contender / opponent; that quotient itself where it is exact."""
    unit: str
    """ms, bytes, s, or a currency."""


FEW_SENDERS = 10
"""A slice of fewer is no surer with more photos of the same ones."""
NAMES: dict[MetricName, str] = {
    "accuracy": "accuracy", "macro_f1": "macro-F1", "log_loss": "log loss", "ece": "calibration error",
}  # fmt: skip
MARGINS: dict[MetricName, str] = {
    "accuracy": "margin", "macro_f1": "f1_margin", "log_loss": "log_loss_margin", "ece": "calibration_margin",
}  # fmt: skip


# ------------------------------------------------------------------------------------- rows and success


def enough(found: Comparison | None, name: str, gates: Gates, *, drifted: Comparison | None = None) -> Finding:
    """Enough labelled rows to decide on, and what they could show."""
    rows = found.rows if found else 0
    power = f" {_power(found, gates)}" if found else ""
    if drifted is not None and drifted.rows < gates.min_rows:
        power += f" Since the drift began there are {drifted.rows}, too few to decide on by themselves."
    if rows >= gates.min_rows:
        sentence = f"Enough rows: {rows} labelled {name}, {gates.min_rows} asked.{power}"
        return Finding(gate="rows", outcome="pass", sentence=sentence)
    sentence = (
        f"Too few rows: {rows} labelled {name}, gates.min_rows asks for {gates.min_rows}; "
        f"{gates.min_rows - rows} more are needed.{power}"
    )
    return Finding(gate="rows", outcome="unknown", sentence=sentence)


def _power(found: Comparison, gates: Gates) -> str:
    least = found.detectable(gates.confidence, gates.metric)
    return f"They show an improvement of {amount(least, gates.metric)} in {NAMES[gates.metric]} four times in five."


def better(found: Comparison, name: str, gates: Gates) -> Finding:
    """Better in the success metric: the bound is above 0, and for accuracy the exact test agrees.

    Unknown while a gain of the metric's margin is not ruled out; a smaller one is not worth waiting for.
    """
    difference, by_accuracy = found.differences[gates.metric], gates.metric == "accuracy"
    sure = difference.low > 0 and (not by_accuracy or found.p_value <= 1 - gates.confidence)
    exact = (
        f"; only the contender was right on {found.only_contender}, only the opponent on {found.only_opponent}, "
        f"exact McNemar p {_p(found.p_value)}"
        if by_accuracy
        else ""
    )
    what = f"{_seen(found, gates.metric, gates)}{exact}"
    if sure:
        return Finding(gate="better", outcome="pass", sentence=f"Better on {name}: {what}.")
    asked = f"a bound above 0{f' and p at most {1 - gates.confidence:.2g}' if by_accuracy else ''}"
    seen = f"Not shown to be better on {name}: {what}. Asked: {asked}."
    if difference.gain > 0:
        needed = max(found.rows_to_show(difference.gain, gates.confidence, gates.metric), found.rows + 1)
        seen += f" If the gain is what it seems, about {needed - found.rows} more such rows would show it."
    field = MARGINS[gates.metric]
    matters: float = getattr(gates, field)
    if difference.high < matters:
        return Finding(gate="better", outcome="fail", sentence=seen)
    open_ = f" The rows do not rule out a gain of {amount(matters, gates.metric)} (gates.{field})."
    return Finding(gate="better", outcome="unknown", sentence=seen + open_)


# ------------------------------------------------------------------------------------------- guardrails


def not_worse(
    found: Comparison,
    name: str,
    gates: Gates,
    *,
    opponent: str,
    gate: str = "not worse",
    metric: MetricName = "accuracy",
    frozen: bool = False,
) -> Finding:
    """Not worse by more than the metric's margin.

    Args:
        name: of the rows.
        frozen: whether no more rows of this kind will come.
    """
    difference, field = found.differences[metric], MARGINS[metric]
    margin: float = getattr(gates, field)
    what = f"{_seen(found, metric, gates)}; {_allows(margin, field, metric)}"
    if difference.low > -margin:
        return Finding(gate=gate, outcome="pass", sentence=f"Not worse than {opponent} on {name}: {what}.")
    if difference.gain <= -margin:
        return Finding(gate=gate, outcome="fail", sentence=f"Worse than {opponent} on {name}: {what}.")
    needed = max(found.rows_to_show(margin + difference.gain, gates.confidence, metric), found.rows + 1)
    remedy = (
        f"These golden rows can show a margin of {amount(-difference.low, metric)} at best: set gates.{field} to what "
        "you can bear, or start with a larger golden set (more held-out senders before the first snapshot)."
        if frozen
        else f"About {needed - found.rows} more rows are needed."
    )
    seen = "No loss was seen" if difference.gain >= 0 else "The loss seen is less than that"
    return Finding(
        gate=gate,
        outcome="unknown",
        sentence=f"Too few {name} to tell: {what}. {seen}, but only about {needed} rows in all would show it. {remedy}",
    )


def outweighed(calibration: Finding, found: Comparison, gates: Gates) -> Finding:
    """A finding on calibration that does not pass, unless log loss is surely better on the same rows.

    Log loss is a proper score: it is calibration and how well the classes are told apart, together (Murphy 1973). What
    a contender surely wins in it after a drift is not held back because some dozens of rows cannot show the one part.
    """
    if calibration.outcome == "pass" or found.differences["log_loss"].low <= 0:
        return calibration
    sentence = f"Calibration is outweighed: {_seen(found, 'log_loss', gates)}. By itself: {calibration.sentence}"
    return Finding(gate=calibration.gate, outcome="pass", sentence=sentence)


def made_good(golden: Finding, found: Comparison, mix: Mix, gates: Gates, metric: MetricName) -> Finding:
    """A finding on golden rows that does not pass, unless the contender does as well on the photos to come.

    Not worse on them, or better where `after_drift` says so. As long as too few rows tell, it is unknown.
    """
    if golden.outcome == "pass":
        return golden
    difference, field = mix.with_golden(found, metric), MARGINS[metric]
    margin: float = getattr(gates, field)
    least = 0.0 if gates.after_drift == "better" else -margin
    told = (
        f"{signed(difference.gain)} in {NAMES[metric]} on the photos to come ({gates.confidence:.0%} sure of at least "
        f"{signed(difference.low)}; {mix.odds:g} to 1 they are like those since the drift began); "
        f"{'asked: a bound above 0' if least == 0 else _allows(margin, field, metric)}. By itself: {golden.sentence}"
    )
    if difference.low > least:
        return Finding(gate=golden.gate, outcome="pass", sentence=f"Made good by what is won since: {told}")
    if difference.gain <= -margin:
        return Finding(gate=golden.gate, outcome="fail", sentence=f"Not made good by what is won since: {told}")
    return Finding(gate=golden.gate, outcome="unknown", sentence=f"Too few rows to tell whether it pays: {told}")


def _allows(margin: float, field: str, metric: MetricName) -> str:
    return f"gates.{field} allows a loss of {amount(margin, metric)}"


def no_rows(gate: str, sentence: str) -> Finding:
    return Finding(gate=gate, outcome="unknown", sentence=sentence)


FINE = {"latency": "Fast enough", "size": "Small enough", "cost": "Cheap enough"}
TOO_MUCH = {"latency": "Too slow", "size": "Too large", "cost": "Too expensive"}


def affordable(found: Ratio, gates: Gates) -> Finding:
    """At most so many times what the opponent takes."""
    field = f"{found.gate}_factor"
    allowed: float = getattr(gates, field)
    factor = found.contender / found.opponent if found.opponent > 0 else math.inf if found.contender > 0 else 1.0
    exact = math.isclose(found.high, factor, rel_tol=1e-6) or math.isinf(factor)
    bound = "" if exact else f" ({gates.confidence:.0%} sure of at most {found.high:.1f})"
    what = (
        f"{_quantity(found.contender, found)} against {_quantity(found.opponent, found)}, "
        f"{factor:.2g} times{bound}; gates.{field} allows {allowed:g} times"
    )
    if found.high <= allowed and factor <= allowed:
        return Finding(gate=found.gate, outcome="pass", sentence=f"{FINE[found.gate]}: {what}.")
    if factor <= allowed:
        sentence = f"Too noisy to tell: {what}. Measure again on a machine with nothing else to do."
        return Finding(gate=found.gate, outcome="unknown", sentence=sentence)
    return Finding(gate=found.gate, outcome="fail", sentence=f"{TOO_MUCH[found.gate]}: {what}.")


def seeds_agree(found: SeedSpread, gates: Gates, *, must_be_better: bool) -> Finding:
    """The mean over seeds holds as well: what was judged is not one lucky fit."""
    margin: float = getattr(gates, MARGINS[gates.metric])
    asked = "above 0" if must_be_better else f"above −{amount(margin, gates.metric)}"
    each = ", ".join(signed(gain) for gain in found.gains)
    what = (
        f"in {NAMES[gates.metric]} {len(found.gains)} seeds gain {signed(found.gain)} on the average "
        f"({gates.confidence:.0%} sure of at least {signed(found.low)}; each: {each})"
    )
    if found.low > (0 if must_be_better else -margin):
        return Finding(gate="seeds", outcome="pass", sentence=f"Not one lucky seed: {what}.")
    return Finding(
        gate="seeds", outcome="fail", sentence=f"Perhaps a lucky seed: {what}. Asked: a bound {asked} for the mean."
    )


# ------------------------------------------------------------------------------------------------ slices


def slices_hold(table: Sequence[SliceRow], gates: Gates) -> list[Finding]:
    """No judged slice lost more than the margin; after a drift, no more than that on the photos to come. A class is
    lost if its F1 is as well.

    A slice fails if its loss is larger and stays sure after Holm's adjustment. It is unknown if it is sure without
    the adjustment, or if its interval lies below 0: too few senders can lose too much for the test to be sure.
    """
    judged = [row for row in table if row.judged]
    if not judged:
        sentence = f"No slice has {gates.slice_min_rows} rows (gates.slice_min_rows): none is judged."
        return [Finding(gate="slices", outcome="pass", sentence=sentence)]
    alpha = 1 - gates.confidence
    found = []
    for row in sorted(judged, key=lambda row: row.difference):
        if _to_come(row) >= -gates.slice_margin:
            continue
        allows = _allows(gates.slice_margin, "slice_margin", "accuracy")
        if row.p_harm_holm is not None and row.p_harm_holm <= alpha:
            found.append(Finding(gate="slices", outcome="fail", sentence=f"Lost on {_slice(row, judged)}; {allows}."))
        elif row.p_harm <= alpha or row.high < 0:
            more = max(_rows_to_see(row, len(judged), gates) - row.rows, 1)
            who = " of more senders" if row.senders < FEW_SENDERS else ""
            sentence = f"Perhaps lost on {_slice(row, judged)}; {allows}. About {more} more rows of it{who} would tell."
            found.append(Finding(gate="slices", outcome="unknown", sentence=sentence))
    return found or [_no_slice_lost(judged, gates)]


def _to_come(row: SliceRow) -> float:
    seen = row.difference if row.to_come is None else row.to_come
    return seen if row.f1 is None else max(seen, row.f1)


def _no_slice_lost(judged: Sequence[SliceRow], gates: Gates) -> Finding:
    worst = min(judged, key=_to_come)
    sights = {row.column + " " + row.value: (_smallest_loss(row, len(judged), gates), row.rows) for row in judged}
    sharpest, dullest = min(sights.values()), max(sights.values())
    where = "seen" if worst.to_come is None else "on the photos to come"
    seen = (
        f"the largest loss {where} is {points(-_to_come(worst))} ({worst.column} {worst.value}, {worst.rows} rows)"
        if _to_come(worst) < 0
        else "on none of them was anything lost"
    )
    sentence = (
        f"No slice is lost: of {len(judged)} judged (those of {gates.slice_min_rows} rows or more), {seen}; "
        f"gates.slice_margin allows {points(gates.slice_margin)}. Four times in five a loss of "
        f"{points(sharpest[0])} would be found on the best measured of them ({sharpest[1]} rows), one of "
        f"{points(dullest[0])} on the worst measured ({dullest[1]} rows)."
    )
    return Finding(gate="slices", outcome="pass", sentence=sentence)


def _slice(row: SliceRow, judged: Sequence[SliceRow]) -> str:
    to_come = "" if row.to_come is None else f", {signed(row.to_come)} on the photos to come"
    to_come += "" if row.f1 is None else f", its F1 {signed(row.f1)}"
    return (
        f"{row.column} {row.value}: accuracy {row.contender:.3f} against {row.opponent:.3f}, "
        f"{signed(row.difference)}{to_come} ({_count(row.rows, row.senders)}; "
        f"exact test over senders: p {_p(row.p_harm)}, adjusted for {len(judged)} slices {_p(row.p_harm_holm or 1.0)})"
    )


def _reach_of_slices(count: int, gates: Gates) -> float:
    """Standard errors away at which the first step of Holm's adjustment sees a loss with `POWER`."""
    return float(stats.norm.ppf(1 - (1 - gates.confidence) / count) + stats.norm.ppf(POWER))


def _smallest_loss(row: SliceRow, count: int, gates: Gates) -> float:
    error = spread(row.low, row.high, gates.confidence)
    return max(gates.slice_margin, _reach_of_slices(count, gates) * error)


def _rows_to_see(row: SliceRow, count: int, gates: Gates) -> int:
    error = spread(row.low, row.high, gates.confidence)
    return math.ceil(row.rows * (_reach_of_slices(count, gates) * error / row.difference) ** 2)


# ------------------------------------------------------------------------------------------------- words


def _seen(found: Comparison, metric: MetricName, gates: Gates) -> str:
    difference = found.differences[metric]
    ours, theirs = getattr(found.contender, metric), getattr(found.opponent, metric)
    gain = "" if metric in ("accuracy", "macro_f1") else "a gain of "
    return (
        f"{NAMES[metric]} {ours:.3f} against {theirs:.3f}, {gain}{signed(difference.gain)} "
        f"({gates.confidence:.0%} sure of at least {signed(difference.low)}, {_count(found.rows, found.senders)})"
    )


def _count(rows: int, senders: int) -> str:
    return f"{rows} {'row' if rows == 1 else 'rows'} of {senders} {'sender' if senders == 1 else 'senders'}"


def _quantity(value: float, of: Ratio) -> str:
    if of.unit == "ms":
        return f"{value:.2f} ms a photo"
    if of.unit == "bytes":
        return f"{value / 1e6:.2f} MB"
    if of.unit == "s":
        return f"{value:.1f} s of training"
    return f"{value:.2f} {of.unit} of training"


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def points(value: float) -> str:
    return f"{100 * value:.3g} points"


def amount(value: float, metric: MetricName) -> str:
    """Such as `2 points`, `0.1 nats` or, of a calibration error, `0.05`."""
    if metric in ("accuracy", "macro_f1"):
        return points(value)
    return f"{value:.2g} nats" if metric == "log_loss" else f"{value:.2g}"


def _p(value: float) -> str:
    return f"= {value:.2g}" if value >= 1e-4 else "below 0.0001"
