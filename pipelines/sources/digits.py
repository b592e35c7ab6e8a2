"""scikit-learn's 1,797 handwritten digits (8×8 grey), which are installed with it.

They have no senders and are few, so both are made up, and only here: each digit gets one of the recipe's
senders, who has a taste for some classes (a Dirichlet draw); records past 1,797 are copies of a digit with
a small seeded shift, change of light and noise. A copy keeps its digit's sender and group, so that no
copy ever stands on the other side of a split.
"""

import io
from collections.abc import Iterator
from functools import cache

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits

from pipelines.sections import DigitsSource
from pipelines.sources.base import Fetched, rows_of, seed_of

SIDE = 32  # pixels of a record: four times the original, smoothly


class Digits:
    """Connector of `kind = "digits"`."""

    timed = False

    def __init__(self, source: DigitsSource) -> None:
        self._source = source

    def fingerprint(self) -> str | None:
        return "digits"  # everything is in the recipe

    def rows(self) -> pd.DataFrame:
        source = self._source
        _, targets = _digits()
        senders = _senders(targets, source)
        rng = np.random.default_rng(seed_of("digits", "copies", source.seed))
        order = rng.permutation(len(targets))
        number = np.arange(source.records)
        copy = number // len(targets)  # 0 is the digit itself
        digit = np.where(copy == 0, number, order[number % len(targets)])
        names = [f"digit-{d:04d}" for d in digit]
        ids = [name if c == 0 else f"{name}-copy{c}" for name, c in zip(names, copy, strict=True)]
        return rows_of(
            image_id=ids,
            source_id=[f"sender-{senders[d]:03d}" for d in digit],
            group_id=names,
            label=[str(targets[d]) for d in digit],
            origin=[f"sklearn.datasets.load_digits[{d}]" for d in digit],
            place=[f"{d}:{c}" for d, c in zip(digit, copy, strict=True)],
        )

    def read(self, rows: pd.DataFrame) -> Iterator[Fetched]:
        for image_id, place in zip(rows["image_id"], rows["place"], strict=True):
            digit, copy = map(int, place.split(":"))
            yield image_id, _encode(_draw(digit, copy, self._source.seed)), None


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 [1797, 8, 8] and the classes."""
    found = load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8), found.target


def _senders(targets: np.ndarray, source: DigitsSource) -> np.ndarray:
    """A sender for each digit: drawn in proportion to the senders' taste for its class."""
    rng = np.random.default_rng(seed_of("digits", "senders", source.seed))
    taste = rng.dirichlet(np.full(10, source.taste), size=source.senders)  # [senders, classes]
    chance = taste / taste.sum(axis=0)
    drawn = np.empty(len(targets), dtype=np.int64)
    for label in range(10):
        mine = targets == label
        drawn[mine] = rng.choice(source.senders, size=int(mine.sum()), p=chance[:, label])
    return drawn


def _draw(digit: int, copy: int, seed: int) -> Image.Image:
    images, _ = _digits()
    image = Image.fromarray(images[digit]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    if copy == 0:
        return image
    rng = np.random.default_rng(seed_of("digits", "change", seed, digit, copy))
    right, down = rng.uniform(-2.5, 2.5, size=2)
    moved = image.transform(image.size, Image.Transform.AFFINE, (1, 0, right, 0, 1, down), Image.Resampling.BILINEAR)
    pixels = np.asarray(moved, dtype=np.float64) * rng.uniform(0.8, 1.1) + rng.normal(0, 5, size=(SIDE, SIDE))
    return Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))


def _encode(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=0)  # stored, so that every build of zlib writes the same bytes
    return out.getvalue()
