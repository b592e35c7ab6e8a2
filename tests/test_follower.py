"""Following the ledger: exchanges under load without a failed request, refusals, a ledger that is away."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.components.base import Call
from serving.components.classifier import Classifier
from serving.engines.loaded import Loaded
from serving.photos import Photo
from serving.problems import Problem
from serving.runtime import ModelError
from serving.versions import follower as following
from serving.versions.arms import Arms
from serving.versions.follower import Follower
from serving.versions.shelf import Shelf
from tests.answering import Known, Rows, serving
from tests.following import Desk, row
from tests.packages import make_package
from tests.serving import running
from training.card import write_card
from training.export import write_manifest

OPEN = partial(Loaded.open, runtime="onnxruntime")
LARGE, OTHER_CLASSES = "6", "7"
LIMIT_S = 20.0


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder a run: 1 to 5 are alike, 6 takes other images, 7 has other classes."""
    root = tmp_path_factory.mktemp("packages")
    for number in range(1, 6):
        make_package(root / f"run-{number}", run_id=f"run-{number}")
    make_package(root / f"run-{LARGE}", run_id=f"run-{LARGE}", size=24)
    package = make_package(root / f"run-{OTHER_CLASSES}", run_id=f"run-{OTHER_CLASSES}")
    card = json.loads((package / "card.json").read_text())
    write_card(package / "card.json", {**card, "classes": ["a", "b", "c"]})
    write_manifest(package)
    return root


class World:
    """A follower, what it follows, and what it has opened."""

    def __init__(self, packages: Path, desk: Desk, *, limit: int = 6, **options: Any) -> None:
        self.desk = desk
        self.broken: dict[str, Exception] = {}
        self.opened: list[str] = []
        self.arms = Arms()
        self.shelf = Shelf(partial(self._fetch, packages), OPEN, limit=limit)
        self.follower = Follower(self.arms, self.shelf, desk, **{"every_s": 0.01, "linger_s": 0.05, **options})

    def _fetch(self, packages: Path, run_id: str) -> Path:
        if run_id in self.broken:
            raise self.broken[run_id]
        self.opened.append(run_id)
        return packages / run_id

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until the follower has come so far."""
        async with asyncio.timeout(LIMIT_S):
            while not true():
                await asyncio.sleep(0.005)

    async def generation(self, now: dict[str, Any]) -> None:
        self.desk.now = now
        await self.until(lambda: self.arms.about()["generation"] == now["generation"])


@asynccontextmanager
async def follows(world: World) -> AsyncIterator[World]:
    await world.follower.start()
    try:
        yield world
    finally:
        await world.follower.stop()
    assert world.shelf.runs() == [], "a model was not stopped"


def versions(arms: Arms) -> list[tuple[str, str]]:
    return [(arm.name, arm.version) for arm in arms.all()]


# ------------------------------------------------------------------------------------------------ following


def test_what_serves_is_loaded_before_the_server_is_ready(packages: Path) -> None:
    async def story() -> None:
        async with follows(World(packages, Desk(row(1, "1")))) as world:
            assert world.arms.ready() is None
            assert versions(world.arms) == [("champion", "1")]

    asyncio.run(story())


def test_nothing_in_production_is_said_and_the_first_promotion_is_followed(packages: Path) -> None:
    async def story() -> None:
        async with follows(World(packages, Desk())) as world:
            assert "classy promote" in str(world.arms.ready())
            await world.generation(row(1, "1"))
            assert world.arms.ready() is None

    asyncio.run(story())


def test_a_canary_its_weight_a_shadow_and_their_end_load_each_model_once(packages: Path) -> None:
    async def story() -> None:
        async with follows(World(packages, Desk(row(1, "1")))) as world:
            canary = {"canary_version": "2", "canary_name": "B", "canary_weight": 0.1}
            await world.generation(row(2, "1", **canary))
            assert versions(world.arms) == [("champion", "1"), ("B", "2")]
            await world.generation(row(3, "1", **{**canary, "canary_weight": 0.3}))
            await world.generation(row(4, "1", **canary, shadow_version="2"))
            assert versions(world.arms) == [("champion", "1"), ("B", "2"), ("shadow", "2")]
            assert world.arms.all()[1].loaded is world.arms.all()[2].loaded
            await world.generation(row(5, "2"))
            await world.until(lambda: world.shelf.runs() == ["run-2"])
            assert world.opened == ["run-1", "run-2"]

    asyncio.run(story())


def test_no_more_models_are_loaded_than_fit_and_those_loaded_by_hand_make_room(packages: Path) -> None:
    async def story() -> None:
        wanted = {"2": "run-2"}
        async with follows(World(packages, Desk(row(1, "1")), limit=2, wanted=lambda: wanted)) as world:
            assert versions(world.arms) == [("champion", "1"), ("v2", "2")]
            await world.generation(row(2, "3"))
            assert world.arms.choose("a").version == "3"
            assert len(world.shelf.runs()) <= 2

    asyncio.run(story())


# ------------------------------------------------------------------------------------------------- refusals


def test_a_champion_that_cannot_be_loaded_is_refused_and_the_old_one_serves_on(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "TRY_AGAIN_S", (0.02, 0.04))

    async def story() -> None:
        async with follows(World(packages, Desk(row(1, "1")))) as world:
            world.broken["run-2"] = ModelError("model.onnx: was changed after it was packaged")
            world.desk.now = row(2, "2")
            await world.until(lambda: bool(world.arms.refused))
            assert world.arms.ready() is None, "what serves is better than nothing"
            assert world.arms.choose("a").version == "1"
            refused = "generation 2 is refused: champion version 2: model.onnx: was changed after it was packaged"
            assert world.arms.about()["refused"] == refused
            del world.broken["run-2"]  # somebody put it right: it is tried again
            await world.until(lambda: world.arms.choose("a").version == "2")
            assert (world.arms.refused, "refused" in world.arms.about()) == ("", False)

    asyncio.run(story())


def test_a_server_whose_only_champion_cannot_be_loaded_is_not_ready_and_says_why(packages: Path) -> None:
    async def story() -> None:
        world = World(packages, Desk(row(1, "1")))
        world.broken["run-1"] = Problem("unavailable", "the registry is away")
        async with follows(world):
            assert "the registry is away" in str(world.arms.ready())

    asyncio.run(story())


@pytest.mark.parametrize(
    ("version", "said"), [(LARGE, "takes images of spec"), (OTHER_CLASSES, "answers classes a, b, c")]
)
@pytest.mark.parametrize("role", ["canary", "shadow"])
def test_who_cannot_answer_beside_the_champion_is_left_out_and_the_champion_answers_all(
    packages: Path, role: str, version: str, said: str
) -> None:
    async def story() -> None:
        async with follows(World(packages, Desk(row(1, "1")))) as world:
            await world.generation(row(2, "1", **{f"{role}_version": version, "canary_weight": 0.9}))
            assert versions(world.arms) == [("champion", "1")]
            assert {world.arms.choose(f"sender-{number}").version for number in range(50)} == {"1"}
            assert f"generation 2: {role} version {version}: {said}" in world.arms.refused
            await world.until(lambda: world.shelf.runs() == ["run-1"])

    asyncio.run(story())


def test_an_unforeseen_error_is_told_and_does_not_end_the_following(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "TRY_AGAIN_S", (0.02, 0.04))

    async def story() -> None:
        async with follows(World(packages, Desk(row(1, "1")))) as world:
            world.broken["run-2"] = ZeroDivisionError("a bug")
            world.desk.now = row(2, "2")
            await world.until(lambda: "ZeroDivisionError('a bug')" in world.arms.refused)
            world.broken.clear()
            await world.until(lambda: world.arms.choose("a").version == "2")
            assert world.arms.refused == ""

    asyncio.run(story())


# ----------------------------------------------------------------------------------------- a ledger that is away


def test_a_ledger_that_is_away_changes_nothing_and_is_followed_when_it_is_back(packages: Path) -> None:
    async def story() -> None:
        async with follows(World(packages, Desk(row(1, "1")))) as world:
            world.desk.away = "the database is away"
            await world.until(lambda: world.follower.away == "the database is away")
            assert (world.arms.ready(), world.arms.choose("a").version) == (None, "1")
            world.desk.now, world.desk.away = row(2, "2"), ""
            await world.until(lambda: world.arms.choose("a").version == "2")
            assert world.follower.away == ""

    asyncio.run(story())


def test_a_server_that_starts_without_the_ledger_serves_what_was_known_last(packages: Path) -> None:
    async def story() -> None:
        desk = Desk(row(8, "2"), known=row(7, "1"))
        desk.away = "the database is away"
        async with follows(World(packages, desk)) as world:
            assert (world.arms.choose("a").version, world.follower.away) == ("1", "the database is away")
            desk.away = ""
            await world.until(lambda: world.arms.choose("a").version == "2")

    asyncio.run(story())


def test_a_server_that_starts_without_the_ledger_and_knows_nothing_says_so(packages: Path) -> None:
    async def story() -> None:
        desk = Desk(row(1, "1"))
        desk.away = "the database is away"
        async with follows(World(packages, desk)) as world:
            assert world.arms.ready() == "the database is away"

    asyncio.run(story())


# --------------------------------------------------------------------------------------------------- under load


class Following(Classifier):
    """A classifier whose models follow a ledger."""

    def __init__(self, world: World) -> None:
        self.world = world
        super().__init__(world.arms, Known(), Rows())

    async def start(self) -> None:
        await self.world.follower.start()

    async def stop(self) -> None:
        await super().stop()
        await self.world.follower.stop()


STORY = (
    row(2, "2"),  # promoted
    row(3, "2", canary_version="3", canary_weight=0.5),
    row(4, "2", canary_version="3", canary_weight=0.8, shadow_version="1"),
    row(5, "3"),  # the canary promoted
    row(6, "2"),  # rolled back
    row(7, "4", canary_version="5", canary_name="B", canary_weight=0.5),
    row(8, "1"),
)


def test_no_request_fails_while_models_are_promoted_tried_and_rolled_back(packages: Path) -> None:
    """Over HTTP, from several clients at once, through every kind of change."""
    world = World(packages, Desk(row(1, "1")))
    image = np.full((16, 16, 3), 99, np.uint8).tolist()
    body = {
        "inputs": [
            {"name": "image", "shape": [1, 16, 16, 3], "datatype": "UINT8", "data": [image]},
            {"name": "context", "shape": [1, 3], "datatype": "FP32", "data": [[0.0, 1.0, 2.0]]},
        ]
    }
    over, told = threading.Event(), threading.Condition()
    answers: list[tuple[int, str, int]] = []

    def ask(url: str, client: int) -> None:
        with httpx.Client(base_url=url, timeout=LIMIT_S) as http:
            while not over.is_set():
                answer = http.post(
                    "/v2/models/classifier/infer", json={**body, "parameters": {"sender": f"sender-{client}"}}
                )
                outputs = {part["name"]: part["data"] for part in answer.json().get("outputs", [])}
                generation = outputs["generation"][0] if outputs else 0
                with told:
                    answers.append((answer.status_code, outputs.get("model_version", [answer.text])[0], generation))
                    told.notify_all()

    with running(serving(Following(world))) as server, ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, server.rest, client) for client in range(4)]
        try:
            for now in STORY:
                changing = asyncio.run_coroutine_threadsafe(world.generation(now), server.loop)
                changing.result(LIMIT_S)
                with told:
                    enough = len(answers) + 20
                    assert told.wait_for(lambda: len(answers) >= enough, LIMIT_S)  # noqa: B023
        finally:
            over.set()
        for asked in asking:
            asked.result(LIMIT_S)
        asyncio.run_coroutine_threadsafe(world.until(lambda: world.shelf.runs() == ["run-1"]), server.loop).result(
            LIMIT_S
        )
    assert {status for status, _, _ in answers} == {200}, [one for one in answers if one[0] != 200][:3]
    assert {generation for _, _, generation in answers} >= {now["generation"] for now in STORY}
    allowed = {
        now["generation"]: {now["champion_version"], now["canary_version"]} for now in (row(1, "1"), *STORY)
    }  # fmt: skip
    assert all(version in allowed[generation] for _, version, generation in answers)


def test_photos_on_their_way_are_answered_across_a_change_of_image_size(packages: Path) -> None:
    """Prepared for the old model, asked after the exchange: the old model answers; the new one gets its own."""

    async def story() -> list[str]:
        async with follows(World(packages, Desk(row(1, "1")), linger_s=LIMIT_S)) as world:
            part = Classifier(world.arms, Known(), Rows())
            old = world.arms.image_spec()
            await world.generation(row(2, LARGE))
            new = world.arms.image_spec()
            photos = [
                Photo(image=np.zeros((spec.size, spec.size, 3), np.uint8), image_spec=spec.digest())
                for spec in (old, new)
            ]
            for photo in photos:
                photo.context = np.zeros(3, np.float32)
            await part.apply(photos, Call())
            assert [photo.problem for photo in photos] == [None, None]
            assert set(world.shelf.runs()) == {"run-1", f"run-{LARGE}"}
            return [photo.model_version for photo in photos]

    assert asyncio.run(story()) == ["1", LARGE]


def test_the_old_model_is_let_go_when_its_photos_have_had_time(packages: Path) -> None:
    async def story() -> Sequence[str]:
        async with follows(World(packages, Desk(row(1, "1")), linger_s=0.05)) as world:
            await world.generation(row(2, LARGE))
            await world.until(lambda: world.shelf.runs() == [f"run-{LARGE}"])
            return world.arms.versions()

    assert asyncio.run(story()) == (LARGE,)
