"""What a live server does beside answering: it writes how its arms did, and one worker judges the canary."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from monitoring.stores import Store, StoreError, open_store
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.versions.tally import Tally

LOG = logging.getLogger(__name__)


async def flush(settings: Settings, tally: Tally, every_s: float = 10.0) -> None:
    """Write what the arms counted to `arm_minutes`, until cancelled; then once more.

    A database that is away loses nothing for as long as the tally keeps its minutes.
    """
    writer = Minutes(settings)

    async def once() -> None:
        # Counted and read on the loop, written in a thread.
        rows = tally.rows()
        if not rows:
            return
        if await asyncio.to_thread(writer.write, rows):
            tally.written(rows)

    try:
        while True:
            await asyncio.sleep(every_s)
            await once()
    finally:
        await once()


class Minutes:
    """Writes rows of `arm_minutes`."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.database_url
        self._store: Store | None = None

    def write(self, rows: list[dict[str, Any]]) -> bool:
        """False where the database is away: what was not written stays for the next time."""
        try:
            if self._store is None:
                self._store = open_store(self._url)
            self._store.write_arm_minutes(rows)
        except (StoreError, SQLAlchemyError, OSError) as error:
            LOG.warning("minutes of the arms wait: %s", error)
            return False
        return True


async def guard(
    settings: Settings,
    recipe: Recipe,
    every_s: float = 60.0,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Judge the canary again and again, until cancelled: it is promoted or dropped by itself. One worker does it.

    Returns at once where `recipe.serving.canary.automatic` is off. What goes wrong is logged, and tried again.
    """
    if not recipe.serving.canary.automatic:
        return
    from pipelines import canary

    pause = every_s
    while True:
        await asyncio.sleep(pause)
        began = time.monotonic()
        try:
            found = await asyncio.to_thread(canary.judge, settings, recipe, as_of=clock())
        except Exception:  # whatever it is: a guard that ends guards nothing
            LOG.exception("the canary could not be judged; it is tried again in %g s", every_s)
            continue
        # A long trial takes longer to look at: never more than a fortieth of a core.
        pause = max(every_s, 40 * (time.monotonic() - began))
        if found.acted:
            LOG.warning("canary version %s: %s. %s", found.version, found.verdict, found.reason)
