"""Features: what was known then and nothing later, the same offline and online, however often and in what order."""

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from monitoring.stores import open_store
from pipelines import files, materialize, prepare
from pipelines.data.features import (
    context_names,
    context_rows,
    offline_file,
    online_context,
    open_features,
    service_hash,
    watermark,
)
from pipelines.data.profiles import source_profile
from pipelines.errors import ClassyError
from pipelines.materialize import Materialized
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.pictures import STATS
from tests.worlds import START, end_of, make_photos, write_world

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def photos(recipe: Recipe) -> pd.DataFrame:
    """Three days, 30 photos each, of 6 senders; labels come within a day."""
    return make_photos(recipe, days=3, per_day=30, senders=6)


def shards_of(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> list[str]:
    world = write_world(settings, recipe, photos)
    return [prepare.run(settings, recipe, clean_uri=uri).shard_uri for uri in world.clean_uris]


def materialized(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> list[Materialized]:
    return [materialize.run(settings, recipe, shard_uri=uri) for uri in shards_of(settings, recipe, photos)]


def column(recipe: Recipe, rows: np.ndarray, name: str) -> np.ndarray:
    return rows[:, context_names(recipe).index(name)]


def test_a_profile_is_what_the_window_and_the_labels_say() -> None:
    photos = pd.DataFrame(
        {
            "image_id": ["1", "2", "3", "4"],
            "source_id": ["b", "a", "a", "a"],
            "brightness": [0.5, 0.1, 0.2, 0.3],
            "sharpness": [1.0, 2.0, 2.0, 5.0],
        }
    )
    truth = pd.DataFrame({"image_id": ["2", "3", "9"], "label": ["cat", "cat", "dog"]})
    as_of = datetime(2026, 3, 2, tzinfo=UTC)
    first, second = source_profile(photos, truth, classes=("cat", "dog"), as_of=as_of).to_pylist()
    assert first == {
        "source_id": "a",
        "event_timestamp": as_of,
        "photos": 3,
        "labelled": 2,
        "label_share": pytest.approx(2 / 3),
        "class_mix": [0.75, 0.25],
        "mean_brightness": pytest.approx(0.2),
        "mean_sharpness": pytest.approx(3.0),
    }
    assert (second["source_id"], second["labelled"], second["class_mix"]) == ("b", 0, [0.5, 0.5])


def test_a_world_without_labels_or_photos_has_profiles_too() -> None:
    photos = pd.DataFrame({"image_id": ["1"], "source_id": ["b"], "brightness": [0.5], "sharpness": [1.0]})
    nothing = pd.DataFrame({"image_id": [], "label": []}, dtype=object)
    as_of = datetime(2026, 3, 2, tzinfo=UTC)
    assert source_profile(photos, nothing, classes=("cat", "dog"), as_of=as_of)["labelled"].to_pylist() == [0]
    assert source_profile(photos[:0], nothing, classes=("cat", "dog"), as_of=as_of).num_rows == 0


def test_the_receipt_says_what_was_made(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> None:
    receipts = materialized(settings, recipe, photos)
    assert [receipt.images for receipt in receipts] == [30, 30, 30]
    assert {receipt.service_hash for receipt in receipts} == {service_hash(recipe)}
    for receipt, day in zip(receipts, ("2026-03-02", "2026-03-03", "2026-03-04"), strict=True):
        assert receipt.as_of == receipt.watermark == f"{day}T00:00:00+00:00"


def test_a_context_row_is_the_picture_and_what_was_known_the_day_before(
    settings: Settings, recipe: Recipe, photos: pd.DataFrame
) -> None:
    receipts = materialized(settings, recipe, photos)
    # Any order in, the same order out.
    asked = photos.sample(frac=1, random_state=3)
    rows, defaulted = context_rows(open_features(settings, recipe), asked)
    assert rows.shape == (90, len(context_names(recipe)))
    assert rows.dtype == np.float32
    first_day = (asked["captured_at"] < end_of(START)).to_numpy()
    assert defaulted.tolist() == first_day.tolist()
    np.testing.assert_allclose(rows[first_day, 9:], 1 / 10)
    np.testing.assert_array_equal(rows[first_day, 7:9], 0)

    index = pq.read_table(files.join(settings.data_root, "shards", f"date={receipts[1].day}", "index.parquet"))
    stats = index.to_pandas().set_index("image_id")[list(STATS)]
    second_day = asked["image_id"].isin(stats.index).to_numpy()
    expected = stats.loc[asked["image_id"][second_day]].to_numpy(np.float32)
    np.testing.assert_array_equal(rows[second_day, :7], expected)

    known = photos[photos["captured_at"] < end_of(START)]
    said = known[known["labelled_at"] <= end_of(START)]
    for sender in asked["source_id"].unique():
        mine = second_day & (asked["source_id"] == sender).to_numpy()
        count = (known["source_id"] == sender).sum()
        labels = said.loc[said["source_id"] == sender, "label"]
        np.testing.assert_allclose(column(recipe, rows[mine], "log_photos"), np.log1p(count), rtol=1e-6)
        np.testing.assert_allclose(column(recipe, rows[mine], "label_share"), len(labels) / count, rtol=1e-6)
        for name in recipe.taxonomy.classes:
            share = ((labels == name).sum() + 1) / (len(labels) + 10)
            np.testing.assert_allclose(column(recipe, rows[mine], f"mix_{name}"), share, rtol=1e-6)


@pytest.mark.parametrize("late", [False, True])
def test_a_label_that_came_later_never_reaches_an_earlier_row(
    settings: Settings, recipe: Recipe, photos: pd.DataFrame, late: bool
) -> None:
    # feast-dev/feast#6617. Every day is materialized after all labels are in the database, as in a backfill.
    one = (photos["captured_at"] < end_of(START)).to_numpy().nonzero()[0][0]
    sender = photos.loc[one, "source_id"]
    photos.loc[one, "labelled_at"] = end_of(START) + timedelta(hours=12) if late else end_of(START)
    photos.loc[one, "label"] = "7"
    materialized(settings, recipe, photos)
    handle = open_features(settings, recipe)
    times = [end_of(START) + timedelta(hours=hours) for hours in (0, 13, 24)]
    same_photo = pd.DataFrame({"image_id": photos.loc[one, "image_id"], "source_id": sender, "captured_at": times})
    rows, _ = context_rows(handle, same_photo)
    known = photos[(photos["captured_at"] < end_of(START)) & (photos["source_id"] == sender)]
    said = known[known["labelled_at"] <= end_of(START)]
    shares = column(recipe, rows, "label_share")
    expected = len(said) / len(known)
    assert (photos.loc[one, "image_id"] in set(said["image_id"])) is not late
    np.testing.assert_allclose(shares[:2], expected, rtol=1e-6)  # Half a day after it was said, still not.
    mix = column(recipe, rows, "mix_7")[:2]
    np.testing.assert_allclose(mix, ((said["label"] == "7").sum() + 1) / (len(said) + 10), rtol=1e-6)
    # From the next profile on it is known: the test above could have failed.
    later = photos[(photos["labelled_at"] <= times[2]) & (photos["captured_at"] < times[2])]
    later = later[later["source_id"] == sender]
    np.testing.assert_allclose(
        column(recipe, rows, "mix_7")[2], ((later["label"] == "7").sum() + 1) / (len(later) + 10), rtol=1e-6
    )


def test_online_is_what_offline_says_at_the_same_moment(
    settings: Settings, recipe: Recipe, photos: pd.DataFrame
) -> None:
    materialized(settings, recipe, photos)
    handle = open_features(settings, recipe)
    now = end_of(START + timedelta(days=2))
    asked = photos[["image_id", "source_id"]].tail(40).assign(captured_at=now)
    asked.loc[asked.index[:5], "source_id"] = "nobody"
    offline, unknown = context_rows(handle, asked)
    stats = [dict(zip(STATS, row[:7], strict=True)) for row in offline.astype(float).tolist()]
    online, unknown_online = online_context(handle, stats, asked["source_id"].tolist(), at=now)
    np.testing.assert_array_equal(online, offline)
    assert unknown.tolist() == unknown_online.tolist() == [True] * 5 + [False] * 35

    # And what Feast itself gives to anyone who asks for the service, with the transform in its registry.
    entities = asked[["image_id", "source_id"]].to_dict("records")
    service = handle.store.get_feature_service("context_v1")
    plain = handle.store.get_online_features(features=service, entity_rows=entities).to_dict()
    np.testing.assert_allclose(np.array(plain["context"], np.float32), offline, rtol=1e-6)
    assert plain["defaulted"] == unknown.tolist()


def test_a_profile_that_is_too_old_is_none_online_as_offline(
    settings: Settings, recipe: Recipe, photos: pd.DataFrame
) -> None:
    materialized(settings, recipe, photos)
    handle = open_features(settings, recipe)
    made = end_of(START + timedelta(days=2))
    stats = [dict.fromkeys(STATS, 0.5)]
    sender = photos["source_id"].iloc[-1]
    ttl = timedelta(days=recipe.features.max_age_days)
    assert not online_context(handle, stats, [sender], at=made + ttl)[1][0]
    assert online_context(handle, stats, [sender], at=made + ttl + timedelta(seconds=1))[1][0]


def test_again_changes_nothing(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> None:
    shards = shards_of(settings, recipe, photos)
    first = [materialize.run(settings, recipe, shard_uri=uri) for uri in shards]
    handle = open_features(settings, recipe)
    state = {path: path.stat().st_mtime_ns for path in settings.home.rglob("*") if path.suffix in (".parquet", ".db")}
    intervals = [len(view.materialization_intervals) for view in handle.store.list_feature_views()]
    assert [materialize.run(settings, recipe, shard_uri=uri) for uri in shards] == first
    again = open_features(settings, recipe)
    assert [len(view.materialization_intervals) for view in again.store.list_feature_views()] == intervals == [3, 3]
    assert {path: path.stat().st_mtime_ns for path in state if path.name != "classy.db"} == {
        path: time for path, time in state.items() if path.name != "classy.db"
    }


def test_an_older_day_made_again_does_not_overwrite_newer_values(
    settings: Settings, recipe: Recipe, photos: pd.DataFrame
) -> None:
    shards = shards_of(settings, recipe, photos)
    for uri in shards:
        materialize.run(settings, recipe, shard_uri=uri)
    handle = open_features(settings, recipe)
    senders = sorted(photos["source_id"].unique())
    stats = [dict.fromkeys(STATS, 0.5)] * len(senders)
    now = end_of(START + timedelta(days=2))
    before = online_context(handle, stats, senders, at=now)[0]
    reached = watermark(handle)

    first_day = photos[photos["captured_at"] < end_of(START)]
    open_store(settings.database_url).upsert_truth(
        {"image_id": image_id, "label": "9", "labelled_at": end_of(START), "said_by": "corrector"}
        for image_id in first_day["image_id"]
    )
    offline = Path(offline_file(settings, "source_profile", START)).read_bytes()
    receipt = materialize.run(settings, recipe, shard_uri=shards[0])
    assert Path(offline_file(settings, "source_profile", START)).read_bytes() != offline
    handle = open_features(settings, recipe)
    np.testing.assert_array_equal(online_context(handle, stats, senders, at=now)[0], before)
    assert watermark(handle) == reached == datetime.fromisoformat(receipt.watermark) == now


def test_days_may_come_in_any_order(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> None:
    shards = shards_of(settings, recipe, photos)
    for uri in (shards[2], shards[0], shards[1]):
        materialize.run(settings, recipe, shard_uri=uri)
    handle = open_features(settings, recipe)
    now = end_of(START + timedelta(days=2))
    asked = photos.tail(20).assign(captured_at=now)
    offline, _ = context_rows(handle, asked)
    stats = [dict(zip(STATS, row[:7], strict=True)) for row in offline.astype(float).tolist()]
    np.testing.assert_array_equal(online_context(handle, stats, asked["source_id"].tolist(), at=now)[0], offline)
    assert watermark(handle) == now


def test_two_days_at_once_do_not_harm_each_other(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> None:
    shards = shards_of(settings, recipe, photos)
    materialize.run(settings, recipe, shard_uri=shards[0])
    done: list[Materialized] = []
    threads = [
        threading.Thread(target=lambda uri=uri: done.append(materialize.run(settings, recipe, shard_uri=uri)))
        for uri in shards[1:]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(receipt.day for receipt in done) == ["2026-03-02", "2026-03-03"]
    handle = open_features(settings, recipe)
    assert watermark(handle) == end_of(START + timedelta(days=2))
    assert [len(view.materialization_intervals) for view in handle.store.list_feature_views()] == [3, 3]
    _, defaulted = context_rows(handle, photos[photos["captured_at"] >= end_of(START)])
    assert not defaulted.any()


def test_a_killed_materialization_is_made_again(
    settings: Settings, recipe: Recipe, photos: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = shards_of(settings, recipe, photos)
    materialize.run(settings, recipe, shard_uri=shards[0])

    def killed(*_: object, **__: object) -> datetime:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(materialize, "bring_online", killed)
        materialize.run(settings, recipe, shard_uri=shards[1])
    assert watermark(open_features(settings, recipe)) == end_of(START)
    receipt = materialize.run(settings, recipe, shard_uri=shards[1])
    assert watermark(open_features(settings, recipe)) == datetime.fromisoformat(receipt.watermark)
    assert receipt.watermark == receipt.as_of


def test_features_that_are_not_there_or_are_others_say_what_to_do(
    settings: Settings, recipe: Recipe, photos: pd.DataFrame
) -> None:
    with pytest.raises(ClassyError, match="classy materialize"):
        open_features(settings, recipe)
    materialized(settings, recipe, photos)
    days = recipe.features.model_copy(update={"profile_days": 3})
    with pytest.raises(ClassyError, match=r"profile_days=30 \(now 3\)"):
        open_features(settings, recipe.model_copy(update={"features": days}))
    stranger = photos.head(1).assign(image_id="never-seen")
    with pytest.raises(ClassyError, match="never-seen"):
        context_rows(open_features(settings, recipe), stranger)


def test_other_classes_need_every_day_again(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> None:
    shards = shards_of(settings, recipe, photos)
    for uri in shards:
        materialize.run(settings, recipe, shard_uri=uri)
    classes = recipe.taxonomy.model_copy(update={"classes": (*recipe.taxonomy.classes, "ten")})
    wider = recipe.model_copy(update={"taxonomy": classes})
    materialize.run(settings, wider, shard_uri=shards[2])
    with pytest.raises(ClassyError, match="other classes"):
        context_rows(open_features(settings, wider), photos)
    for uri in shards[:2]:
        materialize.run(settings, wider, shard_uri=uri)
    rows, _ = context_rows(open_features(settings, wider), photos)
    assert rows.shape[1] == 7 + 2 + 11
    assert service_hash(wider) != service_hash(recipe)


def test_feasts_own_commands_work_on_the_same_store(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> None:
    materialized(settings, recipe, photos)
    feast = Path(sys.executable).with_name("feast")
    answer = subprocess.run(
        [feast, "-c", ROOT / "feature_repo", "feature-views", "list"],
        env={**os.environ, "CLASSY_FEATURES_ROOT": settings.features_root},
        capture_output=True,
        text=True,
        check=False,
        cwd=settings.home,
    )
    assert answer.returncode == 0, answer.stderr
    for name in ("image_stats", "source_profile", "context"):
        assert name in answer.stdout
