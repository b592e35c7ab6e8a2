"""The judge in worlds where the truth is known: directions on few draws. Rates on many: `classy bench judge`."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.bench_judge import judge_rows
from monitoring.comparison import measure
from monitoring.simulation import PLANTED, World, draw, power, simulate
from pipelines.cli import app
from pipelines.errors import ClassyError
from pipelines.sections import Gates

SMALL = World(rows=900, senders=60)
GATES = Gates(margin=0.05, f1_margin=0.1)


@pytest.mark.parametrize(("accuracy", "disagreement"), [(0.8, 0.12), (0.95, 0.04)])
def test_a_world_is_as_it_was_ordered(accuracy: float, disagreement: float) -> None:
    world = World(rows=60_000, senders=3000, accuracy=accuracy, disagreement=disagreement)
    drawn = draw(world, 1)
    ours, theirs = drawn.paired.rights()
    assert (ours.mean(), theirs.mean()) == pytest.approx((accuracy, accuracy), abs=0.015)
    assert np.mean(ours != theirs) == pytest.approx(disagreement, abs=0.01)
    assert drawn.fresh.mean() == pytest.approx(1 / 3, abs=0.01)
    found = measure(drawn.paired.contender, drawn.paired.labels)
    assert found is not None
    assert found.ece < 0.05


def test_a_sender_fails_as_a_whole_more_often_than_chance() -> None:
    ratios = []
    for seed in range(5):
        paired = draw(SMALL, seed).paired
        ours, theirs = paired.rights()
        gain = ours.astype(float) - theirs - np.mean(ours.astype(float) - theirs)
        _, sender = np.unique(paired.senders, return_inverse=True)
        ratios.append((np.bincount(sender, weights=gain) ** 2).sum() / (gain**2).sum())
    assert np.mean(ratios) > 1.5


@pytest.mark.parametrize("by_sender", [False, True])
def test_a_planted_slice_loses_what_was_ordered_and_the_rest_gains(by_sender: bool) -> None:
    world = World(rows=40_000, senders=2000, gain=0.05, loss=0.2, planted_by_sender=by_sender)
    drawn = draw(world, 3)
    ours, theirs = drawn.paired.rights()
    planted = drawn.masks[PLANTED]
    assert planted.mean() == pytest.approx(0.05, abs=0.01)
    gain = ours.astype(float) - theirs
    assert gain[planted].mean() == pytest.approx(-0.2, abs=0.03)
    assert gain[~planted].mean() == pytest.approx(0.05, abs=0.02)


def test_the_judge_is_right_more_often_than_not() -> None:
    equal = simulate(SMALL, GATES, draws=30)
    better = replace(SMALL, gain=2 * equal.detectable)
    improved = simulate(better, GATES, draws=15)
    lost = simulate(replace(better, loss=0.3, planted_share=0.1), GATES, draws=15)
    assert equal.promoted <= 4
    assert improved.promoted >= 12
    assert lost.promoted <= 2
    assert lost.stopped_by["slices"] >= 12
    assert sum(equal.verdicts.values()) == equal.draws == 30


def test_more_rows_and_more_truth_are_more_power() -> None:
    found = power(SMALL, GATES, rows=(300, 900), gains=(0.0, 0.12), draws=8)
    assert list(found) == [300, 900]
    for several in found.values():
        assert several[0].promoted <= 2
    assert found[300][1].promoted <= found[900][1].promoted
    assert found[900][1].promoted >= 6
    assert found[300][0].detectable > 1.2 * found[900][0].detectable


def test_processes_do_not_change_what_is_counted() -> None:
    tiny = World(rows=150, senders=10, classes=3)
    assert simulate(tiny, GATES, draws=4, processes=2) == simulate(tiny, GATES, draws=4)


def test_the_benchmark_says_what_was_counted_and_in_which_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.bench_judge.World", lambda: World(rows=300, senders=20, classes=3))
    rows = {row.name: row for row in judge_rows(6, processes=1)}
    assert list(rows) == [
        "equal_promoted", "slice_regression_blocked", "improvement_promoted", "sender_slice_regression_blocked",
    ]  # fmt: skip
    for row in rows.values():
        assert " of 6, 95% interval " in row.spread
        assert "300 rows of 20 senders" in row.spread
        assert row.as_json()["holds"] == (row.ours <= row.other if row.better == "less" else row.ours >= row.other)


def test_without_a_checkout_the_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks", None)
    found = CliRunner().invoke(app, ["bench", "judge"])
    assert isinstance(found.exception, ClassyError)
    assert "part of the checkout" in str(found.exception)
