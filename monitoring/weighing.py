"""What the policy looks at, put together from a day's evidence and what was decided before. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Any

from monitoring.days import end_of
from monitoring.performance import Share, compare, most_lost
from monitoring.policy import Decision, Evidence, Rules

MOST_REASONS = 2
"""Columns that a decision's sentence names; the evidence has them all."""
FORMAT = 2
"""Of what a decision keeps."""
DATES = {"day", "drift_since", "last_retrain", "incident_since"}
"""Fields of `Evidence` that are kept as text."""

UNTOLD = "INSUFFICIENT DATA"
"""The judge's action where rows are too few to tell."""

Row = Mapping[str, Any]
"""Of `decisions`."""


def gather(found: Row, decisions: Sequence[Row], day: date, rules: Rules) -> Evidence:
    """What the policy looks at.

    Args:
        found: the day's evidence (`monitoring.watch`).
        decisions: by data time, of every kind.
        rules: how far back the counts go.
    """
    told = [row for row in decisions if row["kind"] == "monitor" and row["as_of"] < end_of(day)]
    retrains = [row for row in decisions if row["kind"] == "monitor" and row["action"] == "RETRAIN"]
    judged = {row["run_key"] for row in decisions if row["kind"] == "judge"}
    newest = retrains[-1] if retrains else None
    # Only labels since the drift began tell what it costs; the days before it would water the loss down.
    measured = found["since_drift"] or found["lately"]
    rows = measured["performance"]["accuracy"]["rows"]
    champion = found["champion"] or {"generation": 0, "as_of": end_of(day).isoformat()}
    since = max(rules.budget_days, 1)
    costs = _costs(decisions, day, since)
    return Evidence(
        day=day,
        drift=found["verdict"],
        drift_reason=_shortly(found["drift"]["reasons"]),
        drift_since=None if found["drift_since"] is None else date.fromisoformat(found["drift_since"]),
        drift_anew=found.get("drift_anew", False),
        drifted_windows=_drifted(found, told, champion["generation"], rules.windows),
        unknown_windows=_run([found["verdict"], *_newest(told, "drift")], "UNKNOWN"),
        loss=measured["loss"]["loss"],
        loss_significant=measured["loss"]["significant"],
        loss_p=measured["loss"]["p"],
        loss_rows=measured["loss"].get("rows", rows),
        fresh_labels=found["fresh_labels"] if found["since_drift"] else rows,
        labels_known=found["labels_known"],
        generation=champion["generation"],
        champion_age=(end_of(day) - datetime.fromisoformat(champion["as_of"])).days,
        in_flight=newest["run_key"] if newest and newest["run_key"] not in judged else None,
        last_retrain=_day_of(newest) if newest else None,
        retrains=sum(0 <= (day - _day_of(row)).days < since for row in retrains),
        refused=_refused(decisions),
        untold=_newest_verdict(decisions) == UNTOLD,
        rolled_back=any(
            row["action"] == "ROLLBACK" and kept(row).get("generation") == champion["generation"] for row in told
        ),
        paged=_paged(decisions),
        spent=sum(costs),
        last_cost=costs[-1] if costs else 0.0,
        estimated_loss=found.get("estimate", {}).get("loss"),
        estimated_loss_low=found.get("estimate", {}).get("loss_low"),
        **_incident(found, told, measured, rules),
    )


def stored(evidence: Evidence, rules: Rules, decision: Decision, found: Row) -> dict[str, Any]:
    """What a decision keeps, JSON-plain: enough to make it again, and what later ones ask of it."""
    plain = {name: str(value) if isinstance(value, date) else value for name, value in asdict(evidence).items()}
    return {
        "format": FORMAT,
        "evidence": {**plain, "paged": list(evidence.paged)},
        "rules": asdict(rules),
        "cause": decision.cause,
        "before": dict(found.get("accuracy_before") or found["reference_accuracy"]),
    }


def restored(kept: Mapping[str, Any]) -> tuple[Evidence, Rules]:
    """What `stored` gave."""
    given = dict(kept["evidence"])
    for name in DATES & given.keys():
        given[name] = None if given[name] is None else date.fromisoformat(given[name])
    return Evidence(**{**given, "paged": tuple(given["paged"])}), Rules(**kept["rules"])


URGENCY = ("KEEP", "WATCH", "LABEL", "RETRAIN", "ROLLBACK", "PAGE")
"""Actions, the least urgent first."""


def news(row: Row, decisions: Sequence[Row]) -> bool:
    """Whether a decision is worth a message: its incident is new, or calls for more than any day of it before.

    Args:
        row: a monitor's decision.
        decisions: the monitor's, by data time.
    """
    if row["action"] == "PAGE":
        return True
    if row["incident"] is None:
        return False
    before = [one for one in decisions if one["incident"] == row["incident"] and one["as_of"] < row["as_of"]]
    worst = max((URGENCY.index(one["action"]) for one in before), default=-1)
    return URGENCY.index(row["action"]) > worst


def kept(row: Row) -> Mapping[str, Any]:
    """The evidence that a decision keeps; empty for one of an earlier Classy."""
    return (row.get("evidence") or {}).get("evidence") or {}


# ------------------------------------------------------------------------------------------------- history


def _day_of(row: Row) -> date:
    return (row["as_of"] - timedelta(days=1)).date()


def _newest(told: Sequence[Row], name: str) -> list[Any]:
    return [kept(row).get(name) for row in reversed(told)]


def _run(values: Sequence[Any], wanted: Any) -> int:
    """How many at the beginning are as wanted."""
    return next((n for n, value in enumerate(values) if value != wanted), len(values))


def _drifted(found: Row, told: Sequence[Row], generation: int, windows: int) -> int:
    earlier = [kept(row)["drift"] for row in reversed(told) if kept(row).get("generation") == generation]
    known = [verdict for verdict in [found["verdict"], *earlier] if verdict != "UNKNOWN"]
    return known[:windows].count("DRIFT")


def _costs(decisions: Sequence[Row], day: date, days: int) -> list[float]:
    """What each training that was judged in the last days cost, as far as it is known."""
    judged = [row for row in decisions if row["kind"] == "judge" and 0 <= (day - _day_of(row)).days < days]
    return [float((row.get("evidence") or {}).get("spent", {}).get("money", 0.0)) for row in judged]


def _refused(decisions: Sequence[Row]) -> int:
    """Contenders at the end that were held; a promotion, or a person who takes the loop up again, ends the count.

    One that too few rows could not tell from the champion says nothing of what went wrong, and does not count.
    """
    spoken = [row for row in decisions if row["kind"] in ("judge", "resume") and row["action"] != UNTOLD]
    return _run([row["kind"] == "judge" and row["action"] != "PROMOTE" for row in reversed(spoken)], True)


def _newest_verdict(decisions: Sequence[Row]) -> str | None:
    return next((row["action"] for row in reversed(decisions) if row["kind"] == "judge"), None)


def _paged(decisions: Sequence[Row]) -> tuple[Any, ...]:
    causes: list[Any] = []
    for row in decisions:
        if row["kind"] == "resume" or (row["kind"] == "judge" and row["action"] == "PROMOTE"):
            causes = []
        elif row["action"] == "PAGE":
            causes.append((row.get("evidence") or {}).get("cause"))
    return tuple(dict.fromkeys(cause for cause in causes if cause))


def _incident(found: Row, told: Sequence[Row], measured: Row, rules: Rules) -> dict[str, Any]:
    """The incident that the day before left open, and where it stands."""
    open_ = told[-1].get("incident") if told else None
    own = [row for row in told if open_ is not None and row.get("incident") == open_]
    loss = measured["loss"]
    quiet = found["verdict"] == "NO DRIFT" and not (loss["significant"] and (loss["loss"] or 0) >= rules.min_loss)
    calm = 1 + _run([bool(one) for one in _newest(told, "calm_windows")], True) if quiet else 0
    first = (own[0].get("evidence") or {}) if own else {}
    before = first.get("before")
    # What began the incident may have cost nothing: where accuracy fell later, that is the change.
    since = next((kept(row)["drift_since"] for row in reversed(own) if kept(row).get("drift_anew")), None)
    since = since or (kept(own[0]).get("drift_since") if own else None)
    began = date.fromisoformat(since) if since else _day_of(own[0]) if own else None
    # Its own accuracy of the last days, not what it was promised: a new champion's reference is of the new world.
    short, most = None, None
    if before:
        sides = Share(**before), Share(**found["lately"]["performance"]["accuracy"])
        short, most = compare(*sides), most_lost(*sides)
    asked = [row for row in own if row["action"] == "RETRAIN"]
    return {
        "incident": open_,
        "incident_since": began,
        "calm_windows": calm,
        "shortfall": short.loss if short else None,
        "shortfall_significant": bool(short and short.significant),
        "shortfall_most": most,
        "labels_at_start": first.get("evidence", {}).get("labels_known"),
        "labels_at_retrain": kept(asked[-1]).get("labels_known") if asked else None,
    }


def _shortly(reasons: Sequence[str]) -> str:
    more = f"; and {len(reasons) - MOST_REASONS} more" if len(reasons) > MOST_REASONS else ""
    return "; ".join(reasons[:MOST_REASONS]) + more
