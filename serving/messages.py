"""Requests and answers of the Open Inference Protocol v2, whatever carried them.

https://github.com/kserve/open-inference-protocol. JSON, JSON with binary tensors and gRPC are read into these, and
written from them; components know nothing of the wire.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
"""Datatypes with a fixed width, little-endian on the wire. BYTES is the only other one."""
BYTES = "BYTES"

Parameters = dict[str, Any]
"""Values are bool, int, float or str."""


@dataclass(slots=True)
class Tensor:
    """One tensor. `data` is an array of `shape`; for BYTES, a list of its elements in row-major order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any] | list[bytes]
    parameters: Parameters = field(default_factory=dict)


@dataclass(slots=True)
class Wanted:
    """An output that a request asks for by name; `binary` asks for it as raw bytes (REST's binary extension)."""

    name: str
    binary: bool | None = None


@dataclass(slots=True)
class InferRequest:
    model: str
    inputs: list[Tensor]
    version: str = ""
    """Empty: whatever serves."""
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
    outputs: list[Wanted] = field(default_factory=list)
    """Empty: every output."""


@dataclass(slots=True)
class InferResponse:
    model: str
    outputs: list[Tensor]
    version: str = ""
    id: str = ""
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """-1 in `shape` is free; the first axis is the photos."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    name: str
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    versions: tuple[str, ...] = ()
    properties: dict[str, Any] = field(default_factory=dict)
    """More for people: classes, names of `stats` and `context`, the model's card."""
