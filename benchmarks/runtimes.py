"""The recipes' networks in each runtime: milliseconds an image on one core, and how near each is to torch.

    uv run python -m benchmarks.runtimes              # speed
    uv run python -m benchmarks.runtimes agreement    # largest differences, on networks trained on real digits
    uv run python -m benchmarks.runtimes lanes        # what a lane costs beside the model

Runtimes take turns within a round, so that a busy neighbour meets all of them; medians over rounds.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from pipelines.models.fitting import options_of
from pipelines.recipe import load_recipe
from pipelines.training_sections import TorchvisionCandidate
from serving.engines.with_onnxruntime import OnnxRuntime
from serving.engines.with_openvino import OpenVino, has_bfloat16
from serving.lanes import Lane
from serving.runtime import Package
from training.baseline import fit_baseline, standardise
from training.calibrate import fit_temperature
from training.data import Split
from training.evaluation import logits_of
from training.export import Answering, write_graph
from training.fit import Fit
from training.models import Classifier, ModelSpec, build
from training.options import FitOptions
from training.shards import Mapped, Rows

CONTEXT = 16
"""Width of the context; it hardly matters to speed."""
ROUNDS = 15
Predict = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    name: str
    spec: ModelSpec


def networks() -> Iterator[Network]:
    """The candidates of the recipes, and what people start with beside them."""
    os.environ.setdefault("CLASSY_CLOTHING", "nowhere")  # only the recipe is read, not its photos
    for name in ("digits", "clothing"):
        recipe = load_recipe(name)
        for candidate in recipe.candidates:
            yield Network(
                name=f"{name} {candidate.name}, {recipe.image.size} px",
                spec=ModelSpec(
                    kind=candidate.kind,
                    classes=len(recipe.taxonomy.classes),
                    context=CONTEXT,
                    size=recipe.image.size,
                    options=options_of(candidate, recipe.image.size),
                ),
            )
    for architecture, size, pixels in (("resnet18", 128, "torchvision"), ("vgg11_bn", 64, "caffe")):
        chosen = TorchvisionCandidate(
            name=architecture, kind="torchvision", architecture=architecture, pixels=pixels
        )  # fmt: skip
        options = options_of(chosen, size)
        spec = ModelSpec(kind="torchvision", classes=17, context=CONTEXT, size=size, options=options)
        yield Network(name=f"{architecture} ({pixels}), {size} px", spec=spec)


def runtimes(model: Classifier, temperature: float = 1.0) -> dict[str, Predict]:
    """The same network in each runtime, each on one core."""
    torch.set_num_threads(1)
    module = Answering(model.cpu().eval(), temperature).eval()

    def in_torch(images: NDArray[np.uint8], context: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return module(torch.from_numpy(images), torch.from_numpy(context))[0].numpy()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_graph(path, model, temperature)
        card = {
            "classes": ["?"] * model.spec.classes,
            "context_names": ["?"] * model.spec.context,
            "image": {"size": model.spec.size},
        }
        package = Package(path.read_bytes(), card, "", None)
        engines = {
            "ONNX Runtime": OnnxRuntime(path.parent, package),
            "OpenVINO float32": OpenVino(path.parent, package, precision="float32"),
        }
        if has_bfloat16():
            engines["OpenVINO bfloat16"] = OpenVino(path.parent, package, precision="bfloat16")
    found: dict[str, Predict] = {"torch": in_torch}
    for name, engine in engines.items():
        found[name] = lambda images, context, engine=engine: engine.predict(images, context).probabilities  # type: ignore[misc]
    return found


# --------------------------------------------------------------------------------------------------- speed


def speed() -> None:
    names = ["torch", "ONNX Runtime", "OpenVINO float32", "OpenVINO bfloat16"]
    print("| network | batch | " + " | ".join(names) + " |\n|---|---|" + "---|" * len(names))
    for network in networks():
        torch.manual_seed(0)
        there = runtimes(build(network.spec))
        for batch in (1, 8):
            times = time_all(there, network.spec, batch)
            shown = [f"{times[name]:.3f}" if name in times else "none" for name in names]
            print(f"| {network.name} | {batch} | {' | '.join(shown)} |", flush=True)


def time_all(there: dict[str, Predict], spec: ModelSpec, batch: int) -> dict[str, float]:
    """Milliseconds an image of each runtime."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, spec.size, spec.size, 3), dtype=np.uint8)
    context = np.zeros((batch, spec.context), np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in there}
    for number in range(ROUNDS + 2):
        for name, predict in there.items():
            start = time.perf_counter()
            for _ in range(5):
                predict(images, context)
            if number >= 2:
                seconds[name].append((time.perf_counter() - start) / 5)
    return {name: 1000 * statistics.median(values) / batch for name, values in seconds.items()}


# ----------------------------------------------------------------------------------------------- agreement


def agreement() -> None:
    """Networks that were really trained: what matters is how they differ on photos like those they have seen."""
    train, val = digits(slice(0, 1200), 0), digits(slice(1200, None), 0)
    hard_train, hard_val = digits(slice(0, 1200), 110), digits(slice(1200, None), 110)
    same = {"classes": 10, "context": CONTEXT, "size": 16}
    compact = ModelSpec(kind="resnet", options={"width": 16, "blocks": [1, 1]}, **same)
    wide = ModelSpec(kind="resnet", options={"width": 32, "blocks": [1, 1, 1]}, **same)
    large = ModelSpec(kind="torchvision", options={"architecture": "resnet18", "side": 32}, **same)
    linear = ModelSpec(kind="sklearn", options={"pixels": 16}, **same)
    print("| trained network | accuracy | runtime | largest difference | 99% of rows | classes changed |")
    print("|---|---|---|---|---|---|")
    for name, spec, seen, unseen in (
        ("linear, noisy digits", linear, hard_train, hard_val),
        ("compact, digits", compact, train, val),
        ("compact, noisy digits", wide, hard_train, hard_val),
        ("resnet18, noisy digits", large, hard_train, hard_val),
    ):
        model, temperature = fitted(spec, seen, unseen)
        compare(name, runtimes(model, temperature), unseen)


def compare(name: str, there: dict[str, Predict], rows: Split) -> None:
    images, context = rows.images[:], np.ascontiguousarray(rows.context)
    wanted = there["torch"](images, context)
    best = np.sort(wanted, axis=1)
    margin = best[:, -1] - best[:, -2]
    accuracy = (wanted.argmax(1) == rows.labels).mean()
    for runtime, predict in there.items():
        if runtime == "torch":
            continue
        found = predict(images, context)
        worst = np.abs(found - wanted).max(axis=1)
        changed = found.argmax(1) != wanted.argmax(1)
        sure = f", torch's lead at most {margin[changed].max():.4f}" if changed.any() else ""
        print(
            f"| {name} | {accuracy:.3f} | {runtime} | {worst.max():.2g} | {np.quantile(worst, 0.99):.2g} | "
            f"{changed.sum()} of {len(rows)}{sure} |",
            flush=True,
        )


def digits(part: slice, noise: float) -> Split:
    """Real handwritten digits as 16 × 16 pictures, with Gaussian noise of this many grey levels."""
    data = load_digits()
    rng = np.random.default_rng([7, part.start])
    grey = np.kron(data.images[part], np.ones((1, 2, 2))) * 15.9
    images = np.repeat(grey[..., None], 3, axis=3)
    pixels = np.clip(images + rng.normal(0, noise, images.shape), 0, 255).astype(np.uint8)
    count = len(pixels)
    names = np.arange(count).astype(str)
    return Split(
        images=Rows(Mapped([pixels], 16), np.zeros(count, int), np.arange(count)),
        context=rng.normal(size=(count, CONTEXT)).astype(np.float32),
        labels=data.target[part].astype(np.int64),
        image_ids=names,
        source_ids=names,
        group_ids=names,
        captured_at=np.full(count, np.datetime64("2026-03-01", "us")),
        stats=np.zeros((count, 7), np.float32),
    )


def fitted(spec: ModelSpec, train: Split, val: Split) -> tuple[Classifier, float]:
    """A trained model and its temperature."""
    if spec.kind == "sklearn":
        model = fit_baseline(spec, train, c=0.1, seed=7)
    else:
        torch.manual_seed(1)
        model = build(spec)
        standardise(model, train)
        options = FitOptions(
            name="agreement", seed=1, epochs=10, batch=64, lr=2e-3, weight_decay=1e-2, label_smoothing=0.05,
            flip=False, shift=0.08,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as state:
            fit = Fit(model, train, val, options, torch.device("cpu"))
            fit.run(Path(state), budget_seconds=120, on_epoch=lambda _: None)
    logits, _ = logits_of(model, val, torch.device("cpu"))
    return model, fit_temperature(logits, val.labels)


# --------------------------------------------------------------------------------------------------- lanes


async def lanes() -> None:
    """Microseconds of CPU an item that a lane costs whose work is nothing."""
    lane: Lane[int, int] = Lane(lambda items: items, name="empty", batch=16)
    lane.start()
    print("| asked | µs CPU an item |\n|---|---|")
    figures = {
        "one by one": await cpu(lambda: lane.submit(0), 1, 3000),
        "16 requests at once": await cpu(lambda: asyncio.gather(*map(lane.submit, range(16))), 16, 300),
        "one request of 16": await cpu(lambda: lane.submit_many(range(16)), 16, 300),
    }
    for name, figure in figures.items():
        print(f"| {name} | {figure:.1f} |")
    await lane.stop()


async def cpu(ask: Callable[[], Awaitable[object]], together: int, times: int) -> float:
    figures = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(times // ROUNDS):
            await ask()
        figures.append((time.process_time() - start) / (times // ROUNDS) / together)
    return 1e6 * statistics.median(figures)


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "speed"
    if chosen == "lanes":
        asyncio.run(lanes())
    else:
        {"speed": speed, "agreement": agreement}[chosen]()
