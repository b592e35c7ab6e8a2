"""The gRPC side of a server: GRPCInferenceService of the Open Inference Protocol v2, and gRPC's own health check.

Messages come and go as bytes and are parsed here: gRPC's own parsing answers a malformed message with INTERNAL, and it
is the caller's mistake.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import orjson

from serving import traces
from serving.components.base import Call
from serving.messages import InferRequest
from serving.problems import Problem
from serving.rest.replies import INTERNAL
from serving.rest.v2 import EXTENSIONS, need_repository, repository_index
from serving.server import Server
from serving.wire import protobuf as pb
from serving.wire import rpc as wire
from serving.wire.tensors import count_photos

if TYPE_CHECKING:
    from serving.metrics import Metrics

log = logging.getLogger(__name__)

PASSED_ON = ("traceparent", "tracestate")
LONGEST = 800
"""Letters of a message in a status."""
Handler = Callable[[bytes, "Asked"], Awaitable[bytes]]


class Asked:
    """What a handler needs of one call beside its message."""

    __slots__ = ("call", "context", "metadata", "model", "server")

    def __init__(self, server: Server, context: Any) -> None:
        self.server = server
        self.context = context
        self.metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
        self.call = Call()
        self.model = ""

    async def admit(self, scope: str, *, photos: int = 0) -> None:
        """Let the caller in by the metadata `authorization` or `x-api-key`, or raise Problem."""
        given = self.metadata.get("authorization")
        if given is None and (key := self.metadata.get("x-api-key")) is not None:
            given = f"Bearer {key}"
        call = self.call
        call.identity = await self.server.gate.admit(given, scope=scope, photos=photos, peer=self.context.peer())
        if given:
            call.headers["authorization"] = given
        for name in PASSED_ON:
            if name in self.metadata:
                call.headers[name] = self.metadata[name]


class Service:
    """The methods. Each takes a message's bytes and gives the answer's."""

    def __init__(self, server: Server, metrics: "Metrics | None" = None) -> None:
        self.server = server
        self.metrics = metrics

    # -------------------------------------------------------------------------------------------- health

    async def server_live(self, data: bytes, asked: Asked) -> bytes:
        pb.parse(pb.ServerLiveRequest, data)
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def server_ready(self, data: bytes, asked: Asked) -> bytes:
        pb.parse(pb.ServerReadyRequest, data)
        return pb.ServerReadyResponse(ready=self.server.ready() is None).SerializeToString()

    async def model_ready(self, data: bytes, asked: Asked) -> bytes:
        found = pb.parse(pb.ModelReadyRequest, data)
        why = self.server.component(found.name, found.version).ready()
        return pb.ModelReadyResponse(ready=why is None).SerializeToString()

    async def check(self, data: bytes, asked: Asked) -> bytes:
        """grpc.health.v1: of the server, or of a model by its name."""
        name = pb.parse(pb.HealthCheckRequest, data).service
        known = name in ("", pb.SERVICE, pb.HEALTH)
        why = self.server.ready() if known else self.server.component(name).ready()
        kinds = pb.HealthCheckResponse.ServingStatus
        return pb.HealthCheckResponse(status=kinds.Value("NOT_SERVING" if why else "SERVING")).SerializeToString()

    # ------------------------------------------------------------------------------------------ metadata

    async def server_metadata(self, data: bytes, asked: Asked) -> bytes:
        pb.parse(pb.ServerMetadataRequest, data)
        await asked.admit("infer")
        server = self.server
        return pb.ServerMetadataResponse(
            name=server.name, version=server.version, extensions=EXTENSIONS
        ).SerializeToString()

    async def model_metadata(self, data: bytes, asked: Asked) -> bytes:
        found = pb.parse(pb.ModelMetadataRequest, data)
        await asked.admit("infer")
        return wire.write_metadata(self.server.metadata(found.name, found.version))

    # ----------------------------------------------------------------------------------------- inference

    async def model_infer(self, data: bytes, asked: Asked) -> bytes:
        await asked.admit("infer", photos=1)
        request, raw = wire.read_request(data)
        asked.model = request.model
        self.server.component(request.model, request.version)
        call = asked.call
        call.id = request.id
        call.parameters = {**request.parameters, "version": request.version} if request.version else request.parameters
        count = count_photos(request.inputs, self.server.limits.max_photos)
        if count > 1:
            await asked.admit("infer", photos=count - 1)
        limit = _timeout(request)
        if limit is None:
            return wire.write_response(await self.server.infer(request, call), raw=raw)
        call.deadline = min(time.monotonic() + limit, call.deadline or float("inf"))
        async with asyncio.timeout(limit):
            return wire.write_response(await self.server.infer(request, call), raw=raw)

    # ---------------------------------------------------------------------------------------- repository

    async def repository_index(self, data: bytes, asked: Asked) -> bytes:
        ready = pb.parse(pb.RepositoryIndexRequest, data).ready
        await asked.admit("admin")
        return pb.RepositoryIndexResponse(models=repository_index(self.server, ready=ready)).SerializeToString()

    async def repository_load(self, data: bytes, asked: Asked) -> bytes:
        found = pb.parse(pb.RepositoryModelLoadRequest, data)
        await asked.admit("admin")
        await need_repository(self.server, found.model_name).load(found.model_name, wire.plain(found.parameters))
        return pb.RepositoryModelLoadResponse().SerializeToString()

    async def repository_unload(self, data: bytes, asked: Asked) -> bytes:
        found = pb.parse(pb.RepositoryModelUnloadRequest, data)
        await asked.admit("admin")
        await need_repository(self.server, found.model_name).unload(found.model_name, wire.plain(found.parameters))
        return pb.RepositoryModelUnloadResponse().SerializeToString()

    # ------------------------------------------------------------------------------------------ any call

    def guarded(self, handler: Handler, *, counted: bool = False) -> Any:
        """The handler as gRPC calls it: bounded in time, its problems told as status codes, counted."""

        async def work(data: bytes, context: Any) -> bytes:
            start = time.perf_counter()
            asked = Asked(self.server, context)
            problem: Problem | None = None
            status = 499
            answer = b""
            try:
                answer = await self._bounded(handler, data, asked, traced=counted and traces.on())
                status = 200
            except Problem as met:
                problem = met
            except TimeoutError:
                problem = Problem("too_late", "there was no answer within the request's time; ask with a longer one")
            except Exception:
                log.exception("gRPC call failed")
                problem = INTERNAL
            finally:
                if counted and self.metrics is not None:
                    status = status if problem is None else problem.kind.status
                    self.metrics.observe(
                        asked.model, asked.call, asked.call.photos, status, door="grpc",
                        seconds=time.perf_counter() - start, problem=problem,
                    )  # fmt: skip
            if problem is not None:
                await _refuse(context, problem)
            return answer

        return grpc.unary_unary_rpc_method_handler(work)

    async def _bounded(self, handler: Handler, data: bytes, asked: Asked, *, traced: bool) -> bytes:
        limit = self.server.limits.timeout_s
        left = asked.context.time_remaining()
        if left is not None:
            limit = min(limit, left)
        asked.call.deadline = time.monotonic() + limit
        async with asyncio.timeout(limit):
            if not traced:
                return await handler(data, asked)
            with traces.span("grpc", traces.extract(asked.metadata)) as span:
                traces.inject(asked.call.headers)
                try:
                    return await handler(data, asked)
                finally:
                    span.set(**traces.about(asked.call.photos, model=asked.model))


def _timeout(request: InferRequest) -> float | None:
    """Seconds of the parameter `timeout`, which is in microseconds; 0 is none."""
    asked = request.parameters.get("timeout", 0)
    if type(asked) is not int or asked < 0:
        raise Problem("bad_request", f"parameters: timeout is {asked!r:.40}, must be a whole number of microseconds")
    return asked / 1e6 or None


async def _refuse(context: Any, problem: Problem) -> None:
    # Clients take 8 kB of trailing metadata, and the message is in it twice, percent-encoded once.
    if len(problem.message) > LONGEST:
        problem = Problem(
            problem.reason, f"{problem.message[:LONGEST]}…", detail=problem.detail[:40], retry_after=problem.retry_after
        )
    trailing: list[tuple[str, str | bytes]] = [(wire.PROBLEM, orjson.dumps(problem.as_json()))]
    if problem.retry_after is not None:
        trailing.append(("retry-after", f"{problem.retry_after:.3f}"))
    await context.abort(getattr(grpc.StatusCode, problem.kind.code), problem.message, tuple(trailing))


def create_rpc(server: Server, metrics: "Metrics | None" = None) -> grpc.aio.Server:
    """A gRPC server for `server`, without a port yet."""
    limits = server.limits
    made = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", limits.max_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 1),
            # A client behind a balancer may ping to keep its connection; a silent peer is found out.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_time_ms", 60_000),
        )
    )
    service = Service(server, metrics)
    methods = {
        "ServerLive": service.guarded(service.server_live),
        "ServerReady": service.guarded(service.server_ready),
        "ModelReady": service.guarded(service.model_ready),
        "ServerMetadata": service.guarded(service.server_metadata),
        "ModelMetadata": service.guarded(service.model_metadata),
        "ModelInfer": service.guarded(service.model_infer, counted=True),
        "RepositoryIndex": service.guarded(service.repository_index),
        "RepositoryModelLoad": service.guarded(service.repository_load),
        "RepositoryModelUnload": service.guarded(service.repository_unload),
    }
    made.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(pb.SERVICE, methods),
            grpc.method_handlers_generic_handler(pb.HEALTH, {"Check": service.guarded(service.check)}),
        )
    )
    return made
