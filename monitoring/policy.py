"""What to do about it: from evidence to KEEP, WATCH, LABEL, RETRAIN or UNKNOWN, with the reason in a sentence.

An alarm alone trains nothing. A contender is asked for when the world has changed, that costs accuracy as
measured on labels, there are enough new labels to learn the change from, and nobody is at it already.

Pure: the same evidence and rules give the same decision, so stored evidence can be replayed.
"""

from dataclasses import dataclass
from datetime import date
from typing import Literal

Action = Literal["KEEP", "WATCH", "LABEL", "RETRAIN", "UNKNOWN"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """The recipe's policy: a share, a count and days."""

    min_loss: float
    min_fresh_labels: int
    cooldown_days: int
    in_flight_days: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What is known at the end of `day`, and what was decided before it."""

    day: date
    drift: Literal["DRIFT", "NO DRIFT", "UNKNOWN"]
    drift_reason: str
    drift_since: date | None
    """First day of the unbroken run of DRIFT that `day` is in."""
    loss: float | None
    """Reference accuracy minus accuracy, on photos since the drift began if there is drift; None without labels."""
    loss_significant: bool
    loss_rows: int
    """Labelled photos behind `loss`."""
    fresh_labels: int
    """Labelled photos captured since the drift began."""
    in_flight: str | None
    """Run key of a retraining that no judge has answered yet."""
    last_retrain: date | None
    """Newest day on which a retraining was asked for; after `day` where an old day is decided late."""

    def __post_init__(self) -> None:
        if self.drift_since is not None and self.drift_since > self.day:
            raise ValueError(f"drift_since={self.drift_since} is after day={self.day}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    action: Action
    reason: str


def decide(evidence: Evidence, rules: Rules) -> Decision:
    """The action for this evidence."""
    loss = _loss(evidence, rules)
    if evidence.drift == "UNKNOWN":
        return Decision(action="UNKNOWN", reason=f"Drift cannot be told: {evidence.drift_reason}. {loss}.")
    if evidence.drift == "NO DRIFT":
        action: Action = "WATCH" if lost(evidence, rules) else "KEEP"
        return Decision(action=action, reason=f"No drift. {loss}.")
    drift = f"Drift since {evidence.drift_since or evidence.day} ({evidence.drift_reason})"
    if flying(evidence, rules):
        return Decision(action="WATCH", reason=f"{drift}. {evidence.in_flight} is in flight and not judged yet.")
    if evidence.fresh_labels < rules.min_fresh_labels:
        wanted = f"{evidence.fresh_labels} labels since then, {rules.min_fresh_labels} are needed to tell and to learn"
        return Decision(action="LABEL", reason=f"{drift}. {loss}. {wanted}.")
    if not lost(evidence, rules):
        return Decision(action="WATCH", reason=f"{drift}. {loss}: a new model has nothing to win back.")
    if cooling(evidence, rules):
        wait = f"the last retraining was asked for on {evidence.last_retrain}, cool-down is {rules.cooldown_days} days"
        return Decision(action="WATCH", reason=f"{drift}. {loss}, but {wait}.")
    given_up = f" {evidence.in_flight} was never judged and is given up." if evidence.in_flight else ""
    reason = f"{drift}. {loss}. {evidence.fresh_labels} fresh labels to learn from.{given_up}"
    return Decision(action="RETRAIN", reason=reason)


def lost(evidence: Evidence, rules: Rules) -> bool:
    """Is accuracy down by enough, and surely?"""
    return evidence.loss is not None and evidence.loss_significant and evidence.loss >= rules.min_loss


def flying(evidence: Evidence, rules: Rules) -> bool:
    """Is a retraining under way? One that no judge has answered in `in_flight_days` has died on the way."""
    if evidence.in_flight is None:
        return False
    asked = evidence.last_retrain or evidence.day
    return (evidence.day - asked).days <= rules.in_flight_days


def cooling(evidence: Evidence, rules: Rules) -> bool:
    """Was a retraining asked for within the last `cooldown_days`?"""
    return evidence.last_retrain is not None and (evidence.day - evidence.last_retrain).days <= rules.cooldown_days


def _loss(evidence: Evidence, rules: Rules) -> str:
    if evidence.loss is None:
        return "Accuracy is not known, no labels have arrived"
    rows = f"on {evidence.loss_rows} labelled photos"
    points = 100 * evidence.loss
    if lost(evidence, rules):
        return f"Accuracy is down {points:.1f} points {rows}"
    if points <= 0:
        return f"Accuracy holds {rows} ({0 - points:+.1f} points)"
    why = "too few to be sure" if evidence.loss >= rules.min_loss else f"min_loss is {100 * rules.min_loss:g} points"
    return f"Accuracy is down {points:.1f} points {rows}, {why}"
