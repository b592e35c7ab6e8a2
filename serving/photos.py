"""A photo on its way through the components, and the one table of how each of its fields is a tensor.

Components in one process pass photos on; between processes the same fields travel as tensors of the same names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.messages import BYTES, DATATYPES, InferRequest, Tensor, TensorSpec
from serving.pictures import STATS
from serving.problems import Problem


@dataclass(slots=True)
class Photo:
    """One photo of a request. A stage fills its fields, and passes over a photo that has a problem."""

    # What a client says.
    url: str | None = None
    photo: bytes | None = None
    """The file as it was taken: JPEG, PNG, GIF, WebP or BMP."""
    sender: str = ""
    """Who sent it, as the feature store knows senders; empty: unknown."""
    image_id: str = ""
    """The caller's name of the photo, by which ground truth is joined; default: from the bytes' SHA-256."""
    captured_at: str = ""
    """ISO 8601, default: now."""

    # What the preprocessor says.
    content_hash: str = ""
    """SHA-256 of `photo`, hex."""
    image: NDArray[np.uint8] | None = None
    """Canonical image [S, S, 3], RGB."""
    image_spec: str = ""
    """Digest of the ImageSpec that made it: another model's spec is refused."""
    stats: NDArray[np.float32] | None = None
    """[len(STATS)], in the order of `serving.pictures.STATS`."""

    # What the feature lookup says.
    context: NDArray[np.float32] | None = None
    """[F], raw, in the order of the card's context_names."""
    defaulted: bool = False
    """The sender is unknown, or its profile is too old: defaults were used."""

    # What the classifier says.
    probabilities: NDArray[np.float32] | None = None
    label: str = ""
    confidence: float = 0.0
    arm: str = ""
    model_version: str = ""
    generation: int = 0
    cached: bool = False
    """Answered from memory: the same bytes, generation and features were answered before."""
    cached_from: Any = None
    """The `Arm` whose answer memory gave: by now it may have been taken out of production. No tensor."""
    prediction_id: str = ""

    problem: Problem | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """Where this photo's time went: stage → seconds."""

    @property
    def open(self) -> bool:
        """Whether a stage still has something to do on it."""
        return self.problem is None and self.probabilities is None


@dataclass(frozen=True, slots=True)
class Field:
    """How one attribute of a photo is a tensor: [N, *shape]; -1 is the model's business."""

    datatype: str
    shape: tuple[int, ...] = ()


FIELDS: dict[str, Field] = {
    "url": Field(BYTES),
    "photo": Field(BYTES),
    "sender": Field(BYTES),
    "image_id": Field(BYTES),
    "captured_at": Field(BYTES),
    "content_hash": Field(BYTES),
    "image": Field("UINT8", (-1, -1, 3)),
    "image_spec": Field(BYTES),
    "stats": Field("FP32", (len(STATS),)),
    "context": Field("FP32", (-1,)),
    "defaulted": Field("BOOL"),
    "probabilities": Field("FP32", (-1,)),
    "label": Field(BYTES),
    "confidence": Field("FP32"),
    "arm": Field(BYTES),
    "model_version": Field(BYTES),
    "generation": Field("INT64"),
    "cached": Field("BOOL"),
    "prediction_id": Field(BYTES),
    "error": Field(BYTES),
}
"""Tensor name → how it travels. `error` is a photo's problem as JSON, or empty."""

TEXTS = frozenset(name for name, found in FIELDS.items() if found.datatype == BYTES and name not in ("photo", "error"))


def answer(photos: Sequence[Photo], probabilities: NDArray[np.float32], classes: Sequence[str]) -> None:
    """Give each photo its row of [N, C], the class of the largest and how sure that is."""
    best, sure = probabilities.argmax(axis=1).tolist(), probabilities.max(axis=1).tolist()
    for photo, row, label, confidence in zip(photos, probabilities, best, sure, strict=True):
        photo.probabilities, photo.label, photo.confidence = row, classes[label], confidence


def specs(names: Sequence[str], shapes: dict[str, tuple[int, ...]], optional: Sequence[str] = ()) -> list[TensorSpec]:
    """Tensor specs of fields for a model's metadata; `shapes` fills in what only a model knows."""
    return [
        TensorSpec(name, FIELDS[name].datatype, (-1, *shapes.get(name, FIELDS[name].shape)), name in optional)
        for name in names
    ]


def read_photos(request: InferRequest, takes: Sequence[str], *, limit: int) -> list[Photo]:
    """The photos of a request to a component that takes these fields.

    Every input has one row a photo, [N] or [N, …]; [N, 1] is taken for [N], as some clients send it. A text
    (sender, …) may also come once for all photos, as a tensor of one row or as a parameter of the request.

    Raises:
        Problem: an input is unknown, missing its type, of another shape, or too many photos.
    """
    known = set(takes) | {"error"}
    if not request.inputs:
        raise Problem("bad_request", f"inputs: is empty; {request.model} takes {', '.join(takes)}")
    for tensor in request.inputs:
        _check(tensor, known, request.model, takes)
    names = [tensor.name for tensor in request.inputs]
    if len(set(names)) < len(names):
        raise Problem("bad_request", f"inputs: {', '.join(names)} names one twice")
    count = max(tensor.shape[0] for tensor in request.inputs)
    if not 0 < count <= limit:
        raise Problem("too_large" if count else "bad_request", f"inputs: {count} photos; send 1 to {limit}")
    photos = [Photo() for _ in range(count)]
    for name in TEXTS & known & request.parameters.keys():
        _spread(photos, name, [str(request.parameters[name]).encode()])
    for tensor in request.inputs:
        rows = tensor.shape[0]
        if rows != count and not (rows == 1 and tensor.name in TEXTS):
            raise Problem("bad_request", f"input {tensor.name}: has {rows} rows, others have {count}; give one a photo")
        if isinstance(tensor.data, list):
            _spread(photos, tensor.name, tensor.data)
        else:
            for photo, value in zip(photos, tensor.data, strict=True):
                setattr(photo, tensor.name, value if value.ndim else value.item())
    return photos


def _check(tensor: Tensor, known: set[str], model: str, takes: Sequence[str]) -> None:
    if tensor.name not in known:
        raise Problem("bad_request", f"input {tensor.name!r}: {model} has none; it takes {', '.join(takes)}")
    wanted = FIELDS[tensor.name]
    if tensor.datatype != wanted.datatype:
        raise Problem("bad_request", f"input {tensor.name}: is {tensor.datatype}, must be {wanted.datatype}")
    shape = tensor.shape
    if len(shape) == len(wanted.shape) + 2 and shape[1] == 1:  # [N, 1, …]: how some clients batch
        shape = (shape[0], *shape[2:])
        tensor.shape = shape
        if not isinstance(tensor.data, list):
            tensor.data = tensor.data.reshape(shape)
    fits = len(shape) == len(wanted.shape) + 1 and all(
        want in (-1, have) for want, have in zip(wanted.shape, shape[1:], strict=True)
    )
    if not fits:
        shown = ", ".join(["N", *("?" if side == -1 else str(side) for side in wanted.shape)])
        raise Problem("bad_request", f"input {tensor.name}: has shape {list(tensor.shape)}, must be [{shown}]")
    if isinstance(tensor.data, np.ndarray) and tensor.data.dtype.kind == "f" and not np.isfinite(tensor.data).all():
        raise Problem("bad_request", f"input {tensor.name}: has NaN or infinite numbers")


def _spread(photos: list[Photo], name: str, values: list[bytes]) -> None:
    many = values if len(values) == len(photos) else values * len(photos)
    for photo, value in zip(photos, many, strict=True):
        if name == "photo":
            photo.photo = value
        elif name == "error":
            photo.problem = _problem(value) if value else None
        else:
            try:
                setattr(photo, name, value.decode())
            except UnicodeDecodeError:
                raise Problem("bad_request", f"input {name}: {value[:20]!r} is not UTF-8") from None


def _problem(value: bytes) -> Problem:
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise Problem("bad_request", f"input error: {value[:20]!r} is not a problem as JSON; leave it empty, or away")
    return Problem.from_json(found)


def write_tensors(photos: Sequence[Photo], names: Sequence[str], shapes: dict[str, tuple[int, ...]]) -> list[Tensor]:
    """Fields of photos as tensors. A photo with a problem has zeros and empty texts.

    Args:
        names: of FIELDS.
        shapes: of one photo's field where FIELDS says -1; used where no photo has a value.
    """
    return [_tensor(photos, name, shapes.get(name, FIELDS[name].shape)) for name in names]


def _tensor(photos: Sequence[Photo], name: str, shape: tuple[int, ...]) -> Tensor:
    kind = FIELDS[name]
    count = len(photos)
    if kind.datatype == BYTES:
        return Tensor(name, BYTES, (count,), [_bytes(photo, name) for photo in photos])
    values = [getattr(photo, name) for photo in photos]
    if kind.shape:
        found = next((value.shape for value in values if value is not None), tuple(max(side, 0) for side in shape))
        data: NDArray[Any] = np.zeros((count, *found), DATATYPES[kind.datatype])
        for i, value in enumerate(values):
            if value is not None:
                data[i] = value
    else:
        data = np.asarray(values, DATATYPES[kind.datatype])
    return Tensor(name, kind.datatype, tuple(data.shape), data)


def _bytes(photo: Photo, name: str) -> bytes:
    if name == "error":
        return orjson.dumps(photo.problem.as_json()) if photo.problem else b""
    value = getattr(photo, name)
    if name == "photo":
        return value or b""
    return (value or "").encode()
