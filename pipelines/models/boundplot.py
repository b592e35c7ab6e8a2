"""A picture of what a training's steps spent their time on."""

import textwrap
from typing import TYPE_CHECKING

from training.bounds import BoundReport
from training.watch import PARTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#c44e52", "#dd8452", "#ccb974", "#4c72b0", "#55a3d9", "#8172b3")


def draw_bound(report: BoundReport) -> "Figure":
    """One bar, a part of a step each, and the bound and its remedy above it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.4), layout="constrained")
    axes = figure.subplots()
    total = max(sum(report.seconds[part] for part in PARTS), 1e-9)
    left = 0.0
    for part, colour in zip(PARTS, COLOURS, strict=True):
        share = report.seconds[part] / total
        axes.barh(0, share, left=left, color=colour, label=f"{part} {share:.1%}")
        left += share
    axes.set_xlim(0, 1)
    axes.set_yticks([])
    axes.set_xlabel(f"share of {total:.3g} s of steps, {report.images_per_s:,.0f} images/s, input {report.input}")
    title = textwrap.fill(f"bound by {report.bound}: {report.remedy}", 120)
    axes.set_title(title, fontsize=8, loc="left")
    axes.legend(ncols=len(PARTS), loc="upper center", fontsize=7, frameon=False, bbox_to_anchor=(0.5, -0.35))
    return figure
