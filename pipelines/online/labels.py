"""The label queue for the live server's page: what a person is shown and says, in Classy's database."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from monitoring import queued, votes
from monitoring.stores import Store, StoreError, open_store
from monitoring.votes import LostClaim, Said
from pipelines.errors import ClassyError
from pipelines.models.queue import photo_of
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.problems import Problem


class SqlDesk:
    """A `serving.seams.LabelDesk` on Classy's database and data root. May be asked by several threads."""

    def __init__(
        self, settings: Settings, recipe: Recipe, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._settings = settings
        self._taxonomy = recipe.taxonomy
        self._minutes = recipe.labelling.claim_minutes
        self._clock = clock
        self._known: Store | None = None
        self._opening = threading.Lock()
        self.classes = recipe.taxonomy.classes

    def take(self, author: str, passed: Sequence[str]) -> dict[str, Any] | None:
        with self._store() as store:
            found = votes.claim(store, author, now=self._clock(), minutes=self._minutes, passed=passed)
        if found is None:
            return None
        return {
            "image_id": found["image_id"],
            "day": found["day"],
            "sender": found["source_id"],
            "captured_at": found["captured_at"].isoformat(),
        }

    def say(self, author: str, image_id: str, label: str | None) -> str:
        meant = self._taxonomy.resolve(label)
        if label is not None and meant is None:
            raise Problem("unprocessable", f"label {label!r}: is no class; classes are {', '.join(self.classes)}")
        try:
            with self._store() as store:
                return votes.say(store, Said(image_id=image_id, author=author, label=meant, at=self._clock())).state
        except LostClaim as error:
            raise Problem("unprocessable", str(error), detail="lost_claim") from error

    def undo(self, author: str) -> str | None:
        try:
            with self._store() as store:
                return votes.undo(store, author, now=self._clock(), minutes=self._minutes)
        except LostClaim as error:
            raise Problem("unprocessable", str(error), detail="lost_claim") from error

    def photo(self, image_id: str) -> tuple[bytes, str]:
        try:
            return photo_of(self._settings, self._item(image_id)["day"], image_id)
        except ClassyError as error:
            raise Problem("not_found", str(error)) from error

    def answer(self, image_id: str) -> dict[str, Any]:
        item = self._item(image_id)
        return {"label": item["predicted"], "confidence": item["confidence"], "version": item["model_version"]}

    def progress(self, author: str) -> dict[str, Any]:
        with self._store() as store:
            return asdict(queued.progress(store, author, now=self._clock()))

    def _item(self, image_id: str) -> dict[str, Any]:
        with self._store() as store:
            found = queued.find(store, image_id)
        if found is None:
            raise Problem("not_found", f"image_id {image_id!r}: is not in the queue")
        return found

    @contextmanager
    def _store(self) -> Iterator[Store]:
        """The store, opened by the first who asks; that it does not answer is a Problem (503)."""
        try:
            with self._opening:
                if self._known is None:
                    self._known = open_store(self._settings.database_url)
                store = self._known
            yield store
        except LostClaim:
            raise
        except StoreError as error:
            raise Problem("unavailable", f"labels: {error}", detail="database", retry_after=5) from error
