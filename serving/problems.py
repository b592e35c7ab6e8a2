"""What goes wrong, said so that a person can mend it: one word, a status of HTTP and of gRPC, and a message."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Kind:
    """How a reason is told over the two protocols."""

    status: int
    """Of HTTP (RFC 9110)."""
    code: str
    """Name in `grpc.StatusCode`."""


KINDS: dict[str, Kind] = {
    "bad_request": Kind(400, "INVALID_ARGUMENT"),
    "unauthenticated": Kind(401, "UNAUTHENTICATED"),
    "forbidden": Kind(403, "PERMISSION_DENIED"),
    "not_found": Kind(404, "NOT_FOUND"),
    "too_large": Kind(413, "INVALID_ARGUMENT"),
    "unsupported": Kind(415, "INVALID_ARGUMENT"),
    "unprocessable": Kind(422, "INVALID_ARGUMENT"),
    "busy": Kind(429, "RESOURCE_EXHAUSTED"),
    "over_quota": Kind(429, "RESOURCE_EXHAUSTED"),
    "cancelled": Kind(499, "CANCELLED"),
    "internal": Kind(500, "INTERNAL"),
    "unavailable": Kind(503, "UNAVAILABLE"),
    "too_late": Kind(504, "DEADLINE_EXCEEDED"),
}
"""Every reason there is. A problem of a photo has a finer `detail` beside it, such as `truncated`."""


class Problem(Exception):
    """A request, or one photo of it, that is not answered.

    Args:
        reason: one of KINDS.
        message: for people: the field, the value and what to change.
        detail: a finer word for tables, such as `too_many_pixels`; default: the reason.
        retry_after: seconds after which another try may succeed.
    """

    for_people = True

    def __init__(self, reason: str, message: str, *, detail: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.kind = KINDS[reason]
        self.message = message
        self.detail = detail or reason
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are copied from `args`, which would be the message alone.
        return type(self).from_json, (self.as_json(),)

    def as_json(self) -> dict[str, Any]:
        """Plain data, as it stands in an `error` tensor and in an HTTP body's `problem`."""
        found: dict[str, Any] = {"reason": self.reason, "detail": self.detail, "message": self.message}
        if self.retry_after is not None:
            found["retry_after"] = self.retry_after
        return found

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> "Problem":
        """What `as_json` gave, in another process."""
        reason, wait = given.get("reason"), given.get("retry_after")
        return cls(
            reason if isinstance(reason, str) and reason in KINDS else "internal",
            str(given.get("message", "")),
            detail=str(given.get("detail", "")),
            retry_after=float(wait) if isinstance(wait, int | float) else None,
        )
