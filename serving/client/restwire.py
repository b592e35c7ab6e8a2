"""The client's side of REST: requests to bytes, answers from bytes.

A body is a JSON header and, behind it, the raw bytes of the tensors in the header's order; the HTTP header
`Inference-Header-Content-Length` says where the JSON ends. Elements of BYTES carry their length first (4 bytes,
little-endian). https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import struct
from typing import Any

import numpy as np
import orjson

from serving.messages import BYTES, DATATYPES, InferRequest, InferResponse, ModelMetadata, Tensor, TensorSpec
from serving.problems import KINDS, Problem

_BY_STATUS = {400: "bad_request", 429: "busy", 500: "internal", 503: "unavailable"} | {
    kind.status: reason for reason, kind in KINDS.items() if kind.status not in (429,)
}


def write_request(request: InferRequest) -> tuple[int, bytes]:
    """Length of the JSON header, and the whole body. All tensors are sent, and asked for, as raw bytes."""
    parts = [_raw(tensor) for tensor in request.inputs]
    header: dict[str, Any] = {
        "inputs": [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "datatype": tensor.datatype,
                "parameters": {**tensor.parameters, "binary_data_size": len(part)},
            }
            for tensor, part in zip(request.inputs, parts, strict=True)
        ],
        "parameters": {**request.parameters, "binary_data_output": True},
    }
    if request.id:
        header["id"] = request.id
    if request.outputs:
        header["outputs"] = [
            {"name": wanted.name, "parameters": {"binary_data": wanted.binary is not False}}
            for wanted in request.outputs
        ]
    text = orjson.dumps(header)
    return len(text), b"".join((text, *parts))


def _raw(tensor: Tensor) -> bytes:
    if isinstance(tensor.data, list):
        return b"".join(part for element in tensor.data for part in (struct.pack("<I", len(element)), element))
    return np.ascontiguousarray(tensor.data).tobytes()


def read_response(body: bytes, header_length: int | None) -> InferResponse:
    """An answer of `infer`.

    Raises:
        Problem: the server does not keep to the protocol (internal).
    """
    try:
        header = orjson.loads(body if header_length is None else body[:header_length])
        at = len(body) if header_length is None else header_length
        outputs: list[Tensor] = []
        for found in header["outputs"]:
            size = found.get("parameters", {}).get("binary_data_size")
            raw = None if size is None else memoryview(body)[at : at + size]
            at += size or 0
            outputs.append(_tensor(found, raw))
        return InferResponse(
            str(header.get("model_name", "")),
            outputs,
            version=str(header.get("model_version", "")),
            id=str(header.get("id", "")),
            parameters=header.get("parameters") or {},
        )
    except (KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise Problem("internal", f"the server's answer does not follow the protocol: {error!r}") from error


def _tensor(found: dict[str, Any], raw: memoryview | None) -> Tensor:
    shape, datatype = tuple(found["shape"]), found["datatype"]
    if datatype == BYTES:
        data: Any = (
            [text if isinstance(text, bytes) else str(text).encode() for text in found["data"]]
            if raw is None
            else split_bytes(raw)
        )
        if len(data) != int(np.prod(shape)):
            raise ValueError(f"{found['name']}: {len(data)} elements for shape {list(shape)}")
    else:
        flat = np.asarray(found["data"]) if raw is None else np.frombuffer(raw, DATATYPES[datatype])
        data = flat.astype(DATATYPES[datatype], copy=False).reshape(shape)
    return Tensor(found["name"], datatype, shape, data)


def split_bytes(raw: memoryview | bytes) -> list[bytes]:
    """Elements of a BYTES tensor."""
    found, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        if at + 4 + size > len(raw):
            raise ValueError(f"an element of {size} bytes is longer than what is left")
        found.append(bytes(raw[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def read_metadata(found: dict[str, Any]) -> ModelMetadata:
    """What `GET /v2/models/NAME` answers."""

    def specs(name: str) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                spec["name"], spec["datatype"], tuple(spec["shape"]), bool(spec.get("parameters", {}).get("optional"))
            )
            for spec in found.get(name) or []
        )

    return ModelMetadata(
        name=found["name"],
        platform=found.get("platform", ""),
        inputs=specs("inputs"),
        outputs=specs("outputs"),
        versions=tuple(map(str, found.get("versions") or [])),
        properties=found.get("properties") or {},
    )


def read_problem(status: int, body: bytes, retry_after: str | None) -> Problem:
    """What a status of 300 or more means; of Classy's own answers the whole problem, of others the status and text."""
    try:
        found = orjson.loads(body)
    except ValueError:
        found = {"error": body[:200].decode(errors="replace")}
    if isinstance(found, dict) and isinstance(found.get("problem"), dict):
        return Problem.from_json(found["problem"])
    text = str(found.get("error") or found.get("detail") or "") if isinstance(found, dict) else ""
    reason = _BY_STATUS.get(status, "internal" if status >= 500 else "bad_request")
    seconds = float(retry_after) if retry_after and retry_after.replace(".", "", 1).isdigit() else None
    return Problem(reason, text or f"the server answered {status}", retry_after=seconds)
