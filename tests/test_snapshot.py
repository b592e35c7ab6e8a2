"""Snapshot: only what was known, no leak between sides, the same content under the same name, golden rows for ever."""

import threading
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from monitoring.stores import open_store
from pipelines import files, materialize, prepare, snapshot
from pipelines.data.features import context_names, context_rows, open_features, service_hash
from pipelines.data.images import spec_of
from pipelines.data.snapshots import newest_as_of, read_snapshot
from pipelines.data.split import assign, freeze, side_of
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.recipe import Snapshot as Spec
from pipelines.settings import Settings
from serving.canonical import canonicalise
from tests.conftest import TINY
from tests.worlds import START, end_of, make_photos, write_world

DAY = timedelta(days=1)
TEST = {"golden", "fresh"}


@pytest.fixture
def recipe() -> Recipe:
    """Three classes, and one day of fresh rows, so that few days are enough."""
    return Recipe.model_validate({**TINY, "taxonomy": {"classes": ["a", "b", "c"]}, "snapshot": {"fresh_days": 1}})


@pytest.fixture
def photos(recipe: Recipe) -> pd.DataFrame:
    """Four days, 60 photos each, of 20 senders."""
    return make_photos(recipe, days=4, per_day=60, senders=20)


def make_ready(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> None:
    for uri in write_world(settings, recipe, photos).clean_uris:
        shard = prepare.run(settings, recipe, clean_uri=uri)
        materialize.run(settings, recipe, shard_uri=shard.shard_uri)


def rows_of(settings: Settings, receipt: snapshot.Snapshotted) -> pd.DataFrame:
    return read_snapshot(settings, receipt.snapshot_uri).table.to_pandas()


# ------------------------------------------------------------------------------------ the split, as a law

photo = st.tuples(st.integers(0, 12), st.integers(0, 15), st.floats(0, 9.99))


@st.composite
def worlds(draw: st.DrawFn) -> pd.DataFrame:
    """Photos of up to 13 senders over 10 days, in groups that may cross senders and days."""
    drawn = draw(st.lists(photo, min_size=1, max_size=60))
    return pd.DataFrame(
        {
            "image_id": [f"p{i}" for i in range(len(drawn))],
            "source_id": [f"s{sender}" for sender, _, _ in drawn],
            "group_id": [f"g{group}" for _, group, _ in drawn],
            "captured_at": pd.to_datetime([datetime(2026, 3, 1, tzinfo=UTC) + days * DAY for _, _, days in drawn]),
        }
    )


specs = st.builds(
    Spec,
    holdout_share=st.floats(0.05, 0.6),
    val_share=st.floats(0.05, 0.4),
    fresh_days=st.integers(1, 4),
    seed=st.integers(0, 1000),
)


@given(photos=worlds(), spec=specs, first=st.integers(1, 9), other_seed=st.integers(0, 1000))
@hypothesis_settings(deadline=None)
def test_no_sender_and_no_group_is_on_two_sides(photos: pd.DataFrame, spec: Spec, first: int, other_seed: int) -> None:
    then = datetime(2026, 3, 1, tzinfo=UTC) + first * DAY
    golden = freeze(photos[photos["captured_at"] < then], as_of=then, spec=spec)
    now = datetime(2026, 3, 11, tzinfo=UTC)
    # Whoever changes the seed afterwards must not train on golden senders either.
    for used in (spec, spec.model_copy(update={"seed": other_seed})):
        split = assign(photos, golden, as_of=now, spec=used)
        side = split.replace({"golden": "test", "fresh": "test"})
        kept = photos.assign(side=side)[side != ""]
        assert kept.groupby("source_id")["side"].nunique().le(1).all()
        assert kept.groupby("group_id")["side"].nunique().le(1).all()
        assert set(photos.loc[split == "golden", "image_id"]) == set(golden)
        fresh = photos[split == "fresh"]
        assert (fresh["captured_at"] >= now - spec.fresh_days * DAY).all()


@given(photos=worlds(), spec=specs, first=st.integers(1, 9))
@hypothesis_settings(deadline=None)
def test_more_days_move_no_photo_to_another_side(photos: pd.DataFrame, spec: Spec, first: int) -> None:
    then = datetime(2026, 3, 1, tzinfo=UTC) + first * DAY
    early = photos[photos["captured_at"] < then]
    golden = freeze(early, as_of=then, spec=spec)
    before = assign(early, golden, as_of=then, spec=spec)
    after = assign(photos, golden, as_of=datetime(2026, 3, 11, tzinfo=UTC), spec=spec).loc[early.index]
    for old, new in zip(before, after, strict=True):
        # A photo may be left out later (a near duplicate of a test photo came), or a fresh one grow old.
        assert new in {old, ""} or (old, new) == ("", "fresh")


@given(photos=worlds(), spec=specs)
@hypothesis_settings(deadline=None)
def test_the_split_does_not_depend_on_the_order(photos: pd.DataFrame, spec: Spec) -> None:
    now = datetime(2026, 3, 11, tzinfo=UTC)
    golden = freeze(photos, as_of=now, spec=spec)
    shuffled = photos.sample(frac=1, random_state=1)
    assert freeze(shuffled, as_of=now, spec=spec) == golden
    split = assign(shuffled, golden, as_of=now, spec=spec)
    pd.testing.assert_series_equal(split.sort_index(), assign(photos, golden, as_of=now, spec=spec))


def test_senders_are_drawn_in_the_shares_asked_for() -> None:
    spec = Spec(holdout_share=0.25, val_share=0.15)
    drawn = pd.Series([side_of(f"sender-{i}", spec) for i in range(4000)]).value_counts(normalize=True)
    assert drawn["holdout"] == pytest.approx(0.25, abs=0.03)
    assert drawn["val"] == pytest.approx(0.15, abs=0.03)


# ------------------------------------------------------------------------------------------- the snapshot


def test_a_snapshot_is_what_was_known_at_its_time(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> None:
    make_ready(settings, recipe, photos)
    as_of = end_of(START + 2 * DAY)
    receipt = snapshot.run(settings, recipe, as_of=as_of)
    rows = rows_of(settings, receipt)
    known = photos[(photos["captured_at"] < as_of) & (photos["labelled_at"] <= as_of)].set_index("image_id")
    assert receipt.ok
    assert receipt.reasons == []
    assert receipt.counts == rows["split"].value_counts().to_dict()
    assert set(rows["image_id"]) <= set(known.index)
    assert len(known) < (photos["captured_at"] < as_of).sum()
    assert rows["label"].tolist() == known.loc[rows["image_id"], "label"].tolist()
    assert [recipe.taxonomy.classes[index] for index in rows["label_index"]] == rows["label"].tolist()
    # No group here, so every known photo of a sender in training or validation is in.
    sides = {image: side_of(known.loc[image, "source_id"], recipe.snapshot) for image in known.index}
    for name in ("train", "val"):
        assert set(rows.loc[rows["split"] == name, "image_id"]) == {i for i, side in sides.items() if side == name}
    held = rows[rows["split"].isin(TEST)]
    assert {sides[image] for image in held["image_id"]} == {"holdout"}
    fresh = held["captured_at"] >= as_of - DAY
    assert held["split"].tolist() == np.where(fresh, "fresh", "golden").tolist()


def test_a_row_has_its_own_picture_and_context(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> None:
    make_ready(settings, recipe, photos)
    receipt = snapshot.run(settings, recipe, as_of=end_of(START + 3 * DAY))
    data = read_snapshot(settings, receipt.snapshot_uri)
    raw = photos.set_index("image_id")
    handle = open_features(settings, recipe)
    for name, count in receipt.counts.items():
        split = data.split(name)
        assert len(split) == count == len(split.images)
        for i in range(0, count, 9):
            photo = raw.loc[split.image_ids[i]]
            np.testing.assert_array_equal(split.images[i], canonicalise(photo["image"], spec_of(recipe)))
            assert data.classes[split.labels[i]] == photo["label"]
            assert split.source_ids[i] == photo["source_id"]
            assert split.captured_at[i] == np.datetime64(photo["captured_at"].tz_localize(None))
        asked = raw.loc[split.image_ids].reset_index()
        np.testing.assert_array_equal(split.context, context_rows(handle, asked)[0])
        np.testing.assert_array_equal(split.context[:, :7], split.stats)
    assert data.context_names == context_names(recipe)
    assert data.meta["service_hash"] == service_hash(recipe)
    assert data.meta["spec_hash"] == spec_of(recipe).digest()


def test_the_same_content_is_the_same_snapshot(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> None:
    make_ready(settings, recipe, photos)
    first = snapshot.run(settings, recipe, as_of=end_of(START + 2 * DAY))
    inode = (Path(first.snapshot_uri) / "rows.parquet").stat().st_ino
    golden = (settings.home / "data" / "golden" / "rows.parquet").read_bytes()
    later = snapshot.run(settings, recipe, as_of=end_of(START + 3 * DAY))
    again = snapshot.run(settings, recipe, as_of=end_of(START + 2 * DAY))
    assert asdict(again) == asdict(first)
    assert (Path(first.snapshot_uri) / "rows.parquet").stat().st_ino == inode
    assert later.snapshot_id != first.snapshot_id
    assert (settings.home / "data" / "golden" / "rows.parquet").read_bytes() == golden
    train = rows_of(settings, first).query("split == 'train'").iloc[0]
    open_store(settings.database_url).upsert_truth(
        [
            {
                "image_id": train["image_id"],
                "label": "b" if train["label"] != "b" else "c",
                "labelled_at": train["captured_at"].to_pydatetime(),
                "said_by": "corrector",
            }
        ]
    )
    assert snapshot.run(settings, recipe, as_of=end_of(START + 2 * DAY)).snapshot_id != first.snapshot_id


def test_golden_rows_stay_whatever_comes(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> None:
    make_ready(settings, recipe, photos)
    first = rows_of(settings, snapshot.run(settings, recipe, as_of=end_of(START + 2 * DAY)))
    golden = first[first["split"] == "golden"].set_index("image_id")
    corrected = golden.index[0]
    open_store(settings.database_url).upsert_truth(
        [
            {
                "image_id": corrected,
                "label": "b" if golden.loc[corrected, "label"] != "b" else "c",
                "labelled_at": golden.loc[corrected, "captured_at"].to_pydatetime(),
                "said_by": "corrector",
            }
        ]
    )
    # A window of one day holds none of them; they come all the same, with the label they were frozen with.
    later = snapshot.run(settings, recipe, as_of=end_of(START + 3 * DAY), window_days=1)
    again = rows_of(settings, later).query("split == 'golden'").set_index("image_id")
    assert again["label"].to_dict() == golden["label"].to_dict()
    assert len(again) > 5
    others = rows_of(settings, later).query("split != 'golden'")
    assert (others["captured_at"] >= end_of(START + 2 * DAY)).all()


def test_after_a_drift_every_held_out_row_since_it_began_is_fresh(
    settings: Settings, recipe: Recipe, photos: pd.DataFrame
) -> None:
    make_ready(settings, recipe, photos)
    known_by = end_of(START + 3 * DAY)
    snapshot.run(settings, recipe, as_of=end_of(START + DAY))  # freezes the golden rows of the first day
    usual = rows_of(settings, snapshot.run(settings, recipe, as_of=known_by)).query("split == 'fresh'")
    receipt = snapshot.run(settings, recipe, as_of=known_by, drift_from=START + 2 * DAY)
    drifted = rows_of(settings, receipt)
    assert usual["captured_at"].min() >= end_of(START + 2 * DAY)
    assert set(usual["image_id"]) < set(drifted.loc[drifted["split"] == "fresh", "image_id"])
    held = rows_of(settings, snapshot.run(settings, recipe, as_of=known_by)).query("split == 'golden'")
    assert set(held["image_id"]) == set(drifted.loc[drifted["split"] == "golden", "image_id"])
    assert read_snapshot(settings, receipt.snapshot_uri).meta["drift_from"] == str(START + 2 * DAY)


def test_a_drift_of_the_future_is_refused(settings: Settings, recipe: Recipe) -> None:
    with pytest.raises(ClassyError, match="drift_from=2026-03-09: is not before as_of=2026-03-09"):
        snapshot.run(settings, recipe, as_of=datetime(2026, 3, 9, tzinfo=UTC), drift_from=date(2026, 3, 9))


def test_golden_rows_of_the_future_are_not_in_an_older_snapshot(
    settings: Settings, recipe: Recipe, photos: pd.DataFrame
) -> None:
    make_ready(settings, recipe, photos)
    snapshot.run(settings, recipe, as_of=end_of(START + 3 * DAY))
    as_of = end_of(START + DAY)
    rows = rows_of(settings, snapshot.run(settings, recipe, as_of=as_of))
    labelled_at = photos.set_index("image_id")["labelled_at"]
    assert "golden" in set(rows["split"])
    assert (rows["captured_at"] < as_of).all()
    assert (labelled_at[rows["image_id"]] <= as_of).all()


def test_a_near_duplicate_of_a_test_photo_is_not_trained_on(
    settings: Settings, recipe: Recipe, photos: pd.DataFrame
) -> None:
    side = photos["source_id"].map(lambda source: side_of(source, recipe.snapshot))
    pick = {name: photos.index[side == name] for name in ("holdout", "val", "train")}
    # One copy of a held-out photo that never gets a label, in training; one of a validation photo.
    photos.loc[pick["holdout"][0], "labelled_at"] += timedelta(days=300)
    photos.loc[[pick["holdout"][0], pick["train"][0], pick["val"][0]], "group_id"] = "one"
    photos.loc[[pick["val"][1], pick["train"][1]], "group_id"] = "two"
    make_ready(settings, recipe, photos)
    rows = rows_of(settings, snapshot.run(settings, recipe, as_of=end_of(START + 3 * DAY)))
    kept = set(rows["image_id"])
    image = photos["image_id"]
    assert not kept & {image[pick["train"][0]], image[pick["val"][0]], image[pick["train"][1]]}
    assert {image[pick["val"][1]], image[pick["train"][2]]} <= kept


def test_two_first_snapshots_at_once_freeze_the_same_golden_rows(
    settings: Settings, recipe: Recipe, photos: pd.DataFrame
) -> None:
    make_ready(settings, recipe, photos)
    done: list[snapshot.Snapshotted] = []
    threads = [
        threading.Thread(target=lambda day=day: done.append(snapshot.run(settings, recipe, as_of=end_of(START + day))))
        for day in (2 * DAY, 3 * DAY)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = (rows_of(settings, receipt).query("split == 'golden'") for receipt in done)
    short, long = sorted([set(first["image_id"]), set(second["image_id"])], key=len)
    # The later one may know labels that the earlier one may not see yet.
    assert short <= long
    frozen = pd.read_parquet(settings.home / "data" / "golden" / "rows.parquet")
    assert long == set(frozen["image_id"])


# -------------------------------------------------------------------------------------- verdicts, errors


def test_a_class_with_one_example_is_refused_and_freezes_nothing(
    settings: Settings, recipe: Recipe, photos: pd.DataFrame
) -> None:
    train = photos["source_id"].map(lambda source: side_of(source, recipe.snapshot)) == "train"
    spare = photos.index[train & (photos["label"] == "c") & (photos["captured_at"] < end_of(START))][0]
    photos.loc[(photos["label"] == "c") & train & (photos.index != spare), "label"] = "a"
    make_ready(settings, recipe, photos)
    receipt = snapshot.run(settings, recipe, as_of=end_of(START + 3 * DAY))
    assert not receipt.ok
    assert "c has 1" in receipt.reasons[0]
    assert read_snapshot(settings, receipt.snapshot_uri).meta["reasons"] == receipt.reasons
    assert files.read_manifest(files.join(settings.data_root, "golden")) is None


def test_days_that_are_all_fresh_are_refused(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> None:
    make_ready(settings, recipe, photos)
    receipt = snapshot.run(settings, recipe, as_of=end_of(START))
    assert not receipt.ok
    assert any("no golden rows" in reason and "fresh_days=1" in reason for reason in receipt.reasons)


def test_nothing_there_is_a_verdict_with_the_remedy(settings: Settings, recipe: Recipe) -> None:
    receipt = snapshot.run(settings, recipe, as_of=end_of(START))
    assert not receipt.ok
    assert "no shards" in receipt.reasons[0]
    assert receipt.counts == {"train": 0, "val": 0, "golden": 0, "fresh": 0}
    assert len(read_snapshot(settings, receipt.snapshot_uri).split("train")) == 0


def test_shards_of_another_image_spec_must_be_made_again(
    settings: Settings, recipe: Recipe, photos: pd.DataFrame
) -> None:
    make_ready(settings, recipe, photos)
    larger = recipe.model_copy(update={"image": recipe.image.model_copy(update={"size": 20})})
    with pytest.raises(ClassyError, match="classy prepare"):
        snapshot.run(settings, larger, as_of=end_of(START + 3 * DAY))


def test_a_day_without_features_must_be_materialized(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> None:
    uris = write_world(settings, recipe, photos).clean_uris
    shards = [prepare.run(settings, recipe, clean_uri=uri).shard_uri for uri in uris]
    for uri in shards[:2]:
        materialize.run(settings, recipe, shard_uri=uri)
    with pytest.raises(ClassyError, match=r"no image_stats.*classy materialize"):
        snapshot.run(settings, recipe, as_of=end_of(START + 3 * DAY))


def test_a_golden_photo_that_is_gone_is_an_error(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> None:
    make_ready(settings, recipe, photos)
    snapshot.run(settings, recipe, as_of=end_of(START + 2 * DAY))
    first_day = photos[photos["captured_at"].dt.date == START]
    held = first_day["source_id"].map(lambda source: side_of(source, recipe.snapshot)) == "holdout"
    write_world(settings, recipe, first_day[~held])
    prepare.run(settings, recipe, clean_uri=files.join(settings.data_root, "clean", f"date={START}"))
    with pytest.raises(ClassyError, match="golden photos are in no shard"):
        snapshot.run(settings, recipe, as_of=end_of(START + 3 * DAY))


def test_the_newest_time_is_the_end_of_the_last_day_with_features(
    settings: Settings, recipe: Recipe, photos: pd.DataFrame
) -> None:
    with pytest.raises(ClassyError, match="classy materialize"):
        newest_as_of(settings)
    uris = write_world(settings, recipe, photos).clean_uris
    shards = [prepare.run(settings, recipe, clean_uri=uri).shard_uri for uri in uris]
    for uri in (shards[1], shards[0]):
        materialize.run(settings, recipe, shard_uri=uri)
    assert newest_as_of(settings) == end_of(START + DAY)


@pytest.mark.parametrize(
    ("as_of", "window_days", "named"),
    [(datetime(2026, 3, 3), None, "time zone"), (datetime(2026, 3, 3, tzinfo=UTC), 0, "window_days=0")],  # noqa: DTZ001
)
def test_a_wrong_question_is_named(
    settings: Settings, recipe: Recipe, as_of: datetime, window_days: int | None, named: str
) -> None:
    with pytest.raises(ClassyError, match=named):
        snapshot.run(settings, recipe, as_of=as_of, window_days=window_days)


def test_a_shard_that_is_gone_is_named_when_a_snapshot_is_opened(
    settings: Settings, recipe: Recipe, photos: pd.DataFrame
) -> None:
    make_ready(settings, recipe, photos)
    receipt = snapshot.run(settings, recipe, as_of=end_of(START + 3 * DAY))
    (settings.home / "data" / "shards" / f"date={START}" / "manifest.json").unlink()
    with pytest.raises(ClassyError, match=rf"date={START}.*classy prepare"):
        read_snapshot(settings, receipt.snapshot_uri)
