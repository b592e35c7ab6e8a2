"""Components in other processes: several backends, those that die, and what travels with the photos."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from serving.components.base import ANYONE, Call, Component, Identity
from serving.components.remote import Remote
from serving.photos import Photo
from serving.problems import Problem
from tests.answering import serving
from tests.serving import Running, free_port, running


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
