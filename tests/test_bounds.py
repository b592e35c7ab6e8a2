"""Bounds: a step is counted without being made, and what takes longest is named with its remedy."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.test_fit import CPU, a_fit, train
from training.bounds import Peak, Work, count_work, probe, report
from training.models import ModelSpec, build
from training.watch import OUTSIDE, PARTS, Watch

WORK = Work(flops=1e6, moved=1e4, kept=1e4)


def spec(width: int = 8) -> ModelSpec:
    return ModelSpec(kind="resnet", classes=10, context=5, size=16, options={"width": width, "blocks": [1]})


def test_multiplications_are_those_of_the_layers() -> None:
    model = build(spec())
    made: list[int] = []

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        weights = layer.weight[0].numel()
        made.append(2 * weights * out[0].numel())

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    model.eval()(torch.zeros(1, 16, 16, 3, dtype=torch.uint8), torch.zeros(1, 5))
    counted = count_work(build(spec()), side=16).flops
    # There, and back twice (to the weights and to what came in); the first layers need no way to what came in.
    assert 2.5 * sum(made) < counted <= 3 * sum(made)


def test_counting_changes_nothing() -> None:
    model = build(spec())
    before, state = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    work = count_work(model, side=16)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert count_work(build(spec(16)), side=16).kept > 1.5 * work.kept
    assert count_work(model, side=16, precision="bfloat16").moved == work.moved / 2


@pytest.mark.parametrize(
    ("wait", "work", "bound", "says"),
    [
        (5.0, WORK, "input", 'input.pipeline = "memory"'),
        (0.0, Work(flops=5e6, moved=1e4, kept=1), "compute", "fewer multiplications"),
        (0.0, Work(flops=1e4, moved=4e6, kept=1), "memory", "fewer bytes"),
        (0.0, Work(flops=1e3, moved=1e3, kept=1), "compute", "a larger batch"),
    ],
)
def test_the_bound_is_what_takes_longest(wait: float, work: Work, bound: str, says: str) -> None:
    seconds = {**dict.fromkeys((*PARTS, *OUTSIDE), 0.0), "wait": wait, "forward": 6.0, "backward": 4.0}
    found = report(seconds, 1000, work=work, peak=Peak(flops=1e9, bytes=1e9), device=CPU, input_name="shards")
    assert found.bound == bound
    assert says in found.remedy
    assert found.images_per_s == pytest.approx(1000 / (10 + wait))


def test_a_training_reports_where_its_time_went(tmp_path: Path) -> None:
    _, fitted = train(tmp_path)
    found = fitted.report
    assert found is not None
    assert all(found.seconds[part] > 0 for part in ("forward", "backward", "optimiser", "evaluation", "checkpoint"))
    # The clock of the checkpoint stops before it is written: the last one takes its time afterwards.
    steps = sum(seconds for part, seconds in found.seconds.items() if part != "checkpoint")
    assert steps <= fitted.seconds * 1.05
    assert found.bound in ("input", "compute", "memory")
    assert (found.input, found.gpu_busy) == ("shards", None)
    again = a_fit().run(tmp_path, budget_seconds=1e9, on_epoch=lambda _: None)
    assert again.report is None, "no step was made"


def test_the_device_s_best_is_measured() -> None:
    peak = probe(CPU)
    assert peak.flops > 1e8
    assert peak.bytes > 1e8


def test_laps_are_of_the_part_that_was_done() -> None:
    now = iter([0.0, 1.0, 3.0, 10.0, 14.0])
    watch = Watch(CPU, clock=lambda: next(now))
    watch.lap("wait")
    watch.lap("forward")
    watch.begin()
    watch.lap("wait")
    assert (watch.seconds["wait"], watch.seconds["forward"]) == (5.0, 2.0)
