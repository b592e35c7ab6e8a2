"""`classifier`: canonical images in, classes out, by the arm that a sender belongs to; every answer is logged.

Here is also where answers of the shadow are made: after the caller's, on the same photos, and never at its cost.
"""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from serving import traces
from serving.components.base import Call, Component, Shapes
from serving.messages import InferRequest, InferResponse
from serving.photos import Photo
from serving.pictures import STATS
from serving.problems import Problem
from serving.seams import FeatureSource, PredictionLog
from serving.versions.arms import SHADOW, Arm, Arms

if TYPE_CHECKING:
    from serving.recall import Recall

log = logging.getLogger(__name__)

CHANNEL = "online"
UNKNOWN = "unknown"
"""`source_id` of a photo whose sender nobody said."""
AHEAD = timedelta(minutes=1)
"""How far a caller's clock may be ahead of ours."""
LONGEST = 256
"""Characters of a sender's or a photo's name."""
STAGES = ("features", "queue", "model")


def now() -> datetime:
    return datetime.now(UTC)


class Classifier(Component):
    """The models that serve, as one component.

    Args:
        arms: who is answered by which model.
        features: gives photos without a context theirs.
        log: takes every answer.
        clock: the time now, aware.
        recall: told of each answer, to give it again.
        limit: photos of one request.
    """

    takes = ("image", "image_spec", "stats", "context", "sender", "image_id", "captured_at", "content_hash")
    optional = takes[1:]
    gives = ("probabilities", "label", "confidence", "arm", "model_version", "generation", "cached", "defaulted",
             "prediction_id", "image_id", "error")  # fmt: skip
    platform = "onnx"

    def __init__(
        self,
        arms: Arms,
        features: FeatureSource,
        log: PredictionLog,
        *,
        clock: Callable[[], datetime] = now,
        recall: "Recall | None" = None,
        limit: int = 64,
        name: str = "classifier",
    ) -> None:
        self.name = name
        self.limit = limit
        self.shadowed = 0
        """Photos that the shadow has answered."""
        self.shadow_shed = 0
        """Photos that it has not: it was busy, failed, or takes other images or features."""
        self._arms, self._features, self._log, self._recall, self._clock = arms, features, log, recall, clock
        self._behind: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------------------------------ as a model

    def shapes(self) -> Shapes:
        arms = self._arms.all()
        if not arms:
            return {}
        loaded = arms[0].loaded
        size = loaded.size
        return {"image": (size, size, 3), "context": (loaded.width,), "probabilities": (len(loaded.classes),)}

    def versions(self) -> tuple[str, ...]:
        return self._arms.versions()

    def ready(self) -> str | None:
        return self._arms.ready() or self._features.ready()

    def properties(self) -> dict[str, Any]:
        found: dict[str, Any] = {**self._arms.about(), "stats": list(STATS)}
        if self._arms.shadow() is not None:
            found["shadow"] = {"answered": self.shadowed, "shed": self.shadow_shed}
        arms = self._arms.all()
        if arms:
            card = arms[0].loaded.card
            found["classes"] = list(arms[0].loaded.classes)
            found |= {name: card.get(name) for name in ("context_names", "service", "image", "image_spec_hash")}
        found["runtimes"] = {arm.version: arm.loaded.about() for arm in arms}
        return found

    async def infer(self, request: InferRequest, call: Call) -> InferResponse:
        if request.version:
            call.parameters = {**call.parameters, "version": request.version}
        return await super().infer(request, call)

    async def stop(self) -> None:
        """Let the shadow finish what it has begun."""
        if self._behind:
            await asyncio.gather(*self._behind)

    # --------------------------------------------------------------------------------------------- answers

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        """Answer photos that have an image; log these and those that memory has answered.

        Raises:
            Problem: no such arm (404), nothing is loaded (503), or the model is busy (429).
        """
        at = self._clock()
        groups: dict[int, _Group] = {}
        rows: list[dict[str, Any]] = []
        with ExitStack() as held:
            # No await between choosing and leasing: a model that was chosen is not stopped before it has answered.
            for photo, captured in self._admit(photos, at):
                if photo.probabilities is not None:
                    rows.append(_row(photo, photo.cached_from, captured, at, call))  # it is an answer like others
                elif (arm := self._choose(photo, call)) is not None:
                    group = groups.get(id(arm))
                    if group is None:
                        groups[id(arm)] = group = _Group(arm)
                        held.enter_context(self._arms.lease(arm))
                    group.photos.append(photo)
                    group.captured.append(captured)
            await self._ask(list(groups.values()), call)
        for group in groups.values():
            rows += self._rows(group, at, call)
        if rows:
            self._log.write(rows)
        if groups and (shadow := self._arms.shadow()) is not None:
            self._follow(shadow, groups.values(), call)

    def _admit(self, photos: Sequence[Photo], at: datetime) -> list[tuple[Photo, datetime]]:
        """Photos that can be answered, and when each was taken."""
        taken = []
        for photo in photos:
            if photo.problem is not None:
                continue
            try:
                captured = _captured(photo.captured_at, at)
                _name(photo)
            except Problem as problem:
                photo.problem = problem
                continue
            taken.append((photo, captured))
        return taken

    def _choose(self, photo: Photo, call: Call) -> Arm | None:
        """The arm that answers this photo; None, and its problem, where it does not fit."""
        given = call.parameters
        if version := given.get("version"):
            arm = self._arms.by_version(str(version))
        else:
            arm = self._arms.choose(
                photo.sender, str(given.get("arm", "")), key=photo.image_id, image_spec=photo.image_spec
            )
        loaded = arm.loaded
        if photo.image is None:
            photo.problem = Problem("bad_request", "input image: is missing; send the preprocessor's")
        elif photo.image_spec and photo.image_spec != loaded.image_digest:
            photo.problem = Problem(
                "unprocessable",
                f"input image_spec: the image was made as {photo.image_spec}, version {arm.version} takes "
                f"{loaded.image_digest}; send the photo through this server's preprocessor again",
                detail="image_spec",
            )
        elif photo.context is None:
            photo.problem = self._unknowable(photo, arm)
        return arm if photo.problem is None else None

    def _unknowable(self, photo: Photo, arm: Arm) -> Problem | None:
        """Why this photo's features cannot be looked up."""
        if self._features.service_hash != arm.loaded.service_hash:
            return Problem(
                "unavailable",
                f"version {arm.version} was trained for feature service hash {arm.loaded.service_hash}, this server "
                f"reads {self._features.service_hash}; serve it with the recipe it was trained with, or send a context",
                detail="feature_service",
            )
        if photo.stats is None:
            return Problem("bad_request", "input stats: is missing; send the preprocessor's, or a context of your own")
        return None

    async def _ask(self, groups: list["_Group"], call: Call) -> None:
        if len(groups) == 1:
            await self._ask_arm(groups[0], call)
        elif groups:
            found = await asyncio.gather(*(self._ask_arm(group, call) for group in groups), return_exceptions=True)
            for group, error in zip(groups, found, strict=True):
                if isinstance(error, Problem):
                    # One arm is full, another is not: its photos are refused, the others' answers stand.
                    for photo in group.photos:
                        photo.problem = error
                elif error is not None:
                    raise error

    async def _ask_arm(self, group: "_Group", call: Call) -> None:
        arm = group.arm
        start = time.perf_counter()
        try:
            await arm.loaded.classify(group.photos, prepare=self._look_up, deadline=call.deadline)
        except Problem as refused:
            if refused.kind.status >= 500:
                for _ in group.photos:
                    self._arms.tally(arm, time.perf_counter() - start, False)
            raise
        seconds = time.perf_counter() - start
        traces.told("classifier", group.photos, ("queue", "features", "model"), arm=arm.name, version=arm.version)
        for photo in group.photos:
            problem = photo.problem
            if problem is None:
                photo.arm, photo.model_version, photo.generation = arm.name, arm.version, arm.generation
                self._arms.tally(arm, seconds, True)
            elif problem.kind.status >= 500:
                self._arms.tally(arm, seconds, False)
            for stage in STAGES:
                if (took := photo.seconds.get(stage, 0.0)) > call.seconds.get(stage, 0.0):
                    call.seconds[stage] = took

    def _look_up(self, photos: list[Photo]) -> None:
        """In the lane's thread."""
        self._features.fill(photos, self._clock())

    def _rows(self, group: "_Group", at: datetime, call: Call) -> list[dict[str, Any]]:
        """Rows of a group's answers, which are remembered too."""
        rows = []
        for photo, captured in zip(group.photos, group.captured, strict=True):
            if photo.problem is None:
                rows.append(_row(photo, group.arm, captured, at, call))
                if self._recall is not None:
                    self._recall.put(photo, group.arm)
        return rows

    # ---------------------------------------------------------------------------------------------- shadow

    def _follow(self, shadow: Arm, groups: Iterable["_Group"], call: Call) -> None:
        """Have the shadow answer the same photos behind the caller's back."""
        mine = _Group(shadow)
        for group in groups:
            same = group.arm.loaded.service_hash == shadow.loaded.service_hash
            for photo, captured in zip(group.photos, group.captured, strict=True):
                if photo.problem is not None:
                    continue
                if same and photo.image_spec in ("", shadow.loaded.image_digest):
                    mine.photos.append(_again(photo))
                    mine.captured.append(captured)
                else:
                    self.shadow_shed += 1
        lane = shadow.loaded.lane
        if not mine.photos or lane.waiting > lane.batch:
            # What it has not done by now it will not catch up with: answers to callers come first.
            self.shadow_shed += len(mine.photos)
            return
        beside = Call(id=call.id, identity=call.identity)
        task = asyncio.get_running_loop().create_task(self._ask_shadow(mine, beside))
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def _ask_shadow(self, group: "_Group", call: Call) -> None:
        try:
            with self._arms.lease(group.arm):
                await self._ask_arm(group, call)
        except Problem as problem:
            log.debug("shadow %s: %s", group.arm.version, problem)
            self.shadow_shed += len(group.photos)
            return
        at = self._clock()
        rows = [
            _row(photo, group.arm, captured, at, call, name=SHADOW)
            for photo, captured in zip(group.photos, group.captured, strict=True)
            if photo.problem is None
        ]
        self.shadowed += len(rows)
        self.shadow_shed += len(group.photos) - len(rows)
        if rows:
            self._log.write(rows)


@dataclass(slots=True)
class _Group:
    """Photos of one request that one arm answers, and when each was taken."""

    arm: Arm
    photos: list[Photo] = field(default_factory=list)
    captured: list[datetime] = field(default_factory=list)


def prediction_id() -> str:
    """A UUID of version 7 (RFC 9562): those made later sort later, which keeps an index short to write."""
    drawn = int.from_bytes(os.urandom(10))
    whole = (time.time_ns() // 1_000_000) << 80 | drawn
    whole = whole & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62
    text = f"{whole:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _captured(text: str, at: datetime) -> datetime:
    """When a photo was taken. A time without an offset is UTC."""
    if not text:
        return at
    try:
        found = datetime.fromisoformat(text)
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Problem(
            "unprocessable", f"captured_at {text[:40]!r}: is no time; write it as 2026-03-01T12:00:00Z"
        ) from None
    if found > at + AHEAD:
        raise Problem(
            "unprocessable",
            f"captured_at {text[:40]!r}: is in the future, it is {at.isoformat(timespec='seconds')}; set the clock",
        )
    return found


def _name(photo: Photo) -> None:
    """Give the photo the name under which ground truth will be told, and check what the caller says of it."""
    for what, text in (("sender", photo.sender), ("image_id", photo.image_id), ("content_hash", photo.content_hash)):
        if len(text) > LONGEST or "\0" in text:
            raise Problem(
                "unprocessable", f"input {what}: has {len(text)} characters; at most {LONGEST}, none of them NUL"
            )
    if len(photo.content_hash) > 64:
        raise Problem("unprocessable", "input content_hash: is no SHA-256 in hex; send the preprocessor's, or none")
    if not photo.image_id:
        photo.image_id = photo.content_hash
        if not photo.image_id and photo.image is not None:
            photo.image_id = hashlib.sha256(photo.image.tobytes()).hexdigest()


def _again(photo: Photo) -> Photo:
    """The photo as it was before it was answered, with the same features."""
    return replace(
        photo, probabilities=None, label="", confidence=0.0, cached=False, prediction_id="", photo=None, seconds={}
    )


def _row(photo: Photo, arm: Arm, captured: datetime, at: datetime, call: Call, *, name: str = "") -> dict[str, Any]:
    """A row of `predictions`; gives the photo its prediction id. `name` is the arm's, if not its own."""
    photo.prediction_id = prediction_id()
    return {
        "prediction_id": photo.prediction_id,
        "image_id": photo.image_id,
        "source_id": photo.sender or UNKNOWN,
        "captured_at": captured,
        "predicted_at": at,
        "label": photo.label,
        "confidence": photo.confidence,
        "probabilities": photo.probabilities.tolist(),  # type: ignore[union-attr]
        "model_version": arm.version,
        "run_id": arm.run_id,
        "generation": photo.generation,
        "arm": name or photo.arm,
        "channel": CHANNEL,
        "service_hash": arm.loaded.service_hash,
        "defaulted": photo.defaulted,
        "content_hash": photo.content_hash or None,
        "context": None if photo.context is None else photo.context.tolist(),
        "timings": {stage: round(1000 * seconds, 3) for stage, seconds in photo.seconds.items()},
        "cached": photo.cached,
        "request_id": call.id or None,
        "key_id": call.identity.key_id or None,
    }
