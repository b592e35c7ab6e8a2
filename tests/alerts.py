"""A world for Prometheus' rules in which nothing is wrong, and for each alert what has to go wrong for it.

Series are as promtool's unit tests write them: `0+600x90` is 0, 600, 1200, … ninety times more, one a minute.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FOREVER = 500
"""Minutes: longer than the longest window that wakes somebody."""
ME = 'job="classy",instance="a:8000"'


def series(metric: str, value: float = 0, growth: float = 0, **labels: str) -> tuple[str, str]:
    """A series and its values, from the first minute to the last."""
    shown = ",".join([ME, *(f'{label}="{given}"' for label, given in labels.items())])
    return f"{metric}{{{shown}}}", f"{value:g}+{growth:g}x{FOREVER}"


def until(minute: int, before: str, after: str) -> str:
    """Values that change after a minute."""
    return f"{before}x{minute} {after}x{FOREVER - minute}"


def states(metric: str, label: str, values: tuple[str, ...], now: str, **labels: str) -> dict[str, str]:
    return dict(series(metric, float(value == now), **{**labels, label: value}) for value in values)


def requests(errors: float) -> dict[str, str]:
    """600 requests a minute, of which a share fails."""
    return dict(
        [
            series("classy_requests_total", growth=600 * (1 - errors), status="200"),
            *([series("classy_requests_total", growth=600 * errors, status="503")] if errors else []),
        ]
    )


def durations(within: str) -> dict[str, str]:
    """All requests take a little less than this bound."""
    bounds = ("0.25", "1.0", "2.5", "+Inf")
    slower = bounds[: bounds.index(within)]
    return dict(
        series("classy_request_duration_seconds_bucket", growth=0 if bound in slower else 600, le=bound)
        for bound in bounds
    )


def deployment(kind: str, at: float) -> dict[str, str]:
    return {
        **states("classy_deployment_kind", "kind", ("promote", "rollback", "drop"), kind),
        **dict([series("classy_deployment_timestamp_seconds", at)]),
    }


def decision(action: str) -> dict[str, str]:
    return states("classy_decision", "action", ("KEEP", "WATCH", "PAGE"), action)


def verdict(found: str) -> dict[str, str]:
    return states("classy_monitor_verdict", "verdict", ("DRIFT", "NO DRIFT", "UNKNOWN"), found)


def fact(name: str, state: str) -> dict[str, str]:
    return states("classy_health", "state", ("OK", "BAD", "UNKNOWN"), state, name=name)


def one(metric: str, value: float = 0, growth: float = 0, **labels: str) -> dict[str, str]:
    return dict([series(metric, value, growth, **labels)])


HEALTHY: Mapping[str, str] = {
    **one("up", 1),
    **one("classy_ready", 1),
    **requests(errors=0),
    **durations("0.25"),
    **one("classy_lane_refused_photos_total", lane="model"),
    **{name: value for fate in ("written", "spooled", "shed", "refused", "torn")
       for name, value in one("classy_log_rows_total", growth=600 * (fate == "written"), fate=fate).items()},
    **one("classy_api_keys_age_seconds", 2),
    **one("classy_deployment_refused"),
    **deployment("promote", at=0),
    **one("classy_loop_read_timestamp_seconds", growth=60),
    **one("classy_decision_timestamp_seconds", growth=60),
    **decision("KEEP"),
    **verdict("NO DRIFT"),
    **one("classy_monitor_loss_sure"),
    **fact("quarantine_rate", "OK"), **fact("missing_senders", "OK"), **fact("latency_p99", "UNKNOWN"),
}  # fmt: skip
"""Latency is not known: no live answers. That is nothing to be told of."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is wrong, when it is looked at, and who then tells of it: no other alert does."""

    title: str
    wrong: Mapping[str, str] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    """Metrics that are not there at all."""
    after: int = 90
    """Minutes."""
    alerts: tuple[str, ...] = ()

    def as_yaml(self) -> dict[str, Any]:
        given = {name: values for name, values in HEALTHY.items() if name.split("{")[0] not in self.gone}
        asked = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": f"{self.after}m"}
        told = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in self.alerts]
        return {
            "name": self.title,
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in {**given, **self.wrong}.items()],
            "promql_expr_test": [{**asked, "exp_samples": told}],
        }


DAY = 24 * 3600.0
"""Seconds."""
CASES = (
    Case(title="nothing is wrong", after=FOREVER),
    Case(title="nobody asks anything", wrong=dict.fromkeys({**requests(0), **durations("0.25")}, f"0x{FOREVER}")),
    Case(title="it does not answer", wrong=one("up", 0), alerts=("ClassyDown",)),
    Case(title="it was away for a minute", wrong={series("up")[0]: f"1x80 0x1 1x{FOREVER}"}, after=82),
    Case(title="it is not scraped", gone=("up",), alerts=("ClassyAbsent",)),
    Case(title="it is not ready", wrong=one("classy_ready", 0), alerts=("ClassyNotReady",)),
    Case(title="two of a hundred fail", wrong=requests(0.02),
         alerts=("ClassyErrorBudgetBurn", "ClassyErrorBudgetLeak")),
    Case(title="one of a hundred fails, for hours", wrong=requests(0.01), after=FOREVER,
         alerts=("ClassyErrorBudgetBurn", "ClassyErrorBudgetLeak")),
    Case(title="four of a thousand fail, for hours", wrong=requests(0.004), after=FOREVER,
         alerts=("ClassyErrorBudgetLeak",)),
    Case(title="as many fail as may", wrong=requests(0.0009), after=FOREVER),
    Case(title="failures that are over wake nobody",
         wrong={series("classy_requests_total", status="503")[0]: until(40, "0+60", "2400+0")}, after=80,
         alerts=("ClassyErrorBudgetLeak",)),
    Case(title="one failure of three requests wakes nobody",
         wrong={series("classy_requests_total", status="200")[0]: until(86, "0+0", "2+0"),
                series("classy_requests_total", status="503")[0]: until(86, "0+0", "1+0")}),
    Case(title="it is slow", wrong=durations("2.5"), alerts=("ClassySlow",)),
    Case(title="it is nearly slow", wrong=durations("1.0")),
    Case(title="a queue is full", wrong=one("classy_lane_refused_photos_total", growth=5, lane="model"),
         alerts=("ClassyQueueFull",)),
    Case(title="rows are lost", wrong=one("classy_log_rows_total", growth=1, fate="shed"),
         alerts=("ClassyLogRowsLost",)),
    Case(title="the database is away", wrong=one("classy_log_rows_total", growth=9, fate="spooled"),
         alerts=("ClassyLogSpooling",)),
    Case(title="keys are old", wrong=one("classy_api_keys_age_seconds", growth=60), alerts=("ClassyKeysOld",)),
    Case(title="a deployment is refused", wrong=one("classy_deployment_refused", 1),
         alerts=("ClassyDeploymentRefused",)),
    Case(title="a canary was dropped", wrong=deployment("drop", at=60), alerts=("ClassyCanaryDropped",)),
    Case(title="a canary was dropped the day before", wrong=deployment("drop", at=-DAY)),
    Case(title="a champion was rolled back", wrong=deployment("rollback", at=60), alerts=("ClassyRolledBack",)),
    Case(title="the loop cannot be read", wrong=one("classy_loop_read_timestamp_seconds"),
         alerts=("ClassyLoopUnread",)),
    Case(title="no decision for a day", wrong=one("classy_decision_timestamp_seconds", -DAY)),
    Case(title="no decision for two days", wrong=one("classy_decision_timestamp_seconds", -2 * DAY),
         alerts=("ClassyDayStale",)),
    Case(title="the loop calls a person", wrong=decision("PAGE"), alerts=("ClassyPage",)),
    Case(title="drift", wrong=verdict("DRIFT"), alerts=("ClassyDrift",)),
    Case(title="it cannot be told whether there is drift", wrong=verdict("UNKNOWN")),
    Case(title="accuracy is lost", wrong=one("classy_monitor_loss_sure", 1), alerts=("ClassyAccuracyLoss",)),
    Case(title="bad photos", wrong=fact("quarantine_rate", "BAD"), alerts=("ClassyQuarantine",)),
    Case(title="senders stopped", wrong=fact("missing_senders", "BAD"), alerts=("ClassyMissingSenders",)),
    Case(title="a slow day", wrong=fact("latency_p99", "BAD"), alerts=("ClassyServiceBad",)),
    Case(title="a server without a loop behind it",
         gone=tuple(name.split("{")[0] for name in HEALTHY if "health" in name or "decision" in name
                    or "monitor" in name or "loop" in name or "deployment_" in name)),
)  # fmt: skip
