"""Any of torchvision's classification datasets, by the name of its class."""

import difflib
import inspect
import io
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image
from torchvision import datasets
from torchvision.transforms.functional import to_pil_image
from tqdm import tqdm

from pipelines.errors import ClassyError
from pipelines.sections import TorchvisionSource
from pipelines.sources.base import Fetched, expand, rows_of

_LABELS = ("targets", "labels", "_labels")  # where the datasets keep the class of every record
_PAIRS = ("samples", "_samples")  # … or (path, class) pairs


class Torchvision:
    """Connector of `kind = "torchvision"`. Every record is its own sender: these datasets have none."""

    timed = False

    def __init__(self, source: TorchvisionSource, home: Path) -> None:
        self._source = source
        self._root = expand(source.root, "source.root", home)

    def fingerprint(self) -> str | None:
        return self._root

    def rows(self) -> pd.DataFrame:
        count = len(self._dataset)
        count = min(count, self._source.limit) if self._source.limit else count
        ids = [f"{self._source.dataset.lower()}-{i:07d}" for i in range(count)]
        return rows_of(
            image_id=ids,
            source_id=ids,
            label=[self._name(label) for label in self._labels(count)],
            origin=[f"torchvision.datasets.{self._source.dataset}[{i}]" for i in range(count)],
            place=[str(i) for i in range(count)],
        )

    def read(self, rows: pd.DataFrame) -> Iterator[Fetched]:
        for image_id, place in zip(rows["image_id"], rows["place"], strict=True):
            try:
                yield image_id, _encode(self._dataset[int(place)][0]), None
            except (OSError, ValueError) as error:
                yield image_id, None, f"unreadable: {type(error).__name__}: {error}"

    @cached_property
    def _dataset(self) -> Any:
        source, name = self._source, self._source.dataset
        known = [n for n in datasets.__all__ if isinstance(getattr(datasets, n), type)]
        if name not in known:
            near = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.4)) or "CIFAR10, MNIST, ImageFolder"
            raise ClassyError(f"source.dataset = {name!r}: torchvision has no such dataset; near it are {near}")
        make = getattr(datasets, name)
        takes = inspect.signature(make).parameters
        given: dict[str, Any] = {k: v for k, v in (("root", self._root),) if k in takes}
        if source.download:
            if "download" not in takes:
                raise ClassyError(
                    f"source.download = true: torchvision cannot download {name}; put it into source.root"
                )
            given["download"] = True
        try:
            return make(**given, **source.options)
        except TypeError as error:
            allowed = ", ".join(n for n in takes if n not in ("root", "download", "transform", "target_transform"))
            raise ClassyError(f"source.options = {source.options}: {error}; {name} takes {allowed}") from error
        except (RuntimeError, OSError, ValueError) as error:
            remedy = "" if source.download else "; set source.download = true or put it into source.root"
            raise ClassyError(f"source.dataset = {name!r} in {self._root}: {error}{remedy}") from error

    def _labels(self, count: int) -> list[Any]:
        for attribute in _LABELS:
            found = getattr(self._dataset, attribute, None)
            if found is not None and len(found) == len(self._dataset):
                return list(found[:count])
        for attribute in _PAIRS:
            found = getattr(self._dataset, attribute, None)
            if found is not None and len(found) == len(self._dataset) and len(found[0]) == 2:
                return [pair[1] for pair in found[:count]]
        # Nothing lists the classes, so each record is opened once.
        records = tqdm(range(count), desc=f"classes of {self._source.dataset}", disable=None)
        return [self._dataset[i][1] for i in records]

    def _name(self, label: Any) -> str | None:
        try:
            index = int(label)
        except (TypeError, ValueError):
            if isinstance(label, str):
                return label
            raise ClassyError(
                f"source.dataset = {self._source.dataset!r}: its target {label!r} is no class; "
                "choose a classification dataset, or a target_type with one class a photo"
            ) from None
        classes = getattr(self._dataset, "classes", None)
        if index < 0:
            return None  # STL10 marks a photo without a label so
        name = classes[index] if classes is not None and index < len(classes) else index
        return " ".join(name) if isinstance(name, tuple) else str(name)


def _encode(picture: Any) -> bytes:
    """PNG bytes of what a dataset gives: a PIL image, a tensor [C, H, W] or an array [H, W, C]."""
    image = picture if isinstance(picture, Image.Image) else to_pil_image(picture)
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = image.convert("RGB")
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()
