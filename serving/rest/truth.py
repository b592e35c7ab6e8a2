"""POST /ground-truth: what photos really show, one label or many, as JSON or JSON lines.

What is wrong with one label is said of that label, by its number; the others are kept.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from serving.problems import Problem
from serving.rest.access import admit, read_body
from serving.server import Server

MOST = 10_000
"""Labels of one request."""
MOST_BYTES = 8_000_000
LONGEST = 256
"""Letters of an id or a label."""
AHEAD = timedelta(minutes=1)
"""How far a client's clock may be ahead."""
FIELDS = ("image_id", "prediction_id", "label", "labelled_at")
LINES = ("application/x-ndjson", "application/jsonl", "application/json-lines", "application/x-jsonlines")

_ONE = {
    "type": "object",
    "required": ["label"],
    "properties": {
        "image_id": {"type": "string", "description": "The photo's name, as the caller gave it or the answer told it"},
        "prediction_id": {"type": "string", "description": "Instead of image_id: of an answer about the photo"},
        "label": {"type": "string", "description": "A class of the model, or an alias of one"},
        "labelled_at": {"type": "string", "format": "date-time", "description": "With its offset; default: now"},
    },
    "additionalProperties": False,
}
_EXAMPLES = {
    "one": {"value": {"image_id": "listing-4711", "label": "Dress", "labelled_at": "2026-03-01T12:00:00Z"}},
    "several": {
        "value": [
            {"image_id": "listing-4711", "label": "Dress"},
            {"prediction_id": "0195528c-6f5e-7c3a-9d1a-6f1f0f2f6a11", "label": "Hat"},
        ]
    },
}
_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"oneOf": [_ONE, {"type": "array", "items": _ONE, "maxItems": MOST}]},
                "examples": _EXAMPLES,
            },
            "application/x-ndjson": {"schema": _ONE},
        },
    }
}
_TOLD = {
    200: {
        "description": "What became of the labels; 422 with the same answer where none could be taken",
        "content": {
            "application/json": {
                "example": {
                    "accepted": 2,
                    "new": 1,
                    "changed": 1,
                    "unchanged": 0,
                    "unknown": 0,
                    "rejected": [{"row": 2, "message": "label 'Sandal': is no class; classes are Dress, Hat"}],
                }
            }
        },
    }
}


def router(server: Server, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> APIRouter:
    """The route for one server."""
    routes = APIRouter(tags=["Ground truth"])

    @routes.post(
        "/ground-truth",
        summary="Say what photos show",
        openapi_extra=_SCHEMA,
        responses=_TOLD,  # type: ignore[arg-type]
    )
    async def ground_truth(request: Request) -> Response:
        identity = await admit(server, request, "truth")
        sink = server.truth
        if sink is None:
            raise Problem("not_found", "ground truth: this server takes none; send it to the one that classifies")
        body = await read_body(server, request)
        kind = request.headers.get("content-type", "")
        rows, rejected = read_labels(body, kind, said_by=identity.subject, now=clock())
        answer = await asyncio.to_thread(sink.write, rows) if rows else _NOTHING
        rejected = sorted([*rejected, *answer["rejected"]], key=lambda one: one["row"])
        told: dict[str, Any] = {**answer, "rejected": rejected}
        if not answer["accepted"]:
            told["error"] = f"no label could be taken: {rejected[0]['message']}"
        return Response(orjson.dumps(told), status_code=422 if "error" in told else 200, media_type="application/json")

    return routes


_NOTHING: dict[str, Any] = {"accepted": 0, "new": 0, "changed": 0, "unchanged": 0, "unknown": 0, "rejected": []}


def read_labels(
    body: bytes, content_type: str, *, said_by: str, now: datetime
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The labels of a request, and those among them that cannot be taken.

    Returns:
        rows with row (its number from 0), image_id or prediction_id, label, labelled_at (aware, or None where the
        caller did not say) and said_by; and rejected ones with row and message.

    Raises:
        Problem: (400) the body as a whole cannot be read, (413) it has too many.
    """
    if len(body) > MOST_BYTES:
        raise Problem("too_large", f"the body has {len(body)} bytes; send at most {MOST_BYTES}, or fewer labels")
    given = _given(body, content_type)
    if not given:
        raise Problem("bad_request", 'the body has no labels; send {"image_id": "…", "label": "…"} or a list of such')
    if len(given) > MOST:
        raise Problem("too_large", f"{len(given)} labels in one request; send at most {MOST}")
    rows, rejected = [], []
    for number, one in enumerate(given):
        try:
            rows.append({"row": number, **_label(one, now), "said_by": said_by})
        except ValueError as error:
            rejected.append({"row": number, "message": str(error)})
    return rows, rejected


def _given(body: bytes, content_type: str) -> list[Any]:
    if content_type.split(";")[0].strip().lower() in LINES:
        lines = body.split(b"\n", 2 * MOST)
        if len(lines) > 2 * MOST:
            raise Problem("too_large", f"more than {MOST} labels in one request; send at most {MOST}")
        return [_line(line) for line in lines if line.strip()]
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(
            "bad_request", f"the body is not JSON: {error}; for JSON lines say Content-Type: application/x-ndjson"
        ) from None
    if isinstance(found, dict):
        return [found]
    if isinstance(found, list):
        return found
    raise Problem("bad_request", f"the body is {body[:40].decode(errors='replace')!r}; send an object or a list")


def _line(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return ValueError(f"is not JSON: {error}")


def _label(one: Any, now: datetime) -> dict[str, Any]:
    """Raises ValueError, with a message for people."""
    if isinstance(one, ValueError):
        raise one
    if not isinstance(one, dict):
        raise ValueError(f"{str(one)[:40]!r} is no object with image_id and label")
    if unknown := [name for name in one if name not in FIELDS]:
        raise ValueError(f"{unknown[0][:40]!r}: no such field; fields are {', '.join(FIELDS)}")
    found = {name: as_text(name, one[name]) for name in FIELDS if one.get(name) is not None}
    if "label" not in found:
        raise ValueError("label: is missing")
    if ("image_id" in found) == ("prediction_id" in found):
        raise ValueError("image_id or prediction_id: send one of them, to say which photo")
    return {**found, "labelled_at": as_time(found["labelled_at"], now) if "labelled_at" in found else None}


def as_text(name: str, value: Any) -> str:
    """An id or a label as it may be kept. Raises ValueError, with a message for people."""
    if not isinstance(value, str) or not value or len(value) > LONGEST or "\0" in value:
        raise ValueError(f"{name}: must be text of 1 to {LONGEST} letters without NUL, is {str(value)[:40]!r}")
    return value


def as_time(text: str, now: datetime) -> datetime:
    """When a label was said, in UTC. Raises ValueError, with a message for people."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"labelled_at {text[:40]!r}: is no time; write it as 2026-03-01T12:00:00Z") from None
    if found.tzinfo is None:
        raise ValueError(f"labelled_at {text[:40]!r}: has no offset; write it as {text[:40]}Z if it is UTC")
    try:
        found = found.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"labelled_at {text[:40]!r}: is out of range") from None
    if found > now + AHEAD:
        raise ValueError(f"labelled_at {text[:40]!r}: is in the future, it is {now.isoformat(timespec='seconds')}")
    return found
