"""Every answer reaches the database, once, whatever happens to the database, the disk or the process; or is counted."""

import contextlib
import logging
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import make_url

from monitoring.bulk import line_of
from monitoring.stores import Store, make_engine, open_store
from pipelines.online import log as log_module
from pipelines.online import spool as spool_module
from pipelines.online.log import SqlLog
from pipelines.online.spool import Spool
from pipelines.settings import Settings, load_settings

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
LOST_S = 0.2
"""What a kill may lose, as the manual says."""


def row(number: int, **changed: Any) -> dict[str, Any]:
    return {
        "prediction_id": f"p-{number:06d}",
        "image_id": f"image-{number}",
        "source_id": "sender",
        "captured_at": NOW,
        "predicted_at": NOW + timedelta(milliseconds=number),
        "label": "shoe",
        "confidence": 0.1 + 0.2,
        "probabilities": np.array([0.3, 0.7], np.float32),
        "model_version": "1",
        "run_id": "run-1",
        "generation": 1,
        "arm": "champion",
        "channel": "online",
        "service_hash": "abc",
        "defaulted": number % 2 == 0,
        "content_hash": "0" * 64,
        "context": [0.5, 1.0, float(np.float32(0.1))],
        "timings": {"decode": 0.7},
        "cached": False,
        "request_id": None,
        "key_id": "k1",
        **changed,
    }


def kept(store: Store) -> list[str]:
    found = store.predictions(since=NOW - timedelta(days=1), until=NOW + timedelta(days=1))
    return found["prediction_id"].tolist()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "AGAIN_S", (0.02, 0.1))
    monkeypatch.setattr(log_module, "WAIT_S", 0.1)
    monkeypatch.setattr(log_module, "GATHER_S", 0.01)


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    """On SQLite, with its tables."""
    made = load_settings(home=tmp_path / "var", actor="tester")
    open_store(made.database_url)
    return made


@contextlib.contextmanager
def running(settings: Settings, **given: Any) -> Iterator[SqlLog]:
    log = SqlLog(settings, **given)
    log.start()
    try:
        yield log
    finally:
        log.stop()


@contextlib.contextmanager
def away(url: str) -> Iterator[None]:
    """The database does not answer inside the block; what is in it stays."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(str(parsed.database))
        aside = path.with_suffix(".aside")
        path.rename(aside)
        path.mkdir()
        yield
        path.rmdir()
        aside.rename(path)
        return
    engine = make_engine(parsed.set(database="postgres").render_as_string(hide_password=False))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {parsed.database} ALLOW_CONNECTIONS false")
        connection.exec_driver_sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{parsed.database}'"
        )
        yield
        connection.exec_driver_sql(f"ALTER DATABASE {parsed.database} ALLOW_CONNECTIONS true")


def until(condition: Any, seconds: float = 10) -> bool:
    """Ask again and again, for a time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.005)
    return True


# --------------------------------------------------------------------------------------------- in good times


def test_an_answer_is_kept_as_it_was_given(settings: Settings, database_url: str) -> None:
    store = open_store(database_url)
    elsewhere = datetime(2026, 3, 1, 14, 30, 15, 123456, tzinfo=timezone(timedelta(hours=2)))
    odd = row(1, image_id="“søster”\\u0000 \n%s :x '; --", captured_at=elsewhere, request_id="a\x00b", context=None)
    with running(settings) as log:
        log.write([row(0), odd])
        assert log.flush(10)
        assert log.counters()["written"] == 2
    first, second = store.predictions(since=NOW, until=NOW + timedelta(seconds=1)).to_dict("records")
    expected = row(0, probabilities=[0.3, 0.7])
    for name, value in expected.items():
        if name == "context":
            assert (np.float32(first[name]) == np.float32(value)).all()
        else:
            assert first[name] == value, name
    assert second["captured_at"] == NOW
    assert (second["image_id"], second["request_id"], second["context"]) == (odd["image_id"], "a\ufffdb", None)


def test_the_same_answer_twice_is_kept_once_and_as_it_was(settings: Settings, database_url: str) -> None:
    store = open_store(database_url)
    assert store.add_predictions([row(0), row(1), row(0, label="hat")]) == 2
    assert store.add_predictions([row(1, label="hat"), row(2)]) == 1
    assert store.add_predictions([]) == 0
    assert kept(store) == ["p-000000", "p-000001", "p-000002"]
    found = store.predictions(since=NOW, until=NOW + timedelta(seconds=1))
    assert set(found["label"]) == {"shoe"}


def test_what_the_database_does_not_take_is_refused_alone(
    settings: Settings, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(database_url)
    rows = [row(number) for number in range(40)]
    rows[7]["confidence"] = float("nan")
    rows[20]["label"] = None
    rows[21]["captured_at"] = datetime(2026, 3, 1)  # noqa: DTZ001 - the point
    rows[22]["probabilities"] = object()
    with running(settings) as log:
        log.write(rows)
        assert log.flush(10)
        counts = log.counters()
    assert (counts["written"], counts["refused"], counts["shed"], counts["queue"]) == (36, 4, 0, 0)
    assert len(kept(store)) == 36
    said = " ".join(caplog.messages)
    assert "confidence" in said
    assert "label" in said
    assert "p-000021: " in said or "p-000021" in said


def test_stop_brings_in_what_is_on_the_way_and_leaves_no_file(settings: Settings, database_url: str) -> None:
    store = open_store(database_url)
    log = SqlLog(settings)
    log.start()
    for number in range(500):
        log.write([row(number)])
    log.stop()
    assert len(kept(store)) == 500
    assert list((settings.home / "serving" / "spool").iterdir()) == []


# ---------------------------------------------------------------------------------------------- in bad times


def test_while_the_database_is_away_answers_wait_on_disk_and_come_in_order(
    settings: Settings, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    store = open_store(database_url)
    with running(settings) as log:
        log.write([row(0)])
        assert log.flush(10)
        with away(database_url):
            for number in range(1, 300):
                log.write([row(number)])
            assert until(lambda: log.counters()["spooled"] == 299)
            assert log.away
            assert log.counters()["queue"] == 299
            assert not log.flush(0.05)
        assert log.flush(10)
        assert log.away == ""
        log.write([row(300)])
        assert log.flush(10)
        counts = log.counters()
    assert (counts["written"], counts["replayed"], counts["shed"], counts["queue"]) == (2, 299, 0, 0)
    assert kept(store) == [f"p-{number:06d}" for number in range(301)]
    assert any("takes no rows" in message and "spool" in message for message in caplog.messages)
    assert any("takes rows again" in message for message in caplog.messages)


def test_a_database_that_is_locked_holds_nobody_up(here: Settings) -> None:
    other = sqlite3.connect(str(make_url(here.database_url).database), isolation_level=None)
    with running(here) as log:
        log.write([row(0)])
        assert log.flush(10)
        other.execute("BEGIN IMMEDIATE")
        start = time.perf_counter()
        for number in range(1, 1001):
            log.write([row(number)])
        assert time.perf_counter() - start < 0.5, "half a millisecond a row is 500 times what it takes"
        assert until(lambda: log.counters()["spooled"] == 1000)
        assert "locked" in log.away
        other.execute("ROLLBACK")
        assert log.flush(10)
        assert log.counters()["replayed"] == 1000
    other.close()
    assert len(kept(open_store(here.database_url))) == 1001


def test_another_file_in_the_databases_place_is_noticed(here: Settings) -> None:
    path = Path(str(make_url(here.database_url).database))
    with running(here) as log:
        log.write([row(0)])
        assert log.flush(10)
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        path.with_suffix(".copy").write_bytes(path.read_bytes())
        path.with_suffix(".copy").rename(path)
        log.write([row(1)])
        assert log.flush(10)
    assert kept(open_store(here.database_url)) == ["p-000000", "p-000001"]


def test_what_finds_no_room_is_counted_and_said(here: Settings, caplog: pytest.LogCaptureFixture) -> None:
    log = SqlLog(here, queue=100)
    log.write([row(number) for number in range(90)])
    log.write([row(number) for number in range(90, 130)])
    log.write([row(130)])
    log.start()
    assert log.flush(10)
    log.stop()
    counts = log.counters()
    assert (counts["written"], counts["shed"], counts["queue"]) == (100, 31, 0)
    assert kept(open_store(here.database_url)) == [f"p-{number:06d}" for number in range(100)]
    assert "31 rows" in " ".join(caplog.messages)


def test_a_full_spool_sheds_what_comes_and_keeps_what_it_has(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 5_000)
    monkeypatch.setattr(log_module, "FLUSH_S", 0.005)
    with away(here.database_url):
        with running(here, spool_bytes=20_000, queue=50) as log:
            for number in range(0, 300, 6):
                log.write([row(number + more) for more in range(6)])
                assert until(lambda: not log._queue)
            assert until(lambda: log.counters()["shed"] > 0)
            root = here.home / "serving" / "spool"
            used = sum(path.stat().st_size for path in root.glob("*/*.jsonl"))
            assert used <= 20_000 + 2 * 5_000
            counts = log.counters()
        lost = log.counters()["shed"]
        assert 0 < counts["shed"] <= lost
    with running(here) as later:
        assert until(lambda: later.counters()["replayed"] == 300 - lost)
    assert kept(open_store(here.database_url)) == [f"p-{number:06d}" for number in range(300 - lost)]


def test_without_a_disk_answers_go_straight_to_the_database(here: Settings, caplog: pytest.LogCaptureFixture) -> None:
    (here.home / "serving").mkdir(parents=True)
    (here.home / "serving" / "spool").write_text("not a folder")
    with running(here) as log:
        log.write([row(number) for number in range(30)])
        assert log.flush(10)
        assert log.counters()["written"] == 30
    assert len(kept(open_store(here.database_url))) == 30
    assert "no room on disk" in " ".join(caplog.messages)


# --------------------------------------------------------------------------------------------------- kills


def _write_until_killed(home: Path, url: str, told: Any) -> None:
    log = SqlLog(load_settings(home=home, database_url=url, actor="tester"))
    log.start()
    number = 0
    while True:
        log.write([row(number)])
        told.send((number, time.monotonic()))
        number += 1
        threading.Event().wait(0.002)


def _killed(settings: Settings, seconds: float) -> tuple[int, int]:
    """Let a process write for a time and kill it; how many rows it wrote so long ago that none may be lost, and all."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_write_until_killed, args=(settings.home, settings.database_url, theirs))
    child.start()
    theirs.close()
    written: list[tuple[int, float]] = [ours.recv()]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        written.append(ours.recv())
    assert child.pid is not None
    killed = time.monotonic()
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    with contextlib.suppress(EOFError):
        while ours.poll():
            written.append(ours.recv())
    return sum(at < killed - LOST_S for _, at in written), len(written)


def test_a_kill_while_the_database_is_away_loses_only_the_last_moment(settings: Settings, database_url: str) -> None:
    store = open_store(database_url)
    with away(database_url):
        safe, written = _killed(settings, 0.6)
    assert safe > 50, "the test saw something"
    assert kept(store) == []
    with running(settings) as log, running(settings) as another:
        assert until(lambda: log.counters()["replayed"] + another.counters()["replayed"] >= safe)
    found = kept(store)
    assert found == [f"p-{number:06d}" for number in range(len(found))], "in order, none twice, none left out"
    assert safe <= len(found) <= written
    assert list((settings.home / "serving" / "spool").iterdir()) == []


def test_a_kill_while_the_database_is_there_loses_no_more(here: Settings) -> None:
    safe, written = _killed(here, 0.4)
    with running(here) as log:
        assert until(lambda: len(kept(open_store(here.database_url))) >= safe)
        assert log.flush(10)
    found = kept(open_store(here.database_url))
    assert found == [f"p-{number:06d}" for number in range(len(found))]
    assert safe <= len(found) <= written


def test_a_torn_line_is_dropped_and_counted(here: Settings) -> None:
    root = here.home / "serving" / "spool"
    spool = Spool.create(root)
    spool.append([line_of(row(number)) for number in range(10)], sync=False)
    segment = next(spool.folder.glob("*.jsonl"))
    data = bytearray(segment.read_bytes())
    lines = data.splitlines(keepends=True)
    data[len(lines[0]) + 40] ^= 1
    segment.write_bytes(data[:-25])
    spool.close()
    with running(here) as log:
        assert until(lambda: log.counters()["replayed"] == 8)
        assert log.counters()["torn"] == 2
    assert kept(open_store(here.database_url)) == [f"p-{number:06d}" for number in (0, 2, 3, 4, 5, 6, 7, 8)]
