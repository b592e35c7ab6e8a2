"""What every peer is given: how to decode a photo and how to ask the model, in two flavours.

`own` is what people write: Pillow and torch. `same` is Classy's decoder and Classy's model runtime, so that what
is left to compare is the way from the socket to the model and back. Environment: PEER_PACKAGE is the model package,
PEER_FLAVOUR the flavour. A peer has no features: its context is the card's default.
"""

import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Classifying:
    decode: Callable[[bytes], Pixels]
    """Bytes of a photo → uint8 [S, S, 3]."""
    label: Callable[[Sequence[Pixels]], list[str]]
    """Decoded photos → a class each."""

    def __call__(self, photos: Sequence[bytes]) -> list[str]:
        return self.label([self.decode(photo) for photo in photos])


def load() -> Classifying:
    """As the environment says. Called once in each worker process."""
    folder = Path(os.environ["PEER_PACKAGE"])
    card = json.loads((folder / "card.json").read_text())
    return own(folder, card) if os.environ["PEER_FLAVOUR"] == "own" else same(folder, card)


def own(folder: Path, card: dict[str, Any]) -> Classifying:
    import torch
    from PIL import Image, ImageOps

    from training.checkpoint import load_model

    torch.set_num_threads(1)  # a worker for each core: more threads would fight for them
    model, _ = load_model(folder / "model.safetensors")
    size, classes = int(card["image"]["size"]), card["classes"]
    context = torch.tensor([card["context_default"]], dtype=torch.float32)

    def decode(photo: bytes) -> Pixels:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(photo))).convert("RGB")
        return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))

    def label(images: Sequence[Pixels]) -> list[str]:
        with torch.inference_mode():
            logits, _ = model(torch.from_numpy(np.stack(images)), context.expand(len(images), -1))
        return [classes[index] for index in logits.argmax(1).tolist()]

    return Classifying(decode, label)


def same(folder: Path, card: dict[str, Any]) -> Classifying:
    from serving.canonical import ImageSpec, canonicalise
    from serving.engines.choose import choose_engine
    from serving.runtime import read_package

    engine = choose_engine(folder, read_package(folder), threads=1).engine
    spec, classes = ImageSpec(**card["image"]), card["classes"]
    context = np.asarray([card["context_default"]], np.float32)

    def label(images: Sequence[Pixels]) -> list[str]:
        found = engine.predict(np.stack(images), np.repeat(context, len(images), axis=0))
        return [classes[index] for index in found.probabilities.argmax(1).tolist()]

    return Classifying(lambda photo: canonicalise(photo, spec), label)
