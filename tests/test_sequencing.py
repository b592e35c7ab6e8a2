"""One request, three ways through the components, in one process or several: the same answer."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.online.sequences import measure
from serving.client import AsyncClient, Client
from serving.components.base import ANYONE, Call, Component, Identity
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


# ------------------------------------------------------------------------------------- several backends


class Counting(Component):
    """Answers with its own name; says what it was asked with."""

    name = "preprocessor"
    takes = ("photo",)
    gives = ("image_spec", "error")

    def __init__(self, mark: str, problem: Problem | None = None, wait_s: float = 0.0) -> None:
        self.mark, self.problem, self.wait_s = mark, problem, wait_s
        self.calls: list[Call] = []

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        self.calls.append(call)
        await asyncio.sleep(self.wait_s)
        if self.problem is not None:
            raise self.problem
        for photo in photos:
            photo.image_spec = self.mark


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(params=["grpc", "http"])
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


def where(server: Running, scheme: str) -> str:
    return server.grpc if scheme == "grpc" else server.rest


async def many(remote: Remote, count: int) -> list[str]:
    found = []
    for _ in range(count):
        photo = Photo(photo=b"x")
        await remote.apply([photo], Call())
        found.append(photo.image_spec)
    return found


def test_backends_take_turns(scheme: str) -> None:
    with running(serving(Counting("a"))) as one, running(serving(Counting("b"))) as two:

        async def work() -> list[str]:
            remote = Remote("preprocessor", [where(one, scheme), where(two, scheme)])
            await remote.start()
            found = await many(remote, 8)
            await remote.stop()
            return found

        found = asyncio.run(work())
    assert sorted(found) == ["a"] * 4 + ["b"] * 4
    assert found[0] != found[1]


def test_a_backend_that_dies_costs_no_request_and_is_used_again_when_it_is_back(scheme: str) -> None:
    rest, rpc = free_port(), free_port()
    gone = f"grpc://127.0.0.1:{rpc}" if scheme == "grpc" else f"http://127.0.0.1:{rest}"

    async def work(stays: str) -> None:
        remote = Remote("preprocessor", [stays, gone])
        with ExitStack() as first:
            await asyncio.to_thread(first.enter_context, running(serving(Counting("b")), rest_port=rest, grpc_port=rpc))
            await remote.start()
            assert set(await many(remote, 6)) == {"a", "b"}
            await asyncio.to_thread(first.close)
        assert await many(remote, 6) == ["a"] * 6
        assert remote.ready() is None
        assert [backend["ready"] for backend in remote.properties()["backends"]] == [True, False]
        with ExitStack() as second:
            await asyncio.to_thread(
                second.enter_context, running(serving(Counting("b")), rest_port=rest, grpc_port=rpc)
            )
            until = time.monotonic() + 20
            while "b" not in await many(remote, 2):
                assert time.monotonic() < until, remote.properties()
                await asyncio.sleep(0.05)
            await remote.stop()
            await asyncio.to_thread(second.close)

    with running(serving(Counting("a"))) as one:
        asyncio.run(work(where(one, scheme)))


def test_without_any_backend_the_problem_names_the_address(scheme: str) -> None:
    async def work() -> None:
        remote = Remote("preprocessor", [f"{scheme}://127.0.0.1:{free_port()}"])
        await remote.start()
        assert "127.0.0.1" in (remote.ready() or "")
        with pytest.raises(Problem, match=r"127\.0\.0\.1") as problem:
            await remote.apply([Photo(photo=b"x")], Call())
        assert problem.value.reason == "unavailable"
        assert problem.value.retry_after
        await remote.stop()

    asyncio.run(work())


def test_a_backend_that_starts_later_is_found(scheme: str) -> None:
    rest, rpc = free_port(), free_port()

    async def work() -> None:
        remote = Remote("preprocessor", [f"{scheme}://127.0.0.1:{rpc if scheme == 'grpc' else rest}"])
        await remote.start()
        assert remote.ready() is not None
        with ExitStack() as later:
            await asyncio.to_thread(later.enter_context, running(serving(Counting("a")), rest_port=rest, grpc_port=rpc))
            until = time.monotonic() + 20
            while remote.ready() is not None:
                assert time.monotonic() < until, remote.ready()
                await asyncio.sleep(0.05)
            assert await many(remote, 1) == ["a"]
            assert remote.gives == ("image_spec", "error")
            await remote.stop()
            await asyncio.to_thread(later.close)

    asyncio.run(work())


def test_a_busy_backend_s_photos_go_to_another_and_if_all_are_busy_their_word_is_passed_on(scheme: str) -> None:
    busy = Problem("busy", "the queue is full", retry_after=2.5)
    with running(serving(Counting("a", busy))) as one, running(serving(Counting("b"))) as two:

        async def work() -> list[str]:
            both = Remote("preprocessor", [where(one, scheme), where(two, scheme)])
            found = await many(both, 4)
            await both.stop()
            alone = Remote("preprocessor", [where(one, scheme)])
            with pytest.raises(Problem, match="the queue is full") as problem:
                await many(alone, 1)
            await alone.stop()
            assert (problem.value.reason, problem.value.retry_after) == ("busy", 2.5)
            return found

        assert asyncio.run(work()) == ["b"] * 4


def test_the_caller_s_deadline_key_and_trace_travel_with_the_photos(scheme: str) -> None:
    class Seen:
        credentials: list[str | None]

        def __init__(self) -> None:
            self.credentials = []

        async def admit(self, credentials: str | None, *, scope: str, photos: int = 1, peer: str = "") -> Identity:
            self.credentials.append(credentials)
            return ANYONE

    part, gate = Counting("a"), Seen()
    headers = {"authorization": "Bearer classy_x", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "cookie": "no"}
    with running(serving(part, gate=gate)) as server:

        async def work() -> None:
            remote = Remote("preprocessor", [where(server, scheme)])
            await remote.apply([Photo(photo=b"x")], Call(headers=headers, deadline=time.monotonic() + 5))
            with pytest.raises(Problem) as problem:
                await remote.apply([Photo(photo=b"x")], Call(deadline=time.monotonic() - 1))
            assert problem.value.reason == "too_late"
            part.wait_s = 30.0
            with pytest.raises(Problem) as problem:
                await remote.apply([Photo(photo=b"x")], Call(deadline=time.monotonic() + 0.3))
            assert problem.value.reason == "too_late"
            await remote.stop()

        asyncio.run(work())
    (first, _) = part.calls
    assert gate.credentials[-2:] == ["Bearer classy_x", None]
    assert first.headers["traceparent"].split("-")[1] == "1" * 32
    assert "cookie" not in first.headers
    assert first.deadline is not None


def test_a_server_that_does_not_follow_the_protocol_is_named(scheme: str) -> None:
    class Wrong(Counting):
        def respond(self, request: Any, photos: Any, call: Call) -> Any:
            response = super().respond(request, photos, call)
            response.outputs[0].data, response.outputs[0].shape = [b"1", b"2", b"3"], (3,)
            return response

    with running(serving(Wrong("a"))) as server:

        async def work() -> None:
            remote = Remote("preprocessor", [where(server, scheme)])
            with pytest.raises(Problem, match="image_spec") as problem:
                await remote.apply([Photo(photo=b"x"), Photo(photo=b"y")], Call())
            assert problem.value.reason == "internal"
            await remote.stop()

        asyncio.run(work())


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
    with pytest.raises(ValueError, match="arms and features"):
        Pipeline(Counting("a"), Counting("b"), Counting("c"), recall=Recall(1))


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
