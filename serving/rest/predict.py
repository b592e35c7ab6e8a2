"""POST /predict: a photo's bytes in, a class out. The plain way in, for people and small scripts."""

from typing import Any
from urllib.parse import parse_qsl
from weakref import WeakKeyDictionary

import orjson

from serving.components.base import Component
from serving.photos import Photo
from serving.problems import Problem
from serving.rest.replies import JSON, Reply
from serving.rest.visit import Visit

MODEL = "classy"
TAKES = ("url", "sender", "image_id", "captured_at", "arm", "version")
LONGEST = 8192
"""Letters of the query."""
MOST_VERSIONS = 64
_CLASSES: WeakKeyDictionary[Component, dict[tuple[str, int], tuple[str, ...]]] = WeakKeyDictionary()
_REFUSED = ("application/json", "multipart/", "text/", "video/", "audio/")


async def predict(visit: Visit) -> Reply:
    """Classify one photo.

    Raises:
        Problem: the query, the type or the photo is wrong, or it cannot be answered now.
    """
    visit.model = MODEL
    await visit.admit()
    query = _query(visit.scope["query_string"])
    _check_type(visit.headers.get(b"content-type", b"").decode("latin-1").lower(), "url" in query)
    data = await visit.read()
    part = visit.server.component(MODEL, query.get("version", ""))
    photo = Photo(
        photo=data or None,
        url=query.get("url") or None,
        sender=query.get("sender", ""),
        image_id=query.get("image_id", ""),
        captured_at=query.get("captured_at", ""),
    )
    call = visit.call
    for name in ("arm", "version"):
        if name in query:
            call.parameters[name] = query[name]
    call.photos = photos = [photo]
    if data and photo.url:
        raise Problem("bad_request", "the body and url: both are given; send a photo or its address")
    if not data and not photo.url:
        raise Problem(
            "bad_request", "the body is empty: send the photo's bytes (curl --data-binary @photo.jpg), or ?url="
        )
    await part.apply(photos, call)
    if photo.problem is not None:
        raise photo.problem
    return 200, [JSON], orjson.dumps(told(photo, part, call.seconds), option=orjson.OPT_SERIALIZE_NUMPY)


def told(photo: Photo, part: Component, seconds: dict[str, float]) -> dict[str, Any]:
    """The answer as plain data. `probabilities` are by class where the component tells its classes."""
    values = photo.probabilities
    classes = _classes(part, photo)
    probabilities = values if values is None or not classes else dict(zip(classes, values.tolist(), strict=True))
    return {
        "label": photo.label,
        "confidence": photo.confidence,
        "probabilities": probabilities,
        "model_version": photo.model_version,
        "generation": photo.generation,
        "arm": photo.arm,
        "cached": photo.cached,
        "defaulted": photo.defaulted,
        "prediction_id": photo.prediction_id,
        "image_id": photo.image_id,
        "timing_ms": {name: round(1000 * spent, 3) for name, spent in {**seconds, **photo.seconds}.items()},
    }


def _classes(part: Component, photo: Photo) -> tuple[str, ...]:
    """Names of the probabilities; asked once for each version, as metadata is not made to be read for every photo."""
    if photo.probabilities is None:
        return ()
    known = _CLASSES.setdefault(part, {})
    key = (photo.model_version, photo.generation)
    found = known.get(key)
    if found is None or len(found) != len(photo.probabilities):
        found = tuple(part.properties().get("classes") or ())
        if len(found) != len(photo.probabilities):
            return ()
        if len(known) >= MOST_VERSIONS:
            known.clear()
        known[key] = found
    return found


def _query(given: bytes) -> dict[str, str]:
    if not given:
        return {}
    if len(given) > LONGEST:
        raise Problem("bad_request", f"the query has {len(given)} letters; at most {LONGEST} are read")
    try:
        pairs = parse_qsl(given.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError as error:
        raise Problem("bad_request", f"the query is not written as name=value&name=value: {error}") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in TAKES:
            raise Problem("bad_request", f"{name[:40]!r} in the query: it takes {', '.join(TAKES)}")
        if name in found:
            raise Problem("bad_request", f"{name} is in the query twice")
        found[name] = value
    return found


def _check_type(kind: str, by_url: bool) -> None:
    if not by_url and kind.startswith(_REFUSED):
        raise Problem(
            "unsupported",
            f"Content-Type {kind[:60]!r}: send the photo's bytes as image/jpeg or application/octet-stream; "
            "tensors go to /v2/models/classy/infer",
        )
