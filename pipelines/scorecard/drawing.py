"""The plot: accuracy by day since the change, for each recipe and change, of ours and of those beside it."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from pipelines.scorecard.play import Day, Played

LINES = (
    ("oracle", "hindsight oracle", "#9aa5b1", "--"),
    ("daily", "retrained every day", "#c98a1b", "-"),
    ("never", "never retrained", "#c2452d", "-"),
    ("ours", "Classy", "#1f4e8c", "-"),
)


def draw(played: Sequence[Played], path: Path) -> None:
    """Write the plot. Lines are means over worlds; the band is where half of the worlds of ours lie."""
    panels: dict[tuple[str, str], list[Played]] = {}
    for world in played:
        panels.setdefault((world.recipe, world.change), []).append(world)
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    height = 2.7 * lines
    figure, grid = plt.subplots(lines, columns, figsize=(3.4 * columns, height), dpi=120, squeeze=False)
    for axis in grid.flat[len(panels) :]:
        axis.axis("off")
    for axis, ((recipe, change), worlds) in zip(grid.flat, panels.items(), strict=False):
        _panel(axis, worlds)
        axis.set_title(f"{recipe}: {change}", fontsize=9, loc="left", fontweight="bold")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False, fontsize=9)
    figure.supxlabel("days since the change (in quiet worlds: before the end)", fontsize=9, y=0.3 / height)
    figure.tight_layout(rect=(0, 0.4 / height, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _panel(axis: plt.Axes, worlds: Sequence[Played]) -> None:
    days = sorted({day.since_change for world in worlds for day in world.days})
    by_day: dict[int, list[Day]] = {since: [] for since in days}
    for world in worlds:
        for day in world.days:
            by_day[day.since_change].append(day)
    for name, label, colour, style in LINES:
        # Before the change all are the first champion.
        values = [np.mean([_value(day, name) for day in by_day[since]]) for since in days]
        axis.plot(days, values, style, color=colour, linewidth=1.6, label=label)
    half = [np.percentile([day.ours for day in by_day[since]], [25, 75]) for since in days]
    axis.fill_between(days, [low for low, _ in half], [high for _, high in half], color="#1f4e8c", alpha=0.15)
    if any(since >= 0 for since in days):
        axis.axvline(-0.5, color="#c2452d", linestyle=":", linewidth=1)
    axis.set_ylim(0, 1)
    axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e4e7eb")


def _value(day: Day, name: str) -> float:
    found: float | None = getattr(day, name)
    return day.never if found is None else found
