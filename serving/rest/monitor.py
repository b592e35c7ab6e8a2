"""The monitor's pages: `/monitor`, a page a day, and the day's report by Evidently.

Pages are files that anybody may load; what they show is asked for with a key of scope metrics.
"""

import asyncio
from datetime import date
from importlib.resources import files
from urllib.parse import parse_qs

import orjson
from fastapi import APIRouter, Request, Response

from serving.problems import Problem
from serving.rest.access import admit, read_body
from serving.rest.page import FILES, HEADERS
from serving.seams import Board
from serving.server import Server

SCOPE = "metrics"
MOST_FORM = 16_384
"""Bytes of the form that asks for a report: it holds a key or a token."""
FORM = "application/x-www-form-urlencoded"
REPORT_HEADERS = {
    # Evidently's page brings scripts of its own. It may draw, in an origin of its own: it reaches no API, no key that
    # this tab keeps, and nothing elsewhere.
    "Content-Security-Policy": (
        "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
DAY_HEADERS = {
    # The day's page asks for the report by a form, so that the key is in no address.
    **HEADERS,
    "Content-Security-Policy": HEADERS["Content-Security-Policy"].replace("form-action 'none'", "form-action 'self'"),
}


def router(server: Server, board: Board) -> APIRouter:
    """`/monitor` and what is under it."""
    found = APIRouter(include_in_schema=False)
    pages = {name: (files("serving.page") / name).read_bytes() for name in ("monitor.html", "day.html")}

    @found.get("/monitor")
    async def overview_page() -> Response:
        return Response(pages["monitor.html"], media_type=FILES["index.html"], headers=HEADERS)

    @found.get("/monitor/data")
    async def overview(request: Request) -> Response:
        await admit(server, request, SCOPE)
        return _json(await asyncio.to_thread(lambda: orjson.dumps(board.overview())))

    @found.get("/monitor/{day}")
    async def day_page(day: str) -> Response:
        _day(day)
        return Response(pages["day.html"], media_type=FILES["index.html"], headers=DAY_HEADERS)

    @found.get("/monitor/{day}/data")
    async def one_day(day: str, request: Request) -> Response:
        await admit(server, request, SCOPE)
        told = await asyncio.to_thread(board.day, _day(day))
        if told is None:
            raise Problem("not_found", f"{day}: neither watched nor decided; `classy monitor --day {day}` watches it")
        return _json(orjson.dumps(told))

    async def report(day: str) -> Response:
        page = await asyncio.to_thread(board.report, _day(day))
        if page is None:
            raise Problem("not_found", f"{day}: has no report; `classy monitor --day {day}` draws it")
        return Response(page, media_type="text/html; charset=utf-8", headers=REPORT_HEADERS)

    @found.get("/monitor/{day}/report")
    async def report_for_programs(day: str, request: Request) -> Response:
        await admit(server, request, SCOPE)
        return await report(day)

    @found.post("/monitor/{day}/report")
    async def report_for_people(day: str, request: Request) -> Response:
        """A link carries no header, and a key has no place in an address."""
        key = await _key(server, request)
        peer = request.client.host if request.client else ""
        await server.gate.admit(f"Bearer {key}" if key else None, scope=SCOPE, photos=0, peer=peer)
        return await report(day)

    return found


def _json(told: bytes) -> Response:
    return Response(told, media_type="application/json", headers={"Cache-Control": "no-store"})


def _day(text: str) -> date:
    try:
        if str(found := date.fromisoformat(text)) == text:
            return found
    except ValueError:
        pass
    raise Problem("not_found", f"/monitor/{text[:40]}: is no day; write it as 2026-03-01")


async def _key(server: Server, request: Request) -> str:
    """The key in a posted form.

    Raises:
        Problem: it is no form, or larger than one with a key.
    """
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != FORM:
        raise Problem("unsupported", f"send the key as a form ({FORM}), or a GET with Authorization")
    body = await read_body(server, request, most=MOST_FORM)
    return parse_qs(body.decode("latin-1")).get("key", [""])[0]
