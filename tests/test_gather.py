"""Code: a day is fetched whole, once or many times, alone or at once with itself, and says what is missing."""

import errno
import json
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select, text

from monitoring.migrations import VERSION_TABLE
from monitoring.stores import StoreError, open_store
from monitoring.tables import ground_truth
from pipelines import files, gather
from pipelines.cache import Cache
from pipelines.data import records
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from pipelines.sources import open_source
from tests.conftest import TINY

DAY = date(2026, 3, 2)


def contents(uri: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(uri).iterdir()}


def truth(settings: Settings) -> list[dict[str, Any]]:
    with open_store(settings.database_url).engine.connect() as connection:
        rows = connection.execute(select(ground_truth).order_by(ground_truth.c.image_id)).mappings()
        return [dict(row) for row in rows]


def listed(folder: Path, rows: list[tuple[str, str]], **given: Any) -> Recipe:
    """A recipe on a table of (image, label), all captured at noon of DAY and labelled at once."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{image},{label},2026-03-02T12:00:00Z" for image, label in rows]
    (folder / "t.csv").write_text("\n".join(["image,label,at", *lines]) + "\n")
    source = {"kind": "manifest", "path": str(folder / "t.csv"), "captured_at": "at"}
    return Recipe.model_validate({**TINY, "source": source, "taxonomy": {"classes": ["cat", "dog"]}, **given})


# ---------------------------------------------------------------------------------------------- one day


def test_a_day_has_its_photos_and_the_labels_that_arrive_on_it(settings: Settings, recipe: Recipe) -> None:
    plan = open_source(recipe, settings).plan()
    start = datetime(2026, 3, 2, tzinfo=UTC)
    receipt = gather.run(settings, recipe, day=DAY)
    assert json.loads(json.dumps(asdict(receipt))) == asdict(receipt)
    assert (receipt.day, receipt.records, receipt.missing) == ("2026-03-02", 100, 0)

    table = pq.read_table(f"{receipt.raw_uri}/records.parquet")
    assert table.schema.equals(records.RAW)
    expected = plan[(plan["captured_at"] >= start) & (plan["captured_at"] < start + timedelta(days=1))]
    assert table["image_id"].to_pylist() == expected["image_id"].tolist()
    assert table["group_id"].to_pylist() == expected["group_id"].tolist()
    assert all(image.startswith(b"\x89PNG") for image in table["image"].to_pylist())
    assert table["error"].null_count == 100

    labels = pq.read_table(f"{receipt.raw_uri}/labels.parquet")
    assert labels.schema.equals(records.LABELS)
    arriving = plan[(plan["labelled_at"] >= start) & (plan["labelled_at"] < start + timedelta(days=1))]
    assert receipt.labels == labels.num_rows == len(arriving) > 50
    assert sorted(labels["image_id"].to_pylist()) == sorted(arriving["image_id"])
    assert min(labels["captured_at"].to_pylist()) < start  # also for the day before
    assert {row["image_id"]: row["label"] for row in truth(settings)} == dict(
        zip(arriving["image_id"], arriving["label"], strict=True)
    )
    assert {row["said_by"] for row in truth(settings)} == {"replay"}
    manifest = files.need_manifest(receipt.raw_uri, "gather")
    assert (manifest["day"], manifest["records"], manifest["labels"]) == ("2026-03-02", 100, receipt.labels)
    assert manifest["recipe"] == recipe.digest()


def test_all_days_together_are_the_source(settings: Settings, recipe: Recipe) -> None:
    ids, labels = [], 0
    for offset in range(-1, 9):
        receipt = gather.run(settings, recipe, day=recipe.replay.start + timedelta(days=offset))
        ids += pq.read_table(f"{receipt.raw_uri}/records.parquet")["image_id"].to_pylist()
        labels += receipt.labels
    assert sorted(ids) == sorted(open_source(recipe, settings).plan()["image_id"])
    assert labels == len(ids) == len(truth(settings))


def test_a_day_without_photos_is_a_partition_without_rows(settings: Settings, recipe: Recipe) -> None:
    receipt = gather.run(settings, recipe, day=date(2030, 1, 1))
    assert (receipt.records, receipt.labels, receipt.missing) == (0, 0, 0)
    for name, schema in {"records": records.RAW, "labels": records.LABELS}.items():
        table = pq.read_table(f"{receipt.raw_uri}/{name}.parquet")
        assert table.num_rows == 0
        assert table.schema.equals(schema)


# --------------------------------------------------------------------------------------- again and at once


def test_a_second_run_changes_nothing(settings: Settings, recipe: Recipe) -> None:
    first = gather.run(settings, recipe, day=DAY)
    before, said = contents(first.raw_uri), truth(settings)
    assert gather.run(settings, recipe, day=DAY) == first
    assert contents(first.raw_uri) == before
    assert truth(settings) == said


def test_the_same_bytes_in_another_home(settings: Settings, recipe: Recipe, tmp_path: Path) -> None:
    other = load_settings(home=tmp_path / "other")
    first, second = gather.run(settings, recipe, day=DAY), gather.run(other, recipe, day=DAY)
    assert first.raw_uri != second.raw_uri
    assert contents(first.raw_uri) == contents(second.raw_uri)


def test_another_run_that_ends_meanwhile_leaves_one_good_partition(
    settings: Settings, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = contents(gather.run(settings, recipe, day=DAY).raw_uri)
    write, inner = gather.write_rows, []

    def meanwhile(*given: Any) -> int:
        if not inner:
            inner.append(None)
            inner.append(gather.run(settings, recipe, day=DAY))
        return write(*given)

    monkeypatch.setattr(gather, "write_rows", meanwhile)
    outer = gather.run(settings, recipe, day=DAY)
    assert inner[1] == outer
    assert contents(outer.raw_uri) == alone
    assert [path.name for path in Path(outer.raw_uri).parent.iterdir()] == [f"date={DAY}"]


def test_a_verdict_and_a_later_word_survive_a_second_run(settings: Settings, recipe: Recipe) -> None:
    gather.run(settings, recipe, day=DAY)
    first, second, *_ = truth(settings)
    store = open_store(settings.database_url)
    judged = {**first, "rejected": "label_before_photo"}
    corrected = {**second, "label": "9", "said_by": "Ada", "labelled_at": second["labelled_at"] + timedelta(days=3)}
    store.upsert_truth([judged, corrected])
    gather.run(settings, recipe, day=DAY)
    assert truth(settings)[:2] == [judged, corrected]


# ------------------------------------------------------------------------------------------- bad input


def test_missing_files_are_records_with_a_reason(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(b"any bytes")
    receipt = gather.run(settings, listed(tmp_path, [("there.png", "cat"), ("gone.png", "dog")]), day=DAY)
    assert (receipt.records, receipt.missing) == (2, 1)
    rows = {row["image_id"]: row for row in pq.read_table(f"{receipt.raw_uri}/records.parquet").to_pylist()}
    assert rows["there.png"]["image"] == b"any bytes"
    assert rows["gone.png"]["image"] is None
    assert rows["gone.png"]["error"].startswith("missing: ")
    assert rows["gone.png"]["origin"] == str(tmp_path / "gone.png")


def test_labels_are_taken_by_their_class_and_kept_as_said_when_they_are_none(
    settings: Settings, tmp_path: Path
) -> None:
    recipe = listed(tmp_path, [("a.png", "kitten"), ("b.png", "bird"), ("c.png", "x" * 300), ("d.png", "")])
    taxonomy = recipe.taxonomy.model_copy(update={"aliases": {"kitten": "cat"}})
    receipt = gather.run(settings, recipe.model_copy(update={"taxonomy": taxonomy}), day=DAY)
    assert pq.read_table(f"{receipt.raw_uri}/labels.parquet")["label"].to_pylist() == ["kitten", "bird", "x" * 300]
    assert [row["label"] for row in truth(settings)] == ["cat", "bird", "x" * 128]
    assert {row["said_by"] for row in truth(settings)} == {"manifest"}


def test_a_place_that_does_not_answer_is_an_error_and_no_day(settings: Settings, tmp_path: Path) -> None:
    recipe = listed(tmp_path, [(f"http://127.0.0.1:9/{n}.png", "cat") for n in range(3)])
    with pytest.raises(ClassyError, match="none of the day's 3 photos could be read"):
        gather.run(settings, recipe, day=DAY)
    assert not list((settings.home / "data" / "raw").iterdir())
    assert truth(settings) == []


def test_a_full_disk_leaves_nothing(settings: Settings, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(pq.ParquetWriter):
        def write_table(self, *given: Any, **named: Any) -> None:
            super().write_table(*given, **named)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records.pq, "ParquetWriter", Full)
    with pytest.raises(ClassyError, match="the disk is full; nothing was kept"):
        gather.run(settings, recipe, day=DAY)
    assert not list((settings.home / "data" / "raw").iterdir())


def test_a_database_of_another_version_leaves_nothing(settings: Settings, recipe: Recipe) -> None:
    engine = open_store(settings.database_url).engine
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = 'long-ago'"))
    with pytest.raises(StoreError):
        gather.run(settings, recipe, day=DAY)
    assert not (settings.home / "data").exists()


def test_a_wrong_source_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    recipe = listed(tmp_path, [("a.png", "cat")])
    (tmp_path / "t.csv").unlink()
    with pytest.raises(ClassyError, match=r"t\.csv': no such file"):
        gather.run(settings, recipe, day=DAY)
    assert not (settings.home / "data").exists()


def test_large_days_are_written_in_groups(tmp_path: Path) -> None:
    rows = [dict.fromkeys(records.RAW.names) | {"image_id": str(i), "image": b"x" * 200} for i in range(600)]
    assert records.write_rows(tmp_path / "t.parquet", records.RAW, iter(rows)) == 600
    metadata = pq.read_metadata(tmp_path / "t.parquet")
    assert [metadata.row_group(i).num_rows for i in range(3)] == [256, 256, 88]
    heavy = [row | {"image": b"x" * 20_000_000} for row in rows[:3]]
    records.write_rows(tmp_path / "heavy.parquet", records.RAW, iter(heavy))
    assert pq.read_metadata(tmp_path / "heavy.parquet").row_group(0).num_rows == 2


def test_data_on_another_filesystem(recipe: Recipe, tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "var", data_root=f"memory://{tmp_path.name}")
    receipt = gather.run(settings, recipe, day=DAY)
    folder = files.local(receipt.raw_uri, Cache(tmp_path / "cache", 10**9))
    assert len(pd.read_parquet(folder / "records.parquet")) == 100
