"""What the routes made with FastAPI have in common: who asks, the body, and how problems are told."""

import asyncio
import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from serving.components.base import Identity
from serving.problems import KINDS, Problem
from serving.rest.body import Body, Gone
from serving.rest.replies import INTERNAL, Reply, refusal
from serving.server import Server
from serving.wire.rest import read_object

log = logging.getLogger(__name__)
_BY_STATUS = {kind.status: reason for reason, kind in reversed(KINDS.items())}


async def admit(server: Server, request: Request, scope: str, *, photos: int = 0) -> Identity:
    """Who asks, by `Authorization` or `X-API-Key`.

    Raises:
        Problem: 401, 403 or 429.
    """
    headers = request.headers
    given = headers.get("authorization") or headers.get("x-api-key")
    return await server.gate.admit(
        given, scope=scope, photos=photos, peer=request.client.host if request.client else ""
    )


async def read_json(server: Server, request: Request, *, empty: bool = False) -> dict[str, Any]:
    """The body as a JSON object; with `empty`, no body is taken for an empty object.

    Raises:
        Problem: too large (413), too slow (504), nested too deep or no object (400).
        Gone: the client has hung up.
    """
    data = await read_body(server, request)
    if empty and not data:
        return {}
    return read_object(data, max_depth=server.limits.max_json_depth)


async def read_body(server: Server, request: Request, *, most: int | None = None) -> bytes:
    """The body, within the server's limits of size (or `most` bytes) and time.

    Raises:
        Problem: too large (413), of an unknown encoding (415), too slow (504).
        Gone: the client has hung up.
    """
    limits = server.limits
    try:
        async with asyncio.timeout(limits.timeout_s):
            return await Body(request.receive, dict(request.scope["headers"]), most or limits.max_bytes).read()
    except TimeoutError:
        raise Problem("too_late", f"the body did not arrive within {limits.timeout_s:g} s") from None


def as_response(reply: Reply) -> Response:
    status, headers, body = reply
    told = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    return Response(body, status_code=status, headers=told)


def told_as_problems(app: FastAPI) -> None:
    """Make every error of `app` an answer in the protocol's form: `{"error": …, "problem": {…}}`."""

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> Response:
        return as_response(refusal(error))

    @app.exception_handler(HTTPException)
    async def of_starlette(request: Request, error: HTTPException) -> Response:
        reason = _BY_STATUS.get(error.status_code, "bad_request")
        says = str(error.detail)
        if error.status_code == 404:
            says = f"{request.url.path}: there is no such path; /docs lists those there are"
        if error.status_code == 405:
            says = f"{request.method} {request.url.path}: the path is there, the method is not; /docs lists them"
        _, headers, body = refusal(Problem(reason, says))
        response = as_response((error.status_code, headers, body))
        if error.headers:
            response.headers.update(error.headers)
        return response

    @app.exception_handler(RequestValidationError)
    async def of_pydantic(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return as_response(refusal(Problem("unprocessable", f"{place}: {first['msg']}")))

    @app.exception_handler(Gone)
    async def hung_up(_: Request, __: Gone) -> Response:
        return Response(status_code=400)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        log.exception("%s %s failed", request.method, request.url.path, exc_info=error)
        return as_response(refusal(INTERNAL))
