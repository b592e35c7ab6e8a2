"""Tensors from raw bytes and from lists, and back; what REST and gRPC have in common.

Raw: row-major, little-endian, without gaps; BOOL is one byte, 0 or 1; an element of BYTES has its length before it, 4
bytes little-endian.
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.messages import BYTES, DATATYPES, Parameters, Tensor
from serving.problems import Problem

MAX_AXES = 8
LONGEST = 128
MAX_SIDE = 2**31 - 1
_LENGTH = struct.Struct("<I")
_PYTHON: dict[str, frozenset[type]] = {"b": frozenset({bool}), "f": frozenset({int, float})}
_INTEGERS = frozenset({int})


def shape_of(name: str, given: Any) -> tuple[int, ...]:
    """A shape that can be had.

    Raises:
        Problem: it is no list of sizes, or the tensor's name is no name.
    """
    check_name(name)
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) > MAX_AXES:
        raise Problem("bad_request", f"input {name}: shape must be a list of up to {MAX_AXES} sizes, such as [1]")
    for side in given:
        if type(side) is not int or not 0 <= side <= MAX_SIDE:
            raise Problem("bad_request", f"input {name}: shape has {side!r:.40}, must have sizes from 0 to {MAX_SIDE}")
    return tuple(given)


def count_photos(inputs: Sequence[Tensor], most: int) -> int:
    """How many photos a request has, before a component reads it.

    Raises:
        Problem: more than `most`.
    """
    count = max((tensor.shape[0] for tensor in inputs if tensor.shape), default=1)
    if count > most:
        raise Problem("too_large", f"inputs: {count} photos; at most {most} are taken in one request")
    return count


def check_name(name: str) -> None:
    """Names come back in messages, so they are bounded; no tensor of ours has a long one.

    Raises:
        Problem: it is too long.
    """
    if len(name) > LONGEST:
        raise Problem("bad_request", f"name: {name[:40]!r}… has {len(name)} letters; at most {LONGEST} are read")


def from_raw(name: str, datatype: str, shape: tuple[int, ...], raw: bytes | memoryview) -> Tensor:
    """A tensor of raw bytes. Numbers are not copied: the array looks into `raw`, and is read-only.

    Raises:
        Problem: the bytes are not as many as shape and datatype ask for, or are no such elements.
    """
    if datatype == BYTES:
        return Tensor(name, datatype, shape, _elements(name, raw, math.prod(shape)))
    dtype = _dtype(name, datatype)
    wanted = math.prod(shape) * dtype.itemsize
    if len(raw) != wanted:
        raise Problem(
            "bad_request", f"input {name}: has {len(raw)} bytes; {datatype} of shape {list(shape)} has {wanted}"
        )
    data = np.frombuffer(raw, dtype)
    if datatype == "BOOL" and data.size and data.view(np.uint8).max() > 1:
        raise Problem("bad_request", f"input {name}: a byte of BOOL must be 0 or 1")
    return Tensor(name, datatype, shape, _shaped(name, data, shape))


def _elements(name: str, raw: bytes | memoryview, count: int) -> list[bytes]:
    found: list[bytes] = []
    at, end = 0, len(raw)
    while at < end:
        start = at + 4
        if start > end or len(found) == count:
            break
        at = start + _LENGTH.unpack_from(raw, at)[0]
        if at > end:
            break
        found.append(bytes(raw[start:at]))
    if at != end or len(found) != count:
        raise Problem(
            "bad_request",
            f"input {name}: its {end} bytes are not {count} elements of BYTES; each is 4 bytes of length "
            "(little-endian) and that many bytes",
        )
    return found


def to_raw(tensor: Tensor) -> bytes:
    """What `from_raw` reads."""
    if isinstance(tensor.data, list):
        return b"".join([part for element in tensor.data for part in (_LENGTH.pack(len(element)), element)])
    return tensor.data.tobytes()


def from_values(name: str, datatype: str, shape: tuple[int, ...], given: Any, parameters: Parameters) -> Tensor:
    """A tensor of JSON values, flat or nested.

    BYTES are strings, sent as UTF-8; with the parameter `content_type` "base64" they are decoded first.

    Raises:
        Problem: a value is of another type or out of range, or there are too many or too few.
    """
    values = _flat(name, given)
    count = math.prod(shape)
    if len(values) != count:
        raise Problem("bad_request", f"input {name}: data has {len(values)} values; shape {list(shape)} has {count}")
    types = set(map(type, values))
    if datatype == BYTES:
        if not types <= {str}:
            raise Problem("bad_request", f"input {name}: data of BYTES must be strings")
        return Tensor(name, datatype, shape, _texts(name, values, parameters), parameters)
    dtype = _dtype(name, datatype)
    if not types <= _PYTHON.get(dtype.kind, _INTEGERS):
        wrong = next(value for value in values if type(value) not in _PYTHON.get(dtype.kind, _INTEGERS))
        raise Problem("bad_request", f"input {name}: data has {_shown(wrong)}, must be {datatype}")
    return Tensor(name, datatype, shape, _shaped(name, numbers(name, datatype, values), shape), parameters)


def numbers(name: str, datatype: str, values: Sequence[Any]) -> NDArray[Any]:
    """Values as a flat array.

    Raises:
        Problem: one is out of the datatype's range.
    """
    dtype = DATATYPES[datatype]
    try:
        with np.errstate(over="ignore"):
            return np.array(values, dtype)
    except (OverflowError, ValueError, TypeError):
        if dtype.kind not in "iu":
            raise Problem("bad_request", f"input {name}: data has a number that {datatype} cannot hold") from None
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        raise Problem("bad_request", f"input {name}: data of {datatype} must lie in {low} to {high}") from None


def _flat(name: str, given: Any) -> list[Any]:
    if not isinstance(given, list):
        raise Problem("bad_request", f"input {name}: data must be a list, or raw bytes with binary_data_size")
    while given and type(given[0]) is list:
        if set(map(type, given)) != {list}:
            raise Problem("bad_request", f"input {name}: data has lists and values side by side")
        given = list(chain.from_iterable(given))
    return given


def _texts(name: str, values: list[str], parameters: Parameters) -> list[bytes]:
    if parameters.get("content_type") != "base64":
        return [value.encode() for value in values]
    try:
        return [base64.b64decode(value, validate=True) for value in values]
    except (binascii.Error, ValueError) as error:
        raise Problem("bad_request", f"input {name}: is not base64 ({error})") from None


def to_values(tensor: Tensor) -> tuple[Any, bool]:
    """For `orjson.dumps` with OPT_SERIALIZE_NUMPY: a flat list or array, and whether it had to be written as base64."""
    if not isinstance(tensor.data, list):
        return np.ascontiguousarray(tensor.data).reshape(-1), False
    try:
        return [element.decode() for element in tensor.data], False
    except UnicodeDecodeError:
        return [base64.b64encode(element).decode() for element in tensor.data], True


def _dtype(name: str, datatype: str) -> np.dtype[Any]:
    found = DATATYPES.get(datatype)
    if found is None:
        known = ", ".join((*DATATYPES, BYTES))
        raise Problem("bad_request", f"input {name}: datatype {datatype[:20]!r}: must be one of {known}")
    return found


def _shaped(name: str, data: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        return data.reshape(shape)
    except ValueError:  # no elements, and sides that no array can have
        raise Problem("bad_request", f"input {name}: shape {list(shape)} is too large") from None


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)[:40]
