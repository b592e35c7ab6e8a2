"""Prepare: the shard holds what the canonicaliser says, once, whole, and only of a day that was checked."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import files, prepare
from pipelines.data.images import spec_of
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.canonical import canonicalise
from serving.pictures import STATS, picture_stats
from tests.worlds import World, make_world
from training.shards import open_shard


@pytest.fixture
def world(settings: Settings, recipe: Recipe) -> World:
    return make_world(settings, recipe, days=2, per_day=70)


def test_a_shard_holds_canonical_images_and_their_statistics(settings: Settings, recipe: Recipe, world: World) -> None:
    receipt = prepare.run(settings, recipe, clean_uri=world.clean_uris[0])
    index = pq.read_table(files.join(receipt.shard_uri, "index.parquet")).to_pandas()
    images = open_shard(Path(receipt.shard_uri))
    photos = world.photos.set_index("image_id")
    assert receipt.images == len(index) == len(images) == 70
    assert (receipt.day, receipt.spec_hash) == ("2026-03-01", spec_of(recipe).digest())
    assert index["row"].tolist() == list(range(70))
    for entry in index.iloc[::7].to_dict("records"):
        photo = photos.loc[entry["image_id"]]
        expected = canonicalise(photo["image"], spec_of(recipe))
        np.testing.assert_array_equal(images[entry["row"]], expected)
        stats = picture_stats(expected, width=24, height=20)
        assert {name: entry[name] for name in STATS} == stats
        assert (entry["source_id"], entry["captured_at"]) == (photo["source_id"], photo["captured_at"])


def test_rows_that_validation_took_out_are_not_in_the_shard(settings: Settings, recipe: Recipe, world: World) -> None:
    uri = world.clean_uris[0]
    table = pq.read_table(files.join(uri, "records.parquet"))
    manifest = files.need_manifest(uri, "validate")
    with files.new_partition(uri) as draft:
        pq.write_table(table.slice(10, 5), draft.folder / "records.parquet")
        draft.meta = {key: value for key, value in manifest.items() if key != "files"}
    receipt = prepare.run(settings, recipe, clean_uri=uri)
    kept = pq.read_table(files.join(receipt.shard_uri, "index.parquet"))["image_id"].to_pylist()
    assert sorted(kept) == sorted(table["image_id"].to_pylist()[10:15])


def test_again_is_the_same_receipt_without_a_write(settings: Settings, recipe: Recipe, world: World) -> None:
    first = prepare.run(settings, recipe, clean_uri=world.clean_uris[0])
    images = Path(first.shard_uri) / "images.npy"
    before = (images.stat().st_ino, images.stat().st_mtime_ns)
    assert prepare.run(settings, recipe, clean_uri=world.clean_uris[0]) == first
    assert (images.stat().st_ino, images.stat().st_mtime_ns) == before


def test_another_image_spec_makes_the_shard_again(settings: Settings, recipe: Recipe, world: World) -> None:
    first = prepare.run(settings, recipe, clean_uri=world.clean_uris[0])
    larger = recipe.model_copy(update={"image": recipe.image.model_copy(update={"size": 20})})
    second = prepare.run(settings, larger, clean_uri=world.clean_uris[0])
    assert second.spec_hash != first.spec_hash
    assert open_shard(Path(second.shard_uri)).shape == (70, 20, 20, 3)


def test_threads_do_not_change_the_bytes(settings: Settings, recipe: Recipe, world: World) -> None:
    one = prepare.run(settings, recipe, clean_uri=world.clean_uris[0])
    alone = files.content_hash(files.need_manifest(one.shard_uri, "prepare"))
    (Path(one.shard_uri) / "manifest.json").unlink()
    many = settings.model_copy(update={"threads": 4})
    assert prepare.run(many, recipe, clean_uri=world.clean_uris[0]) == one
    assert files.content_hash(files.need_manifest(one.shard_uri, "prepare")) == alone


def test_a_refused_day_is_refused_here_too(settings: Settings, recipe: Recipe, world: World) -> None:
    uri = world.clean_uris[0]
    table = pq.read_table(files.join(uri, "records.parquet"))
    manifest = files.need_manifest(uri, "validate")
    with files.new_partition(uri) as draft:
        pq.write_table(table, draft.folder / "records.parquet")
        draft.meta = {**{k: v for k, v in manifest.items() if k != "files"}, "ok": False, "reasons": ["too many bad"]}
    with pytest.raises(ClassyError, match="too many bad"):
        prepare.run(settings, recipe, clean_uri=uri)
    assert files.list_partitions(files.join(settings.data_root, "shards")) == []


def test_a_missing_partition_names_the_step_that_makes_it(settings: Settings, recipe: Recipe) -> None:
    with pytest.raises(ClassyError, match="classy validate"):
        prepare.run(settings, recipe, clean_uri=files.join(settings.data_root, "clean", "date=2026-03-01"))


@pytest.mark.parametrize("change", ["gone", "other bytes"])
def test_photos_that_are_not_those_that_were_checked_leave_nothing_behind(
    settings: Settings, recipe: Recipe, world: World, change: str
) -> None:
    raw_uri = files.need_manifest(world.clean_uris[0], "validate")["raw_uri"]
    path = Path(raw_uri) / "records.parquet"
    rows = pq.read_table(path).to_pylist()
    if change == "gone":
        rows.pop(40)
    else:
        rows[40]["image"] = rows[41]["image"]
    pq.write_table(pq.read_table(path).from_pylist(rows, pq.read_schema(path)), path)
    with pytest.raises(ClassyError, match="p000-0040"):
        prepare.run(settings, recipe, clean_uri=world.clean_uris[0])
    assert list((settings.home / "data" / "shards").iterdir()) == []
