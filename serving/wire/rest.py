"""The Open Inference Protocol over REST: JSON, and tensors as raw bytes behind it.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md, with the binary
tensor extension: the HTTP header `Inference-Header-Content-Length` says where the JSON ends, `binary_data_size` of an
input how many of the bytes behind it are its own, `binary_data` of an output and `binary_data_output` of the request
that answers come as raw bytes too.
"""

from typing import Any

import orjson

from serving.messages import InferRequest, InferResponse, ModelMetadata, Parameters, Tensor, TensorSpec, Wanted
from serving.problems import Problem
from serving.wire.depth import check_depth
from serving.wire.tensors import check_name, from_raw, from_values, shape_of, to_raw, to_values

HEADER_LENGTH = "inference-header-content-length"
_VALUES = (bool, int, float, str)
_SHARED = "shared_memory_region"


def read_object(text: bytes | memoryview, *, max_depth: int) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Problem: it is none, or nested too deep.
    """
    check_depth(text if isinstance(text, bytes) else bytes(text), max_depth)
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Problem("bad_request", f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Problem("bad_request", f"the body must be a JSON object, is {_kind(found)}")
    return found


def read_request(
    body: bytes, header_length: str | None = None, *, model: str, version: str = "", max_depth: int = 16
) -> InferRequest:
    """A request of `infer`.

    Args:
        body: whole, decompressed.
        header_length: value of the HTTP header Inference-Header-Content-Length, where there is one.
        max_depth: how deep the JSON may be nested.

    Raises:
        Problem: names the field that is wrong.
    """
    length = _header_length(header_length, len(body))
    found = read_object(body if length == len(body) else body[:length], max_depth=max_depth)
    parameters = _parameters(found, "parameters")
    inputs = found.get("inputs")
    if not isinstance(inputs, list):
        raise Problem("bad_request", f"inputs: must be a list of tensors, is {_kind(inputs)}")
    raw, tensors = memoryview(body)[length:], []
    for given in inputs:
        tensor, used = _input(given, raw)
        tensors.append(tensor)
        raw = raw[used:]
    if len(raw):
        raise Problem("bad_request", f"the body has {len(raw)} bytes that no input's binary_data_size names")
    return InferRequest(
        model, tensors, version=version, id=_text(found, "id", ""), parameters=parameters, outputs=_wanted(found)
    )


def _header_length(given: str | None, size: int) -> int:
    if given is None:
        return size
    if not (given.isascii() and given.isdigit() and len(given) < 20) or not 0 < int(given) <= size:
        raise Problem(
            "bad_request", f"Inference-Header-Content-Length: is {given[:40]!r}, must be a number from 1 to {size}, "
            "the length of the body"
        )  # fmt: skip
    return int(given)


def _input(given: Any, raw: memoryview) -> tuple[Tensor, int]:
    """A tensor, and how many of the raw bytes are its own."""
    if not isinstance(given, dict):
        raise Problem("bad_request", f"inputs: has {_kind(given)}, must have tensors")
    name = _text(given, "name")
    check_name(name)
    datatype = _text(given, "datatype")
    parameters = _parameters(given, f"input {name}: parameters")
    shape = shape_of(name, given.get("shape"))
    if _SHARED in parameters:
        raise Problem("bad_request", f"input {name}: {_SHARED}: this server reads no shared memory; send the data")
    size = parameters.pop("binary_data_size", None)
    if size is None:
        return from_values(name, datatype, shape, given.get("data"), parameters), 0
    if "data" in given:
        raise Problem("bad_request", f"input {name}: has data and binary_data_size; send one of them")
    if type(size) is not int or not 0 <= size <= len(raw):
        raise Problem(
            "bad_request",
            f"input {name}: binary_data_size is {size!r:.40}, must be 0 to {len(raw)}: so many bytes are left in the "
            "body behind the JSON (Inference-Header-Content-Length)",
        )
    tensor = from_raw(name, datatype, shape, raw[:size])
    tensor.parameters = parameters
    return tensor, size


def _wanted(found: dict[str, Any]) -> list[Wanted]:
    outputs = found.get("outputs")
    if outputs is None:
        return []
    if not isinstance(outputs, list):
        raise Problem("bad_request", f"outputs: must be a list, is {_kind(outputs)}")
    wanted = []
    for given in outputs:
        if not isinstance(given, dict):
            raise Problem("bad_request", f"outputs: has {_kind(given)}, must have objects with a name")
        name = _text(given, "name")
        check_name(name)
        parameters = _parameters(given, f"output {name}: parameters")
        if parameters.get("classification") or _SHARED in parameters:
            raise Problem("bad_request", f"output {name}: classification and shared memory are not offered here")
        binary = parameters.get("binary_data")
        if not isinstance(binary, bool | None):
            raise Problem("bad_request", f"output {name}: binary_data is {binary!r:.40}, must be true or false")
        wanted.append(Wanted(name, binary))
    return wanted


def write_response(response: InferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where raw bytes follow (Inference-Header-Content-Length)."""
    usual = request.parameters.get("binary_data_output") is True
    asked = {wanted.name: wanted.binary for wanted in request.outputs if wanted.binary is not None}
    outputs, parts = [], []
    for tensor in response.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        parameters = dict(tensor.parameters)
        if asked.get(tensor.name, usual):
            raw = to_raw(tensor)
            parameters["binary_data_size"] = len(raw)
            parts.append(raw)
        else:
            entry["data"], encoded = to_values(tensor)
            if encoded:
                parameters["content_type"] = "base64"
        if parameters:
            entry["parameters"] = parameters
        outputs.append(entry)
    found: dict[str, Any] = {"model_name": response.model, "outputs": outputs}
    if response.version:
        found["model_version"] = response.version
    if response.id:
        found["id"] = response.id
    if response.parameters:
        found["parameters"] = response.parameters
    text = orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((text, *parts)), len(text)) if parts else (text, None)


def metadata_json(found: ModelMetadata) -> dict[str, Any]:
    """A model's metadata; `optional` of an input and `properties` are Classy's own."""
    return {
        "name": found.name,
        "versions": list(found.versions),
        "platform": found.platform,
        "inputs": [_spec_json(spec) for spec in found.inputs],
        "outputs": [_spec_json(spec) for spec in found.outputs],
        "properties": found.properties,
    }


def _spec_json(spec: TensorSpec) -> dict[str, Any]:
    found: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
    return found | {"optional": True} if spec.optional else found


def _parameters(given: dict[str, Any], place: str) -> Parameters:
    found = given.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Problem("bad_request", f"{place}: must be an object, is {_kind(found)}")
    for name, value in found.items():
        if not isinstance(value, _VALUES):
            raise Problem("bad_request", f"{place}: {name[:40]!r} is {_kind(value)}; must be a number, text or boolean")
    return found


def _text(given: dict[str, Any], name: str, default: str | None = None) -> str:
    found = given.get(name, default)
    if not isinstance(found, str):
        raise Problem("bad_request", f"{name}: must be a text, is {_kind(found)}")
    return found


def _kind(value: Any) -> str:
    if value is None:
        return "missing"
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
