"""Hops: names of components in other processes, and the way of a request through them."""

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.components.base import Call, Component
from serving.components.hops import HopError, Onward, open_hops, parse_hops, read_next
from serving.components.remote import Remote
from serving.messages import InferRequest, InferResponse, Tensor
from serving.photos import Photo
from serving.problems import Problem


class Marks(Component):
    """Writes its name where others can see it; gives what a component of its name gives."""

    def __init__(self, name: str, takes: tuple[str, ...], gives: tuple[str, ...]) -> None:
        self.name, self.takes, self.gives = name, takes, gives

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        for photo in photos:
            if photo.problem is None:
                photo.label = f"{photo.label} {self.name}".strip()
                photo.photo = photo.photo or b"downloaded"
                photo.image_spec = "made"


def parts() -> dict[str, Component]:
    return {
        "downloader": Marks("downloader", ("url",), ("photo", "error")),
        "preprocessor": Marks("preprocessor", ("photo",), ("image_spec", "error")),
        "classifier": Marks("classifier", ("image_spec",), ("label", "error")),
    }


def ask(component: Component, name: str, value: bytes, parameters: Mapping[str, object] = {}) -> InferResponse:
    request = InferRequest(component.name, [Tensor(name, "BYTES", (1,), [value])], parameters=dict(parameters))
    return asyncio.run(component.infer(request, Call(parameters=dict(parameters))))


def names(response: InferResponse) -> list[str]:
    return [tensor.name for tensor in response.outputs]


# ------------------------------------------------------------------------------------------ the setting


def test_the_setting_names_components_and_where_each_backend_is() -> None:
    assert parse_hops(" classifier=grpc://h:8001|grpcs://h2:8001, preprocessor=http://h:8000/ ,") == {
        "classifier": ("grpc://h:8001", "grpcs://h2:8001"),
        "preprocessor": ("http://h:8000",),
    }
    assert parse_hops("") == {}


@pytest.mark.parametrize(
    ("text", "names_it"),
    [
        ("classifier", "NAME=ADDRESS"),
        ("Classifier=http://h", "NAME=ADDRESS"),
        ("classifier=", "grpc, grpcs, http, https"),
        ("classifier=ftp://h:1", "grpc, grpcs, http, https"),
        ("classifier=h:8001", "grpc, grpcs, http, https"),
        ("classifier=grpc://h", "port"),
        ("classifier=http://h:1|", "grpc, grpcs, http, https"),
        ("classifier=http://h:123456", "Port"),
        ("classifier=http://h/v2", "only scheme, host and port"),
        ("classifier=http://user:secret@h", "only scheme, host and port"),
        ("classifier=http://h:1,classifier=http://h:2", "twice"),
    ],
)
def test_a_wrong_part_of_the_setting_is_named(text: str, names_it: str) -> None:
    with pytest.raises(HopError, match=names_it) as error:
        parse_hops(text)
    assert "secret" not in str(error.value)


PIECES = [
    "classifier",
    "a",
    "=",
    "|",
    ",",
    " ",
    "grpc://h:1",
    "http://h",
    "https://[::1]:2",
    "http://[",
    ":0",
    "@",
    "/",
    "é",
]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_any_text_is_hops_or_an_error_that_says_why(text: str) -> None:
    try:
        found = parse_hops(text)
    except HopError as error:
        said = str(error)
    else:
        said = "hops: read"
        assert all(addresses and all("://" in address for address in addresses) for addresses in found.values())
    assert said.startswith("hops: ")


def test_the_registry_has_what_is_here_and_what_is_elsewhere() -> None:
    here = parts()
    found = open_hops("classifier=grpc://127.0.0.1:1", local=here)
    assert isinstance(found["classifier"], Remote)
    assert found["preprocessor"] is here["preprocessor"]


# ------------------------------------------------------------------------------------------ the way


def test_a_request_goes_where_it_says_and_the_answer_is_the_last_one_s() -> None:
    component = Onward(parts()["downloader"], parts())
    response = ask(component, "url", b"http://x/1", {"next": "preprocessor,classifier"})
    assert names(response) == ["label", "error"]
    assert response.outputs[0].data == [b"downloader preprocessor classifier"]
    assert names(ask(component, "url", b"http://x/1", {"next": "preprocessor"})) == ["image_spec", "error"]
    assert names(ask(component, "url", b"http://x/1")) == ["photo", "error"]


def test_what_a_server_does_by_default_a_request_may_decide_itself() -> None:
    component = Onward(parts()["preprocessor"], parts(), ("classifier",))
    assert names(ask(component, "photo", b"x")) == ["label", "error"]
    assert names(ask(component, "photo", b"x", {"next": ""})) == ["image_spec", "error"]
    assert [spec.name for spec in component.metadata().outputs] == ["label", "error"]


def test_a_component_with_hops_lets_what_is_said_of_a_photo_through() -> None:
    component = Onward(parts()["preprocessor"], parts())
    assert component.takes == ("photo", "sender", "image_id", "captured_at")
    assert [spec.optional for spec in component.metadata().inputs] == [False, True, True, True]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("oracle", "hops are classifier, downloader, preprocessor"),
        ("http://evil:80", "an address is not taken"),
        ("grpc://evil:80", "an address is not taken"),
        ("classifier,classifier", "circles"),
        ("preprocessor", "circles"),
        ("classifier,preprocessor", "circles"),
        (",", "an address is not taken"),
        (",".join(f"a{i}" for i in range(9)), "at most 8"),
        ("a" * 10_000, "at most 8"),
        (7, "is no text"),
    ],
)
def test_a_way_that_cannot_be_gone_is_refused_before_any_work(asked: object, says: str) -> None:
    first = parts()["preprocessor"]
    photos = [Photo(photo=b"x")]
    with pytest.raises(Problem, match=says) as problem:
        asyncio.run(Onward(first, parts()).apply(photos, Call(parameters={"next": asked})))
    assert problem.value.kind.status == 400
    assert photos[0].label == ""
    assert len(problem.value.message) < 200


@given(st.one_of(st.text(max_size=30), st.lists(st.sampled_from([*"abcdefghij", " ", ""]), max_size=10).map(",".join)))
def test_any_next_is_names_or_a_bad_request(text: str) -> None:
    try:
        found = read_next("downloader", text)
    except Problem as problem:
        reason, found = problem.reason, ()
    else:
        reason = "bad_request"
    assert reason == "bad_request"
    assert "downloader" not in found
    assert len(set(found)) == len(found) <= 8


def test_a_default_that_goes_in_circles_is_refused_when_the_server_is_put_together() -> None:
    with pytest.raises(Problem, match="circles"):
        Onward(parts()["preprocessor"], {}, ("preprocessor",))


def test_a_hop_that_is_not_there_makes_its_server_not_ready() -> None:
    component = Onward(parts()["preprocessor"], {}, ("classifier",))
    assert "classifier" in (component.ready() or "")


def test_a_photo_s_problem_stops_it_and_no_other() -> None:
    photos = [Photo(photo=b"x"), Photo(photo=b"y", problem=Problem("unprocessable", "cut"))]
    asyncio.run(Onward(parts()["preprocessor"], parts(), ("classifier",)).apply(photos, Call()))
    assert [photo.label for photo in photos] == ["preprocessor classifier", ""]


def test_servers_that_send_each_other_photos_by_default_are_found_out() -> None:
    hops: dict[str, Component] = {}
    one = Onward(parts()["preprocessor"], hops, ("classifier",))
    two = Onward(parts()["classifier"], hops, ("preprocessor",))
    hops |= {"preprocessor": one, "classifier": two}
    with pytest.raises(Problem, match="circles"):
        asyncio.run(one.apply([Photo(photo=b"x")], Call()))


def test_outputs_are_chosen_among_those_of_the_last_hop() -> None:
    component = Onward(parts()["preprocessor"], parts())
    request = InferRequest("preprocessor", [Tensor("photo", "BYTES", (1,), [b"x"])])
    from serving.messages import Wanted

    request.outputs = [Wanted("label")]
    found = asyncio.run(component.infer(request, Call(parameters={"next": "classifier"})))
    assert names(found) == ["label"]
    with pytest.raises(Problem, match="no 'label' in the answer"):
        asyncio.run(component.infer(request, Call()))
    assert np.asarray(found.outputs[0].shape).tolist() == [1]
