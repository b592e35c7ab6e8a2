"""The Python client and `classy predict`, against a real server."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.commands.predict import find
from pipelines.errors import ClassyError
from serving.client import Answer, AsyncClient, Client, Problem, Unreachable
from serving.client.asynchronous import SEQUENCINGS
from serving.components.base import ANYONE, Call, Component, Identity
from serving.components.hops import Onward
from serving.components.pipeline import Pipeline
from serving.photos import Photo
from serving.server import Server
from tests.answering import WithModel, downloader, jpeg, preprocessor, serving
from tests.serving import Running, free_port, running

GOOD, OTHER, BAD = jpeg(1), jpeg(2), jpeg(3)[:400]
KEY = "classy_for_a_test"


class OneKey:
    """Lets in who has the key."""

    async def admit(self, credentials: str | None, *, scope: str, photos: int = 1, peer: str = "") -> Identity:
        if credentials != f"Bearer {KEY}":
            raise Problem("unauthenticated", "the API key is unknown")
        return ANYONE


class Truth(list[dict[str, Any]]):
    """Ground truth in memory."""

    def write(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        self.extend(dict(row) for row in rows)
        return {"accepted": len(rows), "new": len(rows), "changed": 0, "unchanged": 0, "unknown": 0, "rejected": []}


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, truth: Truth) -> Iterator[Running]:
    made = serving(*components(tmp_path_factory.mktemp("client")), gate=OneKey(), truth=truth)
    with running(made) as found:
        yield found


def components(folder: Path) -> list[Component]:
    parts = {part.name: part for part in (downloader(), preprocessor(), WithModel(folder / "model"))}
    return [*(Onward(part, parts) for part in parts.values()), Pipeline(*parts.values())]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "shirt.jpg"
    path.write_bytes(GOOD)
    return path


# ------------------------------------------------------------------------------------------- one photo


@pytest.mark.parametrize("sequencing", SEQUENCINGS)
@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_photo_is_classified_whoever_leads_it(server: Running, photo: Path, sequencing: Any, protocol: str) -> None:
    with Client(getattr(server, protocol), KEY, sequencing=sequencing) as client:
        answer = client.classify(photo, sender="41")
        assert answer.ok
        assert answer.label in ("left", "middle", "right")
        assert answer.label == answer.top[0][0]
        assert answer.confidence == pytest.approx(answer.top[0][1])
        assert sum(share for _, share in answer.top) == pytest.approx(1, abs=1e-5)
        assert (answer.model_version, answer.arm, answer.generation, answer.defaulted) == ("1", "champion", 1, False)
        assert {"model", "preprocess"} & answer.timing.keys() or answer.timing
        assert answer.milliseconds > 0
        again = client.classify(GOOD, sender="41", image_id="mine")
        assert (again.image_id, again.confidence) == ("mine", answer.confidence)
        assert client.classify(GOOD).defaulted


def test_an_answer_is_plain_data_and_does_not_change(server: Running, photo: Path) -> None:
    with Client(server.rest, KEY) as client:
        answer = client.classify(photo)
    assert json.loads(json.dumps(answer.as_json()))["label"] == answer.label
    with pytest.raises(AttributeError):
        answer.label = "other"  # type: ignore[misc]


def test_what_is_wrong_with_a_photo_is_raised_with_its_reason(server: Running, tmp_path: Path) -> None:
    with Client(server.rest, KEY) as client:
        with pytest.raises(Problem) as problem:
            client.classify(BAD)
        assert (problem.value.reason, problem.value.detail) == ("unprocessable", "truncated")
        with pytest.raises(Problem, match=r"none\.jpg"):
            client.classify(tmp_path / "none.jpg")
        with pytest.raises(Problem, match="no URL"):
            client.classify("shirt.jpg")
        with pytest.raises(Problem, match="arm 'oracle'"):
            client.classify(GOOD, arm="oracle")


def test_a_wrong_key_is_told_and_none_at_all_too(server: Running) -> None:
    for key in ("classy_wrong", ""):
        with Client(server.rest, key) as client, pytest.raises(Problem, match="API key") as problem:
            client.classify_many([GOOD, OTHER])
        assert problem.value.reason == "unauthenticated"


def test_the_key_comes_from_the_environment_or_from_this_machine_s_server(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLASSY_HOME", str(tmp_path))
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "local.key").write_text(f"{KEY}\n")
    with Client(server.rest) as client:
        assert client.classify(GOOD).ok
    monkeypatch.setenv("CLASSY_API_KEY", "classy_wrong")
    with Client(server.rest) as client, pytest.raises(Problem, match="unknown"):
        client.classify(GOOD)


def test_without_a_server_the_error_names_the_address() -> None:
    for scheme in ("http", "grpc"):
        address = f"{scheme}://127.0.0.1:{free_port()}"
        with Client(address, "") as client:
            assert client.ready() is False
            with pytest.raises(Unreachable, match=address.rpartition("/")[2]):
                client.classify(GOOD)


# -------------------------------------------------------------------------------------------- many photos


@pytest.mark.parametrize("sequencing", SEQUENCINGS)
def test_of_many_photos_each_has_its_answer_or_its_problem(server: Running, tmp_path: Path, sequencing: Any) -> None:
    photos = [GOOD, BAD, OTHER, tmp_path / "none.jpg", GOOD]
    told: list[int] = []
    with Client(server.rest, KEY, sequencing=sequencing, batch=2) as client:
        answers = client.classify_many(photos, sender=["41", "41", "7", "7", "41"], told=told.append)
        alone = client.classify(GOOD, sender="41")
    assert [answer.ok for answer in answers] == [True, False, True, False, True]
    assert [answer.source for answer in answers][3] == str(tmp_path / "none.jpg")
    assert answers[0].confidence == answers[4].confidence == alone.confidence
    assert answers[1].problem is not None
    assert answers[1].problem.detail == "truncated"
    assert sum(told) == 5


def test_senders_are_one_or_one_for_each(server: Running) -> None:
    with Client(server.rest, KEY) as client, pytest.raises(ValueError, match="2 for 3 photos"):
        client.classify_many([GOOD] * 3, sender=["1", "2"])


def test_several_threads_and_tasks_share_a_client(server: Running) -> None:
    found: list[Answer] = []
    with Client(server.rest, KEY) as client:
        threads = [threading.Thread(target=lambda: found.append(client.classify(GOOD, sender="41"))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({answer.confidence for answer in found}) == 1
    assert len(found) == 6

    async def tasks() -> list[Answer]:
        async with AsyncClient(server.grpc, KEY) as client:
            return await asyncio.gather(*(client.classify(GOOD, sender="41") for _ in range(6)))

    assert {answer.confidence for answer in asyncio.run(tasks())} == {found[0].confidence}


# ------------------------------------------------------------------------------------------ a busy server


class Busy(Component):
    """Refuses some times, then answers."""

    name = "classy"
    takes = ("photo", "sender")
    optional = ("sender",)
    gives = ("label", "probabilities", "error")

    def __init__(self, times: int, wait: float | None) -> None:
        self.times, self.wait, self.asked = times, wait, 0

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        import numpy as np

        self.asked += 1
        if self.asked <= self.times:
            raise Problem("busy", "the queue is full", retry_after=self.wait)
        for photo in photos:
            photo.label, photo.probabilities = "left", np.ones(1, np.float32)


def test_a_busy_server_is_asked_again_when_it_says_and_not_for_ever() -> None:
    for times, wait, retries, asked in ((2, 0.01, 3, 3), (9, 0.01, 2, 3), (9, 60.0, 3, 1)):
        part = Busy(times, wait)
        with running(serving(part)) as found, Client(found.rest, "", retries=retries) as client:
            if times < retries:
                assert client.classify(GOOD).label == "left"
            else:
                with pytest.raises(Problem, match="the queue is full") as problem:
                    client.classify(GOOD)
                assert problem.value.retry_after == wait
        assert part.asked == asked


# ------------------------------------------------------------------------------------------ about, truth


def test_metadata_and_readiness_are_the_server_s(server: Running) -> None:
    for address in (server.rest, server.grpc):
        with Client(address, KEY) as client:
            found = client.metadata()
            assert (found.name, found.versions) == ("classy", ("1",))
            assert list(found.properties["classes"]) == ["left", "middle", "right"]
            assert client.ready()


def test_truth_is_said_by_the_answer_s_name_of_the_photo(server: Running, truth: Truth) -> None:
    with Client(server.rest, KEY) as client:
        answer = client.classify(GOOD)
        assert client.say(answer.image_id, "left")["accepted"] == 1
        with pytest.raises(Problem, match="label"):
            client.say(answer.image_id, "")
    assert [(row["image_id"], row["label"]) for row in truth] == [(answer.image_id, "left")]
    with Client(server.grpc, KEY) as client, pytest.raises(Problem, match="rest="):
        client.say(answer.image_id, "left")
    with Client(server.rest, "classy_wrong") as client, pytest.raises(Problem, match="API key"):
        client.say(answer.image_id, "left")


# ------------------------------------------------------------------------------------------ the command


def predict(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_the_command_tells_class_version_and_time(server: Running, photo: Path) -> None:
    found = predict(photo, "--sender", "41", "--url", server.rest, "--key", KEY)
    assert found.exit_code == 0, found.output
    for word in ("champion", "shirt.jpg", "confidence", "%"):
        assert word in found.output, found.output


def test_the_command_tells_each_photo_s_problem_and_fails(server: Running, photo: Path) -> None:
    (photo.parent / "cut.jpg").write_bytes(BAD)
    found = predict(photo.parent, "--url", server.grpc, "--key", KEY, "--json", "--sequencing", "hybrid")
    assert found.exit_code == 1, found.exception
    assert found.output, found.exception
    cut, good = json.loads(found.output)
    assert cut["problem"]["detail"] == "truncated"
    assert good["problem"] is None
    assert good["arm"] == "champion"


def test_the_command_says_how_to_start_a_server(photo: Path) -> None:
    found = predict(photo, "--url", f"http://127.0.0.1:{free_port()}")
    assert found.exit_code == 1
    assert isinstance(found.exception, ClassyError)
    assert "classy serve" in str(found.exception)


def test_files_folders_patterns_and_addresses_are_found(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt", "deep/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert find([str(tmp_path)]) == [tmp_path / "a.PNG", tmp_path / "b.jpg", tmp_path / "deep" / "c.webp"]
    assert find([str(tmp_path / "*.jpg"), "https://x/1.jpg"]) == [tmp_path / "b.jpg", "https://x/1.jpg"]
    for wrong, says in (("none.jpg", "no such file"), (str(tmp_path / "*.gif"), "matches no file")):
        with pytest.raises(ClassyError, match=says):
            find([wrong])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClassyError, match="no photo in this folder"):
        find([str(tmp_path / "empty")])


def test_a_server_of_another_kind_is_not_taken_for_one() -> None:
    empty = Server(components={}, gate=OneKey())
    with running(empty) as found, Client(found.rest, KEY) as client, pytest.raises(Problem, match="not served here"):
        client.classify(GOOD)
