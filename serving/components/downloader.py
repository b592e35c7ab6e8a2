"""The component that turns URLs into bytes."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from serving.components.base import Call, Component
from serving.fetching import Fetcher
from serving.fetching.fetcher import Allowance
from serving.photos import Photo
from serving.problems import Problem


class Downloader(Component):
    """url → photo. A photo that is there already is left as it is.

    Args:
        fetcher: what downloads; started and stopped with this component.
        limit: photos of one request.
        max_total_bytes: that the downloaded photos of one request may have together, as if they had been sent.
    """

    name = "downloader"
    takes = ("url",)
    gives = ("photo", "error")

    def __init__(self, fetcher: Fetcher, limit: int = 64, *, max_total_bytes: int = 64_000_000) -> None:
        self.limit = limit
        self._fetcher = fetcher
        self._max_total_bytes = max_total_bytes

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        wanted = [photo for photo in photos if photo.url and photo.photo is None and photo.open]
        if not wanted:
            return
        with call.stage("download"):
            allowance = Allowance(self._max_total_bytes)
            seconds = call.left()
            if len(wanted) == 1:
                await self._fill(wanted[0], seconds, allowance)
                return
            async with asyncio.TaskGroup() as tasks:
                for photo in wanted:
                    tasks.create_task(self._fill(photo, seconds, allowance))

    async def _fill(self, photo: Photo, seconds: float | None, allowance: Allowance) -> None:
        start = time.perf_counter()
        try:
            photo.photo = await self._fetcher.fetch(photo.url or "", seconds=seconds, allowance=allowance)
        except Problem as problem:
            photo.problem = problem
        photo.seconds["download"] = time.perf_counter() - start

    def properties(self) -> dict[str, Any]:
        limits = self._fetcher.limits
        return {
            "seconds": limits.seconds,
            "max_bytes": limits.max_bytes,
            "redirects": limits.redirects,
            "ports": sorted(limits.ports),
            "hosts": list(limits.hosts),
        }

    async def start(self) -> None:
        await self._fetcher.start()

    async def stop(self) -> None:
        await self._fetcher.stop()
