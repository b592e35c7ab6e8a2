"""The benchmark of trainings: each of its parts runs, on a few photos."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import figures
from benchmarks.bench_training import FEATURES, PARTS, keep, until
from benchmarks.record import Row
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
    assert len(PARTS) == 7


def test_the_time_to_an_accuracy_is_that_of_the_first_epoch_that_has_it() -> None:
    assert until([(1.0, 0.2), (2.0, 0.6), (3.0, 0.5)], 0.5) == 2.0
    assert until([(1.0, 0.2)], 0.5) is None


def test_a_part_that_is_measured_alone_leaves_the_others_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLASSY_HOME", str(tmp_path))

    def row(name: str, ours: float) -> Row:
        return Row(name=name, ours=ours, other=10, other_name="a peer", unit="s", better="less", spread="", goal=3)

    seeds = {"epochs": 2, "accuracies": [0.5, 0.7], "mean": 0.6, "stdev": 0.14, "seconds": 3.0}
    keep([row("one", 2.0), row("two", 2.0)], {"accuracy": [{"data": "digits", **seeds}]})
    keep([row("two", 5.0)], {"accuracy": [{"data": "clothing", **seeds}]})
    page = figures.told("training")
    assert "| `one` | 2 | 10 a peer | s | 5.00× | 3 |" in page
    assert "| `two` | 5 | 10 a peer | s | 2.00× | 3, missed |" in page
    assert all(f"| {name} | 2 | 3 | 60.0% | 14.0% | 50.0%, 70.0% |" in page for name in ("digits", "clothing"))
