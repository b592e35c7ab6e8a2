"""Photos scored in bulk: ours beside a DataLoader with torch, and beside what the machine can do.

    python -m benchmarks.bench_scoring [--quick]

Everybody reads the same JPEGs from disk (the page cache has them), uses the same network and weights, and writes a
Parquet table of classes and probabilities. Opening the model and importing libraries is nobody's. Ours is what `classy
score-photos` does, picture statistics and senders' features included, which the peer has none of.

The peer is torch as its manuals say: a Dataset with Pillow, a DataLoader with workers, float32 in batches under
`inference_mode`; in whichever of several set-ups is the quickest here. The limit is `benchmarks.limit`: decoding alone
plus the model alone, in a process for each core, nothing else.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset

from benchmarks import limit, world
from benchmarks.record import Row, record
from pipelines import score
from pipelines.score_photos import asked_of, write_answers
from pipelines.scoring import PhotoScorer, Wanted, blocks_of, gathered
from serving.batch import Processes, in_order
from serving.canonical import canonicalise
from serving.engines.choose import TOLERANCE
from serving.pictures import STATS
from training.checkpoint import load_model
from training.shards import open_shard, write_shard

CORES = 2
CLEAR = 0.2
"""Photos whose first class is so far ahead that another decoder and bfloat16 must give the same."""
SETUPS = [(workers, threads, batch) for workers, threads in ((1, 1), (2, 1), (2, 2)) for batch in (32, 128)]
"""Workers of the DataLoader, threads of torch, rows of a batch."""
Work = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Pace:
    photos: int
    rounds: int
    limit_s: float
    setups: int


FULL = Pace(photos=1_600, rounds=5, limit_s=3.0, setups=len(SETUPS))
QUICK = Pace(photos=160, rounds=1, limit_s=0.3, setups=1)


class Photos(Dataset):
    """As torch's manual has it: a file opened with Pillow, resized, a tensor."""

    def __init__(self, places: list[str], size: int) -> None:
        self._places, self._size = places, size

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> torch.Tensor:
        data = Path(self._places[index]).read_bytes()
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        small = ImageOps.fit(image, (self._size, self._size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(small))


class Eager:
    """The peer, in one set-up. Its workers live on between runs."""

    def __init__(self, package: Path, places: list[str], workers: int, threads: int, batch: int) -> None:
        self.name = f"DataLoader + torch eager ({workers} workers, {threads} threads, batches of {batch})"
        card = json.loads((package / "card.json").read_text())
        self._model, about = load_model(package / "model.safetensors")
        self._temperature = float(about["temperature"])
        self._classes, self._threads = np.asarray(card["classes"]), threads
        self._context = torch.zeros(1, len(card["context_names"]))
        data = Photos(places, int(card["image"]["size"]))
        self._loader = DataLoader(data, batch_size=batch, num_workers=workers, persistent_workers=True)

    def probabilities(self, images: torch.Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits, _ = self._model(images, self._context.expand(len(images), -1))
            return torch.softmax(logits / self._temperature, 1).numpy()

    def __call__(self, path: Path) -> None:
        torch.set_num_threads(self._threads)
        found = np.concatenate([self.probabilities(images) for images in self._loader])
        labels = self._classes[found.argmax(1)].tolist()
        pq.write_table(pa.table({"label": labels, "probabilities": list(found)}), path)


# ------------------------------------------------------------------------------------------------- ours


@dataclass(frozen=True, slots=True)
class Ours:
    """`classy score-photos`, opened: of many photos in processes, of few in threads."""

    run: Callable[[list[pa.Table]], Iterator[pa.Table]]
    asked: pa.Table

    def __call__(self, path: Path) -> None:
        write_answers(path, self.run(blocks_of(self.asked)), len(self.asked))


class Day:
    """`classy score` from a prepared day's shard to its table, without Feast's join and the database."""

    def __init__(self, ours: PhotoScorer, asked: pa.Table, images: NDArray[np.uint8]) -> None:
        self._scorer, self._images = ours.scorer, images
        frame = asked.select(["image_id", "source_id"]).to_pandas()
        frame = frame.assign(captured_at=datetime(2026, 3, 1, tzinfo=UTC), sha256="0" * 64, **dict.fromkeys(STATS, 0.5))
        self._rows = frame.assign(row=np.arange(len(frame)))
        width = len(ours.scorer.card["context_names"])
        self._told = score._Told(np.zeros((len(frame), width), np.float32), np.zeros(len(frame), bool))

    def __call__(self, path: Path) -> None:
        work = partial(score._answer, self._scorer, self._images, 1)
        with pq.ParquetWriter(path, score.SCHEMA) as writer:
            for table in gathered(in_order(work, score._blocks(self._rows, self._told), threads=CORES)):
                writer.write_table(table)


# --------------------------------------------------------------------------------------------- equal first


def check_equal(
    ours: pd.DataFrame, day: pd.DataFrame, theirs: pd.DataFrame, exact: NDArray[np.float32], allowed: float
) -> float:
    """The share of all photos on which the peer's own decoder leads to our class.

    Args:
        exact: torch's probabilities on our canonical images.
        allowed: largest difference of a probability from them, in 99 of 100 photos: rounding has tails.

    Raises:
        AssertionError: answers differ by more than runtime and decoder explain.
    """
    found = np.stack(ours["probabilities"].to_numpy())
    for name, other in (("score-photos", found), ("score", np.stack(day["probabilities"].to_numpy()))):
        difference = float(np.quantile(np.abs(other - exact).max(axis=1), 0.99))
        assert difference <= allowed, f"{name}: differs from torch by {difference}, allowed are {allowed}"
    best = np.sort(exact, axis=1)
    clear = best[:, -1] - best[:, -2] >= CLEAR
    same = ours["label"].to_numpy() == theirs["label"].to_numpy()
    assert same[clear].all(), f"{(~same[clear]).sum()} of {clear.sum()} clear photos have another class"
    return float(same.mean())


# ---------------------------------------------------------------------------------------------- measuring


def seconds_of(work: Work, folder: Path) -> float:
    start = time.perf_counter()
    work(folder / "answers.parquet")
    return time.perf_counter() - start


def best_setup(package: Path, places: list[str], folder: Path, count: int) -> Eager:
    """The peer where it is quickest, each set-up warmed up and run once."""
    found: list[tuple[float, Eager]] = []
    for setup in SETUPS[:count]:
        eager = Eager(package, places, *setup)
        seconds_of(eager, folder)
        found.append((seconds_of(eager, folder), eager))
        print(f"{eager.name}: {len(places) / found[-1][0]:.0f} photos/s", flush=True)
    return min(found, key=lambda one: one[0])[1]


def measure(*, quick: bool = False) -> list[Row]:
    """Everybody in turns; recorded as `scoring`, or `scoring-quick`, whose figures mean nothing."""
    pace = QUICK if quick else FULL
    made = world.settle()
    folder = made.settings.home / "photos" / "images"
    files = [str(path) for path in sorted(folder.iterdir())]
    places = (files * (pace.photos // len(files) + 1))[: pace.photos]
    senders = {photo.name: photo.sender for photo in made.sent}
    asked = asked_of(places, [senders[Path(place).stem] for place in places])
    run_id = json.loads((made.package / "card.json").read_text())["run_id"]
    wanted = Wanted(settings=made.settings, recipe=made.recipe, run_id=run_id, at=datetime.now(UTC), threads=CORES)
    scorer = PhotoScorer(wanted)
    in_threads = partial(in_order, scorer, threads=CORES)
    processes = Processes[pa.Table, pa.Table](partial(PhotoScorer, replace(wanted, threads=1)), CORES)
    with processes, tempfile.TemporaryDirectory() as scratch:
        images = _shard(Path(scratch), places, scorer)
        works: dict[str, Work] = {
            "ours": Ours(processes.map, asked),
            "threads": Ours(in_threads, asked),
            "day": Day(scorer, asked, images),
        }
        eager = works["eager"] = best_setup(made.package, places, Path(scratch), pace.setups)
        agreed = _check(works, eager, images, Path(scratch), TOLERANCE[scorer.scorer.precision])
        seconds: dict[str, list[float]] = {name: [] for name in works}
        limits: list[limit.Limit] = []
        for _ in range(pace.rounds):
            limits.append(limit.measure(made.package, folder, seconds=pace.limit_s))
            for name, work in works.items():
                seconds[name].append(seconds_of(work, Path(scratch)))
    rows = _rows({name: [len(places) / one for one in found] for name, found in seconds.items()}, limits, eager.name)
    more = {"same_class_by_its_own_decoder": round(agreed, 4), "ran": scorer.scorer.about(), "photos": len(places)}
    print(record("scoring-quick" if quick else "scoring", rows, **more))
    return rows


def _shard(folder: Path, places: list[str], scorer: PhotoScorer) -> NDArray[np.uint8]:
    (folder / "shard").mkdir()
    spec = scorer.spec
    write_shard(
        folder / "shard", (canonicalise(Path(place).read_bytes(), spec) for place in places), len(places), spec.size
    )
    return open_shard(folder / "shard")


def _check(works: dict[str, Work], eager: Eager, images: NDArray[np.uint8], folder: Path, allowed: float) -> float:
    tables: dict[str, Any] = {}
    for name, work in works.items():
        seconds_of(work, folder)
        tables[name] = pd.read_parquet(folder / "answers.parquet")
    exact = np.concatenate(list(_in_torch(eager, images)))
    return check_equal(tables["ours"], tables["day"], tables["eager"], exact, allowed)


def _in_torch(eager: Eager, images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(images), 128):
        yield eager.probabilities(torch.from_numpy(np.array(images[start : start + 128])))


def _rows(rates: dict[str, list[float]], limits: list[limit.Limit], peer: str) -> list[Row]:
    limit_rates = [found.rps for found in limits]
    model_rates = [found.cores / found.model for found in limits]
    middle = limits[len(limits) // 2]
    bound = f"decode {1000 * middle.decode:.2f} ms + model {1000 * middle.model:.2f} ms, {middle.cores} cores, alone"
    return [
        _row("batch_score_vs_eager", rates["ours"], rates["eager"], peer, "JPEGs/s to Parquet", 5.0),
        _row("batch_score_vs_limit", rates["ours"], limit_rates, bound, "JPEGs/s to Parquet", 0.85),
        _row("batch_score_threads_vs_eager", rates["threads"], rates["eager"], peer, "JPEGs/s to Parquet", 5.0),
        _row("batch_score_threads_vs_limit", rates["threads"], limit_rates, bound, "JPEGs/s to Parquet", 0.85),
        _row("batch_score_day_vs_eager", rates["day"], rates["eager"], peer, "photos/s, from a prepared day", 5.0),
        _row("batch_score_day_vs_limit", rates["day"], model_rates, "the model alone", "photos/s, prepared day", 0.85),
    ]


def _row(name: str, mine: list[float], theirs: list[float], other: str, unit: str, goal: float) -> Row:
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    turns = f"ratio {min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} turns"
    return Row(
        name=name,
        ours=round(statistics.median(mine), 1),
        other=round(statistics.median(theirs), 1),
        other_name=other,
        unit=unit,
        better="more",
        spread=f"{turns}; ours {min(mine):.0f} to {max(mine):.0f}",
        goal=goal,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="try everything for a moment")
    for row in measure(quick=parser.parse_args().quick):
        print(row.as_json())


if __name__ == "__main__":
    main()
