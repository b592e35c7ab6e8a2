"""Is it enough: from comparisons to PROMOTE, HOLD or INSUFFICIENT DATA.

Three kinds of opponent, three questions:

- the champion: better in the success metric on fresh rows, or not worse where the recipe says so; on rows since
  the drift began, where a drift asked for this training and they are enough, not worse: it is known by then that
  keeping the champion costs accuracy. And no guardrail is broken;
- a baseline, while there is no champion: not worse on all rows together, and as well calibrated;
- guessing the commonest class, where there is neither: better on all rows together.

"Better" means that the lower bound is above 0 and, for accuracy, that the exact McNemar test agrees. "Not
worse" means that the lower bound is above minus the margin. What each gate finds is in `monitoring.gates`.
A gate that fails makes a HOLD; if none fails, one that cannot tell makes INSUFFICIENT DATA. Too few deciding
rows come before all: whatever else was found, it was found on too little.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from monitoring.comparison import Comparison, MetricName, Paired, SeedSpread, compare
from monitoring.gates import (
    Finding,
    Gates,
    Mix,
    Ratio,
    affordable,
    better,
    enough,
    made_good,
    no_rows,
    not_worse,
    outweighed,
    seeds_agree,
    slices_hold,
)
from monitoring.intervals import Bools
from monitoring.slices import Key, SliceRow, slice_table

Verdict = Literal["PROMOTE", "HOLD", "INSUFFICIENT DATA"]
OpponentKind = Literal["champion", "baseline", "guess"]
PARTS = ("golden", "fresh", "drifted", "pooled")
KEPT: dict[str, MetricName] = {"golden": "accuracy", "macro-F1": "macro_f1"}
"""Gates on golden rows, and what each asks of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruling:
    """The verdict, and every gate's finding: what decided it first."""

    verdict: Verdict
    findings: tuple[Finding, ...]

    @property
    def reasons(self) -> list[str]:
        return [finding.sentence for finding in self.findings]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """All that was found out about a contender on some rows."""

    comparisons: dict[str, Comparison | None]
    """By `PARTS`; None where there are no such rows."""
    slices: list[SliceRow]
    ruling: Ruling


def judge(
    paired: Paired,
    *,
    opponent: OpponentKind,
    fresh: Bools,
    drifted: Bools | None = None,
    changed_days: int = 0,
    masks: Mapping[Key, Bools],
    gates: Gates,
    ratios: Sequence[Ratio] = (),
    seeds: SeedSpread | None = None,
    objections: tuple[Finding, ...] = (),
) -> Judged:
    """Compare on each part of the rows, go through the slices, and rule.

    Args:
        paired: the answers on golden and fresh rows.
        opponent: who the contender is compared with.
        fresh: which rows are fresh, [N]; the others are golden.
        drifted: which came since the drift began, [N]; None where no drift asked for the training.
        changed_days: for how long there has been drift.
        masks: the slices, from `slice_masks`.
        gates: the recipe's.
        ratios, seeds, objections: see `rule`.
    """
    since = np.zeros(len(fresh), bool) if drifted is None else drifted & fresh
    rows = {"golden": ~fresh, "fresh": fresh, "drifted": since, "pooled": np.ones(len(fresh), bool)}
    parts = {name: compare(paired.where(rows[name]), confidence=gates.confidence) for name in PARTS}
    mix = _mix(parts, gates, changed_days) if opponent == "champion" else None
    table = slice_table(
        paired,
        masks,
        confidence=gates.confidence,
        min_rows=gates.slice_min_rows,
        since=since if mix else None,
        odds=mix.odds if mix else 1.0,
    )
    ruling = rule(
        opponent=opponent,
        parts=parts,
        changed_days=changed_days,
        slices=table,
        ratios=ratios,
        seeds=seeds,
        gates=gates,
        objections=objections,
    )
    return Judged(comparisons=parts, slices=table, ruling=ruling)


def deciding_mask(opponent: OpponentKind, *, fresh: Bools, drifted: Bools | None, gates: Gates) -> Bools:
    """Which rows decide on the success metric, [N]: what to compare seeds on before `judge`."""
    if opponent != "champion":
        return np.ones(len(fresh), bool)
    since = fresh & drifted if drifted is not None else np.zeros(len(fresh), bool)
    return since if since.sum() >= gates.min_rows else fresh


def rule(
    *,
    opponent: OpponentKind,
    parts: Mapping[str, Comparison | None],
    gates: Gates,
    changed_days: int = 0,
    slices: Sequence[SliceRow] = (),
    ratios: Sequence[Ratio] = (),
    seeds: SeedSpread | None = None,
    objections: tuple[Finding, ...] = (),
) -> Ruling:
    """Ask every gate.

    Args:
        opponent: who the contender was compared with.
        parts: the comparison on the rows of each of `PARTS`; None, or left out, where there are none.
        gates: the recipe's.
        changed_days: for how long there has been drift.
        slices: the table of slices; only a champion's slices can be lost.
        ratios: latency, size and cost, as far as they are known; only a champion is a measure of them.
        seeds: of the contender's candidate, on the deciding rows; None where it was fitted once.
        objections: findings from outside the numbers, such as a champion that cannot read these rows.
    """
    deciding, name = deciding_rows(opponent, parts, gates)
    drifted = parts.get("drifted") if opponent == "champion" else None
    short = enough(deciding, name, gates, drifted=None if deciding is drifted else drifted)
    asked = gates.after_drift if deciding is not None and deciding is drifted else gates.require
    must_be_better = opponent == "guess" or (opponent == "champion" and asked == "better")
    findings = list(objections)
    if short.outcome == "pass" and deciding is not None:
        findings.append(_success(deciding, name, gates, opponent, must_be_better=must_be_better))
        if seeds is not None:
            findings.append(seeds_agree(seeds, gates, must_be_better=must_be_better))
    mix = _mix(parts, gates, changed_days) if opponent == "champion" else None
    findings += _guardrails(opponent, parts, gates, mix)
    if opponent == "champion":
        findings += slices_hold(slices, gates) if gates.slices else []
        findings += [affordable(found, gates) for found in ratios]
    findings.append(short)
    return _conclude(findings, too_few=short.outcome == "unknown")


def deciding_rows(
    opponent: OpponentKind, parts: Mapping[str, Comparison | None], gates: Gates
) -> tuple[Comparison | None, str]:
    """The part that the success metric is asked of, and what it is called in a sentence."""
    if opponent != "champion":
        return parts.get("pooled"), "test rows"
    drifted = _decisive(parts, gates)
    if drifted is not None:
        return drifted, "fresh rows since the drift began"
    return parts.get("fresh"), "fresh rows"


def _decisive(parts: Mapping[str, Comparison | None], gates: Gates) -> Comparison | None:
    """The comparison on rows since a drift began, if there are enough of them."""
    drifted = parts.get("drifted")
    return drifted if drifted is not None and drifted.rows >= gates.min_rows else None


def _success(found: Comparison, name: str, gates: Gates, opponent: OpponentKind, *, must_be_better: bool) -> Finding:
    won = better(found, name, gates)
    if must_be_better or (opponent == "champion" and won.outcome == "pass"):
        return won
    whom = "the champion" if opponent == "champion" else "the baseline"
    where = name if opponent == "champion" else "golden and fresh rows"
    return not_worse(found, where, gates, opponent=whom, metric=gates.metric)


def _guardrails(
    opponent: OpponentKind, parts: Mapping[str, Comparison | None], gates: Gates, mix: Mix | None
) -> list[Finding]:
    findings = []
    golden, sure, name = parts.get("golden"), parts.get("pooled"), "all rows"
    whom = "the champion" if opponent == "champion" else "the baseline"
    since = _decisive(parts, gates) if opponent == "champion" else None
    if since is not None:
        # On rows of two worlds together a champion that is too sure in the one looks calibrated.
        sure, name = since, "rows since the drift began"
    if opponent == "champion":
        if golden is None:
            findings.append(no_rows("golden", "No golden rows: whether the contender forgot something cannot be told."))
        else:
            for gate, metric in KEPT.items():
                found = not_worse(golden, "golden rows", gates, opponent=whom, gate=gate, metric=metric, frozen=True)
                findings.append(made_good(found, golden, mix, gates, metric) if mix else found)
        if sure is not None:
            findings.append(not_worse(sure, name, gates, opponent=whom, gate="log loss", metric="log_loss"))
    if opponent != "guess" and sure is not None:
        own = not_worse(sure, name, gates, opponent=whom, gate="calibration", metric="ece")
        findings.append(outweighed(own, since, gates) if since else own)
    return findings


def _mix(parts: Mapping[str, Comparison | None], gates: Gates, changed_days: int) -> Mix | None:
    """What the photos to come are like, after a drift of which there are enough rows.

    After the changed world has been there on k days of k, the odds that it stays are k + 1 to 1 (Laplace's rule of
    succession).
    """
    drifted = _decisive(parts, gates)
    if drifted is None or gates.drift_trade <= 0:
        return None
    return Mix(since=drifted, odds=gates.drift_trade * (changed_days + 1))


def _conclude(findings: list[Finding], *, too_few: bool) -> Ruling:
    outcomes = {finding.outcome for finding in findings}
    verdict: Verdict = "PROMOTE"
    if too_few:
        verdict = "INSUFFICIENT DATA"
    elif "fail" in outcomes:
        verdict = "HOLD"
    elif "unknown" in outcomes:
        verdict = "INSUFFICIENT DATA"
    order = ["unknown", "fail", "pass"] if too_few else ["fail", "unknown", "pass"]
    findings.sort(key=lambda finding: (order.index(finding.outcome), too_few and finding.gate != "rows"))
    return Ruling(verdict=verdict, findings=tuple(findings))
