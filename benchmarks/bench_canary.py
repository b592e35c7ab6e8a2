"""How often the canary's judge is right when it looks after every batch, in made-up worlds where the truth is known.

    python -m benchmarks.bench_canary [--stories 400]

The limits are the recipe's confidence: of canaries at a margin at most 5% are promoted, of good ones at most 5% are
dropped. Written to HOME/bench/canary.json; printed are the tables of `docs/canary.md`.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.record import Row, record
from monitoring.canary import Gate, Rules
from monitoring.canary_simulation import Measured, Story, measure

RULES = Rules()
EDGE = -RULES.margin
SHORT: dict[str, Any] = {"looks": 20, "senders": 20}
AT_THE_MARGIN = (
    Story(name="independent photos", change=EDGE, icc=0),
    Story(name="300 senders, alike by 0.05", change=EDGE),
    Story(name="300 senders, alike by 0.15", change=EDGE, icc=0.15),
    Story(name="100 senders, alike by 0.3", change=EDGE, icc=0.3, senders=100),
    Story(name="100 senders, a tenth in the canary", change=EDGE, senders=100, weight=0.1),
    Story(name="60 senders, very unequal, alike by 0.2", change=EDGE, senders=60, icc=0.2, sizes=1.5),
    Story(name="accuracy 98%, alike by 0.1", change=EDGE, accuracy=0.98, icc=0.1),
    Story(name="accuracy 60%, alike by 0.1", change=EDGE, accuracy=0.6, icc=0.1),
)
"""The worst canaries that must not be promoted; none is so bad that it should be dropped."""
GUARDS: tuple[tuple[Gate, Story], ...] = (
    ("errors", Story(name="errors alone, 1 point more", failing=RULES.error_margin, **SHORT)),
    ("latency", Story(name="latency alone, 1.5 times as long", slower=RULES.latency_factor, **SHORT)),
)
LARGE: dict[str, Any] = {"senders": 3000, "weight": 0.5, "icc": 0.02, "photos": 1000, "looks": 60}
POWER = (
    *(Story(name="3,000 senders, half each", change=change, **LARGE) for change in (0.02, 0.0, -0.05, -0.1)),
    *(Story(name="300 senders, a fifth", change=change) for change in (-0.1, -0.2, -0.4)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stories", type=int, default=400)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    few = max(2, given.stories // 4)
    with ProcessPoolExecutor(given.processes) as pool:
        alone = partial(measure, seed=7, rules=RULES)
        accuracy = partial(alone, stories=given.stories, gate="accuracy")
        edge = list(pool.map(accuracy, AT_THE_MARGIN))
        alike = list(pool.map(accuracy, [replace(story, change=0.0) for story in AT_THE_MARGIN]))
        guards = list(pool.map(partial(_guard, stories=few), GUARDS))
        powers = list(pool.map(partial(alone, stories=few, gate="accuracy"), POWER))
    rows = [
        *(_row(f"promoted_at_the_margin: {one.story.name}", one, one.promoted) for one in (*edge, *guards)),
        *(_row(f"dropped_though_as_good: {one.story.name}", one, one.dropped) for one in alike),
    ]
    path = record("canary", rows, power=[_figures(one) for one in powers])
    _print(edge, alike, guards, powers)
    print(f"written to {path}")


def _guard(given: tuple[Gate, Story], *, stories: int) -> Measured:
    gate, story = given
    return measure(story, stories=stories, seed=7, rules=RULES, gate=gate)


def _row(name: str, found: Measured, share: float) -> Row:
    return Row(
        name=name,
        ours=max(share, 0.5 / found.stories),  # none of them is less than one of them, and no quotient by zero
        other=RULES.alpha,
        other_name="limit",
        unit="share of canaries",
        better="less",
        spread=f"{round(share * found.stories)} of {found.stories}; 95% bound {found.bound(share):.3f}",
    )


def _figures(found: Measured) -> dict[str, object]:
    return {
        "story": found.story.name,
        "change": found.story.change,
        "promoted": found.promoted,
        "dropped": found.dropped,
        "canary_labels": found.photos,
    }


def _print(edge: list[Measured], alike: list[Measured], guards: list[Measured], powers: list[Measured]) -> None:
    lines = ["| world | promoted at the margin | dropped though as good |", "|---|---|---|"]
    lines += [
        f"| {at.story.name} | {at.promoted:.1%} | {good.dropped:.1%} |" for at, good in zip(edge, alike, strict=True)
    ]
    lines += [f"| {one.story.name} | {one.promoted:.1%} | |" for one in guards]
    lines += ["", "| world | true difference | promoted | dropped | canary's labels by then |", "|---|---|---|---|---|"]
    lines += [
        f"| {one.story.name} | {100 * one.story.change:+.0f} points | {one.promoted:.0%} | {one.dropped:.0%} | "
        f"{one.photos:,.0f} |"
        for one in powers
    ]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
