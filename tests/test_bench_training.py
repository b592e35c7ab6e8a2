"""The benchmark of trainings: each of its parts runs, on a few photos."""

import json
import os
import subprocess
import sys

from benchmarks.bench_training import FEATURES, PARTS, until
from pipelines.recipe import ROOT


def test_every_part_runs_on_a_few_photos() -> None:
    env = {name: value for name, value in os.environ.items() if name != "CLASSY_CLOTHING"}
    command = [sys.executable, "-m", "benchmarks.bench_training", "--quick"]
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {row["name"] for row in told if "name" in row} == {
        "time_to_accuracy_digits",
        "loader_wait_digits",
        "input_images_per_s_digits",
        "memory_growth",
        "two_workers",
        "two_workers_beside_two_threads",
        "two_workers_beside_two_apart",
    }
    assert {row["feature"] for row in told if "feature" in row} <= set(FEATURES)
    assert any("stdev" in row for row in told)
    assert len(PARTS) == 6


def test_the_time_to_an_accuracy_is_that_of_the_first_epoch_that_has_it() -> None:
    assert until([(1.0, 0.2), (2.0, 0.6), (3.0, 0.5)], 0.5) == 2.0
    assert until([(1.0, 0.2)], 0.5) is None
