"""Real components around a tiny model, without MLflow and Feast: for tests of what stands around them."""

import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from serving.canonical import ImageSpec
from serving.components.base import Component
from serving.components.classifier import Classifier
from serving.components.downloader import Downloader
from serving.components.preprocessor import Preprocessor
from serving.engines.loaded import Loaded
from serving.fetching import Fetcher
from serving.photos import Photo
from serving.pictures import STATS
from serving.recall import fingerprint_of
from serving.server import Server
from serving.versions.arms import Arm, Arms, Lineup
from tests.packages import SERVICE_HASH, make_package
from tests.serving import Open

SIZE = 16


class Known:
    """Features of senders that are numbers; of others nothing is known."""

    service_hash = SERVICE_HASH

    def ready(self) -> str | None:
        return None

    def remembered(self, sender: str, at: datetime) -> str | None:
        return None

    def fill(self, photos: Sequence[Photo], at: datetime) -> None:
        for photo in photos:
            photo.defaulted = not photo.sender.isdigit()
            count = 0.0 if photo.defaulted else float(photo.sender)
            assert photo.stats is not None
            photo.context = np.array([*photo.stats, count], np.float32)

    def fingerprint(self, sender: str, at: datetime) -> str:
        count = float(sender) if sender.isdigit() else 0.0
        return fingerprint_of(np.array([*[0.0] * len(STATS), count], np.float32))


class Rows(list[dict[str, Any]]):
    """A prediction log in memory."""

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        self.extend(rows)


class WithModel(Classifier):
    """A classifier whose one model lives as long as it."""

    def __init__(self, folder: Path, *, seed: int = 0, version: str = "1", **options: Any) -> None:
        package = make_package(folder, seed=seed, size=SIZE, context_names=(*STATS, "photos"))
        self.loaded = Loaded.open(package, runtime="onnxruntime")
        self.arms = Arms()
        champion = Arm(
            name="champion", version=version, run_id=self.loaded.card["run_id"], generation=1, loaded=self.loaded
        )
        self.arms.swap(Lineup(champion=champion))
        self.rows = Rows()
        self.known = Known()
        super().__init__(self.arms, self.known, self.rows, **options)

    async def start(self) -> None:
        self.loaded.start()

    async def stop(self) -> None:
        await super().stop()
        await self.loaded.stop()


def preprocessor() -> Preprocessor:
    return Preprocessor(ImageSpec(size=SIZE), threads=1)


def downloader() -> Downloader:
    """Fetches from this machine too, unlike in production."""
    return Downloader(Fetcher(allow_private=True))


def serving(*parts: Component, **options: Any) -> Server:
    """A server of these components, open to everybody."""
    return Server(components={part.name: part for part in parts}, **{"gate": Open(), "version": "0", **options})


def jpeg(seed: int = 0, *, width: int = 64, height: int = 48) -> bytes:
    """A photo: a bright block on noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
    left = int(rng.integers(0, width // 2))
    pixels[height // 4 : 3 * height // 4, left : left + width // 3] = rng.integers(150, 255, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()
