"""Bad requests at real sockets: the right status, a message that says what to change, and a server that goes on."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from serving.problems import Problem
from tests.brightness import DARK, Broken, Slow, a_server
from tests.serving import Running, running

INFER = "/v2/models/classy/infer"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(a_server()) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.rest) as found:
        yield found


def tensor(**more: Any) -> dict[str, Any]:
    return {"name": "photo", "shape": [1], "datatype": "BYTES", "data": ["x"], **more}


# --------------------------------------------------------------------------------------------- /predict


@pytest.mark.parametrize(
    ("query", "content", "kind", "status", "says"),
    [
        ("", b"", "image/jpeg", 400, "photo's bytes"),
        ("?url=https://example.org/a.jpg", DARK, "image/jpeg", 400, "both are given"),
        ("?sneder=41", DARK, "image/jpeg", 400, "it takes url, sender"),
        ("?sender=1&sender=2", DARK, "image/jpeg", 400, "twice"),
        ("?sender=%ff", DARK, "image/jpeg", 400, "name=value"),
        ("?sender", DARK, "image/jpeg", 400, "name=value"),
        ("?sender=" + "x" * 9000, DARK, "image/jpeg", 400, "letters"),
        ("", DARK, "application/json", 415, "image/jpeg"),
        ("", DARK, "multipart/form-data; boundary=x", 415, "image/jpeg"),
        ("", b"<svg/>", "image/svg+xml", 422, "photo: "),
        ("?version=77", DARK, "image/jpeg", 404, "versions are 2, 1"),
    ],
)
def test_predict_says_what_to_change(
    client: httpx.Client, query: str, content: bytes, kind: str, status: int, says: str
) -> None:
    answer = client.post(f"/predict{query}", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    told = answer.json()
    assert says in told["error"]
    assert told["problem"]["message"] == told["error"]


def test_other_methods_and_paths_are_told_apart(client: httpx.Client) -> None:
    assert client.get("/predict").status_code == 405
    assert client.get("/predict").headers["allow"] == "POST"
    assert client.get(INFER).status_code == 405
    assert client.delete("/v2").status_code == 405
    for path in ("/nope", "/v2/models//infer", "/v2/models/classy/versions//infer", "/v2/models/a/b/infer"):
        answer = client.post(path)
        assert answer.status_code == 404, path
        assert "no such path" in answer.json()["error"]


# ------------------------------------------------------------------------------------------------ infer


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "not JSON"),
        (b"[]", 400, "must be a JSON object, is a list"),
        (b"{}", 400, "inputs: must be a list of tensors, is missing"),
        (b'{"inputs": []}', 400, "inputs: is empty"),
        ({"inputs": [tensor(name="foto")]}, 400, "it takes photo"),
        ({"inputs": [tensor(datatype="FP32", data=[1.0])]}, 400, "input photo: is FP32, must be BYTES"),
        ({"inputs": [tensor(shape=[1, 2], data=["x", "y"])]}, 400, "has shape [1, 2], must be [N]"),
        ({"inputs": [tensor(shape=[17], data=["x"] * 17)]}, 413, "at most 16"),
        ({"inputs": [tensor(), tensor()]}, 400, "twice"),
        ({"inputs": [tensor()], "outputs": [{"name": "nope"}]}, 400, "it gives probabilities"),
        ({"inputs": [tensor()], "parameters": {"timeout": "soon"}}, 400, "microseconds"),
        ({"inputs": [tensor()], "parameters": {"timeout": -1}}, 400, "more than 0"),
        ({"inputs": [tensor()], "parameters": {"a": [1]}}, 400, "must be a number, text or boolean"),
        ({"inputs": [tensor(), {**tensor(), "name": "error", "data": ["garbage"]}]}, 400, "not a problem"),
    ],
)
def test_infer_says_what_to_change(client: httpx.Client, body: Any, status: int, says: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(INFER, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]


def test_deep_json_is_refused_before_it_is_built(client: httpx.Client) -> None:
    for text in (b"[" * 90_000, b'{"inputs":' + b'{"a":' * 17 + b"1" + b"}" * 18):
        answer = client.post(INFER, content=text)
        assert answer.status_code == 400
        assert "at most 16" in answer.json()["error"]


def test_lengths_that_lie_are_refused(client: httpx.Client) -> None:
    header = json.dumps({"inputs": [{**tensor(), "parameters": {"binary_data_size": 9}}]}).replace(
        '"data": ["x"], ', ""
    )
    good = struct.pack("<I", 5) + b"abcde"
    for behind, length, says in (
        (good[:-1], len(header), "binary_data_size is 9"),
        (good + b"more", len(header), "4 bytes that no input"),
        (good, len(header) + 100, "Inference-Header-Content-Length"),
        (good, -1, "Inference-Header-Content-Length"),
        (good, "x", "Inference-Header-Content-Length"),
        (good, len(header) - 3, "not JSON"),
        (struct.pack("<I", 2**32 - 1) + b"abcde", len(header), "4 bytes of length"),
    ):
        answer = client.post(
            INFER, content=header.encode() + behind, headers={"inference-header-content-length": str(length)}
        )
        assert answer.status_code == 400, answer.text
        assert says in answer.json()["error"], answer.text


def test_numbers_that_are_none_are_refused(client: httpx.Client) -> None:
    pixels = tensor(name="image", datatype="UINT8", shape=[1, 1, 1, 3], data=[1, 2, 3])
    for context, says in (([1e300], "NaN or infinite"), (["NaN"], "must be FP32")):
        known = tensor(name="context", datatype="FP32", shape=[1, 1], data=context)
        answer = client.post("/v2/models/numbers/infer", json={"inputs": [pixels, known]})
        assert answer.status_code == 400, answer.text
        assert says in answer.json()["error"]
    header = json.dumps(
        {
            "inputs": [
                pixels,
                {"name": "context", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}},
            ]
        }
    )
    nan = np.array([np.nan], np.float32).tobytes()
    answer = client.post(
        "/v2/models/numbers/infer", content=header.encode() + nan,
        headers={"inference-header-content-length": str(len(header))},
    )  # fmt: skip
    assert answer.status_code == 400
    assert "NaN" in answer.json()["error"]


def test_a_wrong_content_type_is_415(client: httpx.Client) -> None:
    answer = client.post(INFER, content=b"<a/>", headers={"content-type": "application/xml"})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]


def test_an_error_nobody_foresaw_is_500_and_tells_nothing_of_the_inside(server: Running, client: httpx.Client) -> None:
    broken = server.server.components["broken"]
    assert isinstance(broken, Broken)
    broken.error = RuntimeError("secret inside")
    answer = client.post("/v2/models/broken/infer", json={"inputs": [tensor()]})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as other:
        with pytest.raises(InferenceServerException) as error:
            other.infer("broken", [_photo()])
        assert error.value.status() == "StatusCode.INTERNAL"
        assert "secret" not in error.value.message()


def test_busy_says_when_to_come_again(server: Running, client: httpx.Client) -> None:
    broken = server.server.components["broken"]
    assert isinstance(broken, Broken)
    broken.error = Problem("busy", "the queue is full", retry_after=0.25)
    answer = client.post("/v2/models/broken/infer", json={"inputs": [tensor()]})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.json()["problem"]["retry_after"] == 0.25
    broken.error = Problem("unavailable", "no model is loaded")
    answer = client.post("/v2/models/broken/infer", json={"inputs": [tensor()]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


# ---------------------------------------------------------------------------------- time and hanging up


def test_a_client_may_ask_for_less_time_over_rest(client: httpx.Client) -> None:
    body = {"inputs": [tensor()]}
    for headers, parameters in (({"x-timeout-ms": "60"}, {}), ({}, {"timeout": 60_000})):
        start = time.perf_counter()
        answer = client.post("/v2/models/slow/infer", json={**body, "parameters": parameters}, headers=headers)
        assert answer.status_code == 504
        assert 0.05 < time.perf_counter() - start < 3
    for wrong in ("soon", "-1", "nan", "0"):
        answer = client.post("/v2/models/slow/infer", json=body, headers={"x-timeout-ms": wrong})
        assert answer.status_code == 400, wrong


def test_a_client_may_ask_for_less_time_over_grpc(server: Running) -> None:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        for more in ({"client_timeout": 0.1}, {"timeout": 60_000}):
            with pytest.raises(InferenceServerException) as error:
                client.infer("slow", [_photo()], **more)
            assert error.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_a_client_that_hangs_up_ends_the_work(server: Running) -> None:
    slow = server.server.components["slow"]
    assert isinstance(slow, Slow)
    body = json.dumps({"inputs": [tensor()]}).encode()
    slow.begun.clear()
    slow.cancelled.clear()
    with socket.create_connection(("127.0.0.1", server.rest_port)) as wire:
        wire.sendall(b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        _wait(server, slow, "begun")
    _wait(server, slow, "cancelled")


def test_a_cancelled_grpc_call_ends_the_work(server: Running) -> None:
    slow = server.server.components["slow"]
    assert isinstance(slow, Slow)
    slow.begun.clear()
    slow.cancelled.clear()
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        call = client.async_infer("slow", [_photo()], callback=lambda result, error: None)
        _wait(server, slow, "begun")
        call.cancel()
        _wait(server, slow, "cancelled")


def _wait(server: Running, slow: Slow, event: str) -> None:
    asyncio.run_coroutine_threadsafe(asyncio.wait_for(getattr(slow, event).wait(), 5), server.loop).result(6)


def _photo() -> Any:
    made = triton_grpc.InferInput("photo", [1], "BYTES")
    made.set_data_from_numpy(np.array([DARK], object))
    return made


# -------------------------------------------------------------------------------------------------- gRPC


def test_malformed_grpc_is_the_callers_mistake(server: Running) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        methods = ("ModelInfer", "ModelMetadata", "ServerReady", "RepositoryIndex", "RepositoryModelLoad")
        for method in methods:
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"\xff\xff\xff")
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT, method
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary("/inference.GRPCInferenceService/ModelStatistics")(b"")
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_over_the_limit_is_refused_also_when_it_was_compressed(
    server: Running, compression: grpc.Compression
) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as error:
            call(b"\0" * 3_000_000, compression=compression)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_grpc_tensors_that_do_not_fit_are_named(server: Running) -> None:
    from tritonclient.grpc import service_pb2

    def asked(**more: Any) -> Any:
        made = service_pb2.ModelInferRequest(model_name="classy")
        made.inputs.add(**{"name": "photo", "datatype": "BYTES", "shape": [1], **more})
        return made

    short, both, several = asked(), asked(), asked()
    short.raw_input_contents.append(b"\x09\0\0\0abc")
    both.inputs[0].contents.bytes_contents.append(b"x")
    both.raw_input_contents.append(b"\x01\0\0\0x")
    several.raw_input_contents.extend([b"", b""])
    negative = asked(shape=[-1])
    half = asked(datatype="FP16")
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for message, says in (
            (short, "4 bytes of length"), (both, "contents beside raw"), (several, "2 elements for 1 inputs"),
            (negative, "shape has -1"), (half, "sent raw"), (asked(), "bytes_contents has 0 values"),
            (service_pb2.ModelInferRequest(model_name="classy"), "inputs: is empty"),
        ):  # fmt: skip
            with pytest.raises(grpc.RpcError) as error:
                call(message.SerializeToString())
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert says in error.value.details()


# ----------------------------------------------------------------------------------------------- anything


@given(st.binary(max_size=200), st.sampled_from(["/predict", INFER, "/v2/models/numbers/infer"]), st.booleans())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_makes_a_500(client: httpx.Client, content: bytes, path: str, binary: bool) -> None:
    headers = {"inference-header-content-length": str(len(content) // 2)} if binary else {}
    assert client.post(path, content=content, headers=headers).status_code in (200, 400, 415, 422)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-300, 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)


@given(
    st.sampled_from(["classy", "numbers"]),
    st.lists(
        st.fixed_dictionaries(
            {
                "name": st.sampled_from(["photo", "url", "sender", "captured_at", "image", "context", "error"]),
                "datatype": st.sampled_from(["BYTES", "UINT8", "FP32", "INT64", "BOOL"]),
                "shape": st.lists(st.integers(0, 3), max_size=4),
                "data": st.lists(SCALARS, max_size=6),
            }
        ),
        max_size=3,
    ),
)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_tensors_make_a_500(client: httpx.Client, model: str, inputs: list[dict[str, Any]]) -> None:
    answer = client.post(f"/v2/models/{model}/infer", json={"inputs": inputs})
    assert answer.status_code in (200, 400, 413, 422), answer.text


@given(st.binary(max_size=60))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_message_makes_grpc_fail_inside(server: Running, data: bytes) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as error:
            call(b"\x0a\x06classy" + data)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_after_all_of_it_the_server_still_answers(client: httpx.Client) -> None:
    assert client.post("/predict", content=DARK).json()["label"] == "dark"
