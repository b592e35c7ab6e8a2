"""The component that turns bytes into the canonical image, and says what can be said of a photo without a model."""

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from serving.canonical import BadImage, ImageSpec
from serving.components.base import Call, Component, Shapes
from serving.components.decoders import DECODERS, Room, decode
from serving.lanes import Lane
from serving.photos import Photo
from serving.pictures import STATS, figures_of_many
from serving.problems import Problem
from serving.turns import Turns

REASONS: dict[str, str] = {
    "too_many_bytes": "too_large",
    "too_many_pixels": "too_large",
    "format": "unsupported",
    "not_an_image": "unsupported",
}
"""BadImage's reason → the Problem's; any other is `unprocessable`."""

_Job = tuple[Photo, ImageSpec]


def as_problem(error: BadImage) -> Problem:
    """What to tell who sent the photo."""
    return Problem(REASONS.get(error.reason, "unprocessable"), f"photo: {error}", detail=error.reason)


def prepare(
    photos: Sequence[Photo],
    spec: ImageSpec,
    room: Room,
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> list[Problem | None]:
    """Fill image, image_spec, stats and content_hash of photos that have bytes; gives each one's problem.

    Each is decoded in a turn of its own, so that others are let in between; their figures are taken together, which
    costs half as much.
    """
    problems: list[Problem | None] = []
    decoded: list[Photo] = []
    sizes: list[tuple[int, int]] = []
    digest = spec.digest()
    for photo in photos:
        with turn():
            start = time.perf_counter()
            data = photo.photo or b""
            try:
                header, photo.image = decode(data, spec, room.take)
            except BadImage as error:
                problems.append(as_problem(error))
                continue
            photo.content_hash = photo.content_hash or hashlib.sha256(data).hexdigest()
            photo.image_spec = digest
            photo.seconds["preprocess"] = time.perf_counter() - start
        problems.append(None)
        decoded.append(photo)
        sizes.append((header.width, header.height))
    if decoded:
        with turn():
            start = time.perf_counter()
            figures = figures_of_many(np.stack([photo.image for photo in decoded]), sizes)  # type: ignore[misc]
            each = (time.perf_counter() - start) / len(decoded)
        for photo, stats in zip(decoded, figures, strict=True):
            photo.stats = stats
            photo.seconds["preprocess"] += each
    return problems


class Preprocessor(Component):
    """photo → image, image_spec, stats, content_hash.

    Args:
        spec: of the canonical image, or what gives the present one: another model may want another.
        threads: that decode at once. Pillow leaves the interpreter to others while it decodes.
        queue: photos that wait; the next one is told to come again.
        batch: photos that one thread takes at once.
        pixels: decoded at once in all threads together, about 16 bytes each at worst; a larger photo is decoded alone.
        turns: cores that are shared with other stages; default: one for each thread.
    """

    name = "preprocessor"
    takes = ("photo",)
    gives = ("image", "image_spec", "stats", "content_hash", "error")

    def __init__(
        self,
        spec: ImageSpec | Callable[[], ImageSpec],
        *,
        threads: int = 1,
        queue: int = 256,
        batch: int = 4,
        limit: int = 64,
        pixels: int = 50_000_000,
        turns: Turns | None = None,
    ) -> None:
        self._spec: Callable[[], ImageSpec] = (lambda: spec) if isinstance(spec, ImageSpec) else spec
        self.limit = limit
        self._room = Room(pixels)
        self._turns = turns or Turns(threads)
        self.lane: Lane[_Job, None] = Lane(self._work, name="preprocessor", batch=batch, queue=queue, threads=threads)

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        wanted = [photo for photo in photos if photo.open and photo.image is None]
        if not wanted:
            return
        spec = self._spec()
        jobs: list[_Job] = []
        for photo in wanted:
            if photo.photo is None:
                photo.problem = Problem("bad_request", "photo: is missing; send the photo's bytes")
            else:
                jobs.append((photo, spec))
        with call.stage("preprocess"):
            answers = await self.lane.submit_many(jobs, deadline=call.deadline)
        for (photo, _), answer in zip(jobs, answers, strict=True):
            if isinstance(answer, Problem):
                photo.problem = answer

    def _work(self, jobs: list[_Job]) -> list[Problem | None]:
        found: dict[int, Problem | None] = {}
        for spec in dict.fromkeys(spec for _, spec in jobs):  # two while models are exchanged, else one
            photos = [photo for photo, wanted in jobs if wanted == spec]
            problems = prepare(photos, spec, self._room, self._turns.take)
            found.update(zip(map(id, photos), problems, strict=True))
        return [found[id(photo)] for photo, _ in jobs]

    def shapes(self) -> Shapes:
        size = self._spec().size
        return {"image": (size, size, 3)}

    def properties(self) -> dict[str, Any]:
        spec = self._spec()
        return {
            "image_spec": spec.digest(),
            "size": spec.size,
            "fit": spec.fit,
            "max_bytes": spec.max_bytes,
            "max_pixels": spec.max_pixels,
            "stats": list(STATS),
            "formats": list(DECODERS),
        }

    async def start(self) -> None:
        # Pillow warns of each broken note in a photo; a stranger's file is no reason to fill the server's log.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")
        self.lane.start()

    async def stop(self) -> None:
        await self.lane.stop()
