"""The judge's pictures: who confuses what, whose confidence can be believed, who wins where.

Drawn on Agg without pyplot, so that no window, no global state and no display is involved.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from monitoring.comparison import Paired, SliceRow, confusion, reliability

CONTENDER, OPPONENT, QUIET = "#1f6f8b", "#c8742c", "#6b6b6b"
"""Blue and orange are told apart by everybody; in each picture blue speaks for the contender."""
SHARE = LinearSegmentedColormap.from_list("share", ["#ffffff", "#9db4c4", "#2f4b60"])
CHANGE = LinearSegmentedColormap.from_list("change", [OPPONENT, "#ffffff", CONTENDER])
DPI = 110
MOST_NUMBERS = 20
"""With more classes than this, cells are too small for numbers."""


def draw_confusion(path: Path, paired: Paired, classes: Sequence[str], contender: str, opponent: str) -> None:
    """Both confusion matrices, and what changes from one to the other, as a PNG.

    Colour is the share of a true class; numbers are photos.
    """
    ours, theirs = (
        confusion(said.argmax(axis=1), paired.labels, len(classes)) for said in (paired.contender, paired.opponent)
    )
    side = min(8.0, max(3.4, 0.36 * len(classes) + 1.2))
    figure = Figure(figsize=(3 * side + 0.6, side + 0.7), layout="constrained", dpi=DPI)
    panels = figure.subplots(1, 3)
    _matrix(panels[0], theirs, classes, opponent, SHARE, (0, 1), _shares(theirs))
    _matrix(panels[1], ours, classes, contender, SHARE, (0, 1), _shares(ours))
    # Orange where more photos land in a wrong cell or fewer in a right one, blue the other way round.
    gain = (ours - theirs) * np.where(np.eye(len(classes), dtype=bool), 1, -1)
    reach = max(1, int(np.abs(gain).max()))
    _matrix(
        panels[2],
        ours - theirs,
        classes,
        "What the contender changes (blue: for the better)",
        CHANGE,
        (-reach, reach),
        gain,
    )
    panels[0].set_ylabel("what it is")
    for panel in panels:
        panel.set_xlabel("what was said")
    _save(figure, path)


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _matrix(
    axes: Axes,
    numbers: NDArray[np.int64],
    classes: Sequence[str],
    title: str,
    colours: Colormap,
    limits: tuple[float, float],
    shade: NDArray[np.floating] | NDArray[np.int64],
) -> None:
    axes.imshow(shade, cmap=colours, vmin=limits[0], vmax=limits[1])
    axes.set_title(title, fontsize=11)
    ticks = range(len(classes))
    upright = max(len(name) for name in classes) <= 2
    axes.set_xticks(ticks, classes, rotation=0 if upright else 90, fontsize=8)
    axes.set_yticks(ticks, classes, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_color("#d9d9d9")
    if len(classes) > MOST_NUMBERS:
        return
    change = limits[0] < 0
    for row, column in zip(*np.nonzero(numbers), strict=True):
        dark = abs(shade[row, column]) > 0.6 * limits[1]
        text = f"{numbers[row, column]:+d}".replace("-", "−") if change else str(numbers[row, column])
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")


def draw_reliability(path: Path, paired: Paired, contender: str, opponent: str) -> None:
    """How often each model is right when it is this confident, and how often it is; as a PNG."""
    figure = Figure(figsize=(5.6, 6.2), layout="constrained", dpi=DPI)
    curve, bars = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3.2, 1]})
    curve.plot([0, 1], [0, 1], color=QUIET, linestyle=":", linewidth=1.2, label="as right as it is confident")
    for said, name, colour, shift in (
        (paired.opponent, opponent, OPPONENT, -1),
        (paired.contender, contender, CONTENDER, 1),
    ):
        confidence, accuracy, rows = reliability(said, paired.labels)
        error = float(np.sum(rows * np.abs(confidence - accuracy)) / rows.sum())
        curve.plot(
            confidence, accuracy, color=colour, linewidth=1, alpha=0.7, label=f"{name}, calibration error {error:.3f}"
        )
        curve.scatter(confidence, accuracy, s=14 + 140 * rows / rows.sum(), color=colour, zorder=3, alpha=0.85)
        bars.bar(confidence + shift * 0.01, rows, width=0.02, color=colour)
    curve.set(xlim=(-0.02, 1.04), ylim=(-0.04, 1.04), ylabel="how often it is right")
    bars.set(xlabel="how confident it is", ylabel="photos")
    for axes in (curve, bars):
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        _calm(axes)
    curve.yaxis.set_major_formatter(PercentFormatter(1))
    figure.suptitle("Can its confidence be believed?", fontsize=11)
    curve.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=8.5, frameon=False)
    _save(figure, path)


def draw_slices(path: Path, table: Sequence[SliceRow], confidence: float) -> None:
    """Difference of accuracy with its interval in each slice, the numbers beside it; as a PNG."""
    figure = Figure(figsize=(8.6, 0.27 * len(table) + 1.3), layout="constrained", dpi=DPI)
    axes = figure.subplots()
    places = np.arange(len(table))[::-1]
    axes.axvline(0, color=QUIET, linewidth=1)
    for row, place in zip(table, places, strict=True):
        colour = CONTENDER if row.low > 0 else OPPONENT if row.high < 0 else QUIET
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
        axes.scatter(row.difference, place, s=24, color=colour, zorder=3)
    left, right = min([-0.05, *(row.low for row in table)]), max([0.05, *(row.high for row in table)])
    room = 0.05 * (right - left)
    axes.set(xlim=(left - room, right + room), ylim=(-0.7, len(table) - 0.3))
    axes.set_yticks(places, [f"{row.column}: {row.value}" for row in table], fontsize=8.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    axes.set_xlabel(f"accuracy, contender minus opponent, in points (each end {confidence:.0%} sure)", fontsize=9)
    for row, place in zip(table, places, strict=True):
        _beside(axes, place, f"{row.opponent:>8.1%} {row.contender:>9.1%} {row.rows:>7,} {row.senders:>7,}")
    _beside(axes, len(table) - 0.3, "opponent contender  photos senders")
    for before, after, place in zip(table, table[1:], places, strict=False):
        if before.column != after.column:
            axes.axhline(place - 0.5, color="#d9d9d9", linewidth=0.8)
    axes.set_title(
        "Who wins where (blue: contender, orange: opponent, grey: cannot tell)", fontsize=11, loc="left", pad=14
    )
    _calm(axes)
    _save(figure, path)


def _beside(axes: Axes, place: float, text: str) -> None:
    axes.text(1.01, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8, family="monospace")


def _calm(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})
