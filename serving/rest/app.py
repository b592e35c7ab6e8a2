"""The REST side of a server: two hot routes served without a framework, everything else by FastAPI."""

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from serving.problems import Problem
from serving.rest import docs, page, v2
from serving.rest.access import told_as_problems
from serving.rest.body import Receive, Room
from serving.rest.infer import infer, path_of
from serving.rest.predict import predict
from serving.rest.replies import Reply, Send, refusal, send_reply
from serving.rest.visit import Visit, serve_visit
from serving.server import Server

if TYPE_CHECKING:
    from serving.metrics import Metrics


ROOM = 1_000_000_000
"""Bytes of all bodies that are being read or worked on at once, unless four of the largest are more."""


class App:
    """An ASGI application.

    `rest` is the part that FastAPI serves: routers may be added to it until the first request.
    """

    def __init__(self, server: Server, metrics: "Metrics | None" = None) -> None:
        self.server = server
        self.metrics = metrics
        self.rest = _rest(server, metrics)
        self.room = Room(max(ROOM, 4 * server.limits.max_bytes))

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if path == "/predict":
                await self._hot(scope, receive, send, "predict", predict)
                return
            found = path_of(path)
            if found is not None:
                model, version = found

                async def work(visit: Visit) -> Reply:
                    return await infer(visit, model, version)

                await self._hot(scope, receive, send, "infer", work)
                return
        await self.rest(scope, receive, send)

    async def _hot(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, name: str, work: Any) -> None:
        if scope["method"] != "POST":
            _, headers, body = refusal(Problem("bad_request", f"{scope['method']} {scope['path']}: send a POST"))
            await send_reply(send, (405, [*headers, (b"allow", b"POST")], body), close=True)
            return
        await serve_visit(Visit(self.server, scope, receive, self.room), send, work, self.metrics, name)


def create_app(server: Server, metrics: "Metrics | None" = None) -> App:
    """The REST side of `server`."""
    return App(server, metrics)


def _rest(server: Server, metrics: "Metrics | None") -> FastAPI:
    app = FastAPI(
        title=server.name.capitalize(),
        version=server.version or "0",
        description=docs.ABOUT,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.server = server
    told_as_problems(app)
    app.include_router(v2.router(server))
    app.include_router(docs.router())
    app.include_router(page.router(server))
    if server.truth is not None:
        from serving.rest.truth import router as truth_router

        app.include_router(truth_router(server))
    if server.board is not None:
        from serving.rest.monitor import router as monitor_router

        app.include_router(monitor_router(server, server.board))
    if server.labels is not None:
        from serving.rest.labels import router as labels_router

        app.include_router(labels_router(server, server.labels))
    if metrics is not None:
        from serving.rest.metrics import router as metrics_router

        app.include_router(metrics_router(server, metrics))
    docs.add_hot_routes(app)
    return app
