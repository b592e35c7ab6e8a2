"""`classy serve --engine ray`: the live server as a Ray Serve application.

Joins the cluster that RAY_ADDRESS names, else starts a Ray of its own on this machine and ends it with the server.
"""

import importlib.metadata
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from pipelines.errors import ClassyError
from pipelines.online import assembly, workers
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.components.base import Component
from serving.components.hops import Onward
from serving.components.pipeline import Pipeline
from serving.metrics import Metrics
from serving.ray_app import INGRESS, SERVICER, application, ray, serve
from serving.server import Limits, Server

STORE_BYTES = 200_000_000
"""Of Ray's shared memory: photos and tensors of requests under way."""


def run(
    settings: Settings,
    recipe: Recipe,
    *,
    ready: Callable[[int, int], None],
    say: Callable[[str], None],
    scale: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        ready: told the REST and the gRPC port once the server answers.
        say: told what a person should know.
        scale: options of single deployments (`serving.ray_app.application`); default: CLASSY_WORKERS replicas of
            preprocessor and classifier.

    Raises:
        ClassyError: a port is taken, or a setting is not for this engine.
    """
    if settings.tls_cert:
        raise ClassyError("CLASSY_TLS_CERT: Ray's gRPC proxy speaks no TLS; put a balancer in front, or leave --engine")
    if settings.hops:
        raise ClassyError("CLASSY_HOPS: with --engine ray the components are deployments; leave it empty")
    with (
        workers.reserved(settings.host, settings.rest_port) as rest,
        workers.reserved(settings.host, settings.grpc_port) as grpc,
    ):
        pass  # they are free; Ray's proxy takes them
    address = os.environ.get("RAY_ADDRESS")
    _start(settings, rest, grpc, address)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # not before: Ray's start puts handlers of its own there
        signal.signal(number, lambda *_: stop.set())
    try:
        serve.run(deployed(settings, recipe, scale=scale), name="classy", route_prefix="/")
        ready(rest, grpc)
        say("logs of the replicas are Ray's: in its session folder, under logs/serve")
        stop.wait()
    finally:
        if address:
            serve.delete("classy")
        else:
            serve.shutdown()
        ray.shutdown()


def _start(settings: Settings, rest: int, grpc: int, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address:
        ray.init(address, log_to_driver=False)
    else:
        cores = max(os.cpu_count() or 1, 2 * settings.workers)
        ray.init(num_cpus=cores, include_dashboard=False, object_store_memory=STORE_BYTES, log_to_driver=False)
    serve.start(
        http_options={"host": settings.host, "port": rest, "keep_alive_timeout_s": 75},
        grpc_options={"port": grpc, "grpc_servicer_functions": [SERVICER]},
        logging_config={"enable_access_log": False},
    )


def deployed(
    settings: Settings, recipe: Recipe, *, scale: Mapping[str, Mapping[str, Any]] | None = None
) -> serve.Application:
    """The application of these settings, for `serve.run` on any Ray."""
    many = {"num_replicas": settings.workers}
    wanted = {"preprocessor": many, "classifier": many, **(scale or {})}
    return application(partial(open_replica, settings, recipe), scale=wanted)


@asynccontextmanager
async def open_replica(
    settings: Settings, recipe: Recipe, name: str, number: int, parts: Mapping[str, Component]
) -> AsyncIterator[assembly.Made]:
    """What a replica is made of: `serving.ray_app.Opener`, with settings and recipe given."""
    if name != INGRESS:
        # Access is the ingress's; a replica is one core's worth.
        alone = settings.model_copy(update={"auth": "off", "workers": 1, "threads": settings.threads or 1})
        async with assembly.assemble(alone, recipe, component=name, worker=number) as made:
            yield made
        return
    async with AsyncExitStack() as stack:
        yield await _ingress(settings, recipe, parts, stack)


async def _ingress(
    settings: Settings, recipe: Recipe, parts: Mapping[str, Component], stack: AsyncExitStack
) -> assembly.Made:
    from pipelines.online.board import FileBoard
    from pipelines.online.truth import SqlTruth

    given = recipe.serving
    version = importlib.metadata.version("classy")
    metrics = Metrics(version=version)
    metrics.start()
    stack.callback(metrics.stop)
    registry: dict[str, Component] = dict(parts)
    served: dict[str, Component] = {name: Onward(part, registry) for name, part in parts.items()}
    served[INGRESS] = Pipeline(parts["downloader"], parts["preprocessor"], parts["classifier"], limit=given.max_photos)
    server = Server(
        components=served,
        gate=await assembly.open_gate(settings, metrics, stack),
        limits=Limits(max_bytes=given.max_request_bytes, max_photos=given.max_photos, timeout_s=given.timeout_s),
        truth=SqlTruth(settings, recipe),
        board=FileBoard(settings),
        version=version,
        about={"recipe": recipe.name, "component": INGRESS, "engine": "ray", "auth": settings.auth},
    )
    return assembly.Made(server=server, metrics=metrics)
