"""What the servers are measured on: photos, a model package, and a home in which it is the champion.

Photos are those of the clothing recipe where CLASSY_CLOTHING names their folder, else made up: 400 × 533 JPEGs of
about 27 KB. The network is the recipe's compact one, or a ResNet-18 at 128 pixels. Its weights are random but fixed,
and its last layer does not read the context: so a server with features and one without must give the same class, and
how long it takes does not depend on what it learned.
"""

import csv
import hashlib
import io
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pipelines.recipe import RECIPES, Recipe, load_recipe
from pipelines.settings import Settings, load_settings

COUNT, SEED = 160, 7
SENDERS = 8
"""Made-up photos have so many."""
DAYS = 2
"""Over which the photos came, the last of them yesterday."""
AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
"""What a package's network is said to have been trained on, where nobody asks."""
Network = Literal["compact", "resnet18"]
NETWORKS: dict[Network, tuple[int, str]] = {
    "compact": (64, ""),
    "resnet18": (128, '[[candidates]]\nname = "resnet"\nkind = "torchvision"\narchitecture = "resnet18"\n'),
}
"""Side of the canonical image, and the candidate that takes the place of the recipe's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A photo with what its sender says."""

    name: str
    data: bytes
    sender: str
    label: str


def photos(count: int = COUNT, seed: int = SEED) -> list[Sent]:
    """The same ones each time."""
    folder = os.environ.get("CLASSY_CLOTHING", "")
    recipe = load_recipe("clothing")
    return _real(Path(folder), count, seed, recipe) if folder else _made_up(count, seed, recipe)


def _real(folder: Path, count: int, seed: int, recipe: Recipe) -> list[Sent]:
    with (folder / "images.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] in recipe.taxonomy.classes]
    found: list[Sent] = []
    for index in np.random.default_rng(seed).permutation(len(rows)):
        row = rows[index]
        path = folder / "images" / f"{row['image']}.jpg"
        if path.is_file():
            found.append(Sent(name=row["image"], data=path.read_bytes(), sender=row["sender_id"], label=row["label"]))
        if len(found) == count:
            break
    return found


def _made_up(count: int, seed: int, recipe: Recipe) -> list[Sent]:
    rng = np.random.default_rng(seed)
    classes = recipe.taxonomy.classes
    return [
        Sent(
            name=f"made-up-{number}",
            data=_jpeg(rng),
            sender=str(number % SENDERS),
            label=classes[number % len(classes)],
        )
        for number in range(count)
    ]


def _jpeg(rng: np.random.Generator) -> bytes:
    """A blurred garment-like blob on a lit background, with a sensor's grain."""
    coarse = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize(
        (400, 533), Image.Resampling.BICUBIC
    )
    shape = Image.fromarray((rng.random((9, 7)) > 0.5).astype(np.uint8) * 255).resize((400, 533))
    shape = shape.filter(ImageFilter.GaussianBlur(2))
    cloth = Image.new("RGB", (400, 533), tuple(int(value) for value in rng.integers(20, 235, 3)))
    coarse.paste(cloth, mask=shape)
    grain = rng.normal(0, 4, (533, 400, 1))
    pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=80)
    return file.getvalue()


# ----------------------------------------------------------------------------------------------- package


def make_package(
    folder: Path, sent: list[Sent], recipe: Recipe, *, run_id: str = "benchmark", as_of: datetime = AS_OF
) -> None:
    """Write the model package. What the network sees of the photos is spread out, so that it has something to say."""
    import torch

    from pipelines.data.features import SERVICE, context_names, service_hash
    from pipelines.data.images import spec_of
    from pipelines.models.fitting import options_of
    from serving.canonical import canonicalise
    from serving.pictures import STATS
    from training.export import write_package
    from training.models import ModelSpec, build, pixel_statistics

    spec, classes, names = spec_of(recipe), recipe.taxonomy.classes, context_names(recipe)
    images = np.stack([canonicalise(photo.data, spec) for photo in sent])
    candidate = recipe.candidate("resnet")
    options = options_of(candidate, spec.size)
    torch.manual_seed(SEED)
    model = build(
        ModelSpec(kind=candidate.kind, classes=len(classes), context=len(names), size=spec.size, options=options)
    )
    model.set_pixels(*pixel_statistics(images))
    context = torch.zeros(len(images), len(names))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            layer.momentum = None  # statistics of these photos, not a moving average from nothing
    with torch.no_grad():
        for block in model.modules():
            if hasattr(block, "norm2"):
                torch.nn.init.ones_(block.norm2.weight)
        model.train()(torch.from_numpy(images), context)
        model.eval()
        model.head.classes.weight[:, model.body.width :] = 0.0
        model.head.classes.weight[:, : model.body.width] *= 5.0
    card = {
        "name": "resnet", "candidate": "resnet", "kind": candidate.kind, "classes": list(classes),
        "image": {"size": spec.size, "fit": spec.fit}, "image_spec_hash": spec.digest(), "service": SERVICE,
        "service_hash": service_hash(recipe), "context_names": list(names), "context_default": [0.0] * len(names),
        "stats_names": list(STATS),
        "run_id": run_id, "as_of": as_of.isoformat(), "options": options,
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }  # fmt: skip
    folder.mkdir(parents=True)
    write_package(folder, model, 1.0, card, _split(images, context.numpy()))


def _split(images: NDArray[np.uint8], context: NDArray[np.float32]) -> Any:
    from serving.pictures import STATS
    from training.data import Split

    count = len(images)
    ids = np.asarray([str(number) for number in range(count)])
    return Split(
        images=images, context=context, labels=np.zeros(count, np.int64), image_ids=ids, source_ids=ids, group_ids=ids,
        captured_at=np.zeros(count, "datetime64[us]"), stats=np.zeros((count, len(STATS)), np.float32),
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------- a home


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    settings: Settings
    recipe: Recipe
    recipe_path: Path
    package: Path
    sent: list[Sent]


def settle(network: Network = "compact", *, fresh: bool = False) -> World:
    """A home in HOME/bench/serving, or serving-NETWORK: the last days' photos gathered, their senders' features online,
    a champion. Made once a day: profiles grow old.
    """
    home = load_settings().home / "bench" / ("serving" if network == "compact" else f"serving-{network}")
    sent = photos()
    first = datetime.now(UTC).date() - timedelta(days=DAYS)
    said = hashlib.sha256(b"".join([_recipe_text(home, first, network).encode(), *(photo.data for photo in sent)]))
    stamp = home / "made.txt"
    path, package = home / "serving.toml", home / "package"
    settings = load_settings(
        home=home, recipe=str(path), data_root="", database_url="", mlflow_uri="", features_root=""
    )
    if fresh or not stamp.is_file() or stamp.read_text() != said.hexdigest():
        shutil.rmtree(home, ignore_errors=True)
        _write_source(home, sent)
        path.write_text(_recipe_text(home, first, network))
        _bring_in(settings, load_recipe(str(path)), first)
        _enthrone(settings, load_recipe(str(path)), package, sent, first)
        stamp.write_text(said.hexdigest())
    return World(settings=settings, recipe=load_recipe(str(path)), recipe_path=path, package=package, sent=sent)


def _recipe_text(home: Path, first: date, network: Network) -> str:
    """The clothing recipe on the photos that are measured with."""
    size, candidate = NETWORKS[network]
    text = (RECIPES / "clothing.toml").read_text().replace("${CLASSY_CLOTHING}", str(home / "photos"))
    head, _, rest = text.partition("[replay]")
    after = rest[rest.index("[image]") :].replace("size = 64", f"size = {size}")
    if candidate:
        start, end = after.index("[[candidates]]"), after.index("[budget]")
        after = f"{after[:start]}{candidate}\n{after[end:]}"
    return f"{head}[replay]\nstart = {first}\ndays = {DAYS}\nlabel_delay_days = [0.0, 0.01]\n\n" + after.replace(
        "min_records = 50", "min_records = 1"
    ).replace("history_days = 10", "history_days = 1")


def _write_source(home: Path, sent: list[Sent]) -> None:
    images = home / "photos" / "images"
    images.mkdir(parents=True)
    with (home / "photos" / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "sender_id", "label"))
        for photo in sent:
            writer.writerow((photo.name, photo.sender, photo.label))
            (images / f"{photo.name}.jpg").write_bytes(photo.data)


def _bring_in(settings: Settings, recipe: Recipe, first: date) -> None:
    from pipelines import gather, materialize, prepare, validate

    for number in range(DAYS):
        raw = gather.run(settings, recipe, day=first + timedelta(days=number))
        clean = validate.run(settings, recipe, raw_uri=raw.raw_uri)
        shard = prepare.run(settings, recipe, clean_uri=clean.clean_uri)
        materialize.run(settings, recipe, shard_uri=shard.shard_uri)


def _enthrone(settings: Settings, recipe: Recipe, package: Path, sent: list[Sent], first: date) -> None:
    from monitoring.stores import open_store
    from pipelines.models import tracking
    from pipelines.models.packages import log_package

    client = tracking.connect(settings)
    run_id = client.create_run(tracking.experiment_id(client)).info.run_id
    as_of = datetime.combine(first + timedelta(days=DAYS), time(), UTC)
    make_package(package, sent, recipe, run_id=run_id, as_of=as_of)
    sha256 = hashlib.sha256((package / "manifest.json").read_bytes()).hexdigest()
    model_uri = log_package(run_id, package)
    tracking.keep_package(settings, package, sha256)
    for tag, value in ((tracking.PACKAGE_SHA256, sha256), (tracking.MODEL_URI, model_uri), (tracking.OPTIMIZED, "{}")):
        client.set_tag(run_id, tag, value)
    nothing = dict.fromkeys(
        ("previous_version", "canary_version", "shadow_version", "canary_run_id", "canary_name", "shadow_run_id",
         "evidence_uri", "evidence_hash")
    )  # fmt: skip
    open_store(settings.database_url).add_generation(
        {
            **nothing,
            "generation": 1,
            "champion_version": "1",
            "champion_run_id": run_id,
            "canary_weight": 0.0,
            "kind": "promote",
            "actor": "benchmark",
            "reason": "to be measured",
            "run_key": "benchmark",
            "as_of": as_of,
            "created_at": datetime.now(UTC),
        }
    )
