"""`classy scorecard`: how well the loop does on worlds whose change was made on purpose."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console

from pipelines.commands.shared import JsonOption, show
from pipelines.commands.upkeep import bench_module
from pipelines.recipe import load_recipe
from pipelines.settings import load_settings

app = typer.Typer()
COLUMNS = ("change", "worlds", "cost", "seen", "back", "short", "gap", "daily", "time", "fits", "held", "false", "est")
LEGEND = (
    "cost: points of accuracy that the change takes. seen: drift found within 2 days. back: days until accuracy is what"
    " it was, or the oracle's. short, gap: points below what it was, and below the oracle, at the end. daily, time: of "
    "what a retraining every day regains and takes. fits, held: trainings and refused contenders a world. false: "
    "retrainings by 100 quiet windows. est: points by which accuracy estimated without labels is off, or too high on "
    "days that lost"
)
"""COLUMNS are for people; `--json` has kinds and intervals too."""


@app.command(rich_help_panel="The whole story")
def scorecard(
    recipes: Annotated[
        str, typer.Option("--recipe", "-r", help="One or several, such as digits-month,clothing.")
    ] = "digits-month",
    worlds: Annotated[
        int, typer.Option(min=1, help="Of each kind; those of a kind take turns through its changes.")
    ] = 40,
    kinds: Annotated[str, typer.Option(help="Some of quiet, sudden, slow, label_shift.")] = "",
    processes: Annotated[int, typer.Option(min=1, help="Play in so many processes.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the first world; the same seed plays the same worlds.")] = 0,
    plot: Annotated[str, typer.Option(help="Where the picture goes; default HOME/bench/scorecard.png.")] = "",
    json_: JsonOption = False,
) -> None:
    """Play the loop in many made-up worlds, and measure it: false alarms, delay, recovery, and what that costs.

    Each world deals the recipe's photos to days anew and changes them from a day on. Beside Classy's policy the
    same world is played with a retraining every day, with none, and by an oracle that knows the best model of each day
    afterwards. Figures with a goal go into HOME/bench/scorecard.json (`classy bench show`). A world takes some 7
    seconds on two cores.
    """
    from pipelines.scorecard.drawing import draw
    from pipelines.scorecard.measure import lines_of
    from pipelines.scorecard.rows import rows_of
    from pipelines.scorecard.running import ask, run

    chosen, settings, record = _kinds(kinds), load_settings(), bench_module("record")
    asked = [ask(load_recipe(name), worlds=worlds, kinds=chosen, seed=seed) for name in _names(recipes)]
    played = []
    for one in asked:
        mine = run(settings, one, processes=processes)
        record.record("scorecard", [record.Row(**row) for row in rows_of(one.recipe.name, mine)], beside=True)
        played += mine
    picture = Path(plot) if plot else settings.home / "bench" / "scorecard.png"
    draw(played, picture)
    lines = [line.as_json() for line in lines_of(played)]
    if json_:
        show(lines, True)
        return
    show([_told(line) for line in lines], False, columns=COLUMNS)
    say = Console().print
    say(LEGEND, style="dim")
    say(f"[dim]The picture: {picture}[/]")


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _kinds(text: str) -> Sequence[str]:
    from pipelines.scorecard.worlds import Kind

    known = get_args(Kind)
    asked = _names(text) or list(known)
    if wrong := [name for name in asked if name not in known]:
        raise typer.BadParameter(f"{', '.join(wrong)}: {', '.join(known)} are known", param_hint="--kinds")
    return asked


def _told(line: dict[str, Any]) -> dict[str, Any]:
    def points(name: str) -> str:
        value = line[name]["value"]
        return "" if value is None else f"{100 * value:.1f}"

    def share(name: str) -> str:
        value = line[name]["value"]
        return "" if value is None else f"{value:.0%}"

    quiet = line["false_retrains_per_100"]["value"]
    change = line["change"] if line["change"] != "all" else f"all {line['kind']}"
    return {
        "change": f"{line['recipe']} {change}",
        "worlds": line["worlds"],
        "cost": points("cost"),
        "seen": share("detected_within_2"),
        "back": "" if line["recovery_delay"] is None else f"{line['recovery_delay']:g}",
        "short": points("short_of_before"),
        "gap": points("recovery_gap"),
        "daily": share("regained_vs_daily"),
        "time": share("minutes_vs_daily"),
        "fits": f"{line['retrains']:.1f}",
        "held": f"{line['refused']:.1f}",
        "false": "" if quiet is None else f"{quiet:.2f}",
        "est": points("estimate_error" if line["kind"] == "quiet" else "estimate_excess"),
    }
