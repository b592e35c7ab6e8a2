"""A verified package that answers: its engine, and the lane of photos in front of it."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.canonical import ImageSpec
from serving.engines.choose import Chosen, choose_engine
from serving.lanes import Lane
from serving.photos import Photo, answer
from serving.problems import Problem
from serving.runtime import CARD, ModelError, Package, read_package
from serving.turns import Turns

Prepare = Callable[[list[Photo]], None]
"""Gives photos their context; called in the lane's thread with those that have none."""
_Item = tuple[Photo, Prepare | None]


class Loaded:
    """One model being served. Made by `open`, then `start`ed; `stop` answers what it was asked, then ends."""

    def __init__(self, package: Package, image_spec: ImageSpec, chosen: Chosen, *, name: str, threads: int, batch: int,
                 wait_ms: float, queue: int, prepare: Prepare | None, turns: Turns | None) -> None:  # fmt: skip
        card = package.card
        self.card: dict[str, Any] = card
        self.sha256 = package.sha256
        """Of the manifest: the package's identity."""
        self.classes: tuple[str, ...] = tuple(card["classes"])
        self.size = int(card["image"]["size"])
        self.width = len(card["context_names"])
        self.image_spec = image_spec
        self.image_digest = image_spec.digest()
        self.service_hash = str(card["service_hash"])
        self.runtime = chosen.engine.name
        self.precision = chosen.engine.precision
        self.agreement = chosen.agreement
        """Largest difference of a probability from torch's on the package's probe; None: it has none."""
        self.refused = chosen.refused
        """Runtimes that were tried first, and why they do not serve."""
        self.lane: Lane[_Item, None] = Lane(
            self._work, name=name, batch=batch, wait_ms=wait_ms, queue=queue, threads=threads
        )
        self._engine = chosen.engine
        self._prepare = prepare
        self._turns = turns or Turns(threads)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        runtime: str = "auto",
        threads: int = 1,
        batch: int = 16,
        wait_ms: float = 0,
        queue: int = 256,
        prepare: Prepare | None = None,
        turns: Turns | None = None,
    ) -> "Loaded":
        """Verify a package, open it, compare it with torch and warm it up. Takes a moment: call it in a thread.

        Args:
            folder: the package.
            runtime: auto, openvino or onnxruntime.
            threads: batches that are worked on at the same time, each on one core.
            batch, wait_ms, queue: of the lane.
            prepare: gives photos without a context theirs, unless `classify` is given another.
            turns: cores that are shared with other stages; default: one for each thread. A GPU is waited for without.

        Raises:
            ModelError: the package is not what it says, or nothing here can run it as torch did.
        """
        package = read_package(folder)
        image_spec = _image_spec(folder, package.card)
        chosen = choose_engine(folder, package, runtime=runtime, threads=threads)
        loaded = cls(
            package,
            image_spec,
            chosen,
            name=f"model {package.card['run_id'][:8]}",
            threads=threads,
            batch=batch,
            wait_ms=wait_ms,
            queue=queue,
            prepare=prepare,
            turns=turns,
        )
        loaded._warm_up(batch)
        return loaded

    def start(self) -> None:
        self.lane.start()

    async def stop(self) -> None:
        """Answer what was asked, then end."""
        await self.lane.stop()

    def about(self) -> dict[str, Any]:
        """For people: what runs, and how near it is to torch."""
        found: dict[str, Any] = {"runtime": self.runtime, "precision": self.precision, "agreement": self.agreement}
        if self.refused:
            found["refused"] = list(self.refused)
        return found

    async def classify(
        self, photos: Sequence[Photo], *, prepare: Prepare | None = None, deadline: float | None = None
    ) -> None:
        """Fill each photo's probabilities, label and confidence, or its problem. Each has an image.

        Args:
            prepare: gives photos without a context theirs, in the lane's thread.
            deadline: `time.monotonic()` after which nobody waits.

        Raises:
            Problem: none of them is answered: the lane is full or stops.
        """
        start = time.perf_counter()
        answers = await self.lane.submit_many([(photo, prepare) for photo in photos], deadline=deadline)
        whole = time.perf_counter() - start
        for photo, problem in zip(photos, answers, strict=True):
            if problem is not None:
                photo.problem = problem
            seconds = photo.seconds
            seconds["queue"] = max(0.0, whole - seconds.get("features", 0.0) - seconds.get("model", 0.0))

    # ------------------------------------------------------------------------------------ in the lane's thread

    def _work(self, items: list[_Item]) -> list[Problem | None]:
        problems = self._fill([item for item in items if item[0].context is None])
        photos = []
        for photo, _ in items:
            if id(photo) in problems:
                continue
            if (problem := self._misfit(photo)) is not None:
                problems[id(photo)] = problem
            else:
                photos.append(photo)
        if photos:
            # Looking features up waits for a database, hence before the turn.
            with self._turns.take(last=True) if self._engine.on_cores else nullcontext():
                self._predict(photos, problems)
        if not problems:
            return [None] * len(items)
        return [problems.get(id(photo)) for photo, _ in items]

    def _fill(self, items: list[_Item]) -> dict[int, Problem]:
        """Look features up, once for all photos that ask the same source; gives problems by photo."""
        problems: dict[int, Problem] = {}
        for prepare in {asked or self._prepare: None for _, asked in items}:
            photos = [photo for photo, asked in items if (asked or self._prepare) == prepare]
            start = time.perf_counter()
            problem = None
            try:
                if prepare is None:
                    raise Problem("bad_request", "input context: is missing, and no feature store is asked here")
                prepare(photos)
            except Problem as found:
                problem = found
            seconds = time.perf_counter() - start
            for photo in photos:
                photo.seconds["features"] = seconds
                if (own := photo.problem or problem) is not None:
                    problems[id(photo)] = own
        return problems

    def _misfit(self, photo: Photo) -> Problem | None:
        context, image, size = photo.context, photo.image, self.size
        if image is None or image.shape != (size, size, 3) or image.dtype != np.uint8:
            got = "nothing" if image is None else f"{image.dtype} {list(image.shape)}"
            return Problem("unprocessable", f"input image: is {got}, this model takes uint8 [{size}, {size}, 3]")
        if context is None or context.shape != (self.width,):
            got = "nothing" if context is None else f"{len(context)} numbers"
            return Problem("unprocessable", f"input context: is {got}, this model takes {self.width}")
        return None

    def _predict(self, photos: list[Photo], problems: dict[int, Problem]) -> None:
        start = time.perf_counter()
        context = np.array([photo.context for photo in photos], np.float32).reshape(len(photos), self.width)
        if not np.isfinite(context).all():
            photos, context = _finite(photos, context, problems)
            if not photos:
                return
        images = np.stack([photo.image for photo in photos])  # type: ignore[misc]
        probabilities = self._engine.predict(images, context).probabilities
        answer(photos, probabilities, self.classes)
        seconds = time.perf_counter() - start
        for photo in photos:
            photo.seconds["model"] = seconds

    def _warm_up(self, batch: int) -> None:
        """The first run of each size is slow: it is nobody's."""
        for count in sorted({1, batch}):
            images = np.zeros((count, self.size, self.size, 3), np.uint8)
            self._engine.predict(images, np.zeros((count, self.width), np.float32))


def _finite(
    photos: list[Photo], context: NDArray[np.float32], problems: dict[int, Problem]
) -> tuple[list[Photo], NDArray[np.float32]]:
    """The photos whose context is numbers; the others get a problem."""
    fine = [bool(np.isfinite(row).all()) for row in context]
    for photo, is_fine in zip(photos, fine, strict=True):
        if not is_fine:
            problems[id(photo)] = Problem("unprocessable", "input context: has NaN or infinite numbers")
    return [photo for photo, is_fine in zip(photos, fine, strict=True) if is_fine], context[fine]


def _image_spec(folder: Path, card: dict[str, Any]) -> ImageSpec:
    """What images the model takes. The rules of this canonicaliser must be those it was trained with."""
    try:
        spec = ImageSpec(**card["image"])
    except (TypeError, ValueError) as error:
        raise ModelError(f"{folder / CARD}: image is none that this version makes: {error}") from error
    if spec.digest() != card["image_spec_hash"]:
        raise ModelError(
            f"{folder / CARD}: was trained on images {card['image_spec_hash']}, this version makes {spec.digest()} of "
            f"the same settings; train it again, or serve it with the version that trained it"
        )
    return spec
