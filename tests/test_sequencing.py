"""One request, three ways through the components, in one process or several: the same answer."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.online.sequences import measure
from serving.client import AsyncClient, Client
from serving.components.base import Call, Component
from serving.components.hops import Onward, open_hops
from serving.components.pipeline import Pipeline
from serving.components.remote import Remote
from serving.photos import Photo
from serving.problems import Problem
from serving.recall import Recall
from tests.answering import WithModel, downloader, jpeg, preprocessor, serving
from tests.serving import Running, running

GOOD, OTHER, BAD = jpeg(1), jpeg(2), jpeg(3)[:400]


@dataclass
class World:
    """The components as three servers, a front before them, and everything in one."""

    classifier: WithModel
    at: dict[str, str]
    one: Running
    front: Running
    alone: dict[str, Running] = field(default_factory=dict)


@pytest.fixture(scope="module", params=["grpc", "http"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    def address(server: Running) -> str:
        return server.grpc if request.param == "grpc" else server.rest

    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("sequencing")
        hops: dict[str, dict[str, Component]] = {name: {} for name in ("downloader", "preprocessor", "classifier")}
        model = WithModel(folder / "apart")
        alone = {
            part.name: stack.enter_context(running(serving(Onward(part, hops[part.name]))))
            for part in (downloader(), preprocessor(), model)
        }
        at = {name: address(server) for name, server in alone.items()}
        for registry in hops.values():
            registry |= {name: Remote(name, [where]) for name, where in at.items()}
        front = stack.enter_context(running(serving(_front(at))))
        parts = {part.name: part for part in (downloader(), preprocessor(), WithModel(folder / "together"))}
        together = [Onward(part, parts) for part in parts.values()]
        one = stack.enter_context(running(serving(*together, Pipeline(*parts.values()))))
        yield World(classifier=model, at=at, one=one, front=front, alone=alone)


class _front(Pipeline):  # noqa: N801
    """The pipeline of three remotes, which it starts and stops."""

    def __init__(self, at: dict[str, str]) -> None:
        self.remotes = [Remote(name, [where]) for name, where in at.items()]
        super().__init__(*self.remotes)

    async def start(self) -> None:
        for remote in self.remotes:
            await remote.start()

    async def stop(self) -> None:
        for remote in self.remotes:
            await remote.stop()


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """A site with photos at /good.jpg and /other.jpg."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = {"/good.jpg": GOOD, "/other.jpg": OTHER}.get(self.path)
            self.send_response(404 if found is None else 200)
            self.send_header("content-length", str(len(found or b"")))
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{site.server_port}"
        site.shutdown()


async def asked(remote: Remote, photos: list[Photo], **parameters: str) -> list[Photo]:
    await remote.start()
    try:
        await remote.apply(photos, Call(parameters=parameters))
    finally:
        await remote.stop()
    return photos


def every_way(world: World, make: Any) -> dict[str, list[Photo]]:
    """The same photos through each sequencing: apart, behind a front, and in one process."""

    async def all_of_them() -> dict[str, list[Photo]]:
        found = {}
        for name, where in (("front", world.front), ("one", world.one)):
            found[f"server, {name}"] = await asked(Remote("classy", [where.rest]), make())
            found[f"server, {name}, grpc"] = await asked(Remote("classy", [where.grpc]), make())
        for name, at in (("apart", world.at), ("one", dict.fromkeys(world.at, world.one.rest))):
            found[f"client, {name}"] = photos = make()
            front = _front(at)
            await front.start()
            await front.apply(photos, Call())
            await front.stop()
            photos = make()
            rest = "classifier" if photos[0].url is None else "preprocessor,classifier"
            first = "preprocessor" if photos[0].url is None else "downloader"
            found[f"hybrid, {name}"] = await asked(Remote(first, [at[first]]), photos, next=rest)
        return found

    return asyncio.run(all_of_them())


def test_the_same_photo_has_the_same_answer_whoever_leads_it(world: World) -> None:
    found = every_way(world, lambda: [Photo(photo=GOOD, sender="41"), Photo(photo=OTHER, sender="nobody")])
    assert len(found) == 8
    for way, photos in found.items():
        assert [photo.problem for photo in photos] == [None, None], way
    answers = {tuple((p.probabilities.tobytes(), p.label, p.image_id, p.defaulted) for p in photos)
               for photos in found.values()}  # fmt: skip
    assert len(answers) == 1
    (known, unknown) = next(iter(answers))
    assert known[0] != unknown[0]
    assert (known[3], unknown[3]) == (False, True)


def test_an_address_is_downloaded_where_the_components_are(world: World, origin: str) -> None:
    urls = [f"{origin}/good.jpg", f"{origin}/other.jpg"]
    found = every_way(world, lambda: [Photo(url=url, sender="41") for url in urls])
    direct = asyncio.run(asked(Remote("classy", [world.one.rest]), [Photo(photo=GOOD, sender="41")]))
    for way, photos in found.items():
        assert photos[0].problem is None, way
        assert photos[0].probabilities.tobytes() == direct[0].probabilities.tobytes(), way


def test_a_photo_s_problem_stops_it_and_no_other(world: World, origin: str) -> None:
    found = every_way(world, lambda: [Photo(photo=BAD), Photo(photo=GOOD)])
    for way, (bad, good) in found.items():
        assert bad.problem is not None, way
        assert (bad.problem.reason, bad.problem.detail) == ("unprocessable", "truncated"), way
        assert bad.probabilities is None, way
        assert good.problem is None, way
        assert good.label, way
    gone = every_way(world, lambda: [Photo(url=f"{origin}/none.jpg"), Photo(url=f"{origin}/good.jpg")])
    for way, (bad, good) in gone.items():
        assert bad.problem is not None, way
        assert good.label, way


def test_a_single_photo_s_problem_is_the_same_from_everywhere(world: World) -> None:
    found = every_way(world, lambda: [Photo(photo=BAD)])
    assert len({(photo.problem.reason, photo.problem.detail) for (photo,) in found.values() if photo.problem}) == 1
    assert all(photo.problem for (photo,) in found.values())


def test_the_answer_says_where_the_time_went_at_every_hop(world: World) -> None:
    async def work() -> tuple[Call, Call]:
        whole, handed = Call(), Call(parameters={"next": "classifier"})
        one, two = Remote("classy", [world.front.rest]), Remote("preprocessor", [world.at["preprocessor"]])
        await one.apply([Photo(photo=GOOD)], whole)
        await two.apply([Photo(photo=GOOD)], handed)
        await one.stop()
        await two.stop()
        return whole, handed

    whole, handed = asyncio.run(work())
    assert {"to_classy", "to_preprocessor", "to_classifier", "model"} <= whole.seconds.keys()
    assert {"to_preprocessor", "to_classifier", "model"} <= handed.seconds.keys()
    assert all(0 <= seconds < 10 for seconds in (whole.seconds | handed.seconds).values())


def test_which_model_answers_is_said_once_and_heard_at_the_end(world: World) -> None:
    for way, photos in {
        "front": asyncio.run(asked(Remote("classy", [world.front.rest]), [Photo(photo=GOOD)], arm="champion")),
        "hybrid": asyncio.run(
            asked(
                Remote("preprocessor", [world.at["preprocessor"]]), [Photo(photo=GOOD)], next="classifier", version="1"
            )
        ),
    }.items():
        assert photos[0].model_version == "1", way
    for parameters in ({"arm": "oracle"}, {"version": "99"}):
        with pytest.raises(Problem, match=r"oracle|99") as problem:
            asyncio.run(
                asked(Remote("classy", [world.front.rest]), [Photo(photo=GOOD), Photo(photo=OTHER)], **parameters)
            )
        assert problem.value.reason == "not_found"


def test_both_or_neither_of_photo_and_address_is_the_photo_s_problem(world: World) -> None:
    photos = [Photo(photo=GOOD, url="http://x/"), Photo(photo=GOOD), Photo(sender="7")]
    asyncio.run(asked(Remote("classy", [world.one.rest]), photos))
    assert [photo.problem.reason if photo.problem else "" for photo in photos] == ["bad_request", "", "bad_request"]


# --------------------------------------------------------------------------------------------- memory


def test_a_photo_that_was_answered_is_answered_from_memory_and_logged_again(tmp_path: Path) -> None:
    recall = Recall(8)
    model = WithModel(tmp_path / "model", recall=recall)
    prepared = preprocessor()
    pipeline = Pipeline(downloader(), prepared, model, recall=recall, arms=model.arms, features=model.known)

    async def work() -> list[Photo]:
        await prepared.start()
        await model.start()
        found = []
        for data, sender in ((GOOD, "41"), (GOOD, "41"), (GOOD, "42"), (OTHER, "41")):
            photo = Photo(photo=data, sender=sender)
            await pipeline.apply([photo], Call())
            found.append(photo)
        await model.stop()
        await prepared.stop()
        return found

    first, again, other_sender, other_photo = asyncio.run(work())
    assert [p.problem for p in (first, again, other_sender, other_photo)] == [None] * 4
    assert [p.cached for p in (first, again, other_sender, other_photo)] == [False, True, False, False]
    assert again.probabilities.tobytes() == first.probabilities.tobytes()
    assert again.image_id == first.image_id
    assert again.prediction_id != first.prediction_id
    assert [row["cached"] for row in model.rows] == [False, True, False, False]


def test_memory_without_its_model_and_features_is_refused() -> None:
    parts = [downloader(), preprocessor(), downloader()]
    with pytest.raises(ValueError, match="arms and features"):
        Pipeline(*parts, recall=Recall(1))


def test_a_registry_of_backends_starts_from_the_setting(world: World) -> None:
    found = open_hops(",".join(f"{name}={address}" for name, address in world.at.items()), timeout_s=5.0)
    client = Client(world.one.rest, key="")
    with client:
        assert client.classify(GOOD, sender="41").label
    assert sorted(found) == ["classifier", "downloader", "preprocessor"]
    assert isinstance(AsyncClient(world.one.rest, key=""), AsyncClient)


# ------------------------------------------------------------------------------------- the demonstration


def test_the_demonstration_counts_every_hop_and_the_client_s_line(world: World) -> None:
    protocol = "grpc" if world.at["classifier"].startswith("grpc") else "rest"
    at = {**world.at, "classy": world.front.grpc if protocol == "grpc" else world.front.rest}
    found = asyncio.run(measure(at, jpeg(9, width=320, height=240), sender="41", asks=2, protocol=protocol))
    hops = {way.sequencing: [hop.name for hop in way.hops] for way in found.ways}
    assert hops == {
        "client": ["client → preprocessor", "client → classifier"],
        "server": ["client → classy", "classy → preprocessor", "classy → classifier"],
        "hybrid": ["client → preprocessor", "preprocessor → classifier"],
    }
    client, server, hybrid = found.ways
    for way in found.ways:
        assert way.milliseconds > 0
        assert all(hop.sent > 0 and hop.received > 0 and hop.milliseconds > 0 for hop in way.hops)
    # The photo travels once in each; the picture made of it comes back, and goes again, only where the client leads.
    for way in (server, hybrid):
        assert found.photo_bytes < way.sent + way.received < client.sent + client.received
