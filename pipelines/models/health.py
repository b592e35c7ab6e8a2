"""What a day's health is told from: the manifests of its partitions, who sent on the days before, live minutes.

Small files and columns only: nothing here grows with the pictures.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import func, select

from monitoring import health
from monitoring.arms import NOBODY
from monitoring.days import end_of
from monitoring.stores import Store
from monitoring.tables import arm_minutes, deployments, predictions
from pipelines import files
from pipelines.models.evidence import scores_root
from pipelines.recipe import Recipe
from pipelines.settings import Settings

LIVE_DAYS = 7
"""Days before that live throughput is compared with."""
NEWEST = 100_000
"""Photos of a day, those taken last, whose answers' dates are looked at."""
SLACK = timedelta(minutes=5)
"""Clocks of one house may differ by this."""
A_DAY = timedelta(days=1)


def health_of(settings: Settings, recipe: Recipe, store: Store, day: date) -> list[dict[str, Any]]:
    """The facts of `monitoring.health`, JSON-plain."""
    asked = recipe.health.model_dump()
    history = asked.pop("history_days")
    return [asdict(fact) for fact in health.facts(look(settings, store, day, history), health.Limits(**asked))]


def look(settings: Settings, store: Store, day: date, history_days: int) -> health.Seen:
    """What is there to be seen of a day, and of the days before it."""
    raw = _raw_days(settings, day, history_days)
    before = [found.records for past, found in raw.items() if past < day and found.records]
    scored = _scores(settings, day)
    return health.Seen(
        gathered=raw[day].records if day in raw else None,
        usual=tuple(before),
        quarantined=_quarantined(settings, day),
        lost=_lost(settings, raw, day),
        scored=None if scored is None else scored.rows,
        defaulted=scored.defaulted if scored else 0,
        early_photos=(scored.early if scored else 0) + _early_answers(store, day),
        feature_age_days=_feature_age(settings, day),
        live=_live(store, day),
        attendance=_attendance(raw, day),
    )


# --------------------------------------------------------------------------------------- photos that came


@dataclass(frozen=True, slots=True)
class _Raw:
    uri: str
    records: int


def _raw_days(settings: Settings, day: date, history_days: int) -> dict[date, _Raw]:
    """Gathered days of [day - history_days, day], oldest first."""
    root = files.join(settings.data_root, "raw")
    found = {}
    for name in files.list_partitions(root):
        past = date.fromisoformat(name.removeprefix("date="))
        if timedelta(0) <= day - past <= history_days * A_DAY:
            uri = files.join(root, name)
            found[past] = _Raw(uri, files.need_manifest(uri, f"gather --day {past}")["records"])
    return found


def _attendance(raw: Mapping[date, _Raw], day: date) -> health.Attendance | None:
    """Who sent on which of the days that brought photos. A day without any says nothing of a single sender."""
    days = [past for past, found in raw.items() if found.records]
    if not days or days[-1] != day:
        return None
    place: dict[str, int] = {}
    came = [
        np.fromiter((place.setdefault(sender, len(place)) for sender in _senders(raw[past].uri)), np.int64)
        for past in days
    ]
    if not place:
        return None
    table = np.zeros((len(place), len(days)), bool)
    for column, present in enumerate(came):
        table[present, column] = True
    return health.Attendance(senders=tuple(place), came=table)


def _senders(raw_uri: str) -> set[str]:
    """Everybody who sent a photo, also one that went to quarantine."""
    fs, path = fsspec.url_to_fs(raw_uri)
    # A day that an older Classy gathered has a list of photos alone; their pictures are not read.
    name = "senders.parquet" if fs.exists(f"{path}/senders.parquet") else "records.parquet"
    found: set[str] = set()
    with fs.open(f"{path}/{name}") as file, pq.ParquetFile(file) as table:
        if "source_id" not in table.schema_arrow.names:
            return found  # validation refuses such a day, and says so
        for batch in table.iter_batches(columns=["source_id"]):
            found.update(pc.unique(batch.column(0)).to_pylist())
    return found - {*NOBODY, None}


def _quarantined(settings: Settings, day: date) -> int | None:
    """Photos of the day in quarantine; None: it was not validated, or refused before its photos were looked at."""
    uri = files.join(settings.data_root, "quarantine", f"date={day}")
    if files.read_manifest(uri) is None:
        return None
    with fsspec.open(files.join(uri, "records.parquet")) as file:
        what = pq.read_table(file, columns=["what"])["what"]
    return int(pc.sum(pc.equal(what, "photo")).as_py() or 0)


def _lost(settings: Settings, raw: Mapping[date, _Raw], day: date) -> tuple[str, ...]:
    """The unbroken run of days before this one of which nothing was let through, newest first, and why."""
    lost = []
    past = day - A_DAY
    while raw and past >= next(iter(raw)):
        clean = files.read_manifest(files.join(settings.data_root, "clean", f"date={past}"))
        if clean is not None and clean["ok"]:
            break
        why = "not gathered" if past not in raw else "not validated" if clean is None else "; ".join(clean["reasons"])
        lost.append(f"{past} ({why})")
        past -= A_DAY
    return tuple(lost)


@dataclass(frozen=True, slots=True)
class _Scored:
    rows: int
    defaulted: int
    early: int


def _scores(settings: Settings, day: date) -> _Scored | None:
    root = scores_root(settings, day)
    names = files.list_partitions(root)
    if not names:
        return None
    newest = max(names, key=lambda name: int(name.removeprefix("generation=")))
    rows = defaulted = early = 0
    over = pa.scalar(end_of(day), pa.timestamp("us", "UTC"))
    with fsspec.open(files.join(root, newest, "predictions.parquet")) as file, pq.ParquetFile(file) as table:
        for batch in table.iter_batches(columns=["captured_at", "defaulted"]):
            rows += len(batch)
            defaulted += int(pc.sum(batch.column("defaulted")).as_py() or 0)
            early += int(pc.sum(pc.greater(batch.column("captured_at"), over)).as_py() or 0)
    return _Scored(rows, defaulted, early)


def _feature_age(settings: Settings, day: date) -> float | None:
    """Days from the newest day that was brought online, this one or before, to this one."""
    receipts = (Path(settings.features_root) / "receipts").glob("*.json")
    days = [found for file in receipts if (found := date.fromisoformat(file.stem)) <= day]
    return float((day - max(days)).days) if days else None


# ------------------------------------------------------------------------------------------- live answers


@dataclass(slots=True)
class _Day:
    photos: int = 0
    errors: int = 0
    latencies: Counter[float] = field(default_factory=Counter)


def _live(store: Store, day: date) -> health.Live | None:
    """Live answers of the day, or None where neither it nor the days before it had any."""
    until = end_of(day)
    since = until - (LIVE_DAYS + 1) * A_DAY
    days: dict[date, _Day] = {}
    for row in _minutes(store, since, until - A_DAY, latencies=False):
        found = days.setdefault(row["minute"].date(), _Day())
        found.photos += row["photos"]
    today, early = _Day(), set[datetime]()
    made = _made(store)
    for row in _minutes(store, until - A_DAY, until, latencies=True):
        today.photos += row["photos"]
        today.errors += row["errors"]
        today.latencies.update({float(bound): count for bound, count in row["latencies"].items()})
        if row["minute"] + SLACK < made.get(row["generation"], row["minute"]):
            early.add(row["minute"])
    if not days and not today.photos and not today.errors:
        return None
    # A server that was not there yet has no days; from its first one on, a day without answers counts as such.
    first = min(days, default=day)
    usual = tuple(days.get(past, _Day()).photos for past in _days(first, day))
    return health.Live(
        photos=today.photos,
        errors=today.errors,
        latencies=dict(today.latencies),
        usual=usual,
        early_minutes=len(early),
    )


def _days(first: date, until: date) -> Iterator[date]:
    for number in range((until - first).days):
        yield first + number * A_DAY


def _minutes(store: Store, since: datetime, until: datetime, *, latencies: bool) -> Iterator[Mapping[str, Any]]:
    """Rows of `arm_minutes` in [since, until) of arms that answer somebody; a shadow answers nobody."""
    names = ["generation", "minute", "photos", "errors", *(["latencies"] if latencies else [])]
    inside = (arm_minutes.c.minute >= since, arm_minutes.c.minute < until, arm_minutes.c.arm != "shadow")
    with store.reading() as connection:
        for row in connection.execute(select(*(arm_minutes.c[name] for name in names)).where(*inside)).mappings():
            yield dict(row)


def _made(store: Store) -> dict[int, datetime]:
    """When each generation was made."""
    with store.reading() as connection:
        rows = connection.execute(select(deployments.c.generation, deployments.c.created_at))
        return {row.generation: row.created_at for row in rows}


def _early_answers(store: Store, day: date) -> int:
    """Live answers dated before their photo was taken, of the day's NEWEST photos: a clock that is ahead makes late
    photos."""
    newest = (
        select(predictions.c.channel, predictions.c.captured_at, predictions.c.predicted_at)
        .where(predictions.c.captured_at >= end_of(day) - A_DAY, predictions.c.captured_at < end_of(day))
        .order_by(predictions.c.captured_at.desc())
        .limit(NEWEST)
        .subquery()
    )
    early = select(func.count()).where(newest.c.channel == "online", newest.c.predicted_at < newest.c.captured_at)
    with store.reading() as connection:
        return int(connection.execute(early).scalar_one())
