"""Models in memory: loaded once, bounded, refused with a reason; versions loaded and unloaded by hand."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.components.base import Component
from serving.engines.loaded import Loaded
from serving.photos import Photo
from serving.problems import Problem
from serving.runtime import ModelError
from serving.versions.arms import Arms
from serving.versions.follower import Follower
from serving.versions.repository import Versions
from serving.versions.shelf import Shelf
from tests.following import Desk, row
from tests.packages import SERVICE_HASH, make_package

OPEN = partial(Loaded.open, runtime="onnxruntime")
RUNS = {f"run-{number}": number for number in range(1, 5)}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder a run; run-4's model takes other images."""
    root = tmp_path_factory.mktemp("packages")
    for run_id, number in RUNS.items():
        make_package(root / run_id, run_id=run_id, size=24 if number == 4 else 16)
    return root


def fetching(packages: Path) -> Callable[[str], Path]:
    return lambda run_id: packages / run_id


# ------------------------------------------------------------------------------------------------- the shelf


def test_a_run_is_loaded_once_whoever_asks_and_however_often(packages: Path) -> None:
    opened: list[Path] = []

    def count(folder: Path) -> Loaded:
        opened.append(folder)
        return OPEN(folder)

    async def story() -> None:
        shelf = Shelf(fetching(packages), count)
        found = await asyncio.gather(*(shelf.take("run-1") for _ in range(5)))
        assert len({id(loaded) for loaded in found}) == 1
        assert shelf.get("run-1") is found[0]
        photo = Photo(image=np.zeros((16, 16, 3), np.uint8), context=np.zeros(3, np.float32))
        await found[0].classify([photo])
        assert photo.label in found[0].classes
        await shelf.let_go("run-1")
        assert shelf.runs() == []

    asyncio.run(story())
    assert len(opened) == 1


def test_the_loop_goes_on_while_a_model_is_loaded(packages: Path) -> None:
    begun, free = threading.Event(), threading.Event()

    def slow(folder: Path) -> Loaded:
        begun.set()
        assert free.wait(10), "the event loop was blocked"
        return OPEN(folder)

    async def story() -> None:
        shelf = Shelf(fetching(packages), slow)
        taking = asyncio.create_task(shelf.take("run-1"))
        await asyncio.to_thread(begun.wait, 10)
        assert shelf.loading == "run-1"
        free.set()
        await taking
        assert shelf.loading == ""
        await shelf.let_go("run-1")

    asyncio.run(story())


def test_a_full_shelf_says_what_is_on_it(packages: Path) -> None:
    async def story() -> None:
        shelf = Shelf(fetching(packages), OPEN, limit=2)
        await shelf.take("run-1")
        await shelf.take("run-2")
        with pytest.raises(Problem, match=r"2 models are in memory already \(runs run-1, run-2\)"):
            await shelf.take("run-3")
        await shelf.let_go("run-1")
        await shelf.take("run-3")
        for run_id in shelf.runs():
            await shelf.let_go(run_id)

    asyncio.run(story())


def test_a_model_of_other_features_is_refused(packages: Path) -> None:
    async def story() -> None:
        shelf = Shelf(fetching(packages), OPEN, service_hash="another")
        with pytest.raises(ModelError, match=f"feature service hash {SERVICE_HASH}, this server reads another"):
            await shelf.take("run-1")
        assert (shelf.runs(), shelf.loading) == ([], "")

    asyncio.run(story())


def test_changed_bytes_are_refused_and_the_next_try_may_do_better(packages: Path, tmp_path: Path) -> None:
    bad = make_package(tmp_path / "bad", run_id="run-9")
    whole = (bad / "model.onnx").read_bytes()
    (bad / "model.onnx").write_bytes(whole[:-1] + b"!")

    async def story() -> None:
        shelf = Shelf(lambda _: bad, OPEN)
        with pytest.raises(ModelError, match="SHA-256 differs"):
            await shelf.take("run-9")
        (bad / "model.onnx").write_bytes(whole)
        await shelf.take("run-9")
        await shelf.let_go("run-9")

    asyncio.run(story())


# -------------------------------------------------------------------------------------------------- by hand


class Part(Component):
    """Something that is served."""

    takes = gives = ()

    def __init__(self, name: str, why: str | None = None) -> None:
        self.name = name
        self._why = why

    async def apply(self, photos: Any, call: Any) -> None:
        raise NotImplementedError

    def ready(self) -> str | None:
        return self._why


class Hand:
    """Versions that are loaded by hand, in memory."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}

    def wanted(self) -> dict[str, str]:
        return dict(self.versions)

    def want(self, versions: Mapping[str, str]) -> None:
        self.versions = dict(versions)

    def resolve(self, version: str) -> str:
        if f"run-{version}" not in RUNS:
            raise Problem("not_found", f"version {version}: there is none")
        return f"run-{version}"


async def by_hand(packages: Path, work: Callable[[Versions, Arms, Hand, Shelf], Any], *, limit: int = 6) -> None:
    """A champion of version 1 and a repository around it."""
    arms, hand = Arms(), Hand()
    shelf = Shelf(fetching(packages), OPEN, limit=limit)
    follower = Follower(arms, shelf, Desk(row(1, "1")), wanted=hand.wanted, every_s=3600)
    parts = {name: Part(name) for name in ("downloader", "classifier")}
    parts["preprocessor"] = Part("preprocessor", "no thread is free")
    versions = Versions(
        parts, arms, shelf, follower, resolve=hand.resolve, wanted=hand.wanted, want=hand.want
    )  # fmt: skip
    await follower.start()
    try:
        await work(versions, arms, hand, shelf)
    finally:
        await follower.stop()
    assert shelf.runs() == []


def rows(versions: Versions, **options: bool) -> list[tuple[str, str, str]]:
    return [(found["name"], found["version"], found["state"]) for found in versions.index(**options)]


def test_a_loaded_version_answers_under_its_number_until_it_is_unloaded(packages: Path) -> None:
    async def work(versions: Versions, arms: Arms, hand: Hand, shelf: Shelf) -> None:
        await versions.load("classifier", {"version": "2"})
        await versions.load("classifier", {"version": "2"})
        assert arms.by_version("2").run_id == "run-2"
        assert {arms.choose(f"sender-{number}").version for number in range(200)} == {"1"}, "nobody was asked"
        assert rows(versions) == [
            ("downloader", "", "READY"),
            ("classifier", "1", "READY"),
            ("classifier", "2", "READY"),
            ("preprocessor", "", "UNAVAILABLE"),
        ]
        assert ("preprocessor", "", "UNAVAILABLE") not in rows(versions, ready=True)
        assert versions.index()[-1]["reason"] == "no thread is free"
        await versions.unload("classifier", {"version": "2"})
        assert (arms.versions(), hand.versions) == (("1",), {})

    asyncio.run(by_hand(packages, work))


@pytest.mark.parametrize(
    ("model", "parameters", "reason", "said"),
    [
        ("classifier", {"version": "1"}, "bad_request", "is the champion, production needs it"),
        ("classifier", {"version": "2"}, "not_found", "not loaded by hand; loaded are none"),
        ("classifier", {}, "bad_request", "parameters.version: name the version to unload"),
        ("classifier", {"version": True}, "bad_request", "parameters.version"),
        ("downloader", {"version": "1"}, "bad_request", "has no versions"),
        ("unknown", {"version": "1"}, "not_found", "there are downloader, classifier, preprocessor"),
    ],
)
def test_an_unload_that_cannot_be_says_why(
    packages: Path, model: str, parameters: dict[str, Any], reason: str, said: str
) -> None:
    async def work(versions: Versions, arms: Arms, hand: Hand, shelf: Shelf) -> None:
        with pytest.raises(Problem, match=said) as caught:
            await versions.unload(model, parameters)
        assert caught.value.reason == reason

    asyncio.run(by_hand(packages, work))


def test_a_version_that_cannot_be_loaded_is_refused_and_not_tried_for_ever(packages: Path) -> None:
    async def work(versions: Versions, arms: Arms, hand: Hand, shelf: Shelf) -> None:
        with pytest.raises(Problem, match="takes images of spec") as caught:
            await versions.load("classifier", {"version": "4"})
        assert caught.value.reason == "unprocessable"
        with pytest.raises(Problem, match="there is none"):
            await versions.load("classifier", {"version": "99"})
        assert (hand.versions, arms.versions()) == ({}, ("1",))

    asyncio.run(by_hand(packages, work))


def test_a_full_shelf_refuses_a_load_and_keeps_what_serves(packages: Path) -> None:
    async def work(versions: Versions, arms: Arms, hand: Hand, shelf: Shelf) -> None:
        await versions.load("classifier", {"version": "2"})
        with pytest.raises(Problem, match="2 models are in memory already"):
            await versions.load("classifier", {"version": "3"})
        assert arms.versions() == ("1", "2")

    asyncio.run(by_hand(packages, work, limit=2))
