"""A small served model for tests of the protocol: real photos, the real canonicaliser, and a class by brightness."""

import asyncio
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from serving.canonical import BadImage, ImageSpec, canonicalise
from serving.components.base import Call, Component
from serving.photos import Photo
from serving.problems import Problem
from serving.server import Limits, Server
from tests.serving import Open

SPEC = ImageSpec(size=8)
CLASSES = ("dark", "light")


def jpeg(brightness: int, side: int = 32) -> bytes:
    """A grey photo."""
    made = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), brightness, np.uint8)).save(made, "JPEG")
    return made.getvalue()


DARK, LIGHT = jpeg(30), jpeg(220)


class Brightness(Component):
    """photo → light or dark. `versions` answer under their numbers; what it was asked is kept."""

    name = "classy"
    takes = ("photo", "url", "sender", "image_id", "captured_at")
    optional = takes
    gives = (
        "probabilities", "label", "confidence", "arm", "model_version", "generation", "cached", "defaulted",
        "prediction_id", "image_id", "error",
    )  # fmt: skip

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"probabilities": (2,)}

    def versions(self) -> tuple[str, ...]:
        return ("2", "1")

    def properties(self) -> dict[str, object]:
        return {"classes": list(CLASSES)}

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        self.calls.append(call)
        with call.stage("all"):
            for photo in photos:
                if photo.photo is None:
                    photo.problem = Problem("bad_request", "photo: is missing; send the photo's bytes")
                else:
                    self._answer(photo, str(call.parameters.get("version", "2")))

    def _answer(self, photo: Photo, version: str) -> None:
        try:
            image = canonicalise(photo.photo or b"", SPEC)
        except BadImage as error:
            photo.problem = Problem("unprocessable", f"photo: {error}", detail=error.reason)
            return
        light = float(image.mean()) / 255
        photo.probabilities = np.array([1 - light, light], np.float32)
        photo.label, photo.confidence = CLASSES[int(light > 0.5)], max(light, 1 - light)
        photo.arm, photo.model_version, photo.generation = "champion", version, 3
        photo.prediction_id = f"p-{photo.image_id}"


class Numbers(Component):
    """Takes and gives tensors of numbers: images and what was known of them."""

    name = "numbers"
    takes = ("image", "context", "sender")
    optional = ("context", "sender")
    gives = ("image", "context", "defaulted", "generation", "photo", "error")

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        for photo in photos:
            photo.generation = int(photo.image.sum()) if photo.image is not None else 0
            photo.photo = b"\xff\xd8 not text"


@dataclass
class Slow(Component):
    """Answers when it is let; says whether it was cancelled."""

    name = "slow"
    takes = ("photo",)
    gives = ("label", "error")
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        for photo in photos:
            photo.label = "late"


class Broken(Component):
    """Raises what a component must not raise, or the problem it is given."""

    name = "broken"
    takes = ("photo",)
    gives = ("label", "error")
    error: Exception = RuntimeError("secret inside")

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        raise self.error


class Shelf:
    """A repository that keeps what it was told."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, str]] = []

    def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        rows = [{"name": "classy", "version": "2", "state": "READY", "reason": ""}]
        return rows if ready else [*rows, {"name": "classy", "version": "9", "state": "UNAVAILABLE", "reason": "cut"}]

    async def load(self, model: str, parameters: dict[str, object]) -> None:
        if "version" not in parameters:
            raise Problem("bad_request", "parameters: version is missing")
        self.loaded.append(("load", str(parameters["version"])))

    async def unload(self, model: str, parameters: dict[str, object]) -> None:
        self.loaded.append(("unload", str(parameters.get("version"))))


def a_server(**more: object) -> Server:
    """All of them, as one server. One request may have 100 kB and take 5 seconds."""
    parts = (Brightness(), Numbers(), Slow(), Broken())
    given = {
        "components": {part.name: part for part in parts},
        "gate": Open(),
        "limits": Limits(max_bytes=100_000, max_photos=16, timeout_s=5.0),
        "repository": Shelf(),
    }
    return Server(**{**given, **more})  # type: ignore[arg-type]
