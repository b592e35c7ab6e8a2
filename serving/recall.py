"""Answers from memory: a photo that the same model has answered with the same features is not asked about again.

An answer is kept under the SHA-256 of the photo's bytes, the model's run id, and a fingerprint of what was known about
the sender. A new generation with another model therefore starts with nothing of the old one's, and one that keeps its
model keeps its answers. Answers of batch scoring come in by `warm`.
"""

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serving.photos import Photo
from serving.pictures import STATS

if TYPE_CHECKING:
    from serving.versions.arms import Arm

LOG = logging.getLogger(__name__)
REFRESH_S = 60.0
"""How often the answers of batch scoring are looked for again."""


def fingerprint_of(context: NDArray[np.float32]) -> str:
    """Names the part of a context row that is not the picture's: what was known about the sender.

    The statistics come first in a row (`STATS`), and are the same for the same bytes and image spec.
    """
    return hashlib.blake2b(context[len(STATS) :].astype("<f4").tobytes(), digest_size=12).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a model said of a photo."""

    probabilities: NDArray[np.float32]
    label: str
    confidence: float
    context: NDArray[np.float32]
    """The whole row [F] that the model was told."""
    defaulted: bool


Answers = Callable[[str, int], Iterable[tuple[str, Answer]]]
"""(run id, how many at most) → (content hash, answer), newest first; nothing where nothing has come since it was last
asked. `pipelines/online/answers.py` gives the one that reads `predictions`."""


class Recall:
    """A bounded store of answers in memory. Asked on one event loop; `warm` may run beside it in a thread.

    Args:
        size: answers that are kept; the one not asked for longest goes first.
        answers: where earlier answers are found; none: only what this process answers is remembered.
    """

    def __init__(self, size: int, answers: Answers | None = None, *, clock: Callable[[], float] = time.monotonic):
        if size < 1:
            raise ValueError(f"size={size}: must be at least 1")
        self.size = size
        self.hits = 0
        self.misses = 0
        self._answers = answers
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str, str], Answer] = OrderedDict()
        self._lock = threading.Lock()
        self._warmed: dict[str, float] = {}
        self._warming: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, photo: Photo, arm: "Arm", fingerprint: str) -> bool:
        """Answer the photo from memory; it is then closed, and marked `cached`.

        Args:
            photo: with its bytes or their `content_hash`, which is filled in.
            arm: who would be asked.
            fingerprint: of what is known about the sender now.

        Returns:
            Whether it was answered. One that came with statistics or a context of its own never is.
        """
        if photo.image is not None or photo.stats is not None or photo.context is not None or photo.problem is not None:
            return False
        if not photo.content_hash:
            if photo.photo is None:
                return False
            photo.content_hash = hashlib.sha256(photo.photo).hexdigest()
        if self._answers is not None:
            self._look_again(arm.run_id)
        key = (photo.content_hash, arm.run_id, fingerprint)
        with self._lock:
            answer = self._kept.get(key)
            if answer is None:
                self.misses += 1
                return False
            self._kept.move_to_end(key)
            self.hits += 1
        photo.probabilities = answer.probabilities
        photo.label, photo.confidence = answer.label, answer.confidence
        photo.context, photo.defaulted = answer.context, answer.defaulted
        photo.arm, photo.model_version, photo.generation = arm.name, arm.version, arm.generation
        photo.cached, photo.cached_from = True, arm
        return True

    def put(self, photo: Photo, arm: "Arm", fingerprint: str = "") -> None:
        """Remember a photo's answer.

        It is kept under the features that the model was told, which may be newer than those of `fingerprint`. Passed
        over is what a client only claims: a content hash without the bytes, or a context that is not of the picture.
        """
        if photo.photo is None or not photo.content_hash or photo.cached or photo.problem is not None:
            return
        if photo.probabilities is None or photo.context is None or photo.stats is None:
            return
        if not np.array_equal(photo.context[: len(STATS)], photo.stats):
            return
        answer = Answer(
            probabilities=photo.probabilities,
            label=photo.label,
            confidence=photo.confidence,
            context=photo.context,
            defaulted=photo.defaulted,
        )
        self._keep(photo.content_hash, arm.run_id, answer)

    def warm(self, run_id: str) -> int:
        """Take in what this model has answered elsewhere since the last time, batch scoring above all. Blocks.

        Returns:
            How many answers came.
        """
        if self._answers is None:
            return 0
        self._warmed[run_id] = self._clock()
        found = list(self._answers(run_id, self.size))
        for content_hash, answer in reversed(found):
            self._keep(content_hash, run_id, answer)
        return len(found)

    def _keep(self, content_hash: str, run_id: str, answer: Answer) -> None:
        key = (content_hash, run_id, fingerprint_of(answer.context))
        with self._lock:
            self._kept[key] = answer
            self._kept.move_to_end(key)
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)

    def _look_again(self, run_id: str) -> None:
        if self._clock() - self._warmed.get(run_id, -REFRESH_S) < REFRESH_S:
            return
        if self._warming is not None and self._warming.is_alive():
            return
        self._warmed[run_id] = self._clock()
        self._warming = threading.Thread(target=self._warm_quietly, args=(run_id,), name="recall", daemon=True)
        self._warming.start()

    def _warm_quietly(self, run_id: str) -> None:
        try:
            self.warm(run_id)
        except Exception as error:  # noqa: BLE001 - the store's own kinds; without it, answers are computed
            LOG.warning("earlier answers of run %s cannot be read, they are computed anew: %s", run_id, error)
