"""The Open Inference Protocol v2 as a client that nobody here wrote speaks it: tritonclient, over HTTP and gRPC."""

from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from google.protobuf import descriptor_pb2
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from serving.components.base import Identity
from serving.problems import KINDS, Problem
from serving.wire import protobuf
from tests.brightness import DARK, LIGHT, Brightness, Shelf, a_server
from tests.serving import Running, running


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(a_server()) as found:
        yield found


@pytest.fixture(scope="module")
def clients(server: Running) -> Iterator[dict[str, Any]]:
    http = triton_http.InferenceServerClient(f"127.0.0.1:{server.rest_port}")
    rpc = triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    yield {"http": (triton_http, http), "grpc": (triton_grpc, rpc)}
    http.close()
    rpc.close()


@pytest.fixture(params=["http", "grpc"])
def triton(request: pytest.FixtureRequest, clients: dict[str, Any]) -> tuple[Any, Any]:
    """tritonclient's module and a client of it."""
    return clients[request.param]


def photos_input(module: Any, photos: list[bytes], **more: Any) -> Any:
    made = module.InferInput("photo", [len(photos)], "BYTES")
    made.set_data_from_numpy(np.array(photos, object), **more)
    return made


def texts(result: Any, name: str) -> list[str]:
    return [text.decode() if isinstance(text, bytes) else text for text in result.as_numpy(name).tolist()]


def test_health_and_metadata_are_told(triton: tuple[Any, Any]) -> None:
    module, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("classy")
    assert client.is_model_ready("classy", "2")
    as_json = {"as_json": True} if module is triton_grpc else {}
    about = client.get_server_metadata(**as_json)
    assert about["name"] == "classy"
    assert set(about["extensions"]) == {"binary_tensor_data", "model_repository"}
    model = client.get_model_metadata("classy", "1", **as_json)
    assert model["versions"] == ["2", "1"]
    assert {"name": "photo", "datatype": "BYTES"}.items() <= model["inputs"][0].items()
    probabilities = next(output for output in model["outputs"] if output["name"] == "probabilities")
    assert [int(side) for side in probabilities["shape"]] == [-1, 2]


def test_a_batch_of_jpegs_is_answered_and_one_bad_photo_spoils_no_other(triton: tuple[Any, Any]) -> None:
    module, client = triton
    result = client.infer("classy", [photos_input(module, [DARK, b"GIF89a no more", LIGHT])], request_id="17")
    assert texts(result, "label") == ["dark", "", "light"]
    assert result.as_numpy("probabilities").shape == (3, 2)
    assert result.as_numpy("probabilities").dtype == np.float32
    assert result.as_numpy("probabilities").sum(axis=1).round(5).tolist() == [1.0, 0.0, 1.0]
    assert result.as_numpy("generation").tolist() == [3, 0, 3]
    problems = texts(result, "error")
    assert [bool(problem) for problem in problems] == [False, True, False]
    assert '"truncated"' in problems[1] or '"not_an_image"' in problems[1]
    response = result.get_response()
    assert (response["id"] if isinstance(response, dict) else response.id) == "17"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_compressed_request_is_answered(triton: tuple[Any, Any], algorithm: str) -> None:
    module, client = triton
    name = "request_compression_algorithm" if module is triton_http else "compression_algorithm"
    result = client.infer("classy", [photos_input(module, [DARK, LIGHT])], **{name: algorithm})
    assert texts(result, "label") == ["dark", "light"]


def test_binary_and_json_tensors_give_the_same_answer(server: Running, clients: dict[str, Any]) -> None:
    module, client = clients["http"]
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (2, 4, 4, 3), np.uint8)
    context = rng.normal(size=(2, 3)).astype(np.float32)
    found = []
    for binary in (True, False):
        given = [module.InferInput("image", image.shape, "UINT8"), module.InferInput("context", context.shape, "FP32")]
        given[0].set_data_from_numpy(image, binary_data=binary)
        given[1].set_data_from_numpy(context, binary_data=binary)
        names = ("image", "context", "defaulted", "generation")
        outputs = [module.InferRequestedOutput(name, binary_data=binary) for name in names]
        found.append(client.infer("numbers", given, outputs=outputs))
    for result in found:
        np.testing.assert_array_equal(result.as_numpy("image"), image)
        np.testing.assert_array_equal(result.as_numpy("context"), context)
        assert result.as_numpy("generation").tolist() == [int(one.sum()) for one in image]
        assert result.as_numpy("defaulted").tolist() == [False, False]
    assert "data" in found[1].get_output("image")
    assert found[0].get_output("image")["parameters"]["binary_data_size"] == image.nbytes


def test_only_the_asked_outputs_come_each_in_the_asked_form(clients: dict[str, Any]) -> None:
    module, client = clients["http"]
    outputs = [module.InferRequestedOutput("label", binary_data=False), module.InferRequestedOutput("confidence")]
    found = client.infer("classy", [photos_input(module, [LIGHT])], outputs=outputs).get_response()["outputs"]
    assert [output["name"] for output in found] == ["label", "confidence"]
    assert found[0]["data"] == ["light"]
    assert found[1]["parameters"]["binary_data_size"] == 4


def test_typed_contents_are_read_and_answered_typed(server: Running) -> None:
    asked = service_pb2.ModelInferRequest(model_name="numbers", id="t")
    image = asked.inputs.add(name="image", datatype="UINT8", shape=[1, 1, 2, 3])
    image.contents.uint_contents.extend([1, 2, 3, 4, 5, 255])
    context = asked.inputs.add(name="context", datatype="FP32", shape=[1, 2])
    context.contents.fp32_contents.extend([0.5, -1.0])
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        answer = call(asked)
    assert not answer.raw_output_contents
    contents = {output.name: output.contents for output in answer.outputs}
    assert list(contents["image"].uint_contents) == [1, 2, 3, 4, 5, 255]
    assert list(contents["context"].fp32_contents) == [0.5, -1.0]
    assert list(contents["generation"].int64_contents) == [270]
    assert list(contents["defaulted"].bool_contents) == [False]
    assert list(contents["photo"].bytes_contents) == [b"\xff\xd8 not text"]


def test_a_single_bad_photo_fails_as_its_request(triton: tuple[Any, Any]) -> None:
    module, client = triton
    with pytest.raises(InferenceServerException) as error:
        client.infer("classy", [photos_input(module, [b"no photo at all"])])
    assert "photo:" in error.value.message()
    assert error.value.status() in ("422", "StatusCode.INVALID_ARGUMENT")


def test_an_unknown_model_version_or_input_says_what_there_is(triton: tuple[Any, Any]) -> None:
    module, client = triton
    for model, version, says in (("nope", "", "classy"), ("classy", "77", "2, 1")):
        with pytest.raises(InferenceServerException, match=says) as error:
            client.infer(model, [photos_input(module, [DARK])], model_version=version)
        assert error.value.status() in ("404", "StatusCode.NOT_FOUND")
    wrong = module.InferInput("foto", [1], "BYTES")
    wrong.set_data_from_numpy(np.array([DARK], object))
    with pytest.raises(InferenceServerException, match="it takes photo, url"):
        client.infer("classy", [wrong])


def test_a_version_in_the_path_pins_what_answers(triton: tuple[Any, Any]) -> None:
    module, client = triton
    given = [photos_input(module, [DARK])]
    assert texts(client.infer("classy", given, model_version="1"), "model_version") == ["1"]
    assert texts(client.infer("classy", given), "model_version") == ["2"]


def test_parameters_and_headers_reach_the_component(server: Running, triton: tuple[Any, Any]) -> None:
    module, client = triton
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    client.infer(
        "classy", [photos_input(module, [DARK])], parameters={"arm": "champion", "sender": "41"}, timeout=3_000_000,
        headers={"authorization": "Bearer abc", "traceparent": trace},
    )  # fmt: skip
    part = server.server.components["classy"]
    assert isinstance(part, Brightness)
    call = part.calls[-1]
    assert call.parameters["arm"] == "champion"
    assert call.headers["authorization"] == "Bearer abc"
    assert call.headers["traceparent"] == trace
    assert call.photos[0].sender == "41"
    assert call.deadline is not None


def test_the_repository_is_listed_loaded_and_unloaded(server: Running, triton: tuple[Any, Any]) -> None:
    module, client = triton
    shelf = server.server.repository
    assert isinstance(shelf, Shelf)
    shelf.loaded.clear()
    as_json = {"as_json": True} if module is triton_grpc else {}
    index = client.get_model_repository_index(**as_json)
    rows = index["models"] if module is triton_grpc else index
    assert [(row["version"], row["state"]) for row in rows] == [("2", "READY"), ("9", "UNAVAILABLE")]
    with pytest.raises(InferenceServerException, match="version is missing"):
        client.load_model("classy")
    client.unload_model("classy")
    assert [verb for verb, _ in shelf.loaded] == ["unload"]
    with pytest.raises(InferenceServerException, match="not served here"):
        client.load_model("nope")


def test_load_takes_its_version_from_the_parameters(server: Running) -> None:
    answer = httpx.post(f"{server.rest}/v2/repository/models/classy/load", json={"parameters": {"version": "9"}})
    assert answer.status_code == 200
    assert server.server.repository.loaded[-1] == ("load", "9")  # type: ignore[union-attr]
    ready = httpx.post(f"{server.rest}/v2/repository/index", json={"ready": True}).json()
    assert [row["version"] for row in ready] == ["2"]


def test_grpc_health_is_told_to_balancers(server: Running) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=protobuf.HealthCheckRequest.SerializeToString,
            response_deserializer=protobuf.HealthCheckResponse.FromString,
        )
        for name in ("", "classy", "inference.GRPCInferenceService"):
            assert check(protobuf.HealthCheckRequest(service=name)).status == 1
        with pytest.raises(grpc.RpcError) as error:
            check(protobuf.HealthCheckRequest(service="nope"))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_messages_are_tritons_own_with_its_numbers_and_types() -> None:
    theirs = descriptor_pb2.FileDescriptorProto()
    service_pb2.DESCRIPTOR.CopyToProto(theirs)
    ours = descriptor_pb2.FileDescriptorProto()
    protobuf.pool().FindFileByName("inference.proto").CopyToProto(ours)

    def fields(messages: Any, above: str = "") -> dict[tuple[str, int], tuple[str, int, int]]:
        found = {}
        for message in messages:
            for one in message.field:
                found[above + message.name, one.number] = (one.name, one.type, one.label)
            found |= fields(message.nested_type, f"{above}{message.name}.")
        return found

    known, added = fields(theirs.message_type), []
    for place, field in fields(ours.message_type).items():
        if place in known:
            assert known[place] == field, place
        else:
            added.append(".".join((place[0], field[0])))
    assert sorted(name for name in added if "ParametersEntry" not in name) == [
        "ModelMetadataResponse.TensorMetadata.parameters",
        "ModelMetadataResponse.parameters",
    ]
    methods = {(one.name, one.input_type, one.output_type) for one in theirs.service[0].method}
    assert {(one.name, one.input_type, one.output_type) for one in ours.service[0].method} <= methods


class Doorkeeper:
    """Lets in who says a word; only the owner may change models."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    async def admit(self, credentials: str | None, *, scope: str, photos: int = 1, peer: str = "") -> Identity:
        self.asked.append((scope, photos))
        if credentials is None:
            raise Problem("unauthenticated", "send an API key")
        if credentials == "Bearer busy":
            raise Problem("over_quota", "too many photos; wait 2.5 s", retry_after=2.5)
        scopes = frozenset({"infer", "admin"} if credentials == "Bearer owner" else {"infer"})
        found = Identity(subject=credentials, scopes=scopes)
        found.need(scope)
        return found


@pytest.fixture(scope="module")
def guarded() -> Iterator[Running]:
    with running(a_server(gate=Doorkeeper())) as found:
        yield found


def test_who_may_not_is_told_so_on_every_route(guarded: Running) -> None:
    with httpx.Client(base_url=guarded.rest) as client:
        for method, path in (
            ("POST", "/predict"), ("POST", "/v2/models/classy/infer"), ("GET", "/v2"), ("GET", "/v2/models/classy"),
            ("POST", "/v2/repository/index"), ("POST", "/v2/repository/models/classy/load"),
        ):  # fmt: skip
            answer = client.request(method, path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.json()["error"] == "send an API key"
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/classy/ready", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200, path
        user = {"x-api-key": "user"}
        assert client.post("/predict", content=DARK, headers=user).json()["label"] == "dark"
        refused = client.post("/v2/repository/models/classy/load", headers=user)
        assert refused.status_code == 403
        assert "admin" in refused.json()["error"]
        busy = client.post("/predict", content=DARK, headers={"authorization": "Bearer busy"})
        assert (busy.status_code, busy.headers["retry-after"]) == (429, "3")
        assert busy.json()["problem"]["retry_after"] == 2.5


def test_who_may_not_is_told_so_over_grpc(guarded: Running) -> None:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{guarded.grpc_port}") as client:
        given = [photos_input(triton_grpc, [DARK])]
        for headers, status in (
            (None, "UNAUTHENTICATED"), ({"authorization": "Bearer busy"}, "RESOURCE_EXHAUSTED"),
        ):  # fmt: skip
            with pytest.raises(InferenceServerException) as error:
                client.infer("classy", given, headers=headers)
            assert error.value.status() == f"StatusCode.{status}"
        with pytest.raises(InferenceServerException, match="admin"):
            client.load_model("classy", headers={"x-api-key": "user"})
        assert texts(client.infer("classy", given, headers={"x-api-key": "user"}), "label") == ["dark"]


def test_every_photo_of_a_batch_counts(guarded: Running) -> None:
    gate = guarded.server.gate
    assert isinstance(gate, Doorkeeper)
    gate.asked.clear()
    with triton_http.InferenceServerClient(f"127.0.0.1:{guarded.rest_port}") as client:
        client.infer("classy", [photos_input(triton_http, [DARK] * 5)], headers={"x-api-key": "user"})
    assert sum(photos for scope, photos in gate.asked if scope == "infer") == 5


def test_every_reason_has_a_status_of_both_protocols() -> None:
    for reason, kind in KINDS.items():
        assert 400 <= kind.status < 600, reason
        assert hasattr(grpc.StatusCode, kind.code), reason
