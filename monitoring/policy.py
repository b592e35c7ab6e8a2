"""What to do about it: from evidence to KEEP, WATCH, LABEL, RETRAIN, ROLLBACK or PAGE, with the reason in a sentence.

An alarm alone trains nothing. A contender is asked for when a change is established (drift in several windows, or
a loss that is sure by itself), it costs accuracy as measured on labels, or as labels say without being sure and the
model's own confidences say too, there are enough new labels to learn from,
nobody is at it already, and there is something left to spend. What belongs to one trouble is one incident: it
opens with the change, and closes when several windows are calm and accuracy is back.

A champion that was trained on two days of a new world knows little of it, and looks fine beside its own reference.
While accuracy stays below what it was before the incident, or the champion has learnt from fewer labels of the new
world than there were of the old one, a contender is asked for again each time that the labels since the change have
multiplied by `follow_up`: so retrainings grow with the logarithm of what there is to learn.

Pure: the same evidence and rules give the same decision, so stored evidence can be replayed.
"""

from dataclasses import dataclass
from datetime import date
from typing import Literal

Action = Literal["KEEP", "WATCH", "LABEL", "RETRAIN", "ROLLBACK", "PAGE"]
Cause = Literal["refused", "budget", "blind"]
"""Why a person is called: contenders were held, the budget is spent, or nothing can be told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """The recipe's `[policy]`: shares, counts and days."""

    min_loss: float
    min_fresh_labels: int
    confirm: int
    windows: int
    calm: int
    sure_loss: float
    regain: float
    settle: int
    follow_up: float
    cooldown_days: int
    in_flight_days: int
    max_retrains: int
    budget_days: int
    give_up_after: int
    probation_days: int
    rollback: bool
    blind_windows: int
    max_money: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What is known at the end of `day`, and what was decided before it."""

    day: date
    drift: Literal["DRIFT", "NO DRIFT", "UNKNOWN"]
    drift_reason: str
    drift_since: date | None
    """First day of the unbroken run of DRIFT that `day` is in, or a later one if `drift_anew`."""
    drifted_windows: int
    """Windows with DRIFT among the champion's last `windows` that could be told, this one included."""
    unknown_windows: int
    """Windows in a row, up to this one, that could not be told."""
    loss: float | None
    """Reference accuracy minus accuracy, on photos since the drift began if there is drift; None without labels."""
    loss_significant: bool
    loss_p: float | None
    """Chance of so large a loss where nothing changed."""
    loss_rows: int
    """Labelled photos behind `loss`."""
    fresh_labels: int
    """Labelled photos captured since the drift began; without drift those behind `loss`."""
    labels_known: int
    """All labels that are known."""
    generation: int
    champion_age: int
    """Days since what the champion was trained on was known."""
    in_flight: str | None
    """Run key of a retraining that no judge has answered yet."""
    last_retrain: date | None
    """Newest day on which a retraining was asked for; after `day` where an old day is decided late."""
    retrains: int
    """Retrainings asked for in the last `budget_days`."""
    refused: int
    """Contenders in a row that were judged and held."""
    rolled_back: bool
    """Whether this generation was decided to be rolled back before."""
    paged: tuple[Cause, ...]
    """What a person was called for since the last promotion, or since a person took the loop up again."""
    incident: str | None
    """The one that is open."""
    calm_windows: int
    """Windows in a row, up to this one, without drift and without a loss."""
    shortfall: float | None
    """Accuracy before the open incident minus accuracy of the last days; None without incident or labels."""
    shortfall_significant: bool
    labels_at_start: int | None
    """`labels_known` when the incident opened."""
    labels_at_retrain: int | None
    """`labels_known` when a retraining of the incident was last asked for."""
    estimated_loss: float | None = None
    """Reference accuracy minus the window's as its confidences tell it (`monitoring.estimate`); None where unknown."""
    estimated_loss_low: float | None = None
    """It is more than this, but for chance. A model is too sure in a new world: the truth is worse more often than
    better."""
    spent: float = 0.0
    """What trainings of the last `budget_days` cost, in the recipe's currency."""
    last_cost: float = 0.0
    """What the newest of them cost."""
    incident_since: date | None = None
    """The day that the open incident began with."""
    shortfall_most: float | None = None
    """`shortfall` is at most this, but for chance."""
    drift_anew: bool = False
    """Whether other columns joined the run on `drift_since`, and accuracy fell with them."""
    untold: bool = False
    """Whether rows were too few to tell the newest contender that was judged from its champion."""

    def __post_init__(self) -> None:
        if self.drift_since is not None and self.drift_since > self.day:
            raise ValueError(f"drift_since={self.drift_since} is after day={self.day}")

    @property
    def changed_since(self) -> date | None:
        """The day from which on rows are of the changed world: what a contender is for, and judged on.

        A champion that was trained on a few days of it drifts no more, and what came since the incident began is all
        that can tell whether the next one is better. Drift that is younger than the incident is a change of its own
        only to a champion that was trained within it, or where accuracy fell with it.
        """
        if self.drift_anew:
            return self.drift_since
        if self.drift_since is None or self.incident_since is None:
            return self.drift_since or self.incident_since
        older = self.champion_age > (self.day - self.incident_since).days
        return min(self.drift_since, self.incident_since) if older else self.drift_since


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """`incident`: the trouble that this belongs to, if any. `cause`: of a PAGE."""

    action: Action
    reason: str
    incident: str | None = None
    cause: Cause | None = None


def decide(evidence: Evidence, rules: Rules) -> Decision:
    """The action for this evidence."""
    if evidence.drift == "UNKNOWN":
        return _blind(evidence, rules)
    incident = _incident(evidence, rules)
    if incident is None:
        action: Action = "WATCH" if evidence.drift == "DRIFT" or lost(evidence, rules) else "KEEP"
        return Decision(action=action, reason=f"{_seen(evidence, rules)}.{_unconfirmed(evidence, rules)}")
    if _regretted(evidence, rules):
        reason = f"{_seen(evidence, rules)}, {evidence.champion_age} days after its promotion and without drift."
        return Decision(action="ROLLBACK", reason=reason, incident=incident)
    if not (lost(evidence, rules) or behind(evidence, rules) or foreseen(evidence, rules) or young(evidence)):
        return _costless(evidence, rules, incident)
    return _contender(evidence, rules, incident)


# --------------------------------------------------------------------------------------- parts of a decision


def established(evidence: Evidence, rules: Rules) -> bool:
    """Has the world changed? Drift in several windows, or a loss that is sure without any."""
    return evidence.drifted_windows >= rules.confirm or sure(evidence, rules)


def lost(evidence: Evidence, rules: Rules) -> bool:
    """Is accuracy down by enough, and surely?"""
    return evidence.loss is not None and evidence.loss_significant and evidence.loss >= rules.min_loss


def sure(evidence: Evidence, rules: Rules) -> bool:
    """Is accuracy down so surely that no drift need speak for it?"""
    return lost(evidence, rules) and evidence.loss_p is not None and evidence.loss_p <= rules.sure_loss


def foreseen(evidence: Evidence, rules: Rules) -> bool:
    """Does the drifted window look worse by enough, and what labels there are do not speak against it?

    An estimate finds a loss where there is one or it finds none; that it finds none says nothing.
    """
    low = evidence.estimated_loss_low
    unrefuted = evidence.loss is None or evidence.loss >= rules.min_loss
    return evidence.drift == "DRIFT" and low is not None and low >= rules.min_loss and unrefuted


def behind(evidence: Evidence, rules: Rules) -> bool:
    """Is accuracy still below what it was before the incident, although a contender was trained since?

    Before one was, a loss must be shown: a shortfall of the last days is looked at every day, and some day chance alone
    makes one.
    """
    short = evidence.shortfall
    trained = evidence.labels_at_retrain is not None
    return trained and short is not None and evidence.shortfall_significant and short >= rules.regain


def back(evidence: Evidence, rules: Rules) -> bool:
    """Is accuracy surely back to less than `min_loss` below what it was before the incident?

    That a shortfall cannot be told on few labels does not say that there is none.
    """
    return evidence.shortfall_most is not None and evidence.shortfall_most < rules.min_loss


def young(evidence: Evidence) -> bool:
    """Has the incident's last contender learnt from fewer labels of the new world than there were of the old one?

    Then a champion is behind, whether or not the labels are enough to show it. A follow-up that was held says that more
    labels do not help.
    """
    start, learnt = evidence.labels_at_start, _learnt(evidence)
    return start is not None and learnt is not None and learnt < start and not evidence.refused


def grown(evidence: Evidence, rules: Rules) -> bool:
    """Are there so many more labels than at the incident's last retraining that another one can learn from them?"""
    start, learnt = evidence.labels_at_start, _learnt(evidence)
    if start is None or learnt is None:
        return True
    return evidence.labels_known - start >= rules.follow_up * max(learnt, 1)


def _learnt(evidence: Evidence) -> int | None:
    """Labels that came between the incident's beginning and its last retraining."""
    if evidence.labels_at_start is None or evidence.labels_at_retrain is None:
        return None
    return evidence.labels_at_retrain - evidence.labels_at_start


def flying(evidence: Evidence, rules: Rules) -> bool:
    """Is a retraining under way? One that no judge has answered in `in_flight_days` has died on the way."""
    if evidence.in_flight is None:
        return False
    asked = evidence.last_retrain or evidence.day
    return (evidence.day - asked).days <= rules.in_flight_days


def cooling(evidence: Evidence, rules: Rules) -> bool:
    """Was a retraining asked for within the last `cooldown_days`?"""
    return evidence.last_retrain is not None and (evidence.day - evidence.last_retrain).days <= rules.cooldown_days


def _overspent(evidence: Evidence, rules: Rules) -> str:
    """Why another training, if it costs as much as the last one, is beyond the budget of runs or of money."""
    if evidence.retrains >= rules.max_retrains:
        return f"{evidence.retrains} retrainings in {rules.budget_days} days are all that policy.max_retrains allows"
    if rules.max_money > 0 and evidence.spent + evidence.last_cost > rules.max_money:
        return (
            f"{evidence.spent:.2f} were spent on trainings in {rules.budget_days} days, another one like the last goes "
            f"beyond policy.max_money={rules.max_money:g}"
        )
    return ""


def _incident(evidence: Evidence, rules: Rules) -> str | None:
    """The open incident, or a new one; None where there is none, or it has been calm for long enough."""
    if evidence.incident is not None:
        over = evidence.calm_windows >= rules.calm and back(evidence, rules) and not young(evidence)
        # A world that stays harder is the world by now.
        return None if over or _settled(evidence, rules) else evidence.incident
    return f"incident-{evidence.drift_since or evidence.day}" if established(evidence, rules) else None


def _settled(evidence: Evidence, rules: Rules) -> bool:
    """Has it been calm for so long, and nothing been tried, that the new world is just harder?"""
    tried = evidence.last_retrain
    return evidence.calm_windows >= rules.settle and (tried is None or (evidence.day - tried).days >= rules.settle)


def _regretted(evidence: Evidence, rules: Rules) -> bool:
    return (
        rules.rollback
        and evidence.drift == "NO DRIFT"
        and sure(evidence, rules)
        and evidence.generation > 1
        and evidence.champion_age <= rules.probation_days
        and not evidence.rolled_back
    )


def _blind(evidence: Evidence, rules: Rules) -> Decision:
    seen = f"Drift cannot be told: {evidence.drift_reason}. {_loss(evidence, rules)}."
    if evidence.unknown_windows < rules.blind_windows or "blind" in evidence.paged:
        return Decision(action="WATCH", reason=seen, incident=evidence.incident)
    reason = f"{seen} That is so for {evidence.unknown_windows} windows in a row: somebody must look."
    return Decision(action="PAGE", reason=reason, incident=evidence.incident, cause="blind")


def _costless(evidence: Evidence, rules: Rules, incident: str) -> Decision:
    """A change is established, and no loss is."""
    seen = _seen(evidence, rules)
    if evidence.drift == "DRIFT" and evidence.fresh_labels < rules.min_fresh_labels:
        return Decision(action="LABEL", reason=f"{seen}. {_wanted(evidence, rules)}.", incident=incident)
    told = ": a new model has nothing to win back." if evidence.drift == "DRIFT" else "."
    return Decision(action="WATCH", reason=seen + told, incident=incident)


def _contender(evidence: Evidence, rules: Rules, incident: str) -> Decision:
    """There is something to win back: is it time?"""
    seen = _seen(evidence, rules)

    def watch(why: str) -> Decision:
        return Decision(action="WATCH", reason=f"{seen}, but {why}.", incident=incident)

    if flying(evidence, rules):
        return Decision(action="WATCH", reason=f"{seen}. {evidence.in_flight} is in flight and not judged yet.",
                        incident=incident)  # fmt: skip
    if evidence.refused >= rules.give_up_after:
        why = f"the last {evidence.refused} contenders were held"
        return (
            watch(f"{why}, a person was called")
            if "refused" in evidence.paged
            else _page("refused", seen, why, incident)
        )
    if evidence.drift == "DRIFT" and evidence.fresh_labels < rules.min_fresh_labels:
        return Decision(action="LABEL", reason=f"{seen}. {_wanted(evidence, rules)}.", incident=incident)
    if cooling(evidence, rules):
        return watch(f"the last retraining was asked for on {evidence.last_retrain}, cool-down is "
                     f"{rules.cooldown_days} days")  # fmt: skip
    if not grown(evidence, rules):
        return _ungrown(evidence, rules, incident)
    overspent = _overspent(evidence, rules)
    if overspent:
        told = "budget" in evidence.paged
        return watch(f"{overspent}, a person was called") if told else _page("budget", seen, overspent, incident)
    given_up = f" {evidence.in_flight} was never judged and is given up." if evidence.in_flight else ""
    reason = f"{seen}. {evidence.fresh_labels} fresh labels to learn from.{given_up}"
    return Decision(action="RETRAIN", reason=reason, incident=incident)


def _ungrown(evidence: Evidence, rules: Rules, incident: str) -> Decision:
    """There are not enough labels more than at the last retraining: ask for them if its contender lacked them."""
    few = (
        f"the labels since the change have not yet grown {rules.follow_up:g} times since the retraining of "
        f"{evidence.last_retrain}"
    )
    if evidence.untold:
        told = f"Too few labels to tell its contender from the champion, and {few}"
        return Decision(action="LABEL", reason=f"{_seen(evidence, rules)}. {told}.", incident=incident)
    return Decision(action="WATCH", reason=f"{_seen(evidence, rules)}, but {few}.", incident=incident)


def _page(cause: Cause, seen: str, why: str, incident: str) -> Decision:
    reason = f"{seen}, and {why}: look at it, then `classy resume`, or train and promote one by hand."
    return Decision(action="PAGE", reason=reason, incident=incident, cause=cause)


# ------------------------------------------------------------------------------------------------- sentences


def _seen(evidence: Evidence, rules: Rules) -> str:
    drift = "No drift"
    if evidence.drift == "DRIFT":
        drift = f"Drift since {evidence.drift_since or evidence.day} ({evidence.drift_reason})"
    seen = f"{drift}. {_loss(evidence, rules)}"
    if behind(evidence, rules) and evidence.shortfall is not None:
        seen += f"; {100 * evidence.shortfall:.1f} points below what it was before {evidence.incident}"
    elif young(evidence) and not lost(evidence, rules):
        few, many = _learnt(evidence), evidence.labels_at_start
        seen += f"; the last contender learnt from {few} labels of the new world, of the old one there were {many}"
    if foreseen(evidence, rules) and not lost(evidence, rules) and evidence.estimated_loss is not None:
        seen += f"; by its own confidence it is down {100 * evidence.estimated_loss:.1f} points"
    return seen


def _unconfirmed(evidence: Evidence, rules: Rules) -> str:
    if evidence.drift == "DRIFT":
        return f" Seen in {evidence.drifted_windows} of the last {rules.windows} windows, {rules.confirm} establish it."
    return ""


def _wanted(evidence: Evidence, rules: Rules) -> str:
    return f"{evidence.fresh_labels} labels since then, {rules.min_fresh_labels} are needed to tell and to learn"


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
