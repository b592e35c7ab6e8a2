"""The store says the same on SQLite and on PostgreSQL: what is kept, what is refused, and in which words."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from monitoring import stores
from monitoring.bulk import line_of
from monitoring.stores import LostRace, Store, StoreError, make_engine, open_store
from tests.postgres import Server

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
LONG = "a sender's name of more than two hundred letters " * 6


@pytest.fixture
def store(database_url: str) -> Store:
    return open_store(database_url)


def generation(number: int, run_key: str | None = None, **changed: Any) -> dict[str, Any]:
    return {
        "generation": number,
        "champion_version": str(number),
        "champion_run_id": f"run-{number}",
        "previous_version": None,
        "canary_version": None,
        "canary_weight": 0.0,
        "shadow_version": None,
        "canary_run_id": None,
        "canary_name": None,
        "shadow_run_id": None,
        "kind": "promote",
        "actor": "ada",
        "reason": "because – “quoted”, 100 % true: :name",
        "evidence_uri": None,
        "evidence_hash": None,
        "run_key": run_key or f"key-{number}",
        "as_of": NOW,
        "created_at": NOW,
        **changed,
    }


def decision(key: str, **changed: Any) -> dict[str, Any]:
    row = {
        "decision_key": key,
        "kind": "judge",
        "action": "HOLD",
        "reason": "no better",
        "run_key": key,
        "actor": "ada",
    }
    return {**row, "evidence_uri": None, "evidence_hash": None, "as_of": NOW, "created_at": NOW, **changed}


def label(image_id: str, said: str, **changed: Any) -> dict[str, Any]:
    return {"image_id": image_id, "label": said, "labelled_at": NOW, "said_by": "grace", **changed}


def prediction(number: int, **changed: Any) -> dict[str, Any]:
    return {
        "prediction_id": f"p-{number}",
        "image_id": f"image-{number}",
        "source_id": "sender",
        "captured_at": NOW,
        "predicted_at": NOW,
        "label": "shoe",
        "confidence": 0.1 + 0.2,
        "probabilities": [0.30000000000000004, 0.7],
        "model_version": "1",
        "run_id": "run-1",
        "generation": 1,
        "arm": "champion",
        "channel": "batch",
        "service_hash": "abc",
        "defaulted": False,
        "content_hash": "ab" * 32,
        "context": [0.5, 1.25],
        "timings": {"model": 0.5},
        "cached": False,
        "request_id": "r-1",
        "key_id": "k-1",
        **changed,
    }


def test_what_is_written_is_read_as_it_was(store: Store) -> None:
    store.add_generation(generation(1))
    assert store.current() == generation(1)
    assert store.generations() == [generation(1)]
    store.upsert_predictions([prediction(1)])
    (row,) = store.predictions(since=NOW, until=NOW + timedelta(seconds=1)).to_dict("records")
    assert row == prediction(1)


def test_a_time_of_another_zone_is_the_same_moment(store: Store) -> None:
    there = datetime.fromisoformat("2026-03-01T17:30:15.123456+05:00")
    store.add_generation(generation(1, as_of=there))
    current = store.current()
    assert current is not None
    assert (current["as_of"], current["as_of"].tzinfo) == (NOW, UTC)
    with pytest.raises(Exception, match="has no time zone"):
        store.add_generation(generation(2, as_of=NOW.replace(tzinfo=None)))


def test_the_last_word_on_a_label_stays_also_within_one_call(store: Store) -> None:
    assert store.upsert_truth([label("a", "shoe"), label("b", "hat"), label("a", "boot")]) == 2
    assert store.truth(as_of=NOW)[["image_id", "label"]].values.tolist() == [["a", "boot"], ["b", "hat"]]
    store.upsert_truth([label("a", "?", rejected="no class of the recipe")])
    assert store.truth(as_of=NOW)["image_id"].tolist() == ["b"]
    assert store.truth(as_of=NOW - timedelta(microseconds=1)).empty


def test_more_rows_than_one_statement_takes(store: Store) -> None:
    rows = [prediction(number, captured_at=NOW + timedelta(seconds=number)) for number in range(stores.CHUNK + 7)]
    assert store.upsert_predictions(rows) == len(rows)
    assert store.upsert_predictions(rows) == len(rows)
    found = store.predictions(since=NOW + timedelta(seconds=3), until=NOW + timedelta(seconds=10))
    assert found["prediction_id"].tolist() == [f"p-{number}" for number in range(3, 10)]
    assert store.upsert_predictions([]) == 0


def test_rows_replaced_in_bulk_are_those_that_are_upserted(store: Store) -> None:
    store.upsert_predictions([prediction(1), prediction(2)])
    changed = prediction(1, label="hat", probabilities=[0.1, 0.9], context=None, cached=True, defaulted=True)
    given = [changed, prediction(3)]
    assert store.replace_predictions([line_of(row) for row in given]) == 2
    assert store.replace_predictions([]) == 0
    found = store.predictions(since=NOW, until=NOW + timedelta(seconds=1)).to_dict("records")
    assert found == [changed, prediction(2), prediction(3)]


def test_the_first_decision_under_a_key_stays(store: Store) -> None:
    assert store.record_decision(decision("judge-1"))
    assert not store.record_decision(decision("judge-1", action="PROMOTE"))
    assert [row["action"] for row in store.decisions("judge")] == ["HOLD"]


def test_a_golden_use_counts_once_a_run_key(store: Store) -> None:
    use = {"golden_hash": "g", "run_key": "a", "rows": 400, "as_of": NOW, "created_at": NOW}
    assert store.use_golden(use) == 1
    assert store.use_golden(use) == 1
    assert store.use_golden({**use, "run_key": "b"}) == 2
    assert store.use_golden({**use, "golden_hash": "other"}) == 1


def test_names_may_be_long(store: Store) -> None:
    store.upsert_predictions([prediction(1, image_id=LONG, source_id=LONG, label=LONG)])
    store.upsert_truth([label(LONG, LONG, said_by=LONG, rejected=LONG)])
    store.record_decision(decision(f"approval-{LONG}", run_key=LONG, actor=LONG))
    store.add_generation(generation(1, LONG, actor=LONG))
    assert store.deployment_of(LONG) is not None


# ------------------------------------------------------------------------------------------------ the ledger


def test_a_generation_and_a_run_key_are_taken_once(store: Store) -> None:
    store.add_generation(generation(1))
    with pytest.raises(LostRace, match="generation 1 was taken by another"):
        store.add_generation(generation(1, "another key"))
    with pytest.raises(LostRace):
        store.add_generation(generation(2, "key-1"))
    assert store.generations() == [generation(1)]


def test_a_row_that_is_wrong_in_itself_has_not_lost_a_race(store: Store) -> None:
    with pytest.raises(IntegrityError):
        store.add_generation(generation(1, actor=None))
    assert store.current() is None


def test_readers_see_the_old_or_the_new_generation_whole(store: Store) -> None:
    over = threading.Event()
    seen: list[dict[str, Any]] = []

    def read() -> None:
        while not over.is_set():
            if (row := store.current()) is not None:
                seen.append(row)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, 40):
        store.add_generation(generation(number))
    over.set()
    for reader in readers:
        reader.join()
    assert seen
    assert all(row == generation(row["generation"]) for row in seen)


def test_a_writer_that_stopped_keeps_the_others_waiting_for_a_while_only(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "WAIT_S", 1)
    store = open_store(database_url)
    row = {**generation(1), "as_of": NOW.replace(tzinfo=None), "created_at": NOW.replace(tzinfo=None)}
    names = ", ".join(row)
    statement = text(f"INSERT INTO deployments ({names}) VALUES ({', '.join(f':{name}' for name in row)})")
    with make_engine(database_url).connect() as stopped:
        stopped.execute(statement, row)
        with pytest.raises(StoreError, match=r"not reachable: .*lock.*run the same command again"):
            store.add_generation(generation(1))
    store.add_generation(generation(1))


# ----------------------------------------------------------------------------------------------- the address


def test_a_url_that_is_none_or_of_another_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is no SQLAlchemy URL, such as sqlite:.* or postgresql:"):
        open_store("classy.db")
    with pytest.raises(StoreError, match=r"mysql://root:\*\*\*@host/db: Classy keeps its tables in sqlite or postgres"):
        open_store("mysql://root:secret@host/db")
    with pytest.raises(StoreError, match=r"driver is not installed .*uv sync --extra postgres"):
        open_store("postgresql+pg8000x://root:secret@host/db")
    with pytest.raises(StoreError, match="not reachable"):
        open_store(f"sqlite:///{tmp_path}")


def test_a_database_that_is_not_there_is_named_without_its_password(postgres: Server) -> None:
    url = postgres.url("nowhere")
    with pytest.raises(StoreError, match='database "nowhere" does not exist') as caught:
        open_store(url)
    assert postgres.password not in str(caught.value)
    with pytest.raises(StoreError, match=r"not reachable: .*No such file or directory"):
        open_store(url.replace("classy-pg-", "no-pg-"))


def test_a_user_who_may_make_no_tables_is_told_what_to_ask_for(postgres: Server) -> None:
    url = postgres.new_database()
    with make_engine(url).begin() as connection:
        connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        connection.execute(text(f"CREATE ROLE guest LOGIN PASSWORD '{postgres.password}'"))
    with pytest.raises(StoreError, match=r"permission denied for schema public.*GRANT CREATE ON SCHEMA public"):
        open_store(url.replace("classy:", "guest:"))
    postgres.drop(url)


def test_no_connection_lingers(postgres: Server) -> None:
    url = postgres.new_database()
    held = [open_store(url) for _ in range(5)]
    assert all(store.current() is None for store in held)
    with held[0].engine.connect() as connection:
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert connection.execute(text(count)).scalar() == 0
    postgres.drop(url)
