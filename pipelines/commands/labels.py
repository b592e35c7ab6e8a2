"""`classy labels`: the label queue outside its page."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.commands.shared import JsonOption, RecipeOption, as_day, door, show
from pipelines.settings import load_settings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Photos that people are asked about: what is queued, as a file and back. They are labelled at the live "
    "server's page `/label`; `classy queue` chooses them.",
)

OneDay = Annotated[str, typer.Option("--day", help="Only this day, such as 2026-03-01 (UTC).")]
State = Annotated[str, typer.Option(help="Only those that are open, disputed, labelled, undecided or unclear.")]
Format = Annotated[str, typer.Option("--format", help="csv or label-studio; default: by the ending, .csv or .json.")]


@app.command("list")
def list_(day: OneDay = "", state: State = "", json_: JsonOption = False) -> None:
    """Each photo of the queue: why it was chosen, how it stands, and what was said of it."""
    from pipelines import labels

    rows = labels.listed(load_settings(), day=as_day(day) if day else None, state=state)
    if json_:
        show(rows, True)
        return
    if not rows:
        Console().print("Nothing is queued; `classy queue --day DAY` chooses photos.", markup=False)
        return
    table = Table("day", "image_id", "reason", "chance", "state", "said")
    for column in table.columns[:2]:
        column.no_wrap = True
    for row in rows:
        said = ", ".join(f"{vote['author']}: {vote['label'] or 'cannot tell'}" for vote in row["votes"]) or "–"
        cells = (row["image_id"], row["reason"], f"{row['probability']:.3g}", row["state"], said)
        table.add_row(row["day"], *(escape(cell) for cell in cells))
    Console(highlight=False).print(table)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to: labels.csv, or tasks.json for Label Studio.")],
    day: OneDay = "",
    state: State = "",
    format_: Format = "",
    photo_url: Annotated[
        str,
        typer.Option(
            help="For Label Studio: where it finds the photos, such as 'https://host/{image_id}.jpg'; default: the "
            "photos are in the file."
        ),
    ] = "",
    json_: JsonOption = False,
) -> None:
    """Write the queue as CSV or as Label Studio's tasks, with the model's answers and what was said already."""
    from pipelines import labels

    found = labels.export(
        load_settings(), file, day=as_day(day) if day else None, state=state, format_=format_, photo_url=photo_url
    )
    show(found, json_)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A CSV, or Label Studio's JSON export (not JSON-MIN).")],
    author: Annotated[str, typer.Option(help="Who labelled, where the file does not say.")] = "",
    format_: Format = "",
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Take labels of queued photos from a file, all or none; the same file twice changes nothing."""
    from pipelines import labels

    settings, loaded = door(recipe)
    now = datetime.now(UTC)
    show(labels.take_in(settings, loaded, file, author=author, format_=format_, now=now), json_)


@app.command()
def accuracy(
    day: Annotated[str, typer.Option("--day", help="The day, such as 2026-03-01 (UTC).")], json_: JsonOption = False
) -> None:
    """What the labels of a day's queue say of all its photos: an unbiased estimate with its interval."""
    from pipelines import labels

    show(labels.accuracy(load_settings(), day=as_day(day)), json_)


@app.command()
def config(recipe: RecipeOption = "", json_: JsonOption = False) -> None:
    """Label Studio's labelling page for the recipe's classes, to paste into a project's settings."""
    from pipelines.data.labelfiles import label_studio_config

    text = label_studio_config(door(recipe)[1].taxonomy)
    if json_:
        show({"config": text}, True)
    else:
        typer.echo(text, nl=False)
