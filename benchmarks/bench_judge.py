"""How often the judge is right, in made-up worlds where the truth is known; and what killed or racing promotions leave.

    classy bench judge [--draws 1000] [--plot docs/judge-power.png]

The limits are the project's own: of equal models at most 5% are promoted, of planted regressions on a slice at least
95% are stopped, of improvements of twice the detectable effect at least 90% are promoted.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks import promotions
from benchmarks.record import Row, record
from monitoring.performance import share
from monitoring.simulation import Verdicts, World, power, simulate
from pipelines.sections import Gates

ROWS = (300, 600, 1200, 2400, 4800)
GAINS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.10, 0.12)
COLOURS = ("#b9d3de", "#86b3c6", "#4f91ac", "#1f6f8b", "#123f50")


def measure(*, draws: int, processes: int) -> list[dict[str, object]]:
    """The judge in made-up worlds, then promotions that are killed and that race; recorded as `judge`."""
    rows = [*judge_rows(draws, processes), *promotions.rows(kills=max(1, draws // 2), races=max(2, draws // 20))]
    record("judge", rows)
    return [row.as_json() for row in rows]


def judge_rows(draws: int, processes: int) -> list[Row]:
    """The judge's error rates, `draws` worlds each."""
    gates, world = Gates(), World()
    equal = simulate(world, gates, draws=draws, processes=processes, say="equal models")
    gain = 2 * equal.detectable
    better = replace(world, gain=gain)
    improved = simulate(better, gates, draws=draws, processes=processes, say="improvements")
    worse = replace(better, loss=2 * gates.slice_margin)
    lost = simulate(worse, gates, draws=draws, processes=processes, say="a slice is lost")
    worst = replace(worse, planted_by_sender=True)
    lost_by_sender = simulate(worst, gates, draws=draws, processes=processes, say="some senders are lost")
    where = f"{world.rows} rows of {world.senders} senders"
    slice_ = f"{world.planted_share:.0%} of {where} loses {100 * worse.loss:.0f} points"
    return [
        _row("equal_promoted", equal, equal.promoted, 0.05, "less", where),
        _row("slice_regression_blocked", lost, draws - lost.promoted, 0.95, "more", slice_),
        _row("improvement_promoted", improved, improved.promoted, 0.9, "more", f"{100 * gain:.1f} points on {where}"),
        _row("sender_slice_regression_blocked", lost_by_sender, draws - lost_by_sender.promoted, 0.95, "more",
             f"{slice_}, all of some 6 senders"),
    ]  # fmt: skip


def _row(name: str, found: Verdicts, count: int, limit: float, better: Literal["less", "more"], world: str) -> Row:
    seen = share(count, found.draws)
    return Row(
        name=name,
        ours=max(count, 0.5) / found.draws,  # none of them is less than one of them, and no quotient by zero
        other=limit,
        other_name="limit",
        unit="share of verdicts",
        better=better,
        spread=f"{count} of {found.draws}, 95% interval {seen.low:.3f} to {seen.high:.3f}; {world}",
    )


# --------------------------------------------------------------------------------------------------- power


def measure_power(path: Path, *, draws: int, processes: int) -> list[dict[str, object]]:
    """How often a contender is promoted, by how much better it truly is and how many rows there are; drawn as a PNG."""
    found = power(World(), Gates(), rows=ROWS, gains=GAINS, draws=draws, processes=processes)
    figure = Figure(figsize=(6.5, 3.8), layout="constrained", dpi=110)
    axes = figure.subplots()
    for (rows, several), colour in zip(found.items(), COLOURS, strict=True):
        shares = [one.share("PROMOTE") for one in several]
        axes.plot([100 * gain for gain in GAINS], shares, color=colour, marker="o", markersize=3.5, label=f"{rows:,}")
    axes.axhline(0.05, color="#6b6b6b", linewidth=0.8, linestyle=":")
    axes.set(ylim=(-0.02, 1.02), xlabel="true improvement of accuracy, in points", ylabel="share that is promoted")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"How much better must a contender be? ({draws} worlds a point)", fontsize=10, loc="left")
    axes.legend(title="golden and fresh rows", frameon=False, fontsize=8, title_fontsize=8, loc="lower right")
    figure.savefig(path, metadata={"Software": None})
    return [
        {"rows": rows, **{f"{100 * gain:+.0f}": f"{one.share('PROMOTE'):.0%}"
                          for gain, one in zip(GAINS, several, strict=True)}}
        for rows, several in found.items()
    ]  # fmt: skip
