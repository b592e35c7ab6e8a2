"""The client's side of REST: requests to bytes, answers from bytes.

The server's side is `serving.wire.rest`, where the format is described.
"""

from typing import Any

import orjson

from serving.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorSpec
from serving.problems import KINDS, Problem
from serving.wire.tensors import from_raw, from_values, shape_of, to_raw

_BY_STATUS = {kind.status: reason for reason, kind in reversed(KINDS.items())}


def write_request(request: InferRequest) -> tuple[int, bytes]:
    """Length of the JSON header, and the whole body. All tensors are sent, and asked for, as raw bytes."""
    parts = [to_raw(tensor) for tensor in request.inputs]
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
    except (KeyError, TypeError, ValueError, AttributeError, Problem) as error:
        raise Problem("internal", f"the server's answer does not follow the protocol: {error!r}") from error


def _tensor(found: dict[str, Any], raw: memoryview | None) -> Tensor:
    name, datatype, shape = found["name"], found["datatype"], shape_of(found["name"], found["shape"])
    if raw is None:
        return from_values(name, datatype, shape, found["data"], found.get("parameters") or {})
    return from_raw(name, datatype, shape, raw)


def read_metadata(found: dict[str, Any]) -> ModelMetadata:
    """What `GET /v2/models/NAME` answers."""

    def specs(name: str) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(spec["name"], spec["datatype"], tuple(spec["shape"]), bool(spec.get("optional")))
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
