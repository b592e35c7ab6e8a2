"""Small model packages, exported as training exports them: for tests of what serves models.

Torch's exporter takes seconds, so a package is made once in a test run and copied to whoever asks for the same.
"""

import atexit
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from serving.canonical import ImageSpec
from serving.pictures import STATS
from training.baseline import standardise
from training.card import make_card, write_card
from training.data import Split
from training.export import CARD, write_manifest, write_package
from training.models import Classifier, ModelSpec, build, torchvision_side
from training.shards import Mapped, Rows

Kind = Literal["linear", "resnet", "torchvision", "caffe_vgg"]

CLASSES = ("left", "middle", "right")
CONTEXT_NAMES = ("brightness", "contrast", "photos")
SERVICE_HASH = "0" * 12


def make_package(
    folder: Path,
    *,
    size: int = 16,
    classes: Sequence[str] = CLASSES,
    context_names: Sequence[str] = CONTEXT_NAMES,
    seed: int = 0,
    kind: Kind = "linear",
    fit: str = "crop",
    run_id: str = "",
    **card: Any,
) -> Path:
    """A package in `folder`, which must not be there; gives the folder.

    The network has random weights by `seed`, so two seeds are two models that disagree. `linear` exports quickest;
    `caffe_vgg` takes blue-green-red pixels less their mean. `card` changes fields of the card.
    """
    made = _made(size, tuple(classes), tuple(context_names), seed, kind)
    image = ImageSpec(size=size, fit=fit)
    shutil.copytree(made, folder)
    given = {
        "run_id": run_id or f"{kind}{seed}".encode().hex().ljust(32, "0"),
        "image": asdict(image),
        "image_spec_hash": image.digest(),
        **card,
    }
    write_card(folder / CARD, {**json.loads((made / CARD).read_text()), **given})
    write_manifest(folder)
    return folder


def probe_rows(count: int, *, size: int, classes: int, width: int, seed: int = 0) -> Split:
    """Rows of made-up photos: a bright block on noise, each class at its own place."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    images = rng.integers(0, 90, (count, size, size, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        left = label * size // classes
        image[size // 4 : 3 * size // 4, left : left + max(1, size // classes)] = rng.integers(150, 255, 3)
    names = np.array([f"photo-{number:03d}" for number in range(count)])
    return Split(
        images=Rows(Mapped([images], size), np.zeros(count, int), np.arange(count)),
        context=rng.normal(1, 2, (count, width)).astype(np.float32),
        labels=labels.astype(np.int64),
        image_ids=names,
        source_ids=names,
        group_ids=names,
        captured_at=np.full(count, np.datetime64("2026-03-01", "us")),
        stats=np.zeros((count, 7), np.float32),
    )


@cache
def _root() -> Path:
    root = tempfile.mkdtemp(prefix="classy-packages-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return Path(root)


@cache
def _made(size: int, classes: tuple[str, ...], context_names: tuple[str, ...], seed: int, kind: Kind) -> Path:
    folder = _root() / f"{kind}-{size}-{len(classes)}-{len(context_names)}-{seed}-{len(list(_root().iterdir()))}"
    folder.mkdir()
    torch.manual_seed(seed)
    model = build(_spec(kind, size, len(classes), len(context_names)))
    rows = probe_rows(48, size=size, classes=len(classes), width=len(context_names), seed=seed)
    standardise(model, rows)
    _settle(model, rows)
    card = make_card(
        model,
        name="tiny",
        candidate=kind,
        run_id="0" * 32,
        recipe={"name": "tiny", "hash": "1" * 12},
        snapshot={
            "classes": classes,
            "service": "context_v1",
            "service_hash": SERVICE_HASH,
            "context_names": context_names,
            "stats_names": [name for name in context_names if name in STATS],
            "snapshot_id": "made-up",
            "snapshot_uri": "made-up",
            "as_of": "2026-03-07T00:00:00+00:00",
        },
        image={},
        image_spec_hash="",
        temperature=1.0,
        val={"accuracy": 0.5},
        created_by="tests",
    )
    write_package(folder, model, 1.0, card, rows)
    return folder


def _spec(kind: Kind, size: int, classes: int, context: int) -> ModelSpec:
    same: dict[str, Any] = {"classes": classes, "context": context, "size": size}
    if kind == "linear":
        return ModelSpec(kind="sklearn", options={"pixels": 8}, **same)
    if kind == "resnet":
        return ModelSpec(kind="resnet", options={"width": 8, "blocks": [1, 1]}, **same)
    architecture = "vgg11_bn" if kind == "caffe_vgg" else "squeezenet1_1"
    options = {"architecture": architecture, "side": torchvision_side(architecture, size, pretrained=False)}
    if kind == "caffe_vgg":
        options["pixels"] = "caffe"
    return ModelSpec(kind="torchvision", options=options, **same)


def _settle(model: Classifier, rows: Split) -> None:
    """Let batch normalisation see the rows, and spread the answers: fresh weights say the same to every photo."""
    images, context = torch.tensor(rows.images[:]), torch.tensor(rows.context)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean of all passes, and one is enough
    with torch.no_grad():
        model.train()
        model(images, context)
        model.eval()
        logits, _ = model(images, context)
        model.head.classes.weight /= logits.std(dim=0).mean() / 2
