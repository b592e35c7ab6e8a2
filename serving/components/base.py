"""What every component is: fields of a photo go in, others come out."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from serving.messages import InferRequest, InferResponse, ModelMetadata, Tensor
from serving.photos import Photo, read_photos, specs, write_tensors
from serving.problems import Problem

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Who asks. `scopes`: infer, truth, admin, metrics."""

    subject: str
    scopes: frozenset[str]
    key_id: str = ""

    def need(self, scope: str) -> None:
        """Raises Problem (403) without the scope."""
        if scope not in self.scopes:
            has = ", ".join(sorted(self.scopes)) or "none"
            raise Problem("forbidden", f"{self.subject}: needs scope {scope}; this key has {has}")


ANYONE = Identity(subject="anyone", scopes=frozenset({"infer", "truth", "admin", "metrics"}))
"""Who asks where access control is switched off, and inside one process."""


@dataclass(slots=True)
class Call:
    """What travels beside the photos of one request."""

    id: str = ""
    identity: Identity = ANYONE
    deadline: float | None = None
    """`time.monotonic()` after which nobody waits for the answer."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Of the request: `arm` (which arm must answer), `next` (hops that go on, comma-separated)."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Where the request's time went: stage → seconds."""
    headers: dict[str, str] = field(default_factory=dict)
    """What is passed on to the next hop: `authorization`, `traceparent`."""
    photos: Sequence[Photo] = ()
    """Those of the request, once they are read: the door counts what became of them."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; a trace shows it as a span."""
        from serving.traces import span

        start = time.perf_counter()
        try:
            with span(name):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def left(self) -> float | None:
        """Seconds until the deadline, or None.

        Raises:
            Problem: it has passed.
        """
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Problem("too_late", "the request's deadline has passed; ask with a longer one")
        return left


class Component(ABC):
    """One part: it fills fields of photos. Made once, used by many requests at once on one event loop."""

    name: str
    takes: tuple[str, ...]
    """Fields that a request may have, the needed ones first."""
    gives: tuple[str, ...]
    """Fields of the answer; `error` is one of them."""
    optional: tuple[str, ...] = ()
    limit: int = 64
    """Photos of one request."""
    platform: str = "classy"

    @abstractmethod
    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        """Fill what this component gives, in place. A photo's own problem is put on it, not raised.

        Raises:
            Problem: the request as a whole cannot be answered (busy, too late, unavailable).
        """

    def shapes(self) -> Shapes:
        """Shapes of one photo's fields that depend on the model, such as `image` or `probabilities`."""
        return {}

    def versions(self) -> tuple[str, ...]:
        """Versions that answer, newest first; empty where there are none."""
        return ()

    def properties(self) -> dict[str, Any]:
        """More for people in the metadata."""
        return {}

    def ready(self) -> str | None:
        """None when it can answer, else why not."""
        return None

    async def start(self) -> None:  # noqa: B027
        """Before the first request."""

    async def stop(self) -> None:  # noqa: B027
        """After the last request: give back threads and connections."""

    # ------------------------------------------------------------------------------------- as a model

    def metadata(self) -> ModelMetadata:
        shapes = self.shapes()
        return ModelMetadata(
            name=self.name,
            platform=self.platform,
            versions=self.versions(),
            inputs=tuple(specs(self.takes, shapes, self.optional)),
            outputs=tuple(specs(self.gives, shapes)),
            properties=self.properties(),
        )

    async def infer(self, request: InferRequest, call: Call) -> InferResponse:
        """Answer a request: tensors in, tensors out.

        A request of one photo fails as its photo does; among several each has its own `error`.

        Raises:
            Problem: the request is wrong, or cannot be answered.
        """
        photos = call.photos = read_photos(request, self.takes, limit=self.limit)
        # Before the work: an answer that cannot be given must not cost one, nor be logged.
        self._check_outputs(request)
        await self.apply(photos, call)
        if len(photos) == 1 and photos[0].problem is not None:
            raise photos[0].problem
        return self.respond(request, photos, call)

    def _check_outputs(self, request: InferRequest) -> None:
        for wanted in request.outputs:
            if wanted.name not in self.gives:
                given = ", ".join(self.gives)
                raise Problem("bad_request", f"outputs: {self.name} has no {wanted.name!r}; it gives {given}")

    def respond(self, request: InferRequest, photos: Sequence[Photo], call: Call) -> InferResponse:
        self._check_outputs(request)
        names = [wanted.name for wanted in request.outputs] or list(self.gives)
        outputs: list[Tensor] = write_tensors(photos, names, self.shapes())
        timing = {f"{name}_ms": round(1000 * seconds, 3) for name, seconds in call.seconds.items()}
        return InferResponse(request.model, outputs, version=request.version, id=request.id, parameters=timing)
