"""What the policy looks at, put together from a day's evidence and what was decided before. Pure."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from monitoring.policy import Evidence

MOST_REASONS = 2
"""Columns that a decision's sentence names; the evidence has them all."""


def gather(found: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]], day: date) -> Evidence:
    """What the policy looks at: the day's evidence (`monitoring.watch`), and the decisions, by data time."""
    retrains = [row for row in decisions if row["kind"] == "monitor" and row["action"] == "RETRAIN"]
    judged = {row["run_key"] for row in decisions if row["kind"] == "judge"}
    newest = retrains[-1] if retrains else None
    # Only labels since the drift began tell what it costs; the days before it would water the loss down.
    measured = found["since_drift"] or found["lately"]
    return Evidence(
        day=day,
        drift=found["verdict"],
        drift_reason=_shortly(found["drift"]["reasons"]),
        drift_since=None if found["drift_since"] is None else date.fromisoformat(found["drift_since"]),
        loss=measured["loss"]["loss"],
        loss_significant=measured["loss"]["significant"],
        loss_rows=measured["performance"]["accuracy"]["rows"],
        fresh_labels=found["fresh_labels"],
        in_flight=newest["run_key"] if newest and newest["run_key"] not in judged else None,
        last_retrain=(newest["as_of"] - timedelta(days=1)).date() if newest else None,
    )


def _shortly(reasons: Sequence[str]) -> str:
    more = f"; and {len(reasons) - MOST_REASONS} more" if len(reasons) > MOST_REASONS else ""
    return "; ".join(reasons[:MOST_REASONS]) + more
