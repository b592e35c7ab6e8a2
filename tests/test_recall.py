"""Answers from memory: the same photo, model and features give the same answer; anything else is computed anew."""

import asyncio
import hashlib
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from monitoring.stores import Store, open_store
from pipelines import materialize, prepare, score
from pipelines.data.images import spec_of
from pipelines.models import tracking
from pipelines.online import answers
from pipelines.online.features import OnlineFeatures
from pipelines.online.log import SqlLog
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from serving.components.base import Call
from serving.components.classifier import Classifier
from serving.components.downloader import Downloader
from serving.components.pipeline import Pipeline
from serving.components.preprocessor import Preprocessor
from serving.engines.loaded import Loaded
from serving.fetching import Fetcher
from serving.photos import Photo
from serving.pictures import STATS
from serving.problems import Problem
from serving.recall import REFRESH_S, Answer, Recall, fingerprint_of
from serving.versions.arms import Arm, Arms, Lineup
from tests.champions import install_champion
from tests.conftest import TINY
from tests.worlds import end_of, make_photos, write_world

CLASSES = 3
CONTEXT = np.arange(len(STATS) + 4, dtype=np.float32)
PRINT = fingerprint_of(CONTEXT)


def arm(run_id: str = "run-1", **changed: Any) -> Arm:
    given = {"name": "champion", "version": "1", "generation": 1, "loaded": None, **changed}
    return Arm(run_id=run_id, **given)


def answered(data: bytes, *, context: np.ndarray = CONTEXT, **changed: Any) -> Photo:
    """A photo as the classifier leaves it."""
    return replace(
        Photo(
            photo=data,
            content_hash=hashlib.sha256(data).hexdigest(),
            stats=context[: len(STATS)],
            context=context,
            probabilities=np.array([0.2, 0.7, 0.1], np.float32),
            label="hat",
            confidence=0.7,
        ),
        **changed,
    )


def of(values: np.ndarray | None) -> np.ndarray:
    assert values is not None
    return values


def test_an_answer_is_given_again_and_marked() -> None:
    recall = Recall(10)
    first = answered(b"one", defaulted=True)
    recall.put(first, arm())
    photo = Photo(photo=b"one", sender="41")
    assert recall.get(photo, arm(version="2", generation=5, name="canary"), PRINT)
    np.testing.assert_array_equal(of(photo.probabilities), of(first.probabilities))
    assert (photo.label, photo.confidence, photo.defaulted, photo.cached) == ("hat", 0.7, True, True)
    assert (photo.arm, photo.model_version, photo.generation) == ("canary", "2", 5), "who is asked now"
    assert photo.content_hash == first.content_hash
    assert photo.context is not None, "the log tells what the model was told"
    assert not photo.open
    assert (recall.hits, recall.misses) == (1, 0)


@pytest.mark.parametrize(
    ("photo", "by", "fingerprint"),
    [
        (Photo(photo=b"two"), arm(), PRINT),
        (Photo(photo=b"one"), arm("run-2"), PRINT),
        (Photo(photo=b"one"), arm(), "another"),
        (Photo(url="https://example.org/a.jpg"), arm(), PRINT),
        (Photo(photo=b"one", stats=CONTEXT[:7]), arm(), PRINT),
        (Photo(photo=b"one", context=CONTEXT), arm(), PRINT),
        (Photo(photo=b"one", problem=Problem("bad_request", "no")), arm(), PRINT),
    ],
)
def test_another_photo_model_or_feature_is_no_reason_to_remember(photo: Photo, by: Arm, fingerprint: str) -> None:
    recall = Recall(10)
    recall.put(answered(b"one"), arm())
    assert not recall.get(photo, by, fingerprint)
    assert (photo.label, photo.cached) == ("", False)
    assert recall.get(Photo(photo=b"one"), arm(), PRINT), "it is there"


@pytest.mark.parametrize(
    "claim",
    [
        {"photo": None},
        {"content_hash": ""},
        {"context": None},
        {"stats": None},
        {"stats": np.ones(7, np.float32)},
        {"probabilities": None},
        {"cached": True},
        {"problem": Problem("busy", "come again")},
    ],
)
def test_what_only_a_client_says_is_not_remembered(claim: dict[str, Any]) -> None:
    """Else whoever sends an image of his own with another photo's hash decides what others are told of it."""
    recall = Recall(10)
    recall.put(replace(answered(b"one"), **claim), arm())
    assert len(recall) == 0


def test_the_features_that_the_model_was_told_decide_not_those_asked_for_before() -> None:
    recall = Recall(10)
    recall.put(answered(b"one"), arm(), "as it was before the profile was read again")
    assert recall.get(Photo(photo=b"one"), arm(), PRINT)


def test_memory_is_bounded_and_what_is_asked_for_stays() -> None:
    recall = Recall(5)
    recall.put(answered(b"often"), arm())
    for number in range(20):
        recall.put(answered(f"{number}".encode()), arm())
        assert recall.get(Photo(photo=b"often"), arm(), PRINT)
    assert len(recall) == 5
    assert recall.get(Photo(photo=b"19"), arm(), PRINT)
    assert not recall.get(Photo(photo=b"3"), arm(), PRINT)
    with pytest.raises(ValueError, match="size=0"):
        Recall(0)


@budget(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 2), st.integers(0, 1)), max_size=60))
def test_no_answer_is_ever_anothers(steps: list[tuple[bool, int, int, int]]) -> None:
    recall = Recall(6)
    for is_put, data, run, sender in steps:
        context = CONTEXT + np.array([0] * len(STATS) + [sender] * 4, np.float32)
        label = f"{data}-{run}-{sender}"
        if is_put:
            recall.put(answered(b"%d" % data, context=context, label=label), arm(f"run-{run}"))
        else:
            photo = Photo(photo=b"%d" % data)
            if recall.get(photo, arm(f"run-{run}"), fingerprint_of(context)):
                assert photo.label == label
    assert len(recall) <= 6


def test_earlier_answers_are_looked_for_when_a_model_is_new_and_again_after_a_while() -> None:
    asked: list[tuple[str, int]] = []
    came = threading.Event()
    clock = [0.0]
    answer = Answer(
        probabilities=np.array([0.3, 0.3, 0.4], np.float32),
        label="hat",
        confidence=0.3,
        context=CONTEXT,
        defaulted=False,
    )

    def earlier(run_id: str, limit: int) -> Iterator[tuple[str, Answer]]:
        asked.append((run_id, limit))
        if run_id == "run-1":
            yield hashlib.sha256(b"one").hexdigest(), answer
        came.set()

    recall = Recall(10, earlier, clock=lambda: clock[0])
    recall.get(Photo(photo=b"other"), arm(), PRINT)
    assert came.wait(5)
    assert recall._warming is not None
    recall._warming.join(5)
    assert recall.get(Photo(photo=b"one"), arm(), PRINT)
    assert not recall.get(Photo(photo=b"one"), arm("run-2"), PRINT), "not another model's"
    recall._warming.join(5)
    clock[0] = REFRESH_S - 1
    recall.get(Photo(photo=b"one"), arm(), PRINT)
    assert asked == [("run-1", 10), ("run-2", 10)]
    clock[0] = REFRESH_S
    recall.get(Photo(photo=b"one"), arm(), PRINT)
    recall._warming.join(5)
    assert asked == [("run-1", 10), ("run-2", 10), ("run-1", 10)]


def test_earlier_answers_that_cannot_be_read_are_computed(caplog: pytest.LogCaptureFixture) -> None:
    def broken(run_id: str, limit: int) -> Iterator[tuple[str, Answer]]:
        raise ConnectionError("the database is away")

    recall = Recall(10, broken)
    assert not recall.get(Photo(photo=b"one"), arm(), PRINT)
    assert recall._warming is not None
    recall._warming.join(5)
    assert "the database is away" in " ".join(caplog.messages)


# ----------------------------------------------------------------------------------------- the real pipeline


@dataclass
class World:
    settings: Settings
    recipe: Recipe
    photos: pd.DataFrame
    run_id: str
    before: str
    """Features as they were online before the third day was materialized."""

    @property
    def store(self) -> Store:
        return open_store(self.settings.database_url)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three days of photos, all materialized, and a champion."""
    settings = load_settings(home=tmp_path_factory.mktemp("home") / "var", actor="tester", threads=1)
    recipe = Recipe.model_validate({**TINY, "serving": {"cache": 100}})
    photos = make_photos(recipe, days=3, per_day=24, senders=6)
    made = write_world(settings, recipe, photos)
    shards = [prepare.run(settings, recipe, clean_uri=uri).shard_uri for uri in made.clean_uris]
    for uri in shards[:2]:
        materialize.run(settings, recipe, shard_uri=uri)
    before = settings.home / "before"
    shutil.copytree(settings.features_root, before)
    materialize.run(settings, recipe, shard_uri=shards[2])
    run_id = install_champion(settings, recipe, made.days[:2])
    return World(settings, recipe, photos, run_id, str(before))


@dataclass
class Whole:
    pipeline: Pipeline
    recall: Recall
    log: SqlLog
    arm: Arm

    async def ask(self, *photos: Photo) -> list[Photo]:
        await self.pipeline.apply(photos, Call())
        return list(photos)


@asynccontextmanager
async def whole(world: World, at: datetime, features_root: str = "") -> AsyncIterator[Whole]:
    """The pipeline as a server has it, at a time."""
    loaded = Loaded.open(tracking.fetch_package(world.settings, world.run_id), runtime="onnxruntime")
    champion = Arm(name="champion", version="1", run_id=world.run_id, generation=1, loaded=loaded)
    arms = Arms()
    arms.swap(Lineup(champion=champion))
    root = features_root or world.settings.features_root
    features = OnlineFeatures(world.settings.model_copy(update={"features_root": root}), world.recipe)
    recall = Recall(world.recipe.serving.cache, answers.reader(world.settings))
    log = SqlLog(world.settings)
    preprocessor = Preprocessor(spec_of(world.recipe), threads=1)
    classifier = Classifier(arms, features, log, recall=recall, clock=lambda: at)
    pipeline = Pipeline(
        Downloader(Fetcher()),
        preprocessor,
        classifier,
        recall=recall,
        arms=arms,
        features=features,
        clock=lambda: at,
    )
    loaded.start()
    await preprocessor.start()
    log.start()
    try:
        yield Whole(pipeline, recall, log, champion)
    finally:
        await classifier.stop()
        await preprocessor.stop()
        await loaded.stop()
        log.stop()


def sent(world: World, day: int, count: int = 6) -> list[Photo]:
    rows = world.photos[world.photos["image_id"].str.startswith(f"p{day:03d}")].head(count)
    return [
        Photo(photo=row["image"], sender=row["source_id"], image_id=row["image_id"]) for row in rows.to_dict("records")
    ]


def test_a_photo_that_was_asked_before_is_answered_from_memory_and_logged(world: World) -> None:
    at = end_of(world.photos["captured_at"].max().date())

    async def ask() -> None:
        async with whole(world, at) as server:
            first = await server.ask(*sent(world, 0))
            again = await server.ask(*sent(world, 0))
            assert [photo.problem for photo in first + again] == [None] * 12
            assert [photo.cached for photo in first + again] == [False] * 6 + [True] * 6
            for one, other in zip(first, again, strict=True):
                np.testing.assert_array_equal(of(one.probabilities), of(other.probabilities))
                assert (one.label, one.defaulted) == (other.label, other.defaulted)
                assert one.prediction_id != other.prediction_id
            stranger = replace(sent(world, 0)[0], sender="somebody else")
            assert not (await server.ask(stranger))[0].cached, "other features, another answer"
            assert await asyncio.to_thread(server.log.flush, 10)
            rows = world.store.predictions(since=at, until=at + timedelta(days=1))
            kept = rows.set_index("prediction_id")
            assert kept.loc[[photo.prediction_id for photo in again], "cached"].all()
            assert not kept.loc[[photo.prediction_id for photo in first], "cached"].any()
            assert kept["context"].map(len).eq(len(STATS) + 12).all()

    asyncio.run(ask())


def test_a_batch_scored_photo_is_answered_from_memory_while_its_sender_is_known_for_the_same(world: World) -> None:
    day = world.photos["captured_at"].max().date()
    scored = score.run(world.settings, world.recipe, day=day)
    assert scored.rows == 24
    rows = world.store.predictions(since=end_of(day) - timedelta(days=1), until=end_of(day))
    rows = rows[rows["channel"] == "batch"].set_index("image_id")
    shas = world.photos.set_index("image_id")["sha256"]
    assert (rows["content_hash"] == shas.loc[rows.index]).all()

    async def ask(features_root: str) -> list[Photo]:
        async with whole(world, end_of(day), features_root) as server:
            await asyncio.to_thread(server.recall.warm, world.run_id)
            photos = await server.ask(*sent(world, 2))
            for photo in photos:
                server.recall._kept.clear()
                computed = replace(photo, probabilities=None, cached=False, image=None, stats=None, context=None)
                await server.ask(computed)
                assert (computed.problem, computed.cached) == (None, False)
                np.testing.assert_allclose(of(photo.probabilities), of(computed.probabilities), atol=1e-5)
                np.testing.assert_array_equal(of(photo.context), of(computed.context))
                assert (photo.label, photo.defaulted) == (computed.label, computed.defaulted)
            return photos

    same = asyncio.run(ask(world.before))
    assert all(photo.cached for photo in same)
    now = asyncio.run(ask(""))
    assert not any(photo.cached for photo in now), "each of these senders has sent more since"


def test_answers_are_read_again_only_when_batch_scoring_has_added_some(world: World) -> None:
    day = world.photos["captured_at"].max().date()
    score.run(world.settings, world.recipe, day=day)
    newest = answers.reader(world.settings)
    first = list(newest(world.run_id, 1000))
    assert len(first) >= 24
    assert list(newest(world.run_id, 1000)) == []
    assert len(list(answers.reader(world.settings)(world.run_id, 5))) == 5
    assert list(newest("another run", 1000)) == []
    earlier = world.photos["captured_at"].min().date() + timedelta(days=1)
    score.run(world.settings, world.recipe, day=earlier)
    assert len(list(newest(world.run_id, 1000))) == len(first) + 24
