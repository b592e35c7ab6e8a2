"""`classy loop`, `run`, `up`, `down`: the story, and the pages to look at."""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from pipelines.commands.shared import JsonOption, RecipeOption, door, show
from pipelines.settings import load_settings

app = typer.Typer()
LOOP, STACK = "The loop", "Pages"


@app.command(rich_help_panel=LOOP)
def loop(recipe: RecipeOption = "", json_: JsonOption = False) -> None:
    """The whole story without Airflow, in HOME/loop. Exit code 0 only if the loop closed."""
    from pipelines.stage.story import play_locally

    _tell(play_locally, recipe, json_)


@app.command(rich_help_panel=LOOP)
def run(recipe: RecipeOption = "", json_: JsonOption = False) -> None:
    """The whole story under a real Airflow and MLflow, in HOME/loop. What `make run` does."""
    from pipelines.stage.story import play_under_airflow

    _tell(play_under_airflow, recipe, json_)


def _tell(play: Callable[..., Any], recipe: str, as_json: bool) -> None:
    from pipelines.stage.story import table

    settings, loaded = door(recipe)
    console = Console(stderr=as_json)
    summary = play(settings, loaded, lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True))
    if as_json:
        show(summary.as_json(), True)
    else:
        table(summary, console)
    if not summary.closed:
        raise typer.Exit(1)


@app.command(rich_help_panel=STACK)
def up(
    stay: Annotated[bool, typer.Option(help="Stay in the foreground; Ctrl-C stops it.")] = False,
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Start Airflow, MLflow and the live server with their pages."""
    from pipelines.stage.pages import bring_up

    settings, _ = door(recipe)
    bring_up(settings, stay=stay, show=lambda value: show(value, json_))


@app.command(rich_help_panel=STACK)
def down(json_: JsonOption = False) -> None:
    """Stop what `classy up` started."""
    from pipelines.stage.pages import take_down

    show(take_down(load_settings()), json_)
