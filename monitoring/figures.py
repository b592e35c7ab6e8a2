"""The judge's pictures: who confuses what, whose confidence can be believed, who wins where.

Drawn on Agg without pyplot, so that no window, no global state and no display is involved.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from monitoring.comparison import Paired, confusion, reliability
from monitoring.disagreement import Disagreement
from monitoring.slices import SliceRow
from monitoring.standing import standings

CONTENDER, OPPONENT, QUIET = "#1f6f8b", "#c8742c", "#6b6b6b"
"""Blue and orange are told apart by everybody; in each picture blue speaks for the contender."""
SHARE = LinearSegmentedColormap.from_list("share", ["#ffffff", "#9db4c4", "#2f4b60"])
CHANGE = LinearSegmentedColormap.from_list("change", [OPPONENT, "#ffffff", CONTENDER])
RIGHT = {"contender": CONTENDER, "opponent": OPPONENT, "neither": QUIET}
WIDTH, DPI = 6.5, 110
"""Inches and dots: 715 pixels fit beside the menus of MLflow's page, which shows a picture at its own size."""
MOST_NUMBERS, HALF_NUMBERS = 20, 10
"""With more classes than this, cells are too small for numbers: of the large matrix, of the halves."""
MOST_NAMES = 50
"""Names that can be read along one side of the large matrix."""
MOST_SLICES = 40
SHEET_COLUMNS = 5


def draw_confusion(path: Path, paired: Paired, classes: Sequence[str], contender: str, opponent: str) -> None:
    """What changes from one confusion matrix to the other, large, and both matrices below; as a PNG.

    Colour is the share of a true class, in the large one the change of it; numbers are photos.
    """
    ours, theirs = (
        confusion(said.argmax(axis=1), paired.labels, len(classes)) for said in (paired.contender, paired.opponent)
    )
    names = [_short(name) for name in classes]
    tall = min(WIDTH, 0.5 * len(classes) + 1.5)
    figure = Figure(figsize=(WIDTH, tall + max(2.6, tall / 2) + 0.8), layout="constrained", dpi=DPI)
    heights = [tall, max(2.6, tall / 2)]
    panels = figure.subplot_mosaic([["change", "change"], ["theirs", "ours"]], height_ratios=heights)
    # Orange where more photos land in a wrong cell or fewer in a right one, blue the other way round.
    gain = (_shares(ours) - _shares(theirs)) * np.where(np.eye(len(classes), dtype=bool), 1, -1)
    reach = max(1e-9, float(np.abs(gain).max()))
    title = "What the contender changes, in photos (blue: for the better)"
    _matrix(panels["change"], ours - theirs, names, title, CHANGE, (-reach, reach), gain, numbers_to=MOST_NUMBERS)
    for name, title, counts in (("theirs", opponent, theirs), ("ours", contender, ours)):
        _matrix(panels[name], counts, names, _short(title, 40), SHARE, (0, 1), _shares(counts), numbers_to=HALF_NUMBERS)
        panels[name].set_xlabel("what was said", fontsize=8.5)
    for name in ("change", "theirs"):
        panels[name].set_ylabel("what it is", fontsize=8.5)
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
    shade: NDArray[np.floating],
    *,
    numbers_to: int,
) -> None:
    change, small = limits[0] < 0, len(classes) > numbers_to
    axes.imshow(shade, cmap=colours, vmin=limits[0], vmax=limits[1])
    axes.set_title(title, fontsize=10 if change else 9)
    # Where names would run into each other, every second, third, … is written.
    step = -(-len(classes) // (MOST_NAMES if change else MOST_NAMES // 2))
    ticks = range(0, len(classes), step)
    upright = max(len(name) for name in classes) <= 2 or (change and len(classes) <= 3)
    size = 8 if len(classes) <= MOST_NUMBERS and not (small and not change) else 6
    axes.set_xticks(ticks, classes[::step], rotation=0 if upright else 90, fontsize=size)
    axes.set_yticks(ticks, classes[::step], fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_color("#d9d9d9")
    if small:
        return
    for row, column in zip(*np.nonzero(numbers), strict=True):
        dark = abs(shade[row, column]) > 0.6 * limits[1]
        text = f"{numbers[row, column]:+d}".replace("-", "−") if change else str(numbers[row, column])
        colour = "white" if dark else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=8 if change else 7, color=colour)


def draw_reliability(path: Path, paired: Paired, contender: str, opponent: str) -> None:
    """How often each model is right when it is this confident, and how often it is; as a PNG."""
    figure = Figure(figsize=(5.6, 5.6), layout="constrained", dpi=DPI)
    curve, bars = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3.2, 1]})
    curve.plot([0, 1], [0, 1], color=QUIET, linestyle=":", linewidth=1.2, label="as right as it is confident")
    for said, name, colour, shift in (
        (paired.opponent, opponent, OPPONENT, -1),
        (paired.contender, contender, CONTENDER, 1),
    ):
        confidence, accuracy, rows = reliability(said, paired.labels)
        error = float(np.sum(rows * np.abs(confidence - accuracy)) / rows.sum())
        curve.plot(
            confidence,
            accuracy,
            color=colour,
            linewidth=1,
            alpha=0.7,
            label=f"{_short(name, 60)}, calibration error {error:.3f}",
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
    """Difference of accuracy with its interval in each slice, the numbers beside it; as a PNG.

    Colour is what the judge holds for shown (`monitoring.standing`), so that pictures and words agree.
    Of more than `MOST_SLICES`, those that are furthest from no difference are shown.
    """
    words = dict(zip(map(id, table), standings(table, confidence), strict=True))
    shown = _notable(table)
    figure = Figure(figsize=(WIDTH, 0.25 * len(shown) + 1.3), layout="constrained", dpi=DPI)
    axes = figure.subplots()
    places = np.arange(len(shown))[::-1]
    axes.axvline(0, color=QUIET, linewidth=1)
    for row, place in zip(shown, places, strict=True):
        standing = words[id(row)]
        colour = {"won": CONTENDER, "lost": OPPONENT}.get(standing, QUIET)
        thick, inside = (1, "white") if standing == "unjudged" else (2, colour)
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=thick, solid_capstyle="round")
        axes.scatter(row.difference, place, s=24, facecolor=inside, edgecolor=colour, zorder=3)
    left, right = min([-0.05, *(row.low for row in shown)]), max([0.05, *(row.high for row in shown)])
    room = 0.05 * (right - left)
    axes.set(xlim=(left - room, right + room), ylim=(-0.7, len(shown) - 0.3))
    axes.set_yticks(places, [f"{_short(row.column)}: {_short(row.value)}" for row in shown], fontsize=8)
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    axes.set_xlabel(f"accuracy, contender minus opponent, in points (each end {confidence:.0%} sure)", fontsize=8.5)
    for row, place in zip(shown, places, strict=True):
        _beside(axes, place, f"{row.opponent:>6.1%} {row.contender:>6.1%} {row.rows:>6,} {row.senders:>6,}")
    _beside(axes, len(shown) - 0.3, "oppon. conten. photos senders")
    for before, after, place in zip(shown, shown[1:], places, strict=False):
        if before.column != after.column:
            axes.axhline(place - 0.5, color="#d9d9d9", linewidth=0.8)
    title = "Who wins where (blue: contender, orange: opponent, grey: not shown, hollow: not judged)"
    if len(table) > len(shown):
        title += f"\n{len(shown)} of {len(table)} slices, the others are in slices.csv"
    figure.suptitle(title, fontsize=8.5, x=0.01, ha="left")
    _calm(axes)
    _save(figure, path)


def _notable(table: Sequence[SliceRow]) -> list[SliceRow]:
    by_distance = sorted(range(len(table)), key=lambda place: -max(table[place].low, -table[place].high))
    return [table[place] for place in sorted(by_distance[:MOST_SLICES])]


def _beside(axes: Axes, place: float, text: str) -> None:
    axes.text(1.01, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7, family="monospace")


def draw_disagreements(
    path: Path, images: NDArray[np.uint8], picked: Sequence[Disagreement], classes: Sequence[str]
) -> None:
    """A contact sheet of photos that the two answer differently, with both answers; as a PNG.

    Where there is none, the picture says so.

    Args:
        path: of the PNG.
        images: uint8 [n, S, S, 3], one for each of `picked`.
        picked: from `monitoring.disagreement.pick`.
        classes: names of the classes.
    """
    rows = max(1, -(-len(picked) // SHEET_COLUMNS))
    figure = Figure(figsize=(WIDTH, 1.85 * rows + 0.3), layout="constrained", dpi=DPI)
    panels = figure.subplots(rows, SHEET_COLUMNS, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    if not picked:
        figure.text(0.5, 0.5, "They say the same about every photo.", ha="center", fontsize=10)
    for axes, image, one in zip(panels, images, picked, strict=False):
        colour = RIGHT[one.right]
        axes.imshow(image, interpolation="nearest" if len(image) < 64 else "antialiased")
        axes.add_patch(
            Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=colour, linewidth=4, clip_on=False)
        )
        ours, theirs = (
            f"{who} {_short(classes[said], 13)} {sure(confidence)}"
            for who, said, confidence in (
                ("C", one.contender, one.contender_confidence),
                ("O", one.opponent, one.opponent_confidence),
            )
        )
        axes.set_title(_short(classes[one.label], 18), fontsize=8, fontweight="bold", color="black", pad=5)
        for line, (text, won) in enumerate([(ours, one.right == "contender"), (theirs, one.right == "opponent")]):
            axes.text(
                0.5, -0.05 - 0.115 * line, text, transform=axes.transAxes, ha="center", va="top", fontsize=7.5,
                color=colour if won else "#404040", fontweight="bold" if won else "normal",
            )  # fmt: skip
    who = "what it is; C contender, O opponent"
    title = f"Where they disagree: {who} (blue: contender right, orange: opponent, grey: neither)"
    figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    _save(figure, path)


def sure(confidence: float) -> str:
    """A confidence in percent; nothing is said to be certain."""
    return f"{confidence:.0%}" if confidence < 0.995 else ">99%"


def _short(text: str, most: int = 22) -> str:
    """Short enough for a label, and taken as it is: matplotlib reads formulas between dollars."""
    text = " ".join(text.split())
    return (text if len(text) <= most else f"{text[: most - 1]}…").replace("$", r"\$")


def _calm(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        # A letter that the font has not is drawn as a box; the report has it as text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, metadata={"Software": None})
