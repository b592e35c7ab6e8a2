"""The physical limit: how long one core takes to decode a photo, and to run the model on it, with every core busy.

python -m benchmarks.limit PACKAGE PHOTOS SECONDS     one process; `measure` starts one for each core
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.recipe import ROOT

BATCHES = (1, 4, 16)
"""Rows of one run of the model; the quickest counts."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Seconds a photo on one core."""

    decode: float
    model: float
    cores: int

    @property
    def rps(self) -> float:
        """Photos a second when nothing else is done on any core."""
        return self.cores / (self.decode + self.model)


def measure(package: Path, photos: Path, *, seconds: float) -> Limit:
    """Processes in a loop, one for each core, for about `seconds`."""
    cores = len(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "benchmarks.limit", str(package), str(photos), str(seconds)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(cores)]
    said = [json.loads(process.communicate()[0]) for process in processes]
    return Limit(
        decode=float(np.mean([found["decode"] for found in said])),
        model=float(np.mean([found["model"] for found in said])),
        cores=cores,
    )


def alone(package: Path, photos: Path, seconds: float) -> dict[str, float]:
    """This process's two figures."""
    from serving.canonical import ImageSpec, canonicalise
    from serving.engines.choose import choose_engine
    from serving.runtime import read_package

    card = json.loads((package / "card.json").read_text())
    spec = ImageSpec(**card["image"])
    data = [path.read_bytes() for path in sorted(photos.iterdir())]
    engine = choose_engine(package, read_package(package), threads=1).engine
    images = np.stack([canonicalise(photo, spec) for photo in data[: BATCHES[-1]]])
    context = np.zeros((BATCHES[-1], len(card["context_names"])), np.float32)
    at = iter(range(10**9))
    decode = _each(lambda: canonicalise(data[next(at) % len(data)], spec), seconds / 2)
    runs = [
        _each(lambda rows=rows: engine.predict(images[:rows], context[:rows]), seconds / 2 / len(BATCHES)) / rows
        for rows in BATCHES
    ]
    return {"decode": decode, "model": min(runs)}


def _each(work: Callable[[], object], seconds: float) -> float:
    work()
    start, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        work()
        count += 1
    return spent / count


if __name__ == "__main__":
    print(json.dumps(alone(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))))
