"""What the replicas of tests/test_ray.py are made of. Imported by each of Ray's processes, so it imports little."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from serving.access.gate import OpenGate
from serving.canonical import ImageSpec
from serving.components.base import Component
from serving.components.classifier import Classifier
from serving.components.downloader import Downloader
from serving.components.hops import Onward
from serving.components.pipeline import Pipeline
from serving.components.preprocessor import Preprocessor
from serving.engines.loaded import Loaded
from serving.fetching import Fetcher
from serving.photos import Photo
from serving.ray_app import INGRESS, PARTS
from serving.server import Server
from serving.versions.arms import Arm, Arms, Lineup


@dataclass(frozen=True, kw_only=True)
class Made:
    server: Server
    metrics: None = None


class Averages:
    """Of every sender the same is known."""

    def __init__(self, loaded: Loaded) -> None:
        self.service_hash = loaded.service_hash
        self._width = loaded.width

    def ready(self) -> str | None:
        return None

    def remembered(self, sender: str, at: datetime) -> str | None:
        return None

    def fill(self, photos: Sequence[Photo], at: datetime) -> None:
        for photo in photos:
            photo.context, photo.defaulted = np.ones(self._width, np.float32), True

    def fingerprint(self, sender: str, at: datetime) -> str:
        return ""


class Forgets:
    """A prediction log that keeps nothing."""

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        assert all(row["prediction_id"] for row in rows)


class Answering(Classifier):
    """A classifier whose one model lives as long as it."""

    def __init__(self, package: Path) -> None:
        self.loaded = Loaded.open(package, runtime="onnxruntime")
        arms = Arms()
        run_id = self.loaded.card["run_id"]
        arms.swap(Lineup(champion=Arm(name="champion", version="1", run_id=run_id, generation=1, loaded=self.loaded)))
        super().__init__(arms, Averages(self.loaded), Forgets())

    async def start(self) -> None:
        self.loaded.start()

    async def stop(self) -> None:
        await super().stop()
        await self.loaded.stop()


def part(name: str, package: Path, size: int) -> Component:
    if name == "downloader":
        return Downloader(Fetcher())
    if name == "preprocessor":
        return Preprocessor(ImageSpec(size=size), threads=1)
    return Answering(package)


def whole(parts: Mapping[str, Component]) -> Server:
    """What an ingress serves, or one process has."""
    served: list[Component] = [*(Onward(found, parts) for found in parts.values())]
    served.append(Pipeline(*(parts[name] for name in PARTS)))
    return Server(components={found.name: found for found in served}, gate=OpenGate(), version="0")


@asynccontextmanager
async def opened(
    package: Path, size: int, name: str, number: int, parts: Mapping[str, Component]
) -> AsyncIterator[Made]:
    """A `serving.ray_app.Opener`, with package and size given."""
    if name == INGRESS:
        yield Made(server=whole(parts))
    else:
        found = part(name, package, size)
        yield Made(server=Server(components={name: found}, gate=OpenGate(), version="0"))
