"""A picture of a search: what each trial came to, and the best until then."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.models.trials import Tried

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKS = {"complete": ("#4c72b0", "o"), "pruned": ("#ccb974", "v"), "failed": ("#c44e52", "x")}


def draw_history(tried: Sequence[Tried]) -> "Figure":
    """A mark a trial: its loss, of a pruned one the last it had; where there is none, a bar."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    for state, (colour, marker) in LOOKS.items():
        of_it = [one for one in tried if one.state == state]
        points = [(one.number, height) for one in of_it if (height := _height(one)) is not None]
        axes.scatter(
            [number for number, _ in points], [height for _, height in points], c=colour, marker=marker, zorder=3,
            label=f"{state} ({len(of_it)})",
        )  # fmt: skip
        for one in of_it:
            if _height(one) is None:
                axes.axvline(one.number, color=colour, alpha=0.3, linewidth=4)
    best = [(one.number, one.loss) for one in tried if one.state == "complete" and one.loss is not None]
    if best:
        until = [min(loss for _, loss in best[: at + 1]) for at in range(len(best))]
        axes.step([number for number, _ in best], until, where="post", color="#4c72b0", label="best so far")
    if all(loss > 0 for _, loss in best):
        axes.set_yscale("log")
    axes.set_xlabel("trial")
    axes.set_ylabel("log loss on validation rows")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _height(one: Tried) -> float | None:
    if one.state == "complete":
        return one.loss
    return one.losses[max(one.losses)] if one.state == "pruned" and one.losses else None
