"""What the components need from outside this room. `pipelines/online/` gives the real ones.

A server of its own photos and keys may give others: nothing here knows SQL, Feast or MLflow.
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, Protocol

from serving.components.base import Identity
from serving.photos import Photo


class FeatureSource(Protocol):
    """What is known about a sender, as the model is told it."""

    service_hash: str
    """Must be the one on the model's card."""

    def ready(self) -> str | None:
        """None when it can be read, else why not."""

    def fill(self, photos: Sequence[Photo], at: datetime) -> None:
        """Give each photo its `context` and `defaulted`. Called in a worker thread; must not take longer than a read.

        Raises:
            Problem: the store cannot be read.
        """

    def remembered(self, sender: str, at: datetime) -> str | None:
        """`fingerprint` where it is known without a read, else None. Called on the event loop."""

    def fingerprint(self, sender: str, at: datetime) -> str:
        """Names what is known about a sender now: equal fingerprints and equal photos give equal contexts."""


class PredictionLog(Protocol):
    """Takes every answer. Never waits: what it cannot keep is counted."""

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Rows of the table `predictions`."""


class TruthSink(Protocol):
    def write(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Take labels (image_id, label, labelled_at, said_by); gives what became of them. Called in a worker thread."""


class Board(Protocol):
    """What the monitor found, for its pages. Called in a worker thread; JSON-plain.

    Raises:
        Problem: what is kept cannot be read.
    """

    def overview(self) -> dict[str, Any]:
        """All days that are shown, champions, decisions, incidents, and what is missing."""

    def day(self, day: date) -> dict[str, Any] | None:
        """One day's evidence and decision, and where they lead; None for a day of which nothing is known."""

    def report(self, day: date) -> bytes | None:
        """The day's drawings: an HTML page of somebody else's making, with scripts; None where there is none."""


class LabelDesk(Protocol):
    """Photos that people are asked about. Every method is called in a worker thread, and may raise Problem (503)."""

    classes: tuple[str, ...]

    def take(self, author: str, passed: Sequence[str]) -> dict[str, Any] | None:
        """Give a person a photo that nobody else has: image_id, day, sender, captured_at; nothing of what the model
        says. None: there is none for them. `passed`: photos that they want later."""

    def say(self, author: str, image_id: str, label: str | None) -> str:
        """Take a person's word on the photo that they have, None for "cannot tell"; gives how the photo stands.

        Raises:
            Problem: the label is no class, or (422, lost_claim) they have the photo no more.
        """

    def undo(self, author: str) -> str | None:
        """Take a person's last word back; gives the photo, or None where they have said nothing."""

    def photo(self, image_id: str) -> tuple[bytes, str]:
        """A photo of the queue and its media type.

        Raises:
            Problem: (404) it is not in the queue, or gone.
        """

    def answer(self, image_id: str) -> dict[str, Any]:
        """What the model said of it: label, confidence, version.

        Raises:
            Problem: (404) it is not in the queue.
        """

    def progress(self, author: str) -> dict[str, Any]:
        """How far the queue is, and how far people agree: days, left, mine, pairs, undecided."""


class Gate(Protocol):
    """Who may come in, and how often."""

    async def admit(self, credentials: str | None, *, scope: str, photos: int = 1, peer: str = "") -> Identity:
        """Who asks.

        Args:
            credentials: the `Authorization` header (`Bearer …`) or `X-API-Key`'s value.
            scope: what is asked for: infer, truth, admin, metrics.
            photos: how many count against the rate and the quota.
            peer: address of the caller, for those without a key.

        Raises:
            Problem: 401, 403 or 429.
        """
