"""How deep JSON is nested, found out before anything is built from it."""

import re

import numpy as np

from serving.problems import Problem

_ESCAPES = re.compile(rb"\\.", re.DOTALL)
_STRINGS = re.compile(rb'"[^"]*"')
_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS = np.zeros(256, np.int8)
_STEPS[[ord("["), ord("{")]] = 1
_STEPS[[ord("]"), ord("}")]] = -1


def check_depth(text: bytes, limit: int) -> None:
    """Refuse JSON that is nested deeper than `limit`; reads each byte a few times and allocates no more than `text`.

    Raises:
        Problem: it is.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return
    if b"\\" in text:
        text = _ESCAPES.sub(b"", text)
    brackets = _STRINGS.sub(b"", text.translate(None, _STRUCTURE)).replace(b'"', b"")
    if len(brackets) < limit:
        return
    depth = int(np.cumsum(_STEPS[np.frombuffer(brackets, np.uint8)], dtype=np.int32).max(initial=0))
    if depth > limit:
        raise Problem("bad_request", f"the JSON is nested {depth} deep; at most {limit} is read")
