"""Is it enough: from comparisons to PROMOTE, HOLD or INSUFFICIENT DATA, each gate with its sentence.

Three kinds of opponent, three questions:

- the champion: clearly better on fresh rows, and not worse on golden ones;
- a baseline, while there is no champion: not worse on all rows together;
- guessing the commonest class, where there is neither: clearly better on all rows together.

"Clearly better" means that the lower bound is above 0 and that the exact McNemar test agrees, because with
few senders a bootstrap is too sure. "Not worse" means that the lower bound is above minus the margin. Where
the interval is too wide to say, although the difference seen is a loss of less than half the margin or none,
the verdict is INSUFFICIENT DATA and not HOLD: nothing speaks against the contender, the rows cannot tell.
"""

from dataclasses import dataclass
from typing import Literal

from monitoring.comparison import Comparison, Gates, Verdict

OpponentKind = Literal["champion", "baseline", "guess"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one gate found."""

    gate: str
    outcome: Literal["pass", "fail", "unknown"]
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Median milliseconds of one photo, measured in turns."""

    contender: float
    opponent: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruling:
    """The verdict, and every gate's finding: what decided it first."""

    verdict: Verdict
    findings: tuple[Finding, ...]

    @property
    def reasons(self) -> list[str]:
        return [finding.sentence for finding in self.findings]


def rule(
    *,
    opponent: OpponentKind,
    golden: Comparison | None,
    fresh: Comparison | None,
    pooled: Comparison | None,
    latency: Latency | None,
    gates: Gates,
    objections: tuple[Finding, ...] = (),
) -> Ruling:
    """Ask every gate.

    Args:
        opponent: who the contender was compared with.
        golden, fresh, pooled: the comparison on those rows; None where there are none.
        latency: of both models; None where the opponent is no model.
        gates: the recipe's.
        objections: findings from outside the numbers, such as a champion that cannot read these rows.
    """
    deciding = fresh if opponent == "champion" else pooled
    name = "fresh" if opponent == "champion" else "test"
    findings = list(objections)
    short = _enough(deciding, name, gates)
    if short.outcome == "pass" and deciding is not None:
        if opponent == "baseline":
            findings.append(_not_worse(deciding, "golden and fresh", gates, "the baseline", frozen=False))
        else:
            findings.append(_better(deciding, name, gates))
    if opponent == "champion":
        findings.append(_golden(golden, gates))
        if golden is not None:
            findings.append(_macro_f1(golden, gates))
    if opponent != "guess" and pooled is not None:
        findings.append(_calibration(pooled, gates))
    if opponent == "champion" and latency is not None:
        findings.append(_latency(latency, gates))
    findings.append(short)
    return _conclude(findings, too_few=short.outcome == "unknown")


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


# ------------------------------------------------------------------------------------------------- gates


def _enough(found: Comparison | None, name: str, gates: Gates) -> Finding:
    rows = found.rows if found else 0
    if rows >= gates.min_rows:
        return Finding(
            gate="rows", outcome="pass", sentence=f"Enough rows: {rows} labelled {name} rows, {gates.min_rows} asked."
        )
    return Finding(
        gate="rows",
        outcome="unknown",
        sentence=f"Too few rows: {rows} labelled {name} rows, gates.min_rows asks for {gates.min_rows}; "
        f"{gates.min_rows - rows} more are needed.",
    )


def _better(found: Comparison, name: str, gates: Gates) -> Finding:
    sure = found.low > 0 and found.p_value <= 1 - gates.confidence
    seen = (
        f"{_accuracies(found)}, {_signed(found.difference)} ({_bound(found, gates)}, {_on(found)}; "
        f"only the contender was right on {found.only_contender}, only the opponent on {found.only_opponent}, "
        f"exact McNemar p {_p(found.p_value)})"
    )
    if sure:
        return Finding(gate="better", outcome="pass", sentence=f"Better on {name} rows: accuracy {seen}.")
    least = found.detectable(gates.confidence)
    power = f"; {found.rows} such rows show an improvement of {_points(least)} four times in five" if least > 0 else ""
    return Finding(
        gate="better",
        outcome="fail",
        sentence=f"Not shown to be better on {name} rows: accuracy {seen}. "
        f"Asked: a bound above 0 and p at most {1 - gates.confidence:.2g}{power}.",
    )


def _golden(found: Comparison | None, gates: Gates) -> Finding:
    if found is None:
        return Finding(
            gate="not worse",
            outcome="unknown",
            sentence="No golden rows: whether the contender forgot something cannot be told.",
        )
    return _not_worse(found, "golden", gates, "the champion", frozen=True)


def _not_worse(found: Comparison, name: str, gates: Gates, opponent: str, *, frozen: bool) -> Finding:
    seen = f"accuracy {_accuracies(found)}, {_signed(found.difference)} ({_bound(found, gates)}, {_on(found)})"
    allowed = f"the margin allows a loss of {_points(gates.margin)}"
    if found.low > -gates.margin:
        return Finding(
            gate="not worse", outcome="pass", sentence=f"Not worse than {opponent} on {name} rows: {seen}; {allowed}."
        )
    if found.difference >= -gates.margin / 2:
        needed = max(found.rows_to_show(gates.margin + found.difference, gates.confidence), found.rows + 1)
        remedy = (
            f"These golden rows can show a margin of {_points(-found.low)} at best: set gates.margin to what you can "
            "bear, or start with a larger golden set (more held-out senders before the first snapshot)."
            if frozen
            else f"About {needed - found.rows} more rows are needed."
        )
        return Finding(
            gate="not worse",
            outcome="unknown",
            sentence=f"Too few {name} rows to tell: {seen}; {allowed}, and the difference seen is within half of it, "
            f"but only about {needed} rows in all would show it. {remedy}",
        )
    return Finding(
        gate="not worse", outcome="fail", sentence=f"Worse than {opponent} on {name} rows: {seen}; {allowed}."
    )


def _macro_f1(found: Comparison, gates: Gates) -> Finding:
    ours, theirs = found.contender.macro_f1, found.opponent.macro_f1
    seen = f"{ours:.3f} against {theirs:.3f}, {_signed(found.f1_difference)}; a loss of {gates.margin:.3g} is allowed"
    if found.f1_difference >= -gates.margin:
        return Finding(gate="macro-F1", outcome="pass", sentence=f"Macro-F1 on golden rows holds: {seen}.")
    return Finding(gate="macro-F1", outcome="fail", sentence=f"Macro-F1 on golden rows is lost: {seen}.")


def _calibration(found: Comparison, gates: Gates) -> Finding:
    ours, theirs = found.contender.ece, found.opponent.ece
    seen = f"{ours:.3f} against {theirs:.3f} on all {found.rows} rows; {gates.calibration_margin:.3g} more is allowed"
    if ours <= theirs + gates.calibration_margin:
        return Finding(gate="calibration", outcome="pass", sentence=f"Calibration error is fine: {seen}.")
    return Finding(gate="calibration", outcome="fail", sentence=f"Calibration error is too large: {seen}.")


def _latency(latency: Latency, gates: Gates) -> Finding:
    factor = latency.contender / latency.opponent
    seen = (
        f"{latency.contender:.2f} ms a photo against {latency.opponent:.2f} ms (median), {factor:.1f} times; "
        f"{gates.latency_factor:g} times is allowed"
    )
    if factor <= gates.latency_factor:
        return Finding(gate="latency", outcome="pass", sentence=f"Fast enough: {seen}.")
    return Finding(gate="latency", outcome="fail", sentence=f"Too slow: {seen}.")


# ------------------------------------------------------------------------------------------------- words


def _accuracies(found: Comparison) -> str:
    return f"{found.contender.accuracy:.3f} against {found.opponent.accuracy:.3f}"


def _bound(found: Comparison, gates: Gates) -> str:
    return f"{gates.confidence:.0%} sure of at least {_signed(found.low)}"


def _on(found: Comparison) -> str:
    return f"{found.rows} rows of {found.senders} senders"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _points(value: float) -> str:
    return f"{100 * value:.3g} points"


def _p(value: float) -> str:
    return f"= {value:.2g}" if value >= 1e-4 else "below 0.0001"
