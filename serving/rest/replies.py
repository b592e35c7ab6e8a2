"""Answers of the REST side: JSON bodies, and problems as every route tells them."""

import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from serving.problems import Problem

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Reply = tuple[int, Headers, bytes]
"""Status, headers besides the length, body."""

JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
BINARY: tuple[bytes, bytes] = (b"content-type", b"application/octet-stream")
MOST_RETRY_S = 86_400
_CHALLENGE = (b"www-authenticate", b'Bearer realm="classy"')


def refusal(problem: Problem) -> Reply:
    """A problem as `{"error": message, "problem": {reason, detail, message}}`, with Retry-After and the like."""
    headers: Headers = [JSON]
    if problem.kind.status == 401:
        headers.append(_CHALLENGE)
    wait = problem.retry_after
    if isinstance(wait, int | float) and math.isfinite(wait):
        seconds = min(max(math.ceil(wait), 1), MOST_RETRY_S)
        headers.append((b"retry-after", str(seconds).encode()))
    elif problem.kind.status in (429, 503):
        headers.append((b"retry-after", b"1"))
    return problem.kind.status, headers, orjson.dumps({"error": problem.message, "problem": problem.as_json()})


async def send_reply(send: Send, reply: Reply, *, close: bool = False) -> None:
    """Send it. `close`: no other request may use the connection."""
    status, headers, body = reply
    head = [*headers, (b"content-length", str(len(body)).encode())]
    if close:
        head.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": False})


INTERNAL = Problem("internal", "the server failed on this request; its log says why")
"""What a client is told of an error that nobody foresaw: nothing of the inside."""
