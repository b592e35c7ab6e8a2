"""Live photos are told what training rows were told, from the newest profile, and never from one that is too old."""

import shutil
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feast.infra.online_stores.sqlite import SqliteOnlineStore, adapt_datetime_epoch, convert_timestamp
from feast.infra.passthrough_provider import PassthroughProvider

from pipelines import materialize, prepare
from pipelines.data.features import apply_features, context_rows, online_context, open_features, service_hash
from pipelines.data.senders import ProfileReader
from pipelines.online.features import LOOK_S, SENDERS, OnlineFeatures
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from serving.photos import Photo
from serving.pictures import STATS
from serving.problems import Problem
from serving.recall import fingerprint_of
from tests.conftest import TINY
from tests.worlds import START, end_of, make_photos, write_world

NOW = end_of(START + timedelta(days=1))
STATS_OF_ONE = np.linspace(0.1, 0.7, len(STATS), dtype=np.float32)


@dataclass
class Clock:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class World:
    settings: Settings
    recipe: Recipe
    photos: pd.DataFrame
    shards: list[str] = field(default_factory=list)

    def made(self, home: Path) -> "World":
        """The same in another folder, for a test that changes it."""
        shutil.copytree(self.settings.home, home)
        there = load_settings(home=home, actor="tester", threads=1)
        old, new = str(self.settings.home), str(home)
        apply_features(there, self.recipe)
        return World(there, self.recipe, self.photos, [uri.replace(old, new) for uri in self.shards])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three days of photos of 6 senders; the first two are materialized."""
    settings = load_settings(home=tmp_path_factory.mktemp("home") / "var", actor="tester", threads=1)
    recipe = Recipe.model_validate(TINY)
    photos = make_photos(recipe, days=3, per_day=30, senders=6)
    shards = [
        prepare.run(settings, recipe, clean_uri=uri).shard_uri
        for uri in write_world(settings, recipe, photos).clean_uris
    ]
    for uri in shards[:2]:
        materialize.run(settings, recipe, shard_uri=uri)
    return World(settings, recipe, photos, shards)


@pytest.fixture(scope="module")
def online(world: World) -> OnlineFeatures:
    return OnlineFeatures(world.settings, world.recipe)


def asked(*senders: str) -> list[Photo]:
    return [Photo(sender=sender, stats=STATS_OF_ONE) for sender in senders]


def contexts(photos: list[Photo]) -> np.ndarray:
    return np.stack([photo.context for photo in photos if photo.context is not None])


def cached_for(recipe: Recipe, seconds: float) -> Recipe:
    return recipe.model_copy(update={"serving": recipe.serving.model_copy(update={"feature_cache_s": seconds})})


def test_a_live_photo_is_told_what_a_training_row_was_told(world: World, online: OnlineFeatures) -> None:
    handle = open_features(world.settings, world.recipe)
    rows = world.photos[world.photos["captured_at"] < NOW].tail(25).assign(captured_at=NOW)
    rows.loc[rows.index[:4], "source_id"] = "nobody"
    offline, unknown = context_rows(handle, rows)
    photos = [
        Photo(sender=sender, stats=row[: len(STATS)]) for sender, row in zip(rows["source_id"], offline, strict=True)
    ]
    online.fill(photos, NOW)
    np.testing.assert_array_equal(contexts(photos), offline)
    assert [photo.defaulted for photo in photos] == unknown.tolist() == [True] * 4 + [False] * 21
    stats = [dict(zip(STATS, row[: len(STATS)].tolist(), strict=True)) for row in offline]
    again, _ = online_context(handle, stats, rows["source_id"].tolist(), at=NOW)
    np.testing.assert_array_equal(again, offline)
    assert online.service_hash == service_hash(world.recipe)


def test_a_photo_without_a_known_sender_gets_defaults_and_says_so(world: World, online: OnlineFeatures) -> None:
    photos = asked("", "nobody", "sender-00")
    online.fill(photos, NOW)
    assert [photo.defaulted for photo in photos] == [True, True, False]
    classes = len(world.recipe.taxonomy.classes)
    for photo in photos[:2]:
        assert photo.context is not None
        np.testing.assert_array_equal(photo.context[: len(STATS)], STATS_OF_ONE)
        np.testing.assert_allclose(photo.context[len(STATS) :], [0, 0] + [1 / classes] * classes, rtol=1e-6)


def test_a_profile_that_is_too_old_is_none(world: World, online: OnlineFeatures) -> None:
    ttl = timedelta(days=world.recipe.features.max_age_days)
    young, old = asked("sender-00"), asked("sender-00")
    online.fill(young, NOW + ttl)
    online.fill(old, NOW + ttl + timedelta(seconds=1))
    assert (young[0].defaulted, old[0].defaulted) == (False, True)
    stranger = online.fingerprint("nobody", NOW)
    assert online.fingerprint("sender-00", NOW + ttl) != stranger
    assert online.fingerprint("sender-00", NOW + ttl + timedelta(seconds=1)) == stranger


def test_what_came_with_a_photo_is_left_and_what_is_missing_is_said(online: OnlineFeatures) -> None:
    own = np.ones(19, np.float32)
    broken = Problem("unprocessable", "no picture")
    photos = [Photo(context=own), Photo(problem=broken), Photo(sender="sender-00")]
    online.fill(photos, NOW)
    assert photos[0].context is own
    assert photos[1].problem is broken
    assert photos[2].problem is not None
    assert (photos[2].problem.reason, "stats: missing" in photos[2].problem.message) == ("bad_request", True)


def test_the_fingerprint_is_that_of_the_context_it_stands_for(world: World) -> None:
    online = OnlineFeatures(world.settings, world.recipe)
    names = []
    for sender in ("sender-00", "sender-01", "nobody", ""):
        photos = asked(sender)
        online.fill(photos, NOW)
        assert photos[0].context is not None
        names.append(fingerprint_of(photos[0].context))
        assert online.fingerprint(sender, NOW) == online.remembered(sender, NOW) == names[-1]
    assert names[2] == names[3]
    assert len(set(names)) == 3
    assert online.remembered("sender-02", NOW) is None, "only a read of the store would tell"


def test_profiles_are_read_once_in_a_while_and_a_newer_one_is_then_seen(world: World, tmp_path: Path) -> None:
    mine, clock = world.made(tmp_path / "var"), Clock()
    online = OnlineFeatures(mine.settings, cached_for(mine.recipe, 5), clock=clock)
    at = end_of(START + timedelta(days=2))
    before, during, after = asked("sender-00", "nobody"), asked("sender-00"), asked("sender-00")
    online.fill(before, at)
    materialize.run(mine.settings, mine.recipe, shard_uri=mine.shards[2])
    clock.seconds = 4.9
    online.fill(during, at)
    assert online.reads == 1
    np.testing.assert_array_equal(contexts(during)[0], contexts(before)[0])
    clock.seconds = 5.0
    online.fill(after, at)
    assert online.reads == 2
    assert (contexts(after)[0] != contexts(before)[0]).any()
    index = len(STATS)
    sent = mine.photos[(mine.photos["source_id"] == "sender-00") & (mine.photos["captured_at"] < at)]
    assert contexts(after)[0, index] == pytest.approx(np.log1p(len(sent)), rel=1e-6)


def test_without_a_cache_every_question_reads_the_store_once(world: World) -> None:
    online = OnlineFeatures(world.settings, cached_for(world.recipe, 0))
    for _ in range(3):
        online.fill(asked("sender-00", "sender-01", "sender-00"), NOW)
    assert online.reads == 3


def test_memory_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.online.features.SENDERS", 20)
    online = OnlineFeatures(world.settings, world.recipe)
    online.fill(asked("sender-00"), NOW)
    for start in range(0, 200, 10):
        online.fill(asked("sender-00", *(f"stranger-{start + i}" for i in range(10))), NOW)
    assert len(online._known) == 20 < SENDERS
    reads = online.reads
    online.fill(asked("sender-00"), NOW)
    assert online.reads == reads, "who is asked for stays"


def test_many_threads_read_at_once(world: World) -> None:
    online = OnlineFeatures(world.settings, cached_for(world.recipe, 0))
    wanted = {}
    for sender in (*(f"sender-{i:02d}" for i in range(6)), "nobody"):
        photos = asked(sender)
        online.fill(photos, NOW)
        wanted[sender] = contexts(photos)[0]
    wrong: list[str] = []

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(40):
            senders = [str(name) for name in rng.choice(list(wanted), 5)]
            photos = asked(*senders)
            try:
                online.fill(photos, NOW)
            except Problem as problem:
                wrong.append(problem.message)
                return
            wrong.extend(
                sender for sender, row in zip(senders, contexts(photos), strict=True) if (row != wanted[sender]).any()
            )

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_profiles_are_read_where_pandas_has_changed_how_times_are_written(world: World, tmp_path: Path) -> None:
    with sqlite3.connect(":memory:") as connection:
        pd.DataFrame({"at": [pd.Timestamp(NOW)]}).to_sql("any", connection)
    try:
        there = world.made(tmp_path / "var")
        materialize.run(there.settings, there.recipe, shard_uri=there.shards[1])
        photos = asked("sender-00")
        OnlineFeatures(there.settings, there.recipe).fill(photos, NOW)
        assert not photos[0].defaulted
    finally:
        sqlite3.register_adapter(datetime, adapt_datetime_epoch)
        sqlite3.register_converter("timestamp", convert_timestamp)


def test_the_lean_read_of_sqlite_says_what_feasts_own_says(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = open_features(world.settings, world.recipe)
    senders = ["sender-03", "nobody", "sender-00", 'søster\'s "quote"']
    lean = ProfileReader(handle.store)
    monkeypatch.setattr("pipelines.data.senders._online_store", lambda config: PassthroughProvider(config).online_store)
    own = ProfileReader(handle.store)
    assert type(own._online) is SqliteOnlineStore is not type(lean._online)
    assert own.read(senders) == lean.read(senders)
    assert set(own.read(senders)) == {"sender-00", "sender-03"}


def test_a_store_that_is_not_there_or_is_another_recipes_says_what_to_do(world: World, tmp_path: Path) -> None:
    empty = OnlineFeatures(load_settings(home=tmp_path / "empty"), world.recipe)
    for ask in (empty.start, lambda: empty.fill(asked("sender-00"), NOW), lambda: empty.fingerprint("", NOW)):
        with pytest.raises(Problem, match="run `classy materialize`") as raised:
            ask()
        assert (raised.value.kind.status, raised.value.retry_after) == (503, 1)
    assert "classy materialize" in (empty.ready() or "")
    days = world.recipe.features.model_copy(update={"profile_days": 3})
    other = OnlineFeatures(world.settings, world.recipe.model_copy(update={"features": days}))
    assert "profile_days=30 (now 3)" in (other.ready() or "")


def test_a_store_that_comes_later_is_found_and_one_made_for_another_recipe_refused(
    world: World, tmp_path: Path
) -> None:
    clock = Clock()
    online = OnlineFeatures(load_settings(home=tmp_path / "var"), world.recipe, clock=clock)
    assert online.ready() is not None
    mine = world.made(tmp_path / "var")
    clock.seconds += 1
    assert online.ready() is None
    online.fill(asked("sender-00"), NOW)

    classes = mine.recipe.taxonomy.model_copy(update={"classes": (*mine.recipe.taxonomy.classes, "ten")})
    wider = mine.recipe.model_copy(update={"taxonomy": classes})
    materialize.run(mine.settings, wider, shard_uri=mine.shards[0])
    clock.seconds += LOOK_S
    with pytest.raises(Problem, match=r"features were made for classes=.*materialize` again"):
        online.fill(asked("sender-00"), NOW)


def _remove_table(root: Path) -> None:
    import sqlite3

    with sqlite3.connect(root / "online.db") as connection:
        connection.execute("DROP TABLE classy_source_profile")


def _spoil(root: Path) -> None:
    (root / "online.db").unlink()
    (root / "online.db").write_bytes(b"no database" * 400)


def _empty_registry(root: Path) -> None:
    (root / "registry.db").write_bytes(b"")
    (root / "online.db").rename(root / "moved")
    shutil.copy(root / "moved", root / "online.db")


@pytest.mark.parametrize("harm", [_remove_table, _spoil, _empty_registry])
def test_a_store_that_breaks_fails_the_request_in_a_sentence(
    world: World, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    mine, clock = world.made(tmp_path / "var"), Clock()
    online = OnlineFeatures(mine.settings, cached_for(mine.recipe, 0), clock=clock)
    online.fill(asked("sender-00"), NOW)
    harm(Path(mine.settings.features_root))
    clock.seconds += LOOK_S
    with pytest.raises(Problem) as raised:
        online.fill(asked("sender-00"), NOW)
    assert raised.value.reason == "unavailable"
    assert str(mine.settings.features_root) in raised.value.message
