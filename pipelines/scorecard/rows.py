"""The figures that have a goal, as rows of HOME/bench/scorecard.json."""

from collections.abc import Callable, Sequence
from typing import Any

from pipelines.scorecard.measure import (
    Figure,
    costly,
    detected_within_2,
    false_retrains_per_100,
    figure,
    minutes_vs_daily,
    recovery_gap,
    regained_vs_daily,
)
from pipelines.scorecard.play import Played

GOALS: tuple[tuple[str, str, float, str, str, str], ...] = (
    # name, which worlds, limit or goal, its name, unit, what is better
    ("false_retrains_per_100", "quiet", 1.0, "limit", "retrainings by 100 quiet windows", "less"),
    ("detected_within_2", "costly", 0.95, "goal", "share of sudden changes that cost 5 points or more", "more"),
    ("recovery_gap", "costly", 0.02, "limit", "accuracy below the hindsight oracle", "less"),
    ("regained_vs_daily", "costly", 0.8, "goal", "share of what a retraining every day regains", "more"),
    ("minutes_vs_daily", "costly", 0.2, "limit", "share of its training time", "less"),
)
MEASURES: dict[str, Callable[[Sequence[Played]], float | None]] = {
    "false_retrains_per_100": false_retrains_per_100,
    "detected_within_2": detected_within_2,
    "recovery_gap": recovery_gap,
    "regained_vs_daily": regained_vs_daily,
    "minutes_vs_daily": minutes_vs_daily,
}
LEAST = 1e-3
"""Stands for none where a ratio is formed."""


def rows_of(recipe: str, played: Sequence[Played]) -> list[dict[str, Any]]:
    """Fields of `benchmarks.record.Row`; what no world tells is left out."""
    groups = {"quiet": [world for world in played if world.kind == "quiet"], "costly": costly(played)}
    found = []
    for name, group, limit, called, unit, better in GOALS:
        measured = figure(groups[group], MEASURES[name])
        if measured.value is None:
            continue
        found.append(
            {
                "name": f"{name}_{recipe}",
                "ours": round(max(measured.value, LEAST if better == "less" else 0.0), 4),
                "other": limit,
                "other_name": called,
                "unit": unit,
                "better": better,
                "spread": _spread(measured),
            }
        )
    return found


def _spread(found: Figure) -> str:
    return f"{found.value:.4f}, 95% interval {found.low:.4f} to {found.high:.4f}, {found.worlds} worlds"
