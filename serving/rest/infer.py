"""POST /v2/models/NAME[/versions/VERSION]/infer: the Open Inference Protocol's inference over REST."""

from serving.problems import Problem
from serving.rest.replies import BINARY, JSON, Reply
from serving.rest.visit import Visit
from serving.wire.rest import HEADER_LENGTH, read_request, write_response
from serving.wire.tensors import count_photos

_TYPES = ("application/json", "application/octet-stream", "application/vnd.triton", "application/x-www-form-urlencoded")
_HEADER_LENGTH = HEADER_LENGTH.encode()


def path_of(path: str) -> tuple[str, str] | None:
    """Model and version (or "") of an infer path; None: it is another path."""
    if not (path.startswith("/v2/models/") and path.endswith("/infer")):
        return None
    parts = path[11:-6].split("/")
    if len(parts) == 1 and parts[0]:
        return parts[0], ""
    if len(parts) == 3 and parts[1] == "versions" and parts[0] and parts[2]:
        return parts[0], parts[2]
    return None


async def infer(visit: Visit, model: str, version: str) -> Reply:
    """Answer tensors with tensors.

    Raises:
        Problem: the request is wrong, or cannot be answered now.
    """
    visit.model = model
    await visit.admit()
    server, call = visit.server, visit.call
    server.component(model, version)
    kind = visit.headers.get(b"content-type", b"").decode("latin-1").lower()
    if kind and not kind.startswith(_TYPES):
        raise Problem(
            "unsupported", f"Content-Type {kind[:60]!r}: send application/json, or application/octet-stream with "
            "Inference-Header-Content-Length; a photo alone goes to /predict"
        )  # fmt: skip
    body = await visit.read()
    request = read_request(
        body, visit.header(_HEADER_LENGTH), model=model, version=version, max_depth=server.limits.max_json_depth
    )
    parameters = request.parameters
    if (asked := parameters.get("timeout")) is not None:
        if type(asked) is not int:
            raise Problem(
                "bad_request", f"parameters: timeout is {asked!r:.40}, must be a whole number of microseconds"
            )
        if asked:  # 0 is Triton's "none"
            visit.within(asked / 1e6, "parameters: timeout")
    count = count_photos(request.inputs, server.limits.max_photos)
    if count > 1:
        await visit.admit(photos=count - 1)
    call.id = request.id
    call.parameters = {**parameters, "version": version} if version else parameters
    answer, length = write_response(await server.infer(request, call), request)
    if length is None:
        return 200, [JSON], answer
    return 200, [BINARY, (_HEADER_LENGTH, str(length).encode())], answer
