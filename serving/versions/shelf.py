"""Models in memory: each loaded once, however many roles it has, and never more than fit."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from serving.problems import Problem
from serving.runtime import ModelError

if TYPE_CHECKING:
    from serving.engines.loaded import Loaded


class Shelf:
    """Loads by MLflow run, in a thread beside what serves.

    Args:
        fetch: a run's package on this disk, verified; may block. Raises Problem or ModelError.
        open_model: opens, checks and warms a package; blocks. Raises ModelError.
        service_hash: of the feature service that this server reads; a model of another one is refused. Empty: any.
        limit: models in memory at once, what is being exchanged included.
    """

    def __init__(
        self,
        fetch: Callable[[str], Path],
        open_model: "Callable[[Path], Loaded]",
        *,
        service_hash: str = "",
        limit: int = 6,
    ) -> None:
        self.limit = limit
        self.loading: str = ""
        """The run that is being loaded now, or empty."""
        self._fetch = fetch
        self._open = open_model
        self._service_hash = service_hash
        self._loaded: dict[str, Loaded] = {}
        self._lock = asyncio.Lock()

    def get(self, run_id: str) -> "Loaded | None":
        """A loaded model, or None."""
        return self._loaded.get(run_id)

    def runs(self) -> list[str]:
        """Runs whose models are in memory, in the order in which they came."""
        return list(self._loaded)

    async def take(self, run_id: str) -> "Loaded":
        """The run's model, loaded where it is not yet. It answers requests when this returns.

        Raises:
            ModelError: the package is not what it says it is, or was made for other features.
            Problem: the package cannot be had now, or the shelf is full.
        """
        async with self._lock:  # one at a time: loading takes a core from whoever is answered meanwhile
            there = self._loaded.get(run_id)
            if there is not None:
                return there
            if len(self._loaded) >= self.limit:
                held = ", ".join(self._loaded)
                raise Problem(
                    "unavailable",
                    f"model of run {run_id}: {self.limit} models are in memory already (runs {held}); unload a version",
                    detail="too_many_models",
                )
            self.loading = run_id
            try:
                loaded = await asyncio.to_thread(self._load, run_id)
            finally:
                self.loading = ""
            loaded.start()
            self._loaded[run_id] = loaded
            return loaded

    def _load(self, run_id: str) -> "Loaded":
        loaded = self._open(self._fetch(run_id))
        if self._service_hash and loaded.service_hash != self._service_hash:
            raise ModelError(
                f"model of run {run_id}: was trained for feature service hash {loaded.service_hash}, this server reads "
                f"{self._service_hash}; serve it with the recipe it was trained with"
            )
        return loaded

    async def let_go(self, run_id: str) -> None:
        """Stop a model that nobody holds any more, and free its memory."""
        loaded = self._loaded.pop(run_id, None)
        if loaded is not None:
            await loaded.stop()
