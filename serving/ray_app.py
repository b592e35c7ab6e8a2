"""The same components as Ray Serve deployments: each scales apart, on one machine or many.

    classy ─ handles ─▶ downloader, preprocessor, classifier

`classy` is the ingress: REST is the same ASGI application that the plain server has, gRPC comes in through Ray's
proxy; both ask the components by deployment handles. What a replica is made of is given by an `Opener`, so nothing
here knows settings or recipes. https://docs.ray.io/en/latest/serve/advanced-guides/grpc-guide.html
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import grpc

# Under `uv run` Ray would start each worker by `uv run` from a copy of the folder, without this environment.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from serving.components.base import Call, Component, Identity, Shapes
from serving.components.remote import KNOWN
from serving.photos import Photo
from serving.problems import Problem
from serving.rest.app import App, create_app
from serving.rpc.service import Service
from serving.server import Server
from serving.wire import protobuf as pb

if TYPE_CHECKING:
    from serving.metrics import Metrics

__all__ = ["INGRESS", "PARTS", "SERVICER", "application", "ray", "serve"]

PARTS = ("downloader", "preprocessor", "classifier")
INGRESS = "classy"
LOOK_S = 1.0
"""Seconds between looks at a deployment: versions and readiness."""
STARTS_S = 120.0
"""How long the ingress waits for the components' first replicas."""
CPUS: dict[str, float] = {"downloader": 0, "preprocessor": 1, "classifier": 1, INGRESS: 0}
"""Cores that Ray sets aside for a replica; what only waits needs none."""
METHODS = {
    "ServerLive": "server_live",
    "ServerReady": "server_ready",
    "ModelReady": "model_ready",
    "ServerMetadata": "server_metadata",
    "ModelMetadata": "model_metadata",
    "ModelInfer": "model_infer",
    "RepositoryIndex": "repository_index",
    "RepositoryModelLoad": "repository_load",
    "RepositoryModelUnload": "repository_unload",
}
"""Methods of the gRPC service → of `serving.rpc.service.Service`."""
SERVICER = "serving.ray_app.add_service_to_server"
"""What Ray's gRPC proxy imports to know the service."""


class Opened(Protocol):
    """What a replica is made of."""

    @property
    def server(self) -> Server: ...

    @property
    def metrics(self) -> "Metrics | None": ...


Opener = Callable[[str, int, Mapping[str, Component]], AbstractAsyncContextManager[Opened]]
"""(name, number of this replica, parts elsewhere) → its server, not started yet. For one of PARTS the server has that
component; for INGRESS it has what is served, made of the parts that are given. Must be importable where Ray runs."""


def application(opener: Opener, *, scale: Mapping[str, Mapping[str, Any]] | None = None) -> serve.Application:
    """The application, for `serve.run`.

    Args:
        scale: by name of a deployment, options of `serve.deployment`, such as `{"classifier": {"num_replicas": 4}}`
            or `{"preprocessor": {"autoscaling_config": {…}}}`.
    """
    parts = {name: _deployment(Part, name, scale).bind(opener, name) for name in PARTS}
    return _deployment(serve.ingress()(Ingress), INGRESS, scale).bind(opener, **parts)


def _deployment(kind: type, name: str, scale: Mapping[str, Mapping[str, Any]] | None) -> serve.Deployment:
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": CPUS[name]},
        "max_ongoing_requests": 512,  # lanes inside bound what waits, and say so; Ray would let it wait
        **(scale or {}).get(name, {}),
    }
    return serve.deployment(name=name, **options)(kind)


# ---------------------------------------------------------------------------------------------- one component


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A `Call` on its way to another process."""

    id: str
    identity: Identity
    left: float | None
    """Seconds until the deadline: clocks of two machines differ."""
    parameters: dict[str, Any]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Photos come back with their problems beside them: an exception does not travel well."""

    photos: list[Photo]
    problems: list[dict[str, Any] | None]
    seconds: dict[str, float]
    problem: dict[str, Any] | None
    """Of the request as a whole."""


class Part:
    """A replica of one component."""

    async def __init__(self, opener: Opener, name: str) -> None:  # type: ignore[misc]  # Ray awaits it
        self._stack = AsyncExitStack()
        made = await self._stack.enter_async_context(opener(name, _rank(), {}))
        await made.server.start()
        self._stack.push_async_callback(made.server.stop)
        self._component = made.server.components[name]

    async def __del__(self) -> None:
        await self._stack.aclose()

    async def about(self) -> dict[str, Any]:
        """What changes while it serves, and what it is."""
        part = self._component
        return {
            "why": part.ready() or "",
            "versions": part.versions(),
            "shapes": part.shapes(),
            "properties": part.properties(),
            "limit": part.limit,
            "platform": part.platform,
        }

    async def apply(self, photos: list[Photo], asked: Asked) -> Answered:
        call = Call(id=asked.id, identity=asked.identity, parameters=asked.parameters, headers=asked.headers)
        call.deadline = None if asked.left is None else time.monotonic() + asked.left
        problem = None
        try:
            await self._component.apply(photos, call)
        except Problem as met:
            problem = met.as_json()
        problems = [photo.problem.as_json() if photo.problem else None for photo in photos]
        for photo in photos:
            photo.problem = None
        return Answered(photos=photos, problems=problems, seconds=call.seconds, problem=problem)


def _rank() -> int:
    return int(serve.get_replica_context().rank.rank)


# ----------------------------------------------------------------------------------- asked from elsewhere


class Deployed(Component):
    """A component that is a deployment: asked by its handle."""

    def __init__(self, name: str, handle: serve.handle.DeploymentHandle) -> None:
        self.name = name
        self.takes, self.gives = KNOWN[name]
        self.optional = self.takes[1:]
        self._handle = handle
        self._about: dict[str, Any] = {"why": "has not answered yet", "versions": (), "shapes": {}, "properties": {}}
        self._watching: asyncio.Task[None] | None = None

    def shapes(self) -> Shapes:
        return self._about["shapes"]

    def versions(self) -> tuple[str, ...]:
        return self._about["versions"]

    def properties(self) -> dict[str, Any]:
        return self._about["properties"]

    def ready(self) -> str | None:
        return self._about["why"] or None

    async def start(self) -> None:
        await asyncio.wait_for(self._look(), STARTS_S)
        self._watching = asyncio.create_task(self._watch(), name=f"looks at {self.name}")

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await asyncio.wait_for(self._look(), STARTS_S)
            except (RayError, RayServeException, TimeoutError) as error:
                self._about = {**self._about, "why": f"cannot be asked: {type(error).__name__}"}

    async def _look(self) -> None:
        self._about = await self._handle.about.remote()
        self.limit, self.platform = self._about["limit"], self._about["platform"]

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        # The way a request takes is decided here, at the ingress: a part does its own and answers.
        parameters = {key: value for key, value in call.parameters.items() if key != "next"}
        asked = Asked(id=call.id, identity=call.identity, left=call.left(), parameters=parameters, headers=call.headers)
        response = self._handle.apply.remote(list(photos), asked)
        try:
            answered: Answered = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except (RayError, RayServeException) as error:
            raise Problem("unavailable", f"{self.name}: cannot be asked: {type(error).__name__}; try again") from error
        for stage, seconds in answered.seconds.items():
            call.seconds[stage] = call.seconds.get(stage, 0.0) + seconds
        if answered.problem is not None:
            raise Problem.from_json(answered.problem)
        for photo, found, problem in zip(photos, answered.photos, answered.problems, strict=True):
            for field in fields(Photo):
                setattr(photo, field.name, getattr(found, field.name))
            photo.problem = None if problem is None else Problem.from_json(problem)


# --------------------------------------------------------------------------------------------- the ingress


class Ingress:
    """A replica of the ingress: the doors, access control, and the way through the components."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, opener: Opener, **parts: serve.handle.DeploymentHandle
    ) -> None:
        self._stack = AsyncExitStack()
        deployed: dict[str, Component] = {name: Deployed(name, handle) for name, handle in parts.items()}
        for part in deployed.values():
            await part.start()
            self._stack.push_async_callback(part.stop)
        made = await self._stack.enter_async_context(opener(INGRESS, _rank(), deployed))
        self._server, self._metrics = made.server, made.metrics
        self._service = Service(made.server, made.metrics)
        self._handlers = {
            name: self._service.guarded(getattr(self._service, method), counted=name == "ModelInfer").unary_unary
            for name, method in METHODS.items()
        }

    def __serve_build_asgi_app__(self) -> App:
        return create_app(self._server, self._metrics)

    async def __del__(self) -> None:
        self._server.live = False
        await self._stack.aclose()


class Message:
    """Bytes of an answer, as Ray asks for them."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        return self._data


class _Refused(Exception):
    """A gRPC call ends here; its status is in the context."""


class _Context:
    """Ray's gRPC context as gRPC's own. Ray tells no deadline: the server's own bounds the call."""

    def __init__(self, given: Any) -> None:
        self._given = given

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self._given.invocation_metadata()

    def peer(self) -> str:
        return self._given.peer()

    def time_remaining(self) -> None:
        return None

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Sequence[tuple[str, str | bytes]]) -> None:
        self._given.set_code(code)
        self._given.set_details(details)
        self._given.set_trailing_metadata(list(trailing))
        raise _Refused


def _method(name: str) -> Callable[..., Any]:
    async def method(self: Any, request: bytes, grpc_context: Any) -> Message:
        try:
            return Message(await self._handlers[name](request, _Context(grpc_context)))
        except _Refused:
            return Message(b"")

    method.__name__ = method.__qualname__ = name
    return method


for _name in METHODS:
    setattr(Ingress, _name, _method(_name))


def add_service_to_server(servicer: Any, server: Any) -> None:
    """Tell Ray's gRPC proxy the service's methods. Messages pass as bytes: the ingress reads them."""
    handlers = {name: grpc.unary_unary_rpc_method_handler(getattr(servicer, name)) for name in METHODS}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(pb.SERVICE, handlers),))
