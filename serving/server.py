"""One server process: its components and what stands around them. `pipelines/serve.py` puts one together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from serving.components.base import Call, Component
from serving.messages import InferRequest, InferResponse, ModelMetadata
from serving.problems import Problem
from serving.seams import Board, Gate, LabelDesk, TruthSink


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one request may cost. A request beyond is refused for the price of finding out."""

    max_bytes: int = 64_000_000
    """Of one request's body, after any decompression."""
    max_photos: int = 64
    max_json_depth: int = 16
    timeout_s: float = 30.0
    """Of one request; a client may ask for less."""


class Repository(Protocol):
    """The model repository extension: what can be loaded beside what serves."""

    def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """Rows of name, version, state (READY, LOADING, UNAVAILABLE), reason."""

    async def load(self, model: str, parameters: Mapping[str, Any]) -> None:
        """Load a version (`parameters["version"]`) beside what serves; it answers under its number."""

    async def unload(self, model: str, parameters: Mapping[str, Any]) -> None:
        """Let a loaded version go. One that production needs is refused (Problem 409-like: bad_request)."""


@dataclass(kw_only=True, slots=True)
class Server:
    components: dict[str, Component]
    """By the name under which each is served as a model."""
    gate: Gate
    limits: Limits = Limits()
    repository: Repository | None = None
    truth: TruthSink | None = None
    board: Board | None = None
    """Only where a classifier is: the monitor watches answers."""
    labels: LabelDesk | None = None
    name: str = "classy"
    version: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    """For people: recipe, arms, addresses."""
    live: bool = True
    """False while it ends: health says so, so that a balancer sends nobody any more."""

    def component(self, model: str, version: str = "") -> Component:
        """The component served as `model`.

        Raises:
            Problem: 404.
        """
        found = self.components.get(model)
        if found is None:
            raise Problem("not_found", f"model {model!r}: not served here; there are {', '.join(self.components)}")
        if version and version not in found.versions():
            there = ", ".join(found.versions()) or "none"
            raise Problem("not_found", f"model {model} version {version!r}: not loaded here; versions are {there}")
        return found

    def ready(self) -> str | None:
        """None when every component can answer, else why not."""
        if not self.live:
            return "the server is ending"
        return next((f"{name}: {why}" for name, part in self.components.items() if (why := part.ready())), None)

    async def infer(self, request: InferRequest, call: Call) -> InferResponse:
        return await self.component(request.model, request.version).infer(request, call)

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        return self.component(model, version).metadata()

    async def start(self) -> None:
        for part in self.components.values():
            await part.start()

    async def stop(self) -> None:
        self.live = False
        for part in reversed(self.components.values()):
            await part.stop()
