"""A component in another process, asked by the Open Inference Protocol v2 as any other client would ask it.

An address is `grpc://host:port`, `grpcs://…`, `http://host:port` or `https://…`. Several addresses are several
backends: they take turns; one that cannot be reached is left out for a while and the next one is asked instead, as
nothing was answered yet. What the caller may do travels on: its deadline, its authorization and its trace.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import orjson

from serving import traces
from serving.channels import SCHEMES, Channel, Unreachable, open_channel
from serving.components.base import Call, Component, Shapes
from serving.messages import InferRequest, InferResponse, ModelMetadata, Parameters, Tensor
from serving.photos import FIELDS, Photo, write_tensors
from serving.problems import Problem

__all__ = ["SCHEMES", "Remote"]

log = logging.getLogger(__name__)

KNOWN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "downloader": (("url",), ("photo", "error")),
    "preprocessor": (("photo",), ("image", "image_spec", "stats", "content_hash", "error")),
    "classifier": (
        ("image", "image_spec", "stats", "context", "sender", "image_id", "captured_at", "content_hash"),
        (
            "probabilities", "label", "confidence", "arm", "model_version", "generation", "cached", "defaulted",
            "prediction_id", "image_id", "error",
        ),
    ),
    "classy": (
        ("photo", "url", "sender", "image_id", "captured_at"),
        (
            "probabilities", "label", "confidence", "arm", "model_version", "generation", "cached", "defaulted",
            "prediction_id", "content_hash", "image_id", "error",
        ),
    ),
}  # fmt: skip
"""What Classy's own components take and give, until a backend has said it itself."""
PASSED_ON = ("arm", "version", "next", "via")
"""Parameters of a request that the next component needs: which model answers, where it goes and where it was."""
EJECTED_S = 2.0
LOOK_S = 2.0
"""Seconds between looks at the backends; half a second until the first one has answered."""


@dataclass(slots=True)
class Backend:
    """One address. `until`: left out until then (`time.monotonic()`)."""

    address: str
    channel: Channel
    until: float = 0.0
    why: str = "has not answered yet"
    """Why it cannot be used; empty: it can."""
    requests: int = 0
    sent: int = 0
    received: int = 0
    """Bytes of messages, without what HTTP and TCP put around them."""
    seconds: float = 0.0
    """Waited for answers."""


class Remote(Component):
    """Asks a component in another process.

    Args:
        name: under which it is served there, and known here.
        addresses: of its backends.
        key: sent where the caller has none (looking whether it is ready, reading metadata).
        limit: photos of one request.
        timeout_s: of one request that has no deadline.
        verify: file of the certificates to trust for https and grpcs; empty: the system's.
    """

    def __init__(
        self,
        name: str,
        addresses: Sequence[str],
        *,
        key: str = "",
        limit: int = 64,
        timeout_s: float = 30.0,
        verify: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not addresses:
            raise ValueError(f"{name}: no address")
        self.name = name
        self.limit = limit
        self.takes, self.gives = KNOWN.get(name, (("photo",), ("error",)))
        self.platform = "classy_remote"
        self._timeout_s = timeout_s
        self._clock = clock
        self._backends = [Backend(address, open_channel(address, key=key, verify=verify)) for address in addresses]
        self._turn = 0
        self._metadata: ModelMetadata | None = None
        self._watch: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------------------ what is known of it

    def shapes(self) -> Shapes:
        specs = () if self._metadata is None else (*self._metadata.inputs, *self._metadata.outputs)
        return {spec.name: spec.shape[1:] for spec in specs if spec.name in FIELDS and FIELDS[spec.name].shape}

    def versions(self) -> tuple[str, ...]:
        return () if self._metadata is None else self._metadata.versions

    def properties(self) -> dict[str, Any]:
        there = {} if self._metadata is None else self._metadata.properties
        backends = [
            {"address": backend.address, "ready": not backend.why, "requests": backend.requests}
            for backend in self._backends
        ]
        return {**there, "backends": backends}

    def traffic(self) -> dict[str, float]:
        """What was asked of all backends together: requests, sent_bytes, received_bytes, seconds; and whether one of
        them answers."""
        return {
            "ready": self.ready() is None,
            "requests": sum(backend.requests for backend in self._backends),
            "sent_bytes": sum(backend.sent for backend in self._backends),
            "received_bytes": sum(backend.received for backend in self._backends),
            "seconds": sum(backend.seconds for backend in self._backends),
        }

    def ready(self) -> str | None:
        if any(not backend.why for backend in self._backends):
            return None
        return "; ".join(f"{backend.address}: {backend.why}" for backend in self._backends)

    async def start(self) -> None:
        """Look at the backends now, and again and again: they may start later than this process."""
        await self._look()
        if self._watch is None:
            self._watch = asyncio.create_task(self._looking(), name=f"watch {self.name}")

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        for backend in self._backends:
            await backend.channel.close()

    async def is_ready(self, timeout: float) -> bool:
        """Whether the first backend says that it answers.

        Raises:
            Unreachable: there is none at that address.
        """
        return await self._backends[0].channel.ready(self.name, timeout=timeout)

    async def learn(self, timeout: float) -> ModelMetadata:
        """What the first backend says of itself; its fields and shapes are used from then on.

        Raises:
            Unreachable: there is none at that address.
        """
        found = await self._backends[0].channel.metadata(self.name, timeout=timeout)
        self._learn(found)
        return found

    async def _looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S if self.ready() is None else LOOK_S / 4)
            await self._look()

    async def _look(self) -> None:
        """At every backend, at once."""
        await asyncio.gather(*(self._look_at(backend) for backend in self._backends))

    async def _look_at(self, backend: Backend) -> None:
        before = backend.why
        try:
            if not await backend.channel.ready(self.name, timeout=LOOK_S):
                backend.why = "is not ready"
                return
            found = await backend.channel.metadata(self.name, timeout=LOOK_S)
        except (Unreachable, Problem) as error:
            backend.why = str(error)
        else:
            backend.why, backend.until = "", 0.0
            self._learn(found)
        if bool(before) != bool(backend.why):
            log.info("%s at %s: %s", self.name, backend.address, backend.why or "ready")

    def _learn(self, found: ModelMetadata) -> None:
        self._metadata = found
        self.takes = tuple(spec.name for spec in found.inputs if spec.name in FIELDS)
        self.gives = tuple(spec.name for spec in found.outputs if spec.name in FIELDS)
        self.optional = tuple(spec.name for spec in found.inputs if spec.optional)

    # ------------------------------------------------------------------------------------- a request

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        await self.ask(photos, call)

    async def ask(self, photos: Sequence[Photo], call: Call) -> tuple[str, ...]:
        """As `apply`; gives the names of the fields that were answered."""
        if self._metadata is None:
            # What it takes is not known yet: a field too few would be another request, one too many a wrong one.
            await self._look()
        names = self.gives
        for alike in _alike([photo for photo in photos if photo.problem is None]):
            for start in range(0, len(alike), self.limit):
                names = await self._ask(alike[start : start + self.limit], call)
        return names

    async def _ask(self, photos: list[Photo], call: Call) -> tuple[str, ...]:
        inputs = write_tensors(photos, _filled(photos, self.takes), self.shapes())
        if not inputs:
            raise Problem("bad_request", f"{self.name}: needs {self.takes[0]}, and the photos have none")
        passed = {name: call.parameters[name] for name in PASSED_ON if name in call.parameters}
        request = InferRequest(self.name, inputs, id=call.id, parameters=passed)
        start = time.perf_counter()
        try:
            with traces.span(f"to_{self.name}", photos=len(photos)):
                response = await self._one_of_them(request, call)
        except Problem as problem:
            # Of one photo, its own problem comes as the request's.
            if len(photos) > 1 or problem.reason in ("busy", "over_quota", "unavailable", "too_late", "internal"):
                raise
            photos[0].problem = problem
            return self.gives
        _fill(photos, response.outputs, self.name)
        _account(call.seconds, response.parameters, self.name, time.perf_counter() - start)
        return tuple(tensor.name for tensor in response.outputs)

    async def _one_of_them(self, request: InferRequest, call: Call) -> InferResponse:
        """The first backend that can be reached answers, beginning with the one whose turn it is."""
        last = Problem("unavailable", f"{self.name}: no backend")
        headers = dict(call.headers)
        traces.inject(headers)
        for backend in self._in_turn():
            left = call.left()
            timeout = self._timeout_s if left is None else min(left, self._timeout_s)
            start = time.perf_counter()
            try:
                answer, sent, received = await backend.channel.infer(request, timeout=timeout, headers=headers)
            except Unreachable as error:
                backend.until, backend.why = self._clock() + EJECTED_S, str(error)
                last = Problem("unavailable", f"{self.name}: {error}", retry_after=EJECTED_S)
                continue
            except Problem as problem:
                if problem.reason not in ("busy", "unavailable"):
                    raise
                # It said itself that it did nothing: another one may have room.
                last = problem
                continue
            backend.why = ""
            backend.requests += 1
            backend.seconds += time.perf_counter() - start
            backend.sent += sent
            backend.received += received
            return answer
        raise last

    def _in_turn(self) -> Iterator[Backend]:
        """All of them, the next in turn first; those left out for now come last, for want of anything better."""
        self._turn = (self._turn + 1) % len(self._backends)
        around = self._backends[self._turn :] + self._backends[: self._turn]
        now = self._clock()
        yield from sorted(around, key=lambda backend: backend.until > now or bool(backend.why))


def _account(seconds: dict[str, float], told: Parameters, name: str, spent: float) -> None:
    """Add the stages that the other process tells, and what is left of the whole: the way there and back."""
    for key, value in told.items():
        if key.endswith("_ms") and isinstance(value, int | float):
            stage = key.removesuffix("_ms")
            seconds[stage] = seconds.get(stage, 0.0) + value / 1000
            spent -= value / 1000
    seconds[f"to_{name}"] = seconds.get(f"to_{name}", 0.0) + max(spent, 0.0)


def _alike(photos: list[Photo]) -> list[list[Photo]]:
    """Photos that can travel in one tensor: the same arrays are there, of the same shapes."""

    def arrays(photo: Photo) -> tuple[Any, ...]:
        found = (photo.image, photo.stats, photo.context)
        return tuple(None if value is None else value.shape for value in found)

    kinds = {id(photo): str(arrays(photo)) for photo in photos}
    ordered = sorted(photos, key=lambda photo: kinds[id(photo)])
    return [list(group) for _, group in groupby(ordered, key=lambda photo: kinds[id(photo)])]


def _filled(photos: list[Photo], takes: Sequence[str]) -> list[str]:
    """Fields that some photo has. The others are not sent: an empty context is not a context of zeros."""
    return [name for name in takes if name != "error" and any(_has(getattr(photo, name)) for photo in photos)]


def _has(value: Any) -> bool:
    return value is not None and (isinstance(value, np.ndarray) or bool(value))


def _fill(photos: list[Photo], outputs: list[Tensor], name: str) -> None:
    count = len(photos)
    for tensor in outputs:
        if tensor.name not in FIELDS:
            continue
        if not tensor.shape or tensor.shape[0] != count or tensor.datatype != FIELDS[tensor.name].datatype:
            raise Problem(
                "internal",
                f"{name}: answered {tensor.name} as {tensor.datatype} {list(tensor.shape)} for {count} photos",
            )
        if isinstance(tensor.data, list):
            for photo, value in zip(photos, tensor.data, strict=True):
                _set_text(photo, tensor.name, value)
        else:
            for photo, row in zip(photos, tensor.data, strict=True):
                setattr(photo, tensor.name, row if row.ndim else row.item())
    for photo in photos:
        if photo.problem is not None:  # zeros stand where there is no answer
            photo.probabilities, photo.image, photo.stats = None, None, None


def _set_text(photo: Photo, name: str, value: bytes) -> None:
    if name == "error":
        photo.problem = Problem.from_json(orjson.loads(value)) if value else None
    elif name == "photo":
        photo.photo = value or None
    else:
        setattr(photo, name, value.decode())
