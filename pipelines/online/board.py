"""The monitor's pages, read from where the monitor left it: `monitor/date=…`, `deployments` and `decisions`."""

import json
import threading
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

from sqlalchemy.exc import SQLAlchemyError

from monitoring import trail
from monitoring.days import end_of
from monitoring.overview import MOST_DAYS, digest, overview, unread
from monitoring.stores import Store, StoreError, open_store
from pipelines import files
from pipelines.models import links
from pipelines.models.evidence import EVIDENCE, REPORT, monitor_root
from pipelines.settings import Settings
from serving.problems import Problem

FRESH_S = 3.0
"""How old an overview may be that is shown again."""
MOST_EVIDENCE = 8_000_000
MOST_REPORT = 64_000_000
"""Bytes; Evidently's pages have some 4.4 MB."""
UNREADABLE = (StoreError, SQLAlchemyError, OSError)
BROKEN = (ValueError, KeyError, TypeError, AttributeError)
"""What a file raises that is not what a monitor writes."""

Day = dict[str, Any]


class FileBoard:
    """`serving.seams.Board`. Only days whose manifest is another one than last time are read again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = files.join(settings.data_root, "monitor")
        self._store: Store | None = None
        self._lock = threading.Lock()
        self._digests: dict[date, tuple[str, Day]] = {}
        self._shown: dict[str, Any] | None = None
        self._until = 0.0

    def overview(self) -> dict[str, Any]:
        # One thread reads, the others wait for what it found.
        with self._lock:
            if self._shown is None or time.monotonic() >= self._until:
                self._shown = self._read()
                self._until = time.monotonic() + FRESH_S
            return self._shown

    def _read(self) -> dict[str, Any]:
        listed = self._listed()
        newest = sorted(listed, reverse=True)[:MOST_DAYS]
        days = self._digested({day: listed[day] for day in sorted(newest)})
        since = end_of(max(days) - timedelta(days=MOST_DAYS)) if days else datetime(1970, 1, 1, tzinfo=UTC)
        return self._with_tables(days, since)

    def _with_tables(self, days: Mapping[date, Day], since: datetime) -> dict[str, Any]:
        try:
            store = self._opened()
            return {**overview(days, store.generations(), trail.decided(store, since)), **self._about()}
        except UNREADABLE as error:
            found = {**overview(days, [], []), **self._about()}
            # Without the tables nothing can be said of champions and decisions, also not that there are none.
            return {**found, "notices": [_away(error)]}

    def _about(self) -> dict[str, Any]:
        return {"model": self._settings.model_name, "recipe": self._settings.recipe.rsplit("/", 1)[-1]}

    def _opened(self) -> Store:
        if self._store is None:
            self._store = open_store(self._settings.database_url)
        return self._store

    def _listed(self) -> dict[date, files.Listed]:
        try:
            found = files.listing(self._root)
        except OSError as error:
            raise Problem("unavailable", f"{self._root}: cannot be listed: {error}") from error
        return {day: one for name, one in found.items() if (day := _day_named(name)) is not None}

    def _digested(self, listed: Mapping[date, files.Listed]) -> dict[date, Day]:
        """What the overview needs of these days; of what is known already nothing is read."""
        found: dict[date, tuple[str, Day]] = {}
        anew = []
        for day, one in listed.items():
            known = self._digests.get(day)
            if known is not None and known[0] == one.stamp:
                found[day] = known
            elif one.sizes.get(EVIDENCE, 0) > MOST_EVIDENCE:
                found[day] = one.stamp, unread(f"its evidence has more than {MOST_EVIDENCE} bytes")
            else:
                anew.append(day)
        for day, data in zip(anew, self._contents(anew), strict=True):
            if data is not None:  # written anew just now: the next look sees it
                found[day] = listed[day].stamp, _digest(data)
        self._digests = found
        return {day: shown for day, (_, shown) in found.items()}

    def _contents(self, days: list[date]) -> list[bytes | None]:
        try:
            return files.read_many([files.join(monitor_root(self._settings, day), EVIDENCE) for day in days])
        except OSError as error:
            raise Problem("unavailable", f"{self._root}: evidence cannot be read: {error}") from error

    # --------------------------------------------------------------------------------------------- one day

    def day(self, day: date) -> dict[str, Any] | None:
        listed = self._listed()
        found: dict[str, Any] = {"day": str(day), "evidence": None, "decision": None, "answer": None, "notices": []}
        if day in listed:
            found["evidence"] = self._evidence(day, listed[day], found["notices"])
        try:
            self._decided(day, found)
        except UNREADABLE as error:
            found["notices"].append(_away(error))
        if found["evidence"] is None and found["decision"] is None and not found["notices"]:
            return None
        found["before"] = max((str(one) for one in listed if one < day), default=None)
        found["after"] = min((str(one) for one in listed if one > day), default=None)
        found["links"] = self._links(day, found["evidence"], listed.get(day))
        return found

    def _evidence(self, day: date, listed: files.Listed, notices: list[str]) -> dict[str, Any] | None:
        size = listed.sizes.get(EVIDENCE, 0)
        if size > MOST_EVIDENCE:
            notices.append(f"The evidence has {size} bytes; at most {MOST_EVIDENCE} are shown.")
            return None
        (data,) = self._contents([day])
        if data is None:
            return None
        try:
            found = json.loads(data)
            digest(found)
        except BROKEN as error:
            notices.append(
                f"The evidence cannot be read ({_shortly(error)}); `classy monitor --day {day}` writes it anew."
            )
            return None
        return cast("dict[str, Any]", found)

    def _decided(self, day: date, found: dict[str, Any]) -> None:
        store = self._opened()
        row = store.decision(f"monitor-{day}")
        if row is None:
            if found["evidence"] is not None:
                found["notices"].append(f"Nothing was decided about this day: `classy decide --day {day}` does it.")
            return
        if found["evidence"] is None and not found["notices"]:
            found["notices"].append("The evidence's file is gone; what the decision keeps of it is shown.")
        found["decision"] = _plain(row)
        if row["run_key"] is None:
            return
        judged, made = store.decision(f"judge-{row['run_key']}"), store.deployment_of(row["run_key"])
        found["answer"] = {
            "judged": None if judged is None else {key: judged[key] for key in ("action", "reason")},
            "generation": None if made is None else {key: made[key] for key in ("generation", "champion_version")},
        }

    def _links(self, day: date, evidence: Mapping[str, Any] | None, listed: files.Listed | None) -> dict[str, Any]:
        champion = (evidence or {}).get("champion") or {}
        root = links.for_people(self._settings.mlflow_uri)
        manifest = files.read_manifest(monitor_root(self._settings, day)) if listed else None
        return {
            "report": listed is not None and REPORT in listed.sizes,
            "run": f"{root.rstrip('/')}/#/runs/{champion['run_id']}" if root and champion.get("run_id") else None,
            "version": links.for_people(links.version_url(self._settings, champion["version"])) if champion else None,
            "airflow": links.for_people((manifest or {}).get("run_page") or ""),
        }

    def report(self, day: date) -> bytes | None:
        listed = self._listed().get(day)
        size = 0 if listed is None else listed.sizes.get(REPORT, 0)
        if not size:
            return None
        if size > MOST_REPORT:
            raise Problem("too_large", f"the report of {day} has {size} bytes; at most {MOST_REPORT} are shown")
        return files.read_many([files.join(monitor_root(self._settings, day), REPORT)])[0]


def _digest(data: bytes) -> Day:
    try:
        return digest(json.loads(data))
    except BROKEN as error:
        return unread(f"its evidence cannot be read ({_shortly(error)})")


def _shortly(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def _day_named(name: str) -> date | None:
    try:
        return date.fromisoformat(name.removeprefix("date="))
    except ValueError:
        return None  # somebody's own folder


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}


def _away(error: Exception) -> str:
    return f"The tables cannot be read, so champions and decisions are missing here: {str(error).splitlines()[0]}"
