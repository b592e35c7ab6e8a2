"""Requests and answers as bytes: what goes in comes out, and what is no request is refused and breaks nothing."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.channels import restwire
from serving.messages import BYTES, DATATYPES, InferRequest, InferResponse, ModelMetadata, Tensor, TensorSpec, Wanted
from serving.problems import Problem
from serving.wire import protobuf, rest, rpc
from serving.wire.depth import check_depth
from serving.wire.tensors import from_raw, from_values, to_raw, to_values

ROOT = Path(__file__).parents[1]
NAMES = st.text(min_size=1, max_size=12)


@st.composite
def tensors(draw: st.DrawFn, *, finite: bool = False) -> Tensor:
    name, datatype = draw(NAMES), draw(st.sampled_from([*DATATYPES, BYTES]))
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    if datatype == BYTES:
        count = int(np.prod(shape))
        return Tensor(name, datatype, shape, draw(st.lists(st.binary(max_size=9), min_size=count, max_size=count)))
    dtype = DATATYPES[datatype]
    kind = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    return Tensor(name, datatype, shape, draw(arrays.arrays(dtype, shape, elements=kind or None)))


def assert_same(one: Tensor, other: Tensor) -> None:
    assert (one.name, one.datatype, tuple(one.shape)) == (other.name, other.datatype, tuple(other.shape))
    if isinstance(one.data, list):
        assert one.data == other.data
    else:
        np.testing.assert_array_equal(one.data, other.data)
        assert isinstance(other.data, np.ndarray)
        assert one.data.dtype == other.data.dtype


PARAMETERS = st.dictionaries(
    NAMES.filter(lambda name: name not in ("binary_data_size", "binary_data_output", "shared_memory_region")),
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    max_size=3,
)
REQUESTS = st.builds(
    InferRequest, st.just("classy"), st.lists(tensors(), min_size=1, max_size=3), id=st.text(max_size=5),
    parameters=PARAMETERS, outputs=st.lists(st.builds(Wanted, NAMES), max_size=2),
)  # fmt: skip


@given(tensors())
@settings(max_examples=100, deadline=None)
def test_a_tensor_as_raw_bytes_comes_back(tensor: Tensor) -> None:
    assert_same(tensor, from_raw(tensor.name, tensor.datatype, tensor.shape, to_raw(tensor)))


@given(tensors())
@settings(max_examples=100, deadline=None)
def test_a_tensor_as_json_comes_back(tensor: Tensor) -> None:
    values, encoded = to_values(tensor)
    text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    parameters = {"content_type": "base64"} if encoded else {}
    back = from_values(tensor.name, tensor.datatype, tensor.shape, orjson.loads(text), parameters)
    assert_same(tensor, back)


@given(REQUESTS)
@settings(max_examples=60, deadline=None)
def test_a_request_survives_both_wires(request: InferRequest) -> None:
    length, body = restwire.write_request(request)
    over_rest = rest.read_request(body, str(length), model=request.model)
    over_grpc, raw = rpc.read_request(rpc.write_request(request))
    assert raw or not request.inputs
    for found in (over_rest, over_grpc):
        assert found.id == request.id
        assert request.parameters.items() <= found.parameters.items()
        assert [wanted.name for wanted in found.outputs] == [wanted.name for wanted in request.outputs]
        for one, other in zip(request.inputs, found.inputs, strict=True):
            assert_same(one, other)


@given(REQUESTS, st.lists(tensors(), max_size=3, unique_by=lambda tensor: tensor.name), st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_answer_survives_both_wires(request: InferRequest, outputs: list[Tensor], raw: bool) -> None:
    response = InferResponse("classy", outputs, version="7", id=request.id, parameters={"model_ms": 0.5})
    request.parameters["binary_data_output"] = raw
    body, length = rest.write_response(response, request)
    assert (length is not None) == bool(raw and outputs)
    for found in (restwire.read_response(body, length), rpc.read_response(rpc.write_response(response, raw=raw))):
        assert (found.model, found.version, found.id) == ("classy", "7", request.id)
        assert found.parameters == {"model_ms": 0.5}
        if raw:  # JSON's base64 is for readers that ask for it
            for one, other in zip(outputs, found.outputs, strict=True):
                assert_same(one, other)


def test_metadata_survives_grpc() -> None:
    spec = TensorSpec("photo", BYTES, (-1,), optional=True)
    found = ModelMetadata(
        "classy", "onnx", (spec,), (TensorSpec("p", "FP32", (-1, 2)),), ("7",), {"classes": ["a", "b"]}
    )
    assert rpc.read_metadata(rpc.write_metadata(found)) == found


def problem_of(read: Callable[[], object]) -> Problem | None:
    """What a reader refuses with; anything else that it raises fails the test."""
    try:
        read()
    except Problem as problem:
        return problem
    return None


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=20,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("photo") | JSONS,
        "datatype": st.sampled_from([*DATATYPES, BYTES, "BF16"]) | JSONS,
        "shape": st.lists(st.integers(-2, 2**40) | st.integers(0, 3), max_size=9) | JSONS,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-5, 2**70) | JSONS}) | JSONS,
        "data": JSONS,
    },
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "id": JSONS,
        "inputs": st.lists(FIELDS, max_size=3) | JSONS,
        "outputs": st.lists(FIELDS, max_size=2) | JSONS,
        "parameters": JSONS,
    },
)


@given(BODIES | JSONS, st.binary(max_size=20))
@settings(max_examples=300, deadline=None)
def test_any_json_is_a_request_or_a_problem_of_its_sender(body: object, behind: bytes) -> None:
    try:
        text = orjson.dumps(body)
    except TypeError:  # an integer beyond 64 bits
        text = str(body).encode("utf-8", "replace")
    for given_body, length in ((text, None), (text + behind, str(len(text)))):
        problem = problem_of(partial(rest.read_request, given_body, length, model="classy"))
        assert problem is None or (problem.kind.status == 400 and len(problem.message) < 600), problem


@given(REQUESTS, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6), st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_damaged_protobuf_is_a_request_or_a_problem_of_its_sender(
    request: InferRequest, flips: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(rpc.write_request(request))
    for place, value in flips:
        if data:
            data[place % len(data)] = value
    problem = problem_of(partial(rpc.read_request, bytes(data[: len(data) - cut])))
    assert problem is None or problem.kind.status == 400, problem


@given(JSONS, st.integers(0, 6))
@settings(max_examples=300, deadline=None)
def test_depth_is_what_a_reader_would_find(value: object, limit: int) -> None:
    def depth(one: object) -> int:
        if isinstance(one, dict):
            return 1 + max(map(depth, one.values()), default=0)
        return 1 + max(map(depth, one), default=0) if isinstance(one, list) else 0

    try:
        text = orjson.dumps(value)
    except TypeError:
        return
    if depth(value) > limit:
        with pytest.raises(Problem, match="nested"):
            check_depth(text, limit)
    else:
        check_depth(text, limit)


def test_brackets_and_escapes_in_texts_are_not_depth() -> None:
    check_depth(rb'{"a": "[[[[\"{{{{\\", "b": "\n[["}', 1)
    with pytest.raises(Problem, match="3 deep"):
        check_depth(rb'{"\\": [["\"]]"]]}', 2)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "says"),
    [
        ("UINT8", [2], [1, 256], "0 to 255"),
        ("UINT8", [2], [1, -1], "0 to 255"),
        ("UINT8", [1], [1.5], "has 1.5, must be UINT8"),
        ("INT64", [1], ["1"], "has '1', must be INT64"),
        ("INT32", [1], [True], "has True, must be INT32"),
        ("BOOL", [1], [1], "has 1, must be BOOL"),
        ("FP32", [1], [None], "has null, must be FP32"),
        ("FP32", [3], [1.0, 2.0], "has 2 values; shape [3] has 3"),
        ("FP32", [2, 2], [[1.0, 2.0], 3.0], "side by side"),
        ("BYTES", [1], [1], "must be strings"),
        ("BF16", [1], [1.0], "must be one of BOOL"),
        ("FP32", [-1], [1.0], "shape has -1"),
        ("FP32", "1", [1.0], "must be a list"),
        ("FP32", [1.0], [1.0], "shape has 1.0"),
        ("FP32", [0] * 9, [], "up to 8"),
        ("FP32", [0, 2**31 - 1, 2**31 - 1, 2**31 - 1], [], "too large"),
        ("FP32", [1], {"b64": ""}, "data must be a list"),
    ],
)
def test_a_wrong_tensor_names_what_is_wrong(datatype: str, shape: object, data: object, says: str) -> None:
    body = orjson.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}]})
    with pytest.raises(Problem) as error:
        rest.read_request(body, model="classy")
    assert says in error.value.message
    assert error.value.message.startswith("input x: ")


def test_a_name_that_is_no_name_is_not_told_back() -> None:
    name = "x" * 100_000
    for body in (
        {"inputs": [{"name": name, "shape": [1], "datatype": "FP32", "data": [1.0]}]},
        {"inputs": [], "outputs": [{"name": name}]},
    ):
        problem = problem_of(partial(rest.read_request, orjson.dumps(body), model="classy"))
        assert problem is not None
        assert len(problem.message) < 300


def test_nan_is_not_json() -> None:
    body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [NaN]}]}'
    with pytest.raises(Problem, match="not JSON"):
        rest.read_request(body, model="classy")


def test_base64_is_decoded_where_the_input_says_so() -> None:
    entry = {"name": "photo", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
    found = rest.read_request(orjson.dumps({"inputs": [{**entry, "data": ["/9g="]}]}), model="classy")
    assert found.inputs[0].data == [b"\xff\xd8"]
    with pytest.raises(Problem, match="not base64"):
        rest.read_request(orjson.dumps({"inputs": [{**entry, "data": ["/9g"]}]}), model="classy")


def test_bytes_with_lying_lengths_are_refused() -> None:
    for raw in (b"\x05\0\0\0abc", b"\xff\xff\xff\xff", b"\0\0\0", b"\0\0\0\0\0\0\0\0", b"", b"\0\0\0\0x"):
        with pytest.raises(Problem, match="4 bytes of length"):
            from_raw("photo", BYTES, (1,), raw)


def test_numbers_are_not_copied_from_the_body() -> None:
    body = np.arange(6, dtype=np.float32).tobytes()
    found = from_raw("x", "FP32", (2, 3), memoryview(body)).data
    assert isinstance(found, np.ndarray)
    assert found.base is not None
    assert not found.flags.writeable


def test_the_compiled_messages_are_those_of_the_proto_files() -> None:
    folder = ROOT / "serving" / "wire"
    with tempfile.TemporaryDirectory() as made:
        output = Path(made) / "inference.pb"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--descriptor_set_out={output}"]
        subprocess.run([*command, *protobuf.FILES], check=True)
        assert output.read_bytes() == (folder / protobuf.COMPILED).read_bytes(), "compile it again: see protobuf.py"
