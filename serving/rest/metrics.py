"""GET /metrics: for Prometheus, in its text format or as OpenMetrics."""

import asyncio

from fastapi import APIRouter, Request, Response

from serving.metrics import Metrics
from serving.server import Server


def router(server: Server, metrics: Metrics) -> APIRouter:
    """The route, for callers with scope metrics. `metrics` is told which models this server has."""
    metrics.watch(models=server.components, ready=server.ready)
    routes = APIRouter(tags=["metrics"])

    @routes.get("/metrics", summary="Figures of this server for Prometheus", response_class=Response)
    async def scrape(request: Request) -> Response:
        headers = request.headers
        credentials = headers.get("authorization") or headers.get("x-api-key")
        peer = request.client.host if request.client else ""
        await server.gate.admit(credentials, scope="metrics", photos=0, peer=peer)
        content, kind = await asyncio.to_thread(metrics.scrape, headers.get("accept", ""))
        return Response(content, headers={"Content-Type": kind, "Cache-Control": "no-store"})

    return routes
