"""What trainings are measured on: photos as files, the same ones as shards, split by sender."""

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from pipelines.data.images import spec_of
from pipelines.recipe import load_recipe
from serving.canonical import ImageSpec, canonicalise
from training.data import Split
from training.models import ModelSpec
from training.shards import Mapped, Rows, open_shard, write_shard

HELD_OUT = 0.25
"""Share of the senders whose photos are validated on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Photos:
    """Photos of one task; `files`, `labels` and the rows of the shard are aligned."""

    name: str
    files: list[Path]
    labels: np.ndarray
    senders: np.ndarray
    shard: Path
    image: ImageSpec
    model: ModelSpec

    def splits(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers to train on and to validate on: no sender on both sides."""
        names = np.unique(self.senders)
        held = np.random.default_rng(seed).permutation(names)[: max(1, round(HELD_OUT * len(names)))]
        inside = np.isin(self.senders, held)
        return np.flatnonzero(~inside), np.flatnonzero(inside)

    def rows(self, where: np.ndarray) -> Split:
        shard = open_shard(self.shard)
        names = np.array([self.files[row].stem for row in where])
        return Split(
            images=Rows(Mapped([shard], self.image.size), np.zeros(len(where), int), where),
            context=np.zeros((len(where), 1), np.float32),
            labels=self.labels[where],
            image_ids=names,
            source_ids=self.senders[where],
            group_ids=names,
            captured_at=np.full(len(where), np.datetime64("2026-03-01", "us")),
            stats=np.zeros((len(where), 7), np.float32),
        )


def digits(folder: Path, count: int = 1797) -> Photos:
    """scikit-learn's digits as PNG files of 16 pixels; every tenth is of one made-up sender."""
    data = load_digits()
    files = []
    (folder / "photos").mkdir(parents=True)
    for number, grey in enumerate(data.images[:count]):
        files.append(folder / "photos" / f"{number:04d}.png")
        Image.fromarray((np.kron(grey, np.ones((2, 2))) * 15.9).astype(np.uint8)).convert("RGB").save(files[-1])
    senders = np.array([f"sender-{number // 10:03d}" for number in range(count)])
    return _photos("digits", folder, files, data.target[:count].astype(np.int64), senders)


def clothing(folder: Path, count: int = 0) -> Photos | None:
    """The clothing photos, all or the first so many; None where they are not on this machine."""
    root = os.environ.get("CLASSY_CLOTHING")
    if not root:
        return None
    classes = load_recipe("clothing").taxonomy.classes
    with Path(root, "images.csv").open() as file:
        table = [row for row in csv.DictReader(file) if row["label"] in classes]
    table = [row for row in table if Path(root, "images", f"{row['image']}.jpg").exists()][: count or None]
    files = [Path(root, "images", f"{row['image']}.jpg") for row in table]
    labels = np.array([classes.index(row["label"]) for row in table])
    return _photos("clothing", folder, files, labels, np.array([row["sender_id"] for row in table]))


def _photos(name: str, folder: Path, files: list[Path], labels: np.ndarray, senders: np.ndarray) -> Photos:
    recipe = load_recipe(name)
    image, chosen = spec_of(recipe), recipe.candidate("resnet")
    shard = folder / "shard"
    shard.mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = pool.map(lambda path: canonicalise(path.read_bytes(), image), files)
        write_shard(shard, images, len(files), image.size)
    model = ModelSpec(kind="resnet", classes=len(recipe.taxonomy.classes), context=1, size=image.size,
                      options={"width": chosen.width, "blocks": list(chosen.blocks)})  # fmt: skip
    return Photos(name=name, files=files, labels=labels, senders=senders, shard=shard, image=image, model=model)
