"""`classy`: the whole of it as one served model, a photo or its URL in, a class out.

Downloader, preprocessor and classifier may be here or in other processes (`serving.components.remote`): the
answer is the same. A photo's problem stops that photo and no other.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from serving.components.base import Call, Component, Shapes
from serving.components.remote import Remote
from serving.messages import InferRequest, InferResponse
from serving.photos import Photo
from serving.problems import Problem
from serving.seams import FeatureSource

if TYPE_CHECKING:
    from serving.versions.arms import Arms

SAID = ("sender", "image_id", "captured_at")
"""What a client says of a photo; it travels with the photo to whatever component needs it."""


class Memory(Protocol):
    """Answers of before, by the photo's bytes, the model and what was known of the sender."""

    def get(self, photo: Photo, arm: Any, fingerprint: str) -> bool:
        """Fill the photo's answer and mark it `cached`; False where there is none."""


def now() -> datetime:
    return datetime.now(UTC)


class Pipeline(Component):
    """The three components one after the other; each times its own stages.

    Args:
        downloader, preprocessor, classifier: components here, or `Remote`s.
        recall: answers of before, asked between download and decoding; only with a classifier in this process.
        arms, features: say which model would answer a sender and what is known of it; needed by `recall`.
        clock: the time now.
        limit: photos of one request.
    """

    takes = ("photo", "url", *SAID)
    optional = ("photo", "url", *SAID)

    def __init__(
        self,
        downloader: Component,
        preprocessor: Component,
        classifier: Component,
        *,
        recall: Memory | None = None,
        arms: "Arms | None" = None,
        features: FeatureSource | None = None,
        clock: Callable[[], datetime] = now,
        limit: int = 64,
        name: str = "classy",
    ) -> None:
        self._memory: tuple[Memory, Arms, FeatureSource] | None = None
        if recall is not None:
            if arms is None or features is None:
                raise ValueError("recall: needs arms and features, to know which answers of before still hold")
            self._memory = (recall, arms, features)
        self.name = name
        self.limit = limit
        self._parts = {"downloader": downloader, "preprocessor": preprocessor, "classifier": classifier}
        self._classifier = classifier
        self._clock = clock
        given = dict.fromkeys([*classifier.gives, "content_hash", "image_id", "error"])
        self.gives = tuple(sorted(given, key=lambda name: name == "error"))

    def shapes(self) -> Shapes:
        return self._classifier.shapes()

    def versions(self) -> tuple[str, ...]:
        return self._classifier.versions()

    def properties(self) -> dict[str, Any]:
        traffic = {name: part.traffic() for name, part in self._parts.items() if isinstance(part, Remote)}
        return {**self._classifier.properties(), **({"hops": traffic} if traffic else {})}

    def ready(self) -> str | None:
        return next((f"{name}: {why}" for name, part in self._parts.items() if (why := part.ready())), None)

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        for photo in photos:
            if photo.problem is None and bool(photo.photo) == bool(photo.url):
                photo.problem = _one_of_two(photo)
        if absent := [photo for photo in photos if photo.url and photo.problem is None]:
            await self._stage("downloader", absent, call)
        if self._memory is not None:
            with call.stage("recall"):
                await self._remember(*self._memory, photos, call)
        if todo := [photo for photo in photos if photo.open]:
            await self._stage("preprocessor", todo, call)
        # Photos that were answered from memory go along: the classifier keeps the log of all answers.
        if rest := [photo for photo in photos if photo.problem is None]:
            await self._stage("classifier", rest, call)

    async def _stage(self, name: str, photos: Sequence[Photo], call: Call) -> None:
        call.left()
        await self._parts[name].apply(photos, call)

    async def infer(self, request: InferRequest, call: Call) -> InferResponse:
        if request.version:
            call.parameters = {**call.parameters, "version": request.version}
        return await super().infer(request, call)

    async def _remember(
        self, recall: Memory, arms: "Arms", features: FeatureSource, photos: Sequence[Photo], call: Call
    ) -> None:
        given, at = call.parameters, self._clock()
        for photo in photos:
            if photo.problem is not None or not photo.photo:
                continue
            photo.content_hash = hashlib.sha256(photo.photo).hexdigest()
            try:
                if version := given.get("version"):
                    arm = arms.by_version(str(version))
                else:
                    key = photo.image_id or photo.content_hash
                    arm = arms.choose(photo.sender, str(given.get("arm", "")), key=key)
                fingerprint = await _fingerprint(features, photo.sender, at)
            except Problem:
                # Memory only saves work: the classifier meets the same obstacle and says it.
                continue
            recall.get(photo, arm, fingerprint)


async def _fingerprint(features: FeatureSource, sender: str, at: datetime) -> str:
    """What is known of a sender; what memory does not say is read in a thread, as the event loop must not wait."""
    found = features.remembered(sender, at)
    return found if found is not None else await asyncio.to_thread(features.fingerprint, sender, at)


def _one_of_two(photo: Photo) -> Problem:
    if photo.photo:
        return Problem("bad_request", "photo and url: both are given; send one of them for each photo")
    return Problem("bad_request", "photo or url: neither is given; send the file's bytes, or its address")
