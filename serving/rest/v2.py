"""The Open Inference Protocol's other routes: health, metadata and the model repository.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md and Triton's
extension for repositories. Health is open to all, metadata needs the scope infer, the repository admin.
"""

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from serving.problems import Problem
from serving.rest.access import admit, read_json
from serving.server import Server
from serving.wire.rest import metadata_json

EXTENSIONS = ("binary_tensor_data", "model_repository")


def router(server: Server) -> APIRouter:
    """The routes for one server."""
    routes = APIRouter(tags=["Open Inference Protocol v2"])
    _add_health(routes, server)
    _add_metadata(routes, server)
    _add_repository(routes, server)
    return routes


def _add_health(routes: APIRouter, server: Server) -> None:
    @routes.get("/v2/health/live", summary="Whether the server runs")
    async def live() -> Response:
        return _json({"live": True})

    @routes.get("/v2/health/ready", summary="Whether every model can answer; 503 and why if not")
    async def ready() -> Response:
        return _readiness({}, server.ready())

    @routes.get("/v2/models/{model}/ready", summary="Whether a model can answer; 503 and why if not")
    async def model_ready(model: str) -> Response:
        return _readiness({"name": model}, server.component(model).ready())

    @routes.get("/v2/models/{model}/versions/{version}/ready", summary="Whether a model's version can answer")
    async def version_ready(model: str, version: str) -> Response:
        return _readiness({"name": model}, server.component(model, version).ready())


def _readiness(told: dict[str, Any], why: str | None) -> Response:
    """`live` is what the protocol's text calls it, `ready` what its servers and people do."""
    if why is None:
        return _json({**told, "live": True, "ready": True})
    return _json({**told, "live": True, "ready": False, "error": why}, status=503, headers={"Retry-After": "1"})


def _add_metadata(routes: APIRouter, server: Server) -> None:
    @routes.get("/v2", summary="The server: name, version, extensions, models")
    async def about(request: Request) -> Response:
        await admit(server, request, "infer")
        return _json(about_json(server))

    @routes.get("/v2/models/{model}", summary="A model: its tensors, versions, classes")
    async def metadata(request: Request, model: str) -> Response:
        await admit(server, request, "infer")
        return _json(metadata_json(server.metadata(model)))

    @routes.get("/v2/models/{model}/versions/{version}", summary="A model's version")
    async def version_metadata(request: Request, model: str, version: str) -> Response:
        await admit(server, request, "infer")
        return _json(metadata_json(server.metadata(model, version)))


def about_json(server: Server) -> dict[str, Any]:
    """Server metadata; `models` and `about` are Classy's own."""
    return {
        "name": server.name,
        "version": server.version,
        "extensions": list(EXTENSIONS),
        "models": list(server.components),
        "about": server.about,
    }


def _add_repository(routes: APIRouter, server: Server) -> None:
    @routes.post("/v2/repository/index", summary="What is loaded; needs the scope admin")
    async def index(request: Request) -> Response:
        await admit(server, request, "admin")
        body = await read_json(server, request, empty=True)
        ready = body.get("ready", False)
        if not isinstance(ready, bool):
            raise Problem("bad_request", f"ready: is {ready!r:.40}, must be true or false")
        return _json(repository_index(server, ready=ready))

    @routes.post("/v2/repository/models/{model}/load", summary="Load a version beside what serves; needs admin")
    async def load(request: Request, model: str) -> Response:
        await admit(server, request, "admin")
        parameters = _parameters(await read_json(server, request, empty=True))
        await need_repository(server, model).load(model, parameters)
        return _json({})

    @routes.post("/v2/repository/models/{model}/unload", summary="Let a loaded version go; needs admin")
    async def unload(request: Request, model: str) -> Response:
        await admit(server, request, "admin")
        parameters = _parameters(await read_json(server, request, empty=True))
        await need_repository(server, model).unload(model, parameters)
        return _json({})


def repository_index(server: Server, *, ready: bool) -> list[dict[str, str]]:
    """Rows of name, version, state and reason; of a server without a repository, its components."""
    if server.repository is not None:
        return server.repository.index(ready=ready)
    rows = []
    for name, part in server.components.items():
        why = part.ready()
        if why is None or not ready:
            state = "READY" if why is None else "UNAVAILABLE"
            rows += [
                {"name": name, "version": version, "state": state, "reason": why or ""}
                for version in part.versions() or ("",)
            ]
    return rows


def need_repository(server: Server, model: str) -> Any:
    """The repository, for a model that is served.

    Raises:
        Problem: there is none, or no such model.
    """
    server.component(model)
    if server.repository is None:
        raise Problem("bad_request", f"{model}: this server has no repository to load from; ask the classifier's")
    return server.repository


def _parameters(body: dict[str, Any]) -> dict[str, Any]:
    found = body.get("parameters", {})
    if not isinstance(found, dict):
        raise Problem("bad_request", 'parameters: must be an object, such as {"version": "3"}')
    return found


def _json(told: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = orjson.dumps(told, default=str, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(text, status_code=status, media_type="application/json", headers=headers)
