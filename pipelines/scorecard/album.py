"""A recipe's photos as canonical pictures with their statistics: as they are, and once for each change.

A change is applied to the canonical picture, by the code that changes photos in a replay
(`pipelines.sources.scenarios`): two hundred times as fast as to the photo as it came. A blur's radius is in
pixels of the canonical picture.
"""

import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from pipelines.data.images import spec_of
from pipelines.recipe import Recipe
from pipelines.sections import Scenario
from pipelines.settings import Settings
from pipelines.sources import open_source
from pipelines.sources.base import seed_of
from pipelines.sources.scenarios import changed_photo
from serving.canonical import BadImage, ImageSpec, canonicalise
from serving.pictures import figures_of_many

Look = tuple[str, float]
"""A change of pictures: a scenario's kind and amount."""
AS_IT_IS: Look = ("as it is", 0.0)
ANY_DAY = date(2000, 1, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Album:
    """P photos in V looks."""

    rows: pd.DataFrame
    """image_id, source_id, group_id, label (a class of the taxonomy); P rows by image_id."""
    looks: tuple[Look, ...]
    images: tuple[NDArray[np.uint8], ...]
    """[P, S, S, 3] a look."""
    stats: tuple[NDArray[np.float32], ...]
    """[P, 7] a look, in the order of `serving.pictures.STATS`."""


def make_album(settings: Settings, recipe: Recipe, looks: Iterable[Look], folder: Path) -> None:
    """Write the album of a recipe's labelled photos; photos that cannot be read are left out, as validation does."""
    spec = spec_of(recipe)
    source = open_source(recipe.model_copy(update={"scenarios": ()}), settings)
    plan = source.plan().sort_values("image_id", ignore_index=True)
    plan["label"] = [None if label is None else recipe.taxonomy.resolve(label) for label in plan["label"]]
    plan = plan[plan["label"].notna()].drop_duplicates("image_id")
    kept, images = [], []
    with tqdm(total=len(plan), desc=f"{recipe.name}: photos", unit="photo", disable=None) as bar:
        for image_id, data, _ in source.read(plan["image_id"]):
            bar.update()
            if data is None:
                continue
            try:
                image = canonicalise(data, spec)
            except BadImage:
                continue
            with Image.open(io.BytesIO(data)) as opened:
                width, height = opened.size
            kept.append((image_id, width, height))
            images.append(image)
    shown = plan.set_index("image_id").loc[[name for name, _, _ in kept]].reset_index()
    shown[["image_id", "source_id", "group_id", "label"]].to_parquet(folder / "rows.parquet")
    _save(folder, 0, images, kept)
    for number, look in enumerate(looks, start=1):
        _save(folder, number, _changed(images, kept, look, spec, recipe.replay.seed), kept)


def open_album(folder: Path, looks: Sequence[Look]) -> Album:
    """An album that `make_album` wrote with these looks; the pictures stay on disk, processes share them."""
    numbers = range(1 + len(looks))
    return Album(
        rows=pd.read_parquet(folder / "rows.parquet"),
        looks=(AS_IT_IS, *looks),
        images=tuple(np.load(folder / f"images-{n}.npy", mmap_mode="r") for n in numbers),
        stats=tuple(np.load(folder / f"stats-{n}.npy") for n in numbers),
    )


def _changed(
    images: Sequence[NDArray[np.uint8]], kept: Sequence[tuple[str, int, int]], look: Look, spec: ImageSpec, seed: int
) -> list[NDArray[np.uint8]]:
    scenario = Scenario.model_validate({"kind": look[0], "from": ANY_DAY, "amount": look[1]})
    own = ImageSpec(size=spec.size, fit="stretch", max_bytes=spec.max_bytes, max_pixels=spec.max_pixels, min_side=1)

    def one(position: int) -> NDArray[np.uint8]:
        buffer = io.BytesIO()
        Image.fromarray(images[position]).save(buffer, "PNG", compress_level=1)
        photo_seed = seed_of(seed, "photo", kept[position][0])
        return canonicalise(changed_photo(buffer.getvalue(), [scenario], own, photo_seed), own)

    name = f"{look[0]} {look[1]:g}"
    with ThreadPoolExecutor(2) as pool:
        return list(tqdm(pool.map(one, range(len(images))), total=len(images), desc=name, unit="photo", disable=None))


def _save(folder: Path, number: int, images: Sequence[NDArray[np.uint8]], kept: Sequence[tuple[str, int, int]]) -> None:
    pictures = np.stack(images)
    np.save(folder / f"images-{number}.npy", pictures)
    np.save(folder / f"stats-{number}.npy", figures_of_many(pictures, [(width, height) for _, width, height in kept]))
