"""The plain recipe that trainings are compared with: DataLoader, Pillow, float32, AdamW, one photo after the other."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks.training_photos import Photos
from serving.canonical import ImageSpec, canonicalise
from training.baseline import standardise
from training.models import build
from training.options import FitOptions
from training.schedule import rate

WORKERS = 2


class PhotoFiles(Dataset):
    """A photo a row: opened, decoded, cut and moved about with Pillow and numpy, when it is asked for."""

    def __init__(self, files: list[Path], labels: np.ndarray, image: ImageSpec, options: FitOptions | None) -> None:
        self.files, self.labels, self.image, self.options = files, labels, image, options

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        picture = canonicalise(self.files[row].read_bytes(), self.image)
        if self.options is not None:
            picture = self._moved(picture, self.options)
        return torch.from_numpy(picture.copy()), int(self.labels[row])

    def _moved(self, picture: np.ndarray, options: FitOptions) -> np.ndarray:
        side = picture.shape[0]
        most = round(options.shift * side)
        down, right = torch.randint(0, 2 * most + 1, (2,)).tolist()
        wide = np.pad(picture, ((most, most), (most, most), (0, 0)), mode="edge")
        picture = wide[down : down + side, right : right + side]
        return picture[:, ::-1] if options.flip and torch.rand(()) < 0.5 else picture


def loader(photos: Photos, where: np.ndarray, options: FitOptions, *, train: bool) -> DataLoader:
    files = [photos.files[row] for row in where]
    rows = PhotoFiles(files, photos.labels[where], photos.image, options if train else None)
    return DataLoader(rows, batch_size=options.batch, shuffle=train, num_workers=WORKERS, persistent_workers=True)


def epochs(photos: Photos, seed: int, options: FitOptions) -> Iterator[tuple[float, float]]:
    """Seconds since the beginning and accuracy on unseen senders, epoch by epoch. Network, rates and rows are ours."""
    torch.manual_seed(seed)
    where, unseen = photos.splits(seed)
    model = build(photos.model)
    standardise(model, photos.rows(where))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    train, val = (loader(photos, rows, options, train=rows is where) for rows in (where, unseen))
    started, steps = time.perf_counter(), len(train)
    for epoch in range(options.epochs):
        model.train()
        for step, (images, labels) in enumerate(train):
            for group in optimizer.param_groups:
                group["lr"] = rate(options.lr, (epoch + step / steps) / options.epochs)
            logits, _ = model(images, torch.zeros(len(labels), 1))
            loss = functional.cross_entropy(logits, labels, label_smoothing=options.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            right = sum(
                int((model(images, torch.zeros(len(labels), 1))[0].argmax(1) == labels).sum()) for images, labels in val
            )
        yield time.perf_counter() - started, right / len(unseen)
