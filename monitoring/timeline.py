"""The story as a picture: accuracy by day, drift verdicts, who was champion, and what was decided."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates as mdates
import matplotlib.pyplot as plt

INK, MUTED, GOOD, BAD = "#1f2933", "#9aa5b1", "#2f7d5b", "#c2452d"
BANDS = ("#e8f1fa", "#e6f4ea", "#fdf3e1", "#f3e8fa")
DRIFT = {"DRIFT": BAD, "NO DRIFT": GOOD, "UNKNOWN": MUTED}


def draw_timeline(summary: Mapping[str, Any], path: Path) -> None:
    """Write `timeline.png`.

    Args:
        summary: `Summary.as_json()`; `days` rows with date, accuracy, drift, action, champion.
        path: where to write it.
    """
    days = summary["days"]
    served = [day for day in days if day["accuracy"] is not None]
    figure, axis = plt.subplots(figsize=(11, 4.6), dpi=120)
    dates = [mdates.date2num(date.fromisoformat(day["date"])) for day in served]
    _bands(axis, served)
    axis.plot(dates, [day["accuracy"] for day in served], color=INK, linewidth=2, zorder=3)
    for when, day in zip(dates, served, strict=True):
        axis.scatter(
            when,
            day["accuracy"],
            s=58,
            color=DRIFT.get(day["drift"], MUTED),
            edgecolor="white",
            zorder=4,
            clip_on=False,
        )
    marks = [
        ("drift_from", "the world changes", BAD),
        ("detected_on", "detected", BAD),
        ("retrained_on", "retrained, promoted", GOOD),
        ("recovered_on", "recovered", GOOD),
    ]
    _marks(axis, [(date.fromisoformat(summary[key]), text, colour) for key, text, colour in marks if summary[key]])
    first = date.fromisoformat(days[0]["date"])
    if dates:
        axis.axvspan(mdates.date2num(first) - 0.5, dates[0] - 0.5, color="#f3f4f6", zorder=0)
        middle = (mdates.date2num(first) + dates[0]) / 2 - 0.5
        axis.text(middle, 0.04, "history", ha="center", color=MUTED, transform=axis.get_xaxis_transform())
        axis.set_xlim(mdates.date2num(first) - 0.5, dates[-1] + 0.5)
    axis.set_ylim(0, 1.0)
    axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axis.xaxis.set_major_locator(mdates.AutoDateLocator(maxticks=14))
    axis.xaxis.set_major_formatter(mdates.DateFormatter("%d %b"))
    axis.grid(axis="y", color="#e4e7eb", zorder=1)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.set_ylabel("accuracy on the day's photos")
    verdict = "the loop closed" if summary["closed"] else "not closed: " + ", ".join(summary["missing"])
    axis.set_title(f"{summary['recipe']}: {verdict}", loc="left", pad=62, fontweight="bold", color=INK)
    for label, colour in DRIFT.items():
        axis.scatter([], [], color=colour, s=58, label=label.lower())
    axis.legend(loc="lower left", bbox_to_anchor=(0.0, -0.24), ncols=3, frameon=False, title=None)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def _bands(axis: Any, served: list[Mapping[str, Any]]) -> None:
    versions = list(dict.fromkeys(day["champion"] for day in served))
    for number, version in enumerate(versions):
        own = [mdates.date2num(date.fromisoformat(day["date"])) for day in served if day["champion"] == version]
        axis.axvspan(min(own) - 0.5, max(own) + 0.5, color=BANDS[number % len(BANDS)], zorder=0)
        axis.text(
            (min(own) + max(own)) / 2, 0.04, f"champion v{version}", ha="center", color=INK, fontsize=9,
            transform=axis.get_xaxis_transform(),
        )  # fmt: skip


def _marks(axis: Any, marks: list[tuple[date, str, str]]) -> None:
    """Vertical lines with labels above the plot, stacked where they come close."""
    last, level = None, 0
    for when, text, colour in sorted(marks, key=lambda mark: mark[0]):
        level = level + 1 if last is not None and (when - last).days < 4 else 0
        axis.axvline(mdates.date2num(when), color=colour, linestyle=":", linewidth=1.2, zorder=2)
        axis.annotate(
            f"{text} {when:%d %b}", (mdates.date2num(when), 1.0), xytext=(3, 6 + 13 * level),
            textcoords="offset points", color=colour, fontsize=9, annotation_clip=False,
        )  # fmt: skip
        last = when
