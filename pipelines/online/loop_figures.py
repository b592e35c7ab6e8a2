"""What a live server tells Prometheus of the loop behind it: newest day, decision and deployment, read now and then."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, get_args

from sqlalchemy.exc import SQLAlchemyError

from monitoring import health, policy
from monitoring.stores import Store, StoreError, open_store
from monitoring.weighing import FORMAT, URGENCY, restored
from pipelines.errors import ClassyError
from pipelines.models.evidence import read_evidence
from pipelines.settings import Settings
from serving.loop_metrics import Figures

LOG = logging.getLogger(__name__)
KINDS = ("promote", "rollback", "canary", "shadow", "drop")
VERDICTS = ("DRIFT", "NO DRIFT", "UNKNOWN")


class LoopFigures:
    """Calling it gives the figures that were read last; `follow` reads them. Of several workers one follows: the
    figures of all are added up.

    Args:
        clock: seconds since 1970; for tests.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._clock = settings, clock
        self._store: Store | None = None
        self._figures: Figures = {}

    def __call__(self) -> Figures:
        return self._figures

    async def follow(self, every_s: float = 30.0) -> None:
        """Read until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.read)
            except Exception:  # whatever it is: who ends here tells of an old day for ever
                LOG.exception("the loop's figures cannot be read; it is tried again in %g s", every_s)
            await asyncio.sleep(every_s)

    def read(self) -> None:
        """Read once. While the database or the evidence is away, the last figures stay, and their age tells of it."""
        try:
            if self._store is None:
                self._store = open_store(self._settings.database_url)
            row, deployed = self._store.newest_decision("monitor"), self._store.current()
            found = {} if row is None else self._of_day(row)
        except (StoreError, SQLAlchemyError, ClassyError, OSError, ValueError) as error:
            LOG.warning("the loop's figures cannot be read: %s", str(error).splitlines()[0])
            return
        self._figures = {
            "classy_loop_read_timestamp_seconds": {(): self._clock()},
            **found,
            **({} if deployed is None else _of_deployment(deployed)),
        }

    def _of_day(self, row: Mapping[str, Any]) -> dict[str, Any]:
        evidence = read_evidence(self._settings, (row["as_of"] - timedelta(days=1)).date())
        return {**_of_decision(row), **({} if evidence is None else of_evidence(evidence))}


def _of_decision(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "classy_monitor_day_timestamp_seconds": {(): row["as_of"].timestamp()},
        "classy_decision": _one_of(row["action"], URGENCY),
        "classy_decision_timestamp_seconds": {(): row["created_at"].timestamp()},
        "classy_incident_open": {(): float(row["incident"] is not None)},
    }
    kept = row["evidence"] or {}
    if kept.get("format") == FORMAT:
        weighed, rules = restored(kept)
        found["classy_monitor_loss_ratio"] = _known(weighed.loss)
        found["classy_monitor_loss_sure"] = {(): float(policy.lost(weighed, rules))}
    return found


def of_evidence(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of a day's evidence. One of an earlier Classy lacks some parts."""
    measured = evidence["lately"]["performance"]
    labels = evidence.get("labels") or measured
    of = {
        "measured": measured["accuracy"],
        "reference": evidence["reference_accuracy"],
        "estimated": evidence.get("estimate") or {},
    }
    facts = [fact for fact in evidence.get("health", []) if fact["name"] in health.NAMES]
    return {
        "classy_monitor_verdict": _one_of(evidence["verdict"], VERDICTS),
        "classy_monitor_window_photos": {(): float(evidence["drift"]["window_rows"])},
        "classy_monitor_columns_drifted": {
            (): float(sum(column["verdict"] == "DRIFT" for column in evidence["drift"]["columns"]))
        },
        "classy_monitor_accuracy_ratio": {
            (what, bound): float(share[bound])
            for what, share in of.items()
            for bound in ("value", "low", "high")
            if share.get(bound) is not None
        },
        "classy_monitor_label_coverage_ratio": _known(labels["coverage"]),
        "classy_health": {
            (fact["name"], state): float(fact["state"] == state) for fact in facts for state in get_args(health.State)
        },
        "classy_health_value": {(fact["name"],): float(fact["value"]) for fact in facts if fact["value"] is not None},
    }


def _of_deployment(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "classy_deployment_kind": _one_of(row["kind"], KINDS),
        "classy_deployment_timestamp_seconds": {(): row["created_at"].timestamp()},
    }


def _one_of(value: str, values: Iterable[str]) -> dict[tuple[str, ...], float]:
    return {(one,): float(one == value) for one in values}


def _known(value: float | None) -> dict[tuple[str, ...], float]:
    return {} if value is None else {(): float(value)}
