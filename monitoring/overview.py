"""What the monitor's overview shows: a row a day, champions, decisions and incidents on one calendar. Pure.

Days are what `monitoring.watch` wrote, whole or of an earlier Classy: what a file lacks is None here, never 0.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

MOST_DAYS = 366
"""Calendar days that an overview reaches back."""
MOST_COLUMNS = 60
"""Columns of the heat map; those that went furthest stay."""

Row = Mapping[str, Any]


def day_of(as_of: datetime) -> date:
    """The day that a decision is about: its data time is the day's end, a person's answer a moment later."""
    return (as_of - timedelta(seconds=1)).date()


def digest(evidence: Row) -> dict[str, Any]:
    """What the overview needs of one day's evidence, small enough to keep of hundreds.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the file is not what a monitor writes.
    """
    drift = evidence.get("drift") or {}
    lately = evidence.get("lately") or {}
    since = evidence.get("since_drift") or {}
    champion = evidence.get("champion")
    return {
        "verdict": evidence.get("verdict"),
        "reason": next(iter(drift.get("reasons") or []), None),
        "rows": _number(drift.get("window_rows")),
        "champion": None if champion is None else {key: champion.get(key) for key in ("version", "generation")},
        "accuracy": _share(lately),
        "since_drift": _share(since),
        "reference": _number((evidence.get("reference_accuracy") or {}).get("value")),
        "estimate": _interval(evidence.get("estimate")),
        "labels": _labels(evidence, lately),
        "columns": {
            str(column["name"]): [str(column["verdict"]), _number(column.get("effect")), _number(column.get("limit"))]
            for column in drift.get("columns") or []
        },
    }


def unread(reason: str) -> dict[str, Any]:
    """A day whose evidence is there and cannot be shown."""
    return {**digest({"verdict": "UNKNOWN"}), "reason": reason}


def overview(days: Mapping[date, Row], deployments: Sequence[Row], decisions: Sequence[Row]) -> dict[str, Any]:
    """The document behind `/monitor`.

    Args:
        days: `digest` by day.
        deployments: all generations, oldest first.
        decisions: of every kind, by data time.
    """
    calendar = _calendar(days, decisions)
    told = {day_of(row["as_of"]): row for row in decisions if row["kind"] == "monitor"}
    names, more = _columns([days[day] for day in calendar if day in days])
    incidents = _incidents(decisions)
    return {
        "days": [_day(day, days.get(day), told.get(day), names) for day in calendar],
        "columns": names,
        "more_columns": more,
        "champions": _champions(deployments, calendar),
        "judged": [
            {"day": str(day_of(row["as_of"])), **{key: row[key] for key in ("action", "reason", "run_key")}}
            for row in decisions
            if row["kind"] == "judge" and day_of(row["as_of"]) in set(calendar)
        ],
        "incidents": [found for found in incidents if calendar and found["until"] >= str(calendar[0])],
        "notices": _notices(calendar, days, deployments, told),
    }


def _calendar(days: Mapping[date, Row], decisions: Sequence[Row]) -> list[date]:
    """Each day from the first to the last of which anything is known: a day that was left out is seen as a gap."""
    known = {*days, *(day_of(row["as_of"]) for row in decisions if row["kind"] == "monitor")}
    if not known:
        return []
    last = max(known)
    first = max(min(known), last - timedelta(days=MOST_DAYS - 1))
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _day(day: date, found: Row | None, decision: Row | None, names: Sequence[str]) -> dict[str, Any]:
    row = dict(found or digest({}))
    columns = row.pop("columns")
    return {
        "day": str(day),
        "watched": found is not None,
        **row,
        "drift": [_cell(columns.get(name)) for name in names],
        "decision": None
        if decision is None
        else {key: decision[key] for key in ("action", "reason", "incident", "run_key")},
    }


def _cell(column: Sequence[Any] | None) -> list[Any] | None:
    """Verdict, distance and limit, to three digits."""
    if column is None:
        return None
    verdict, *numbers = column
    return [verdict, *(None if number is None else round(number, 3) for number in numbers)]


def _columns(days: Sequence[Row]) -> tuple[list[str], int]:
    """Names of the heat map's rows, the furthest gone first, and how many are left out."""
    peaks: dict[str, float] = {}
    for day in days:
        for name, (_, effect, limit) in day["columns"].items():
            gone = effect / limit if effect is not None and limit else -1.0
            peaks[name] = max(peaks.get(name, -1.0), gone)
    # What never varied has nothing to show.
    names = sorted((name for name in peaks if peaks[name] >= 0), key=lambda name: (-peaks[name], name))
    return names[:MOST_COLUMNS], max(0, len(names) - MOST_COLUMNS)


def _champions(deployments: Sequence[Row], calendar: Sequence[date]) -> list[dict[str, Any]]:
    """Who served from when until when; a canary beside a champion makes no new band."""
    bands: list[dict[str, Any]] = []
    for row in deployments:
        day = str(row["as_of"].date())
        if bands and bands[-1]["version"] == row["champion_version"]:
            continue
        if bands:
            bands[-1]["until"] = day
        bands.append(
            {
                "version": row["champion_version"],
                **{key: row[key] for key in ("generation", "kind", "actor", "reason")},
                "from": day,
                "until": None,
            }
        )
    first = str(calendar[0]) if calendar else ""
    return [band for band in bands if band["until"] is None or band["until"] >= first]


def _incidents(decisions: Sequence[Row]) -> list[dict[str, Any]]:
    told = [row for row in decisions if row["kind"] == "monitor"]
    found: dict[str, dict[str, Any]] = {}
    for row in told:
        name, day = row["incident"], str(day_of(row["as_of"]))
        if name is None:
            continue
        one = found.setdefault(name, {"name": name, "from": day, "actions": [], "open": False})
        one["until"] = day
        one["actions"].append(row["action"])
    if told and told[-1]["incident"] is not None:
        found[told[-1]["incident"]]["open"] = True
    return list(found.values())


def _notices(
    calendar: Sequence[date], days: Mapping[date, Row], deployments: Sequence[Row], told: Mapping[date, Row]
) -> list[str]:
    """What is missing, and what to do about it."""
    found = []
    if not deployments:
        found.append(
            "There is no champion yet, so nothing is scored and nothing watched. Train the first one: in Airflow by "
            "the form of “Classy: train and promote”, without it by `classy loop`."
        )
    elif not calendar:
        found.append(
            "No day was watched yet. In Airflow “Classy: score and monitor” does it when a day's photos are there; by "
            "hand it is `classy score --day DAY`, then `classy monitor --day DAY` and `classy decide --day DAY`."
        )
    if calendar and (last := days.get(calendar[-1])) and last["verdict"] == "UNKNOWN":
        found.append(f"The last day, {calendar[-1]}, could not be told: {last['reason'] or 'it says no reason'}.")
    undecided = [day for day in calendar if day in days and day not in told]
    if undecided:
        some = ", ".join(map(str, undecided[-3:]))
        found.append(
            f"{len(undecided)} watched {'day has' if len(undecided) == 1 else 'days have'} no decision ({some}"
            f"{' and earlier' if len(undecided) > 3 else ''}): `classy decide --day {undecided[-1]}` makes it."
        )
    return found


# ------------------------------------------------------------------------------------------ parts of a day


def _share(measured: Row) -> dict[str, Any] | None:
    return _interval((measured.get("performance") or {}).get("accuracy"))


def _interval(given: Row | None) -> dict[str, Any] | None:
    """value, low, high, rows; None where there is no value."""
    if not given or given.get("value") is None:
        return None
    return {key: _number(given.get(key)) for key in ("value", "low", "high", "rows")}


def _number(given: Any) -> float | None:
    """Raises TypeError or ValueError: it is none, and the file not what a monitor writes."""
    return None if given is None else float(given)


def _labels(evidence: Row, lately: Row) -> dict[str, Any] | None:
    """photos, labelled and coverage of the days that accuracy is measured on."""
    given = evidence.get("labels")
    if given is None:
        measured = lately.get("performance") or {}
        if "photos" not in measured:
            return None
        given = {**measured, "labelled": measured["accuracy"]["rows"]}
    return {key: _number(given.get(key)) for key in ("photos", "labelled", "coverage")}
