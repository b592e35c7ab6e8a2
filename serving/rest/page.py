"""The pages at `/`, for people with a photo, and at `/label`, for people who label. Files only; what they show they ask
the API for, as any client does."""

from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from serving.problems import Problem
from serving.server import Server

FILES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "cards.js": "text/javascript; charset=utf-8",
    "nav.js": "text/javascript; charset=utf-8",
    "server.js": "text/javascript; charset=utf-8",
    "monitor.css": "text/css; charset=utf-8",
    "monitor.js": "text/javascript; charset=utf-8",
    "calendar.js": "text/javascript; charset=utf-8",
    "day.js": "text/javascript; charset=utf-8",
    "evidence.js": "text/javascript; charset=utf-8",
    "bits.js": "text/javascript; charset=utf-8",
    "session.js": "text/javascript; charset=utf-8",
    "label.html": "text/html; charset=utf-8",
    "label.css": "text/css; charset=utf-8",
    "label.js": "text/javascript; charset=utf-8",
    "labels.js": "text/javascript; charset=utf-8",
    "tables.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
HEADERS = {
    # Nothing from elsewhere, nothing inline; photos that a person chose are shown from memory (blob:).
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def router(server: Server) -> APIRouter:
    """`GET /` and what it needs: `/page/…`."""
    found = APIRouter(include_in_schema=False)
    contents = {name: (files("serving.page") / name).read_bytes() for name in FILES}

    def file(name: str) -> Response:
        return Response(contents[name], media_type=FILES[name], headers=HEADERS)

    @found.get("/")
    async def page() -> Response:
        return file("index.html")

    if server.labels is not None:

        @found.get("/label")
        async def label() -> Response:
            return file("label.html")

    needed: list[bool] = []  # a gate is open or not for as long as the process lives

    @found.get("/page/about")
    async def about() -> Response:
        """Whether a key is needed, who this is, and which pages it has."""
        if not needed:
            needed.append(await _key_needed(server))
        told: dict[str, Any] = {
            "name": server.name,
            "version": server.version,
            "key_needed": needed[0],
            "monitor": server.board is not None,
            "labels": server.labels is not None,
        }
        return JSONResponse(told, headers=HEADERS)

    @found.get("/page/{name}")
    async def part(name: str) -> Response:
        if name not in FILES:
            raise Problem("not_found", f"/page/{name[:80]}: there is no such file")
        return file(name)

    return found


async def _key_needed(server: Server) -> bool:
    """Asked of the gate itself: whoever comes without a key, may they come in?"""
    try:
        await server.gate.admit(None, scope="infer", photos=0)
    except Problem:
        return True
    return False
