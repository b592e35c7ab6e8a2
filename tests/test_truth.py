"""What people say of photos: the last word stays, saying it twice changes nothing, one bad label spoils no other."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from monitoring.stores import Store, open_store
from pipelines.online.truth import SqlTruth
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from serving.components.base import Identity
from serving.problems import Problem
from serving.rest.truth import FIELDS, MOST, read_labels
from serving.server import Limits, Server
from tests.conftest import TINY
from tests.serving import Running, running
from tests.test_prediction_log import row

NOW = datetime(2026, 3, 7, 12, tzinfo=UTC)
NOON = "2026-03-07T12:00:00Z"
PATH = "/ground-truth"


class Doorkeeper:
    """Lets `Bearer NAME` in as NAME, `Bearer reader` without the scope."""

    async def admit(self, credentials: str | None, *, scope: str, photos: int = 1, peer: str = "") -> Identity:
        if not credentials:
            raise Problem("unauthenticated", "send an API key")
        subject = credentials.removeprefix("Bearer ")
        identity = Identity(subject=subject, scopes=frozenset({"infer"} if subject == "reader" else {"truth"}))
        identity.need(scope)
        return identity


class Sink:
    """Passes on to the truth of whichever database a test uses."""

    truth: SqlTruth | None = None

    def write(self, rows: Any) -> dict[str, Any]:
        assert self.truth is not None
        return self.truth.write(rows)


def recipe() -> Recipe:
    aliases = {"zero": "0", "nought": "0"}
    return Recipe.model_validate({**TINY, "taxonomy": {"classes": list("0123456789"), "aliases": aliases}})


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    limits = Limits(max_bytes=3_000_000)
    with running(Server(components={}, gate=Doorkeeper(), limits=limits, truth=Sink(), version="0")) as found:
        yield found


@pytest.fixture
def truth(settings: Settings) -> SqlTruth:
    return SqlTruth(settings, recipe(), clock=lambda: NOW)


@pytest.fixture
def store(settings: Settings, truth: SqlTruth, server: Running, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(server.server.truth, "truth", truth)
    return open_store(settings.database_url)


def say(server: Running, body: Any, *, who: str = "ada", kind: str = "application/json") -> httpx.Response:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    headers = {"Content-Type": kind, "Authorization": f"Bearer {who}"}
    return httpx.post(server.rest + PATH, content=data, headers=headers, timeout=30)


def told(store: Store) -> dict[str, tuple[str, str]]:
    found = store.truth(as_of=datetime(2200, 1, 1, tzinfo=UTC))
    return {one["image_id"]: (one["label"], one["said_by"]) for one in found.to_dict("records")}


def counts(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [answer.json()[name] for name in ("accepted", "new", "changed", "unchanged", "unknown")]


@pytest.mark.usefixtures("database_url")
def test_the_last_word_stays_and_the_same_twice_changes_nothing(store: Store, server: Running) -> None:
    store.add_predictions([row(1, image_id="a")])
    said = {"image_id": "a", "label": "3", "labelled_at": NOON}
    assert counts(say(server, said)) == [1, 1, 0, 0, 0]
    assert counts(say(server, said)) == [1, 0, 0, 1, 0]
    assert counts(say(server, {"image_id": "a", "label": "3"})) == [1, 0, 0, 1, 0]
    assert counts(say(server, said, who="grace")) == [1, 0, 0, 1, 0], "she says nothing new"
    assert told(store) == {"a": ("3", "ada")}
    assert counts(say(server, {**said, "label": "4"}, who="grace")) == [1, 0, 1, 0, 0]
    assert told(store) == {"a": ("4", "grace")}
    older = {**said, "label": "5", "labelled_at": "2026-03-07T13:59:59+02:00"}
    assert counts(say(server, older)) == [1, 0, 0, 1, 0], "an older word is not the last one"
    assert told(store) == {"a": ("4", "grace")}
    known = store.truth(as_of=NOW)
    assert known["labelled_at"].tolist() == [NOW]
    assert store.truth(as_of=NOW - timedelta(seconds=1)).empty


@pytest.mark.usefixtures("database_url")
def test_many_labels_at_once_and_what_is_wrong_is_said_of_each(store: Store, server: Running) -> None:
    store.add_predictions([row(1, image_id="a"), row(2, image_id="b")])
    given: list[Any] = [
        {"image_id": "a", "label": "zero"},
        {"prediction_id": "p-000002", "label": "7"},
        {"image_id": "early", "label": "1"},
        {"image_id": "c", "label": "shoe"},
        {"image_id": "c", "label": "1", "labelled_at": "2026-03-07T12:00:00"},
        {"image_id": "c", "label": "1", "labelled_at": "2999-01-01T00:00:00Z"},
        {"image_id": "c", "label": "1", "labelled_at": "yesterday"},
        {"prediction_id": "p-none", "label": "1"},
        {"image_id": "c", "prediction_id": "p-000001", "label": "1"},
        {"label": "1"},
        {"image_id": "c"},
        {"image_id": "c", "label": "1", "labeled_at": NOON},
        {"image_id": "c\0", "label": "1"},
        {"image_id": "c", "label": 1},
        {"image_id": "", "label": "1"},
        "c is 1",
        None,
        {"image_id": "a", "label": "2"},
    ]
    expected = [
        "'shoe': is no class; classes are 0, 1", "has no offset", "in the future", "is no time", "no such answer here",
        "send one of them", "send one of them", "label: is missing", "'labeled_at': no such field", "without NUL",
        "label: must be text", "image_id: must be text", "no object", "no object",
    ]  # fmt: skip
    answer = say(server, given)
    assert counts(answer) == [4, 3, 1, 0, 1]
    rejected = answer.json()["rejected"]
    assert [one["row"] for one in rejected] == list(range(3, 17))
    for one, words in zip(rejected, expected, strict=True):
        assert words in one["message"]
    assert told(store) == {"a": ("2", "ada"), "b": ("7", "ada"), "early": ("1", "ada")}

    lines = b"\n".join(orjson.dumps(one) for one in given)
    again = say(server, lines + b"\n\n{torn", kind="application/x-ndjson; charset=utf-8")
    assert counts(again)[0] == 4
    assert [untimed(one) for one in again.json()["rejected"][:-1]] == [untimed(one) for one in rejected]
    assert "is not JSON" in again.json()["rejected"][-1]["message"]


def untimed(rejected: dict[str, Any]) -> dict[str, Any]:
    """Without the time of day that a message tells."""
    return {**rejected, "message": re.sub(r"(is in the future), it is \S+", r"\1", rejected["message"])}


def test_a_label_may_come_before_its_photo(store: Store, server: Running, truth: SqlTruth) -> None:
    assert counts(say(server, {"image_id": "early", "label": "1"})) == [1, 1, 0, 0, 1]
    store.add_predictions([row(1, image_id="early")])
    assert counts(say(server, {"image_id": "early", "label": "1"})) == [1, 0, 0, 1, 0]


def test_a_label_that_validation_rejected_is_news_when_it_is_said_again(store: Store, truth: SqlTruth) -> None:
    store.upsert_truth(
        [{"image_id": "a", "label": "1", "labelled_at": NOW, "said_by": "ada", "rejected": "an old reason"}]
    )
    answer = truth.write([{"image_id": "a", "label": "1", "labelled_at": None, "said_by": "ada"}])
    assert (answer["changed"], told(store)) == (1, {"a": ("1", "ada")})


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "is not JSON"),
        (b"{", 400, "is not JSON"),
        (b"[]", 400, "has no labels"),
        (b"3", 400, "send an object or a list"),
        (b'{"image_id": "a"}\n{"image_id": "b"}', 400, "application/x-ndjson"),
        (b'{"image_id": "a", "label": "shoe"}', 422, "'shoe': is no class"),
        (b'[{"image_id": "a"}]', 422, "label: is missing"),
        (b"[" * 100_000, 400, "is not JSON"),
        (b"[" + b",".join([b"1"] * (MOST + 1)) + b"]", 413, f"send at most {MOST}"),
        (b"[" + b" " * 3_000_000 + b"]", 413, "at most 3000000"),
    ],
)
def test_a_body_that_cannot_be_taken_says_why(
    store: Store, server: Running, body: bytes, status: int, words: str
) -> None:
    answer = say(server, body)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert told(store) == {}


def test_who_may_not_say_is_told_so(store: Store, server: Running) -> None:
    stranger = httpx.post(server.rest + PATH, json={"image_id": "a", "label": "1"})
    reader = say(server, {"image_id": "a", "label": "1"}, who="reader")
    assert (stranger.status_code, reader.status_code) == (401, 403)
    assert "needs scope truth" in reader.json()["error"]
    assert told(store) == {}


def test_a_database_that_is_away_is_a_503(server: Running, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = SqlTruth(load_settings(database_url="postgresql://nobody@127.0.0.1:1/none"), recipe())
    monkeypatch.setattr(server.server.truth, "truth", gone)
    answer = say(server, {"image_id": "a", "label": "1"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "not reachable" in answer.json()["error"]


def test_the_document_shows_how(server: Running) -> None:
    document = httpx.get(f"{server.rest}/openapi.json").json()
    operation = document["paths"][PATH]["post"]
    assert set(operation["requestBody"]["content"]) == {"application/json", "application/x-ndjson"}


labels = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=5),
    st.dictionaries(st.sampled_from([*FIELDS, "x"]), st.one_of(st.none(), st.integers(), st.text(max_size=30))),
    st.fixed_dictionaries(
        {"image_id": st.text(max_size=10), "label": st.sampled_from(["1", "zero", ""])},
        optional={
            "labelled_at": st.one_of(st.datetimes().map(lambda time: time.isoformat() + "Z"), st.text(max_size=9))
        },
    ),
)


@budget(max_examples=400, deadline=None)
@given(given=st.lists(labels, min_size=1, max_size=6), as_lines=st.booleans())
def test_every_label_is_taken_or_rejected_by_its_number(given: list[Any], as_lines: bool) -> None:
    if as_lines:
        body, kind = "\n".join(json.dumps(one) for one in given).encode(), "application/jsonl"
    else:
        body, kind = json.dumps(given).encode(), "application/json"
    rows, rejected = read_labels(body, kind, said_by="ada", now=NOW)
    assert sorted([one["row"] for one in rows] + [one["row"] for one in rejected]) == list(range(len(given)))
    for one in rows:
        assert one["label"]
        assert ("image_id" in one) != ("prediction_id" in one)
        assert one["labelled_at"] is None or NOW + timedelta(minutes=1) >= one["labelled_at"]


@budget(max_examples=300, deadline=None)
@given(body=st.binary(max_size=80), kind=st.sampled_from(["", "application/json", "application/x-ndjson"]))
def test_any_bytes_are_labels_or_a_problem(body: bytes, kind: str) -> None:
    try:
        rows, rejected = read_labels(body, kind, said_by="ada", now=NOW)
        status = 200 if rows or rejected else 0
    except Problem as problem:
        status = problem.kind.status
    assert status in (200, 400)
