"""A day's health from real partitions and tables: what the evidence and the report say of it."""

import json
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from monitoring.days import end_of
from monitoring.stores import Store, open_store
from pipelines import files, gather, monitor, score, validate
from pipelines.data.records import QUARANTINE, write_rows
from pipelines.models.health import health_of, look
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from tests.champions import install_champion, prepare_days
from tests.conftest import TINY
from tests.worlds import World, make_photos, write_world

DAYS = 12
GONE = "sender-03"


@pytest.fixture
def tight() -> Recipe:
    return Recipe.model_validate({**TINY, "health": {"min_days": 5, "missing_alarms": 0.05}})


@pytest.fixture
def world(settings: Settings, tight: Recipe) -> World:
    """Twelve days of six busy senders, of whom one sends nothing on the last four."""
    photos = make_photos(tight, days=DAYS, per_day=40, senders=6)
    last = photos["captured_at"].max().normalize() - timedelta(days=3)
    return write_world(settings, tight, photos[(photos["source_id"] != GONE) | (photos["captured_at"] < last)])


def facts(settings: Settings, recipe: Recipe, world: World, offset: int = -1) -> dict[str, dict]:
    store = open_store(settings.database_url)
    return {fact["name"]: fact for fact in health_of(settings, recipe, store, world.days[offset])}


def quarantine(settings: Settings, world: World, photos: int) -> None:
    day = world.days[-1]
    rows = [
        {"image_id": f"p{n}", "source_id": "x", "what": "photo", "reason": "tiny", "detail": ""} for n in range(photos)
    ]
    rows += [{**row, "what": "label"} for row in rows]
    with files.new_partition(files.join(settings.data_root, "quarantine", f"date={day}")) as draft:
        write_rows(draft.folder / "records.parquet", QUARANTINE, rows)


def minute(at: datetime, photos: int, errors: int = 0, arm: str = "champion", worker: str = "w", ms: str = "8") -> dict:
    return {
        "generation": 1, "arm": arm, "minute": at, "worker": worker, "photos": photos, "errors": errors,
        "latencies": {ms: photos},
    }  # fmt: skip


def deployed(store: Store, at: datetime) -> None:
    store.add_generation(
        {
            "generation": 1, "champion_version": "1", "champion_run_id": "r", "canary_weight": 0.0, "kind": "promote",
            "actor": "tester", "reason": "test", "run_key": "r", "as_of": at, "created_at": at,
        }
    )  # fmt: skip


def test_the_sender_that_stopped_is_named_and_no_other(settings: Settings, tight: Recipe, world: World) -> None:
    fact = facts(settings, tight, world)["missing_senders"]
    assert (fact["state"], fact["value"]) == ("BAD", 1)
    assert f"{GONE} (4 days)" in fact["sentence"]
    before = facts(settings, tight, world, -5)["missing_senders"]
    assert (before["state"], before["value"]) == ("OK", 0)


def test_who_sent_is_told_by_gather_and_else_by_the_photos(settings: Settings, tight: Recipe) -> None:
    """A day of an older Classy has no list of senders."""
    day = tight.replay.start
    uri = Path(gather.run(settings, tight, day=day).raw_uri)
    store = open_store(settings.database_url)
    told = look(settings, store, day, 28).attendance
    photos = pq.read_table(uri / "records.parquet")["source_id"].to_pylist()
    listed = pq.read_table(uri / "senders.parquet").to_pylist()
    assert {row["source_id"]: row["photos"] for row in listed} == Counter(photos)
    (uri / "senders.parquet").unlink()
    other = look(settings, store, day, 28).attendance
    assert told is not None
    assert other is not None
    assert set(told.senders) == set(other.senders) == set(photos)


def test_a_young_home_cannot_tell(settings: Settings, tight: Recipe, world: World) -> None:
    found = facts(settings, tight, world, 3)
    assert found["missing_senders"]["sentence"] == "3 days to compare with, 5 are needed (health.min_days)"
    assert (found["photos"]["state"], found["photos"]["value"]) == ("UNKNOWN", 40)


def test_photos_in_quarantine_are_counted_and_labels_are_not(settings: Settings, tight: Recipe, world: World) -> None:
    assert facts(settings, tight, world)["quarantine_rate"]["sentence"] == "the day was not validated"
    quarantine(settings, world, photos=9)
    fact = facts(settings, tight, world)["quarantine_rate"]
    gathered = look(settings, open_store(settings.database_url), world.days[-1], 28).gathered
    assert (fact["state"], fact["value"]) == ("BAD", pytest.approx(9 / gathered))


def test_a_refused_day_is_lost_and_the_next_one_says_why(settings: Settings, tight: Recipe, world: World) -> None:
    strict = tight.model_copy(update={"validation": tight.validation.model_copy(update={"min_records": 500})})
    raw = files.join(settings.data_root, "raw", f"date={world.days[-2]}")
    assert not validate.run(settings, strict, raw_uri=raw).ok
    fact = facts(settings, tight, world)["lost_days"]
    assert (fact["state"], fact["value"]) == ("BAD", 1)
    assert f"{world.days[-2]} (" in fact["sentence"]
    assert "validation.min_records" in fact["sentence"]
    assert facts(settings, tight, world, -2)["lost_days"]["state"] == "OK"


def test_a_day_without_photos_names_nobody(settings: Settings, tight: Recipe, world: World) -> None:
    day = world.days[-1]
    raw = Path(files.join(settings.data_root, "raw", f"date={day}"))
    table = pq.read_table(raw / "records.parquet")
    with files.new_partition(str(raw)) as draft:
        pq.write_table(table.slice(0, 0), draft.folder / "records.parquet")
        draft.meta = {"day": str(day), "records": 0}
    found = facts(settings, tight, world)
    assert found["missing_senders"]["state"] == "UNKNOWN"
    assert (found["photos"]["state"], found["photos"]["value"]) == ("BAD", 0)


@pytest.mark.usefixtures("database_url")
def test_live_minutes_of_all_workers_are_one_day(settings: Settings, tight: Recipe, world: World) -> None:
    store = open_store(settings.database_url)
    day = world.days[-1]
    noon = end_of(day) - timedelta(hours=12)
    deployed(store, noon - timedelta(days=9))
    store.write_arm_minutes(
        [
            minute(noon, 150), minute(noon, 48, 2, worker="v", ms="2000"), minute(noon, 900, 900, arm="shadow"),
            minute(noon + timedelta(minutes=1), 102, arm="canary"), minute(end_of(day), 7),
            *(minute(noon - timedelta(days=back), 250) for back in range(1, 8)),
        ]
    )  # fmt: skip
    found = facts(settings, tight, world)
    assert (found["live_photos"]["state"], found["live_photos"]["value"]) == ("OK", 300)
    assert (found["error_rate"]["state"], found["error_rate"]["value"]) == ("OK", pytest.approx(2 / 302))
    assert (found["latency_p50"]["state"], found["latency_p50"]["value"]) == ("OK", 8)
    assert (found["latency_p99"]["state"], found["latency_p99"]["value"]) == ("BAD", 2000)
    assert found["clock"]["state"] == "OK"


def test_minutes_from_before_the_deployment_are_a_jump_of_the_clock(
    settings: Settings, tight: Recipe, world: World
) -> None:
    store = open_store(settings.database_url)
    noon = end_of(world.days[-1]) - timedelta(hours=12)
    deployed(store, noon)
    store.write_arm_minutes([minute(noon - timedelta(minutes=late), 5) for late in (3, 60, 61)])
    fact = facts(settings, tight, world)["clock"]
    assert (fact["state"], fact["value"]) == ("BAD", 2)


def test_an_answer_dated_before_its_photo_is_a_jump_of_the_clock(
    settings: Settings, tight: Recipe, world: World
) -> None:
    store = open_store(settings.database_url)
    taken = end_of(world.days[-1]) - timedelta(hours=1)
    common = {
        "image_id": "i", "source_id": "s", "captured_at": taken, "label": "1", "confidence": 0.9, "cached": False,
        "probabilities": [], "model_version": "1", "run_id": "r", "generation": 1, "arm": "champion",
        "service_hash": "h", "defaulted": False, "channel": "online",
    }  # fmt: skip
    store.upsert_predictions(
        [
            {**common, "prediction_id": "early", "predicted_at": taken - timedelta(seconds=30)},
            {**common, "prediction_id": "fine", "predicted_at": taken + timedelta(seconds=30)},
        ]
    )
    assert look(settings, store, world.days[-1], 28).early_photos == 1


def test_the_evidence_and_the_report_tell_of_it(settings: Settings, tight: Recipe, world: World) -> None:
    prepare_days(settings, tight, [*world.clean_uris[:3], world.clean_uris[-1]])
    install_champion(settings, tight, world.days[:3])
    day = world.days[-1]
    scored = score.run(settings, tight, day=day)
    found = monitor.run(settings, tight, day=day)
    health = {fact["name"]: fact for fact in json.loads(Path(found.evidence_uri).read_text())["health"]}
    assert f"{scored.rows} scored" in health["photos"]["sentence"]
    assert (health["feature_age"]["state"], health["feature_age"]["value"]) == ("OK", 0)
    assert health["defaulted_rate"]["state"] == "OK"
    assert health["live_photos"]["sentence"] == "no live answers that day"
    page = Path(found.report_uri).read_text()
    assert "Service: missing senders" in page
    assert GONE in page
    (Path(settings.features_root) / "receipts" / f"{day}.json").unlink()
    assert facts(settings, tight, world)["feature_age"]["value"] == DAYS - 3


def test_an_unnamed_sender_is_nobody(settings: Settings, tight: Recipe) -> None:
    photos = make_photos(tight, days=2, per_day=10, senders=3)
    photos["source_id"] = ["", "unknown"] * 10
    made = write_world(settings, tight, photos)
    seen = look(settings, open_store(settings.database_url), made.days[-1], 28)
    assert (seen.gathered, seen.attendance, seen.live) == (10, None, None)
