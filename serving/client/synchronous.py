"""The client for everybody else: the asynchronous one, on an event loop in a thread of its own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from serving.client.answers import Answer, Source
from serving.client.asynchronous import AsyncClient
from serving.messages import ModelMetadata

T = TypeVar("T")


class Client:
    """Asks a server of Classy; arguments, answers and errors are those of `AsyncClient`.

    May be used by several threads at once, and inside a notebook.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", key: str | None = None, **options: Any) -> None:
        self._client = AsyncClient(url, key, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="classy client", daemon=True)
        self._thread.start()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # an interrupted caller wants no answer any more
            future.cancel()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give connections and the thread back. A closed client asks no more."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def classify(self, photo: Source, **said: Any) -> Answer:
        """What a photo shows; see `AsyncClient.classify`."""
        return self._run(self._client.classify(photo, **said))

    def classify_many(
        self,
        photos: Sequence[Source],
        *,
        sender: str | Sequence[str] = "",
        arm: str = "",
        told: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """What each photo shows; see `AsyncClient.classify_many`."""
        return self._run(self._client.classify_many(photos, sender=sender, arm=arm, told=told))

    def say(self, image_id: str, label: str, *, labelled_at: datetime | None = None) -> dict[str, Any]:
        """Tell the true class of a photo; see `AsyncClient.say`."""
        return self._run(self._client.say(image_id, label, labelled_at=labelled_at))

    def metadata(self) -> ModelMetadata:
        return self._run(self._client.metadata())

    def ready(self) -> bool:
        return self._run(self._client.ready())
