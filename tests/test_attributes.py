"""Data: free columns of a table, and the size of a photo, go along with each photo to the rows that are judged."""

import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import files, gather, materialize, prepare, snapshot, validate
from pipelines.data.records import ATTRIBUTE_LENGTH, write_attributes
from pipelines.data.snapshots import read_snapshot
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from pipelines.sources import open_source
from tests.conftest import TINY
from tests.worlds import draw
from training.data import SnapshotData
from training.shards import ShardError

START = date(2026, 3, 1)
DAYS = [START + timedelta(days=number) for number in range(3)]
CLASSES = ["a", "b", "c"]
PHONES = ("Fairphone 5", "Pixel 8", "")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """photos.csv and its PNGs: three days of 40 photos, by 16 senders; every third photo does not say its phone."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = []
    for number in range(120):
        label = int(rng.integers(3))
        side = 24 if number % 2 else 48
        (folder / f"{number:03d}.png").write_bytes(draw(label, 3, rng, width=side, height=20))
        taken = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=36 * number)
        rows.append(
            {
                "image": f"{number:03d}.png",
                "label": CLASSES[label],
                "sender": f"sender-{rng.integers(16)}",
                "taken": taken.isoformat(),
                "phone": PHONES[number % 3],
                "shop": number % 2,
            }
        )
    pd.DataFrame(rows).to_csv(folder / "photos.csv", index=False)
    return folder / "photos.csv"


def recipe_of(table: Path, *attributes: str) -> Recipe:
    source = {
        "kind": "manifest",
        "path": str(table),
        "sender": "sender",
        "captured_at": "taken",
        "attributes": attributes,
    }
    return Recipe.model_validate(
        {**TINY, "source": source, "taxonomy": {"classes": CLASSES}, "snapshot": {"fresh_days": 1}}
    )


def all_steps(settings: Settings, recipe: Recipe) -> SnapshotData:
    for day in DAYS:
        raw = gather.run(settings, recipe, day=day)
        clean = validate.run(settings, recipe, raw_uri=raw.raw_uri)
        assert clean.ok, clean.reasons
        shard = prepare.run(settings, recipe, clean_uri=clean.clean_uri)
        materialize.run(settings, recipe, shard_uri=shard.shard_uri)
    return make_snapshot(settings, recipe)


def make_snapshot(settings: Settings, recipe: Recipe) -> SnapshotData:
    receipt = snapshot.run(settings, recipe, as_of=datetime(2026, 3, 4, tzinfo=UTC))
    return read_snapshot(settings, receipt.snapshot_uri)


def said_of(data: SnapshotData, name: str, split: str) -> list[str]:
    return [json.loads(text).get(name, "") for text in data.column("attributes", split)]


def written(settings: Settings, stage: str, name: str = "records") -> Iterator[tuple[str, str]]:
    """(image_id, attributes) of every row of a stage."""
    for day in DAYS:
        path = files.join(settings.data_root, stage, f"date={day}", f"{name}.parquet")
        rows = pq.read_table(path, columns=["image_id", "attributes"]).to_pydict()
        yield from zip(rows["image_id"], rows["attributes"], strict=True)


# ---------------------------------------------------------------------------------------- from end to end


def test_columns_of_a_table_reach_the_judged_rows(settings: Settings, table: Path) -> None:
    data = all_steps(settings, recipe_of(table, "phone", "shop"))
    rows = pd.read_csv(table, dtype=str, keep_default_na=False).set_index("image")
    for stage, name in (("raw", "records"), ("clean", "records"), ("shards", "index")):
        said = dict(written(settings, stage, name))
        assert len(said) == 120
        assert said["000.png"] == '{"phone":"Fairphone 5","shop":"0"}'
        assert said["002.png"] == '{"shop":"0"}', "what is not said is left out"
    for split in ("golden", "fresh", "train"):
        ids = data.split(split).image_ids
        assert len(ids) > 5
        assert said_of(data, "phone", split) == rows.loc[ids, "phone"].tolist()
        assert said_of(data, "shop", split) == rows.loc[ids, "shop"].tolist()
        sizes = [20 * (24 if int(image_id[:3]) % 2 else 48) for image_id in ids]
        assert data.column("pixels", split).tolist() == sizes
        assert data.column("defaulted", split).dtype == np.bool_


def test_a_query_gives_attributes_too(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("CREATE TABLE photos (image TEXT, label TEXT, price REAL, camera TEXT)")
        connection.executemany(
            "INSERT INTO photos VALUES (?, ?, ?, ?)", [("a.png", "a", 2.0, None), ("b.png", "b", 2.5, "Kiev 60")]
        )
    connection.close()
    monkeypatch.setenv("CLASSY_SOURCE_URL", f"sqlite:///{tmp_path / 'shop.db'}")
    source = {"kind": "sql", "query": "SELECT * FROM photos", "attributes": ["camera", "price"]}
    recipe = Recipe.model_validate({**TINY, "source": source, "taxonomy": {"classes": CLASSES}})
    opened = open_source(recipe, settings)
    photos = {photo.image_id: photo for offset in range(6) for photo in opened.photos(START + timedelta(days=offset))}
    assert photos["a.png"].attributes == '{"price":"2"}'
    assert photos["b.png"].attributes == '{"camera":"Kiev 60","price":"2.5"}'


def test_a_source_without_attributes_gives_none(settings: Settings, recipe: Recipe, table: Path) -> None:
    assert {photo.attributes for photo in open_source(recipe, settings).photos(START)} == {"{}"}
    data = all_steps(settings, recipe_of(table))
    assert set(data.column("attributes", "golden").tolist()) == {"{}"}


def test_an_attribute_that_changes_makes_another_snapshot(settings: Settings, table: Path) -> None:
    first = all_steps(settings, recipe_of(table, "phone"))
    assert all_steps(settings, recipe_of(table, "phone")).snapshot_id == first.snapshot_id
    table.write_text(table.read_text().replace("Pixel 8", "Pixel 9 Pro"))
    again = all_steps(settings, recipe_of(table, "phone"))
    assert again.snapshot_id != first.snapshot_id
    assert set(said_of(again, "phone", "golden")) == {"Fairphone 5", "Pixel 9 Pro", ""}
    # Nobody was moved: only what is said of the photos is new.
    assert again.column("image_id", "golden").tolist() == first.column("image_id", "golden").tolist()


# ------------------------------------------------------------------------------------------------- wrong


def test_a_wrong_column_name_shows_the_tables_columns(settings: Settings, table: Path) -> None:
    with pytest.raises(ClassyError, match=r"source\.attributes = 'fone'.*no such column; it has image, label, sender"):
        gather.run(settings, recipe_of(table, "phone", "fone"), day=START)
    assert files.list_partitions(files.join(settings.data_root, "raw")) == []


def test_an_unknown_column_of_a_snapshot_is_named_with_the_remedy(settings: Settings, table: Path) -> None:
    data = all_steps(settings, recipe_of(table))
    with pytest.raises(ShardError, match=r"no column 'weather', only image_id, .*make it again with `classy snapshot`"):
        data.column("weather", "golden")
    with pytest.raises(ValueError, match="split 'test'"):
        data.column("pixels", "test")


def without(uri: str, name: str, columns: tuple[str, ...]) -> None:
    """Write a partition again as an older Classy did: without some columns, and without naming them."""
    manifest = files.need_manifest(uri, "test")
    folder = Path(uri)
    others = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    table = pq.read_table(folder / name)
    with files.new_partition(uri) as draft:
        for other, data in others.items():
            (draft.folder / other).write_bytes(data)
        pq.write_table(table.drop_columns(list(columns)), draft.folder / name)
        draft.meta = {key: value for key, value in manifest.items() if key not in ("files", "columns")}


def test_days_that_an_older_classy_gathered_are_read_on(settings: Settings, table: Path) -> None:
    recipe = recipe_of(table, "phone")
    raw = gather.run(settings, recipe, day=START)
    without(raw.raw_uri, "records.parquet", ("attributes",))
    clean = validate.run(settings, recipe, raw_uri=raw.raw_uri)
    assert (clean.ok, clean.kept) == (True, 40)
    without(clean.clean_uri, "records.parquet", ("attributes",))
    shard = prepare.run(settings, recipe, clean_uri=clean.clean_uri)
    index = pq.read_table(f"{shard.shard_uri}/index.parquet").to_pydict()
    assert set(index["attributes"]) == {"{}"}
    assert set(index["pixels"]) == {480, 960}


def test_a_shard_that_an_older_classy_made_is_prepared_again(settings: Settings, table: Path) -> None:
    recipe = recipe_of(table, "phone")
    before = all_steps(settings, recipe)
    shard = files.join(settings.data_root, "shards", f"date={START}")
    without(shard, "index.parquet", ("attributes", "pixels"))
    with pytest.raises(ClassyError, match=r"no pixels, attributes.*`classy prepare` again"):
        make_snapshot(settings, recipe)
    prepare.run(settings, recipe, clean_uri=files.join(settings.data_root, "clean", f"date={START}"))
    assert make_snapshot(settings, recipe).snapshot_id == before.snapshot_id


# --------------------------------------------------------------------------------------------- the text

values = st.dictionaries(st.text(max_size=8), st.none() | st.text(max_size=2 * ATTRIBUTE_LENGTH), max_size=5)


@given(values)
def test_any_text_is_kept_as_it_is_up_to_its_length(said: dict[str, str | None]) -> None:
    text = write_attributes(said)
    assert json.loads(text) == {name: value[:ATTRIBUTE_LENGTH] for name, value in said.items() if value}
    assert text == write_attributes(dict(reversed(said.items()))), "the order does not matter"
    assert text.encode("ascii").isascii()
