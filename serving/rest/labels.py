"""/labels/…: photos that people are asked about, one in one person's hands, and what they say of it.

Who labels is the subject of their key or token. Where access control is off, each request says it: `author`.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from serving.components.base import ANYONE, Identity
from serving.problems import Problem
from serving.rest.access import admit, read_json
from serving.rest.truth import as_text
from serving.seams import LabelDesk
from serving.server import Server

MOST_PASSED = 100
"""Photos that a person may put off at once."""
LONGEST_NAME = 64
_PHOTO = {"image_id": "p-0041", "day": "2026-03-07", "sender": "41", "captured_at": "2026-03-07T09:12:44+00:00"}
_AUTHOR = {"type": "string", "description": "Who labels; only where access control is off"}
_IMAGE_ID = {"type": "string", "description": "The photo, as it was given"}


def router(server: Server, desk: LabelDesk) -> APIRouter:
    """The routes for one server."""
    routes = APIRouter(prefix="/labels", tags=["Labels"])

    async def taken(author: str, passed: list[str]) -> dict[str, Any]:
        return {"photo": await asyncio.to_thread(desk.take, author, passed)}

    @routes.get("", summary="How far the queue is", responses=_told({"author": "ada", "left": 12}))
    async def progress(request: Request, author: str = "") -> Response:
        identity = await admit(server, request, "truth")
        named = None if identity == ANYONE and not author else _author(identity, author)
        found = await asyncio.to_thread(desk.progress, named or "")
        return _json({"author": named, "classes": desk.classes, **found})

    @routes.post(
        "/next", summary="Take a photo to label", openapi_extra=_body(author=_AUTHOR, passed={"type": "array"}),
        responses=_told({"photo": _PHOTO}),
    )  # fmt: skip
    async def next_(request: Request) -> Response:
        identity = await admit(server, request, "truth")
        given = _fields(await read_json(server, request, empty=True), "author", "passed")
        return _json(await taken(_author(identity, given.get("author")), _passed(given.get("passed"))))

    @routes.post(
        "/say", summary="Say what the photo shows, and take the next",
        openapi_extra=_body(author=_AUTHOR, image_id=_IMAGE_ID, label={"type": ["string", "null"]}),
        responses=_told({"state": "labelled", "photo": _PHOTO}),
    )  # fmt: skip
    async def say(request: Request) -> Response:
        identity = await admit(server, request, "truth")
        given = _fields(await read_json(server, request), "author", "image_id", "label", "passed")
        author, image_id = _author(identity, given.get("author")), _text("image_id", given.get("image_id"))
        if "label" not in given:
            raise Problem("bad_request", 'label: is missing; send a class, or null for "cannot tell"')
        label = None if given["label"] is None else _text("label", given["label"])
        passed = _passed(given.get("passed"))
        state = await asyncio.to_thread(desk.say, author, image_id, label)
        return _json({"state": state, **await taken(author, passed)})

    @routes.post(
        "/undo", summary="Take one's last word back, and the photo in hands again",
        openapi_extra=_body(author=_AUTHOR), responses=_told({"undone": "p-0041", "photo": _PHOTO}),
    )  # fmt: skip
    async def undo(request: Request) -> Response:
        identity = await admit(server, request, "truth")
        given = _fields(await read_json(server, request, empty=True), "author")
        author = _author(identity, given.get("author"))
        undone = await asyncio.to_thread(desk.undo, author)
        return _json({"undone": undone, **await taken(author, [])})

    @routes.get(
        "/photo", summary="A photo of the queue", response_class=Response,
        responses={200: {"content": {"image/jpeg": {}, "image/png": {}}, "description": "The photo"}},
    )  # fmt: skip
    async def photo(request: Request, image_id: str) -> Response:
        await admit(server, request, "truth")
        data, kind = await asyncio.to_thread(desk.photo, _text("image_id", image_id))
        headers = {
            "Cache-Control": "private, no-store",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'",
        }
        return Response(data, media_type=kind, headers=headers)

    @routes.get(
        "/answer", summary="What the model said of a photo of the queue",
        responses=_told({"label": "Dress", "confidence": 0.93, "version": "3"}),
    )  # fmt: skip
    async def answer(request: Request, image_id: str) -> Response:
        await admit(server, request, "truth")
        return _json(await asyncio.to_thread(desk.answer, _text("image_id", image_id)))

    return routes


def _author(identity: Identity, given: Any) -> str:
    """Who labels.

    Raises:
        Problem: nobody is named where access control is off, or somebody else where it is on.
    """
    if identity != ANYONE:
        if given not in (None, "", identity.subject):
            raise Problem("forbidden", f"author {str(given)[:40]!r}: the key is {identity.subject}'s; leave author out")
        return identity.subject
    if not isinstance(given, str) or not given.strip() or len(given) > LONGEST_NAME or not given.isprintable():
        raise Problem(
            "bad_request", f"author: access control is off, so say who labels, in 1 to {LONGEST_NAME} printable letters"
        )
    return given.strip()


def _fields(given: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    if unknown := [name for name in given if name not in names]:
        raise Problem("bad_request", f"{unknown[0][:40]!r}: no such field; fields are {', '.join(names)}")
    return given


def _text(name: str, value: Any) -> str:
    try:
        return as_text(name, value)
    except ValueError as error:
        raise Problem("bad_request", str(error)) from None


def _passed(given: Any) -> list[str]:
    if given is None:
        return []
    if not isinstance(given, list) or len(given) > MOST_PASSED:
        raise Problem("bad_request", f"passed: must be a list of at most {MOST_PASSED} photos")
    return [_text("passed", one) for one in given]


def _json(found: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(found), media_type="application/json", headers={"Cache-Control": "no-store"})


def _told(example: Mapping[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "Done", "content": {"application/json": {"example": example}}}}


def _body(**properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}
