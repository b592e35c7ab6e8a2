"""The Open Inference Protocol over gRPC: protobuf messages to requests and answers, both ways.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md
"""

from typing import Any

import orjson

from serving.messages import (
    BYTES,
    DATATYPES,
    InferRequest,
    InferResponse,
    ModelMetadata,
    Parameters,
    Tensor,
    TensorSpec,
    Wanted,
)
from serving.problems import Problem
from serving.wire import protobuf as pb
from serving.wire.tensors import check_name, from_raw, numbers, shape_of, to_raw

PROBLEM = "classy-problem-bin"
"""Trailing metadata of an error: the problem as JSON."""
CONTENTS: dict[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""Datatype → field of InferTensorContents. FP16 has none."""


# ------------------------------------------------------------------------------------------ a request


def read_request(data: bytes) -> tuple[InferRequest, bool]:
    """A ModelInferRequest, and whether the answer should be raw: it is, unless the inputs came typed.

    Raises:
        Problem: the bytes are no such message, or names the field that is wrong.
    """
    found = pb.parse(pb.ModelInferRequest, data)
    request = InferRequest(
        found.model_name,
        _tensors(found.inputs, found.raw_input_contents),
        version=found.model_version,
        id=found.id,
        parameters=plain(found.parameters),
        outputs=[Wanted(output.name) for output in found.outputs],
    )
    for wanted in request.outputs:
        check_name(wanted.name)
    typed = not found.raw_input_contents and len(found.inputs) > 0
    return request, request.parameters.get("binary_data_output", not typed) is True


def write_request(request: InferRequest) -> bytes:
    """What `read_request` reads; tensors go raw."""
    made = pb.ModelInferRequest(model_name=request.model, model_version=request.version, id=request.id)
    _put(made.parameters, request.parameters)
    for tensor in request.inputs:
        given = made.inputs.add(name=tensor.name, datatype=tensor.datatype)
        given.shape.extend(tensor.shape)
        _put(given.parameters, tensor.parameters)
        made.raw_input_contents.append(to_raw(tensor))
    for wanted in request.outputs:
        made.outputs.add(name=wanted.name)
    return made.SerializeToString()


def _tensors(given: Any, raw: Any) -> list[Tensor]:
    if not raw:
        return [_typed(tensor) for tensor in given]
    if len(raw) != len(given):
        raise Problem("bad_request", f"raw_input_contents: has {len(raw)} elements for {len(given)} inputs; one each")
    found = []
    for tensor, data in zip(given, raw, strict=True):
        if tensor.HasField("contents"):
            raise Problem(
                "bad_request", f"input {tensor.name}: has contents beside raw_input_contents; send one of them"
            )
        made = from_raw(tensor.name, tensor.datatype, shape_of(tensor.name, list(tensor.shape)), data)
        if tensor.parameters:
            made.parameters = plain(tensor.parameters)
        found.append(made)
    return found


def _typed(tensor: Any) -> Tensor:
    name, datatype = tensor.name, tensor.datatype
    shape = shape_of(name, list(tensor.shape))
    field = CONTENTS.get(datatype)
    if field is None:
        known = ", ".join(CONTENTS) if datatype not in DATATYPES else "sent raw (raw_input_contents)"
        raise Problem("bad_request", f"input {name}: datatype {datatype[:20]!r}: must be {known}")
    parameters = plain(tensor.parameters)
    if "shared_memory_region" in parameters:
        raise Problem("bad_request", f"input {name}: this server reads no shared memory; send the data")
    values = getattr(tensor.contents, field)
    count = 1
    for side in shape:
        count *= side
    if len(values) != count:
        raise Problem("bad_request", f"input {name}: {field} has {len(values)} values; {list(shape)} has {count}")
    if datatype == BYTES:
        return Tensor(name, datatype, shape, list(values), parameters)
    # An array of no elements may still have sides that no array can have.
    data = numbers(name, datatype, values)
    made = from_raw(name, datatype, shape, data.tobytes())
    made.parameters = parameters
    return made


# ------------------------------------------------------------------------------------------- an answer


def write_response(response: InferResponse, *, raw: bool = True) -> bytes:
    """A ModelInferResponse, its tensors raw or typed."""
    made = pb.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    _put(made.parameters, response.parameters)
    # Raw is for all outputs or none, and FP16 has no typed form.
    raw = raw or any(tensor.datatype not in CONTENTS for tensor in response.outputs)
    for tensor in response.outputs:
        given = made.outputs.add(name=tensor.name, datatype=tensor.datatype)
        given.shape.extend(tensor.shape)
        if tensor.parameters:
            _put(given.parameters, tensor.parameters)
        if raw:
            made.raw_output_contents.append(to_raw(tensor))
        else:
            values = tensor.data if isinstance(tensor.data, list) else tensor.data.reshape(-1).tolist()
            getattr(given.contents, CONTENTS[tensor.datatype]).extend(values)
    return made.SerializeToString()


def read_response(data: bytes) -> InferResponse:
    """What `write_response` wrote.

    Raises:
        Problem: the server does not keep to the protocol.
    """
    found = pb.parse(pb.ModelInferResponse, data)
    return InferResponse(
        found.model_name,
        _tensors(found.outputs, found.raw_output_contents),
        version=found.model_version,
        id=found.id,
        parameters=plain(found.parameters),
    )


# ------------------------------------------------------------------------------------------- metadata


def write_metadata(found: ModelMetadata) -> bytes:
    """A ModelMetadataResponse; `properties` travel as JSON in its parameters."""
    made = pb.ModelMetadataResponse(name=found.name, platform=found.platform, versions=found.versions)
    for specs, field in ((found.inputs, made.inputs), (found.outputs, made.outputs)):
        for spec in specs:
            tensor = field.add(name=spec.name, datatype=spec.datatype)
            tensor.shape.extend(spec.shape)
            if spec.optional:
                tensor.parameters["optional"].bool_param = True
    for name, value in found.properties.items():
        made.parameters[name].string_param = orjson.dumps(value, default=str).decode()
    return made.SerializeToString()


def read_metadata(data: bytes) -> ModelMetadata:
    """What `write_metadata` wrote."""
    found = pb.parse(pb.ModelMetadataResponse, data)
    return ModelMetadata(
        name=found.name,
        platform=found.platform,
        versions=tuple(found.versions),
        inputs=tuple(_spec(tensor) for tensor in found.inputs),
        outputs=tuple(_spec(tensor) for tensor in found.outputs),
        properties={name: orjson.loads(value.string_param) for name, value in found.parameters.items()},
    )


def _spec(tensor: Any) -> TensorSpec:
    optional = "optional" in tensor.parameters and tensor.parameters["optional"].bool_param
    return TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape), optional)


# ----------------------------------------------------------------------------------------- parameters


def plain(given: Any) -> Parameters:
    """Parameters of a message as plain values."""
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param") for name, value in given.items()
    }


def _put(into: Any, parameters: Parameters) -> None:
    for name, value in parameters.items():
        entry = into[name]
        if isinstance(value, bool):
            entry.bool_param = value
        elif isinstance(value, int):
            setattr(entry, "int64_param" if -(2**63) <= value < 2**63 else "uint64_param", value)
        elif isinstance(value, float):
            entry.double_param = value
        else:
            entry.string_param = str(value)
