"""`classy recipe`, `db`, `bench`: recipes checked, tables upgraded, figures shown."""

import importlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipelines.commands.shared import JsonOption, show
from pipelines.errors import ClassyError
from pipelines.recipe import load_recipe
from pipelines.settings import load_settings

recipe_app = typer.Typer(no_args_is_help=True, help="Check and show recipes.")
db_app = typer.Typer(no_args_is_help=True, help="Classy's own tables.")
bench_app = typer.Typer(no_args_is_help=True, help="What was measured.")

BENCH_COLUMNS = ("name", "ours", "other", "unit", "ratio", "goal", "other_name")
"""For people; `--json` has the spread too."""


@recipe_app.command("check")
def recipe_check(
    file: Annotated[str, typer.Argument(help="A name in recipes/ or a path.")], json_: JsonOption = False
) -> None:
    """Check every field of a recipe; each wrong one is named."""
    found = load_recipe(file)
    drift = str(found.drift_from) if found.drift_from else None
    names = [candidate.name for candidate in found.candidates]
    show({"recipe": found.name, "ok": True, "source": found.source.kind, "classes": len(found.taxonomy.classes),
          "candidates": names, "drift_from": drift, "digest": found.digest()}, json_)  # fmt: skip


@recipe_app.command("show")
def recipe_show(file: Annotated[str, typer.Argument(help="A name in recipes/ or a path.")]) -> None:
    """The recipe with every default filled in, as JSON."""
    show(load_recipe(file).model_dump(mode="json", by_alias=True), True)


@db_app.command("upgrade")
def db_upgrade(json_: JsonOption = False) -> None:
    """Bring the tables of an older Classy to this one's schema."""
    from pipelines.status import upgrade

    show(upgrade(load_settings()), json_)


@bench_app.command("judge")
def bench_judge(
    draws: Annotated[int, typer.Option(min=20, help="Made-up worlds of each kind.")] = 1000,
    processes: Annotated[int, typer.Option(min=1, help="Draw in so many processes.")] = 2,
    plot: Annotated[str, typer.Option(help="Draw the power of the judge to this PNG instead.")] = "",
    json_: JsonOption = False,
) -> None:
    """How often the judge is right in made-up worlds, and what killed and racing promotions leave behind."""
    bench = bench_module("bench_judge")
    if plot:
        show(bench.measure_power(Path(plot), draws=draws, processes=processes), json_)
        return
    show(bench.measure(draws=draws, processes=processes), json_, columns=BENCH_COLUMNS)


@bench_app.command("serving")
def bench_serving(
    quick: Annotated[bool, typer.Option(help="Try everything for a moment; the figures mean nothing.")] = False,
    only: Annotated[str, typer.Option(help="Some of the peers, such as fastapi,mlserver; default: all.")] = "",
    network: Annotated[str, typer.Option(help="compact, or resnet18: the photos' figures with it alone.")] = "compact",
    json_: JsonOption = False,
) -> None:
    """How fast the live server is beside its peers and beside what the machine can do; about twenty minutes.

    `python -m benchmarks.peers.setup` makes the peers' environments first.
    """
    peers = tuple(name.strip() for name in only.split(",") if name.strip())
    if network not in ("compact", "resnet18"):
        raise typer.BadParameter(f"{network!r}: compact and resnet18 are known", param_hint="--network")
    say = Console(stderr=True).print
    rows = bench_module("bench_serving").measure(quick=quick, only=peers, network=network, say=say)
    show(rows, json_, columns=BENCH_COLUMNS)


def bench_module(name: str) -> Any:
    """A benchmark's module: part of the checkout, not of what is installed."""
    try:
        importlib.import_module("benchmarks")
        return importlib.import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith(("benchmarks", "tests")):
            raise
        raise ClassyError(
            "benchmarks/ and tests/ are not here: they are part of the checkout, run this from one"
        ) from None


@bench_app.command("show")
def bench_show(
    all_: Annotated[bool, typer.Option("--all", help="Also what holds.")] = False, json_: JsonOption = False
) -> None:
    """What falls short in HOME/bench, as `make bench` wrote it."""
    folder = load_settings().home / "bench"
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ClassyError(f"{folder}: nothing measured yet; `make bench` measures")
    found = [{"bench": file.stem, **row} for file in files for row in json.loads(file.read_text())["rows"]]
    rows = [row for row in found if all_ or not row["holds"]]
    if not rows and not json_:
        Console().print(f"all {len(found)} figures hold; see them with --all")
        return
    show(rows, json_, columns=BENCH_COLUMNS)
