"""`classy status`, `history`: what is and was in production, and why."""

from typing import Annotated

import typer

from pipelines.commands.shared import JsonOption, as_time, show
from pipelines.settings import load_settings

app = typer.Typer()
LOOK = "What is and was in production"


@app.command(rich_help_panel=LOOK)
def status(json_: JsonOption = False) -> None:
    """What is in production, since when, on what evidence."""
    from pipelines.status import status as find

    show(find(load_settings()), json_)


@app.command(rich_help_panel=LOOK)
def history(
    at: Annotated[str, typer.Option(help="Only what served at that time (UTC).")] = "", json_: JsonOption = False
) -> None:
    """What served when, and why."""
    from pipelines.status import history as find

    rows = find(load_settings(), at=as_time(at, "--at") if at else None)
    if not json_:
        rows = [{**row, "since": row["from_data_time"][:16], "reason": _first_sentence(row["reason"])} for row in rows]
    show(rows, json_, columns=("generation", "version", "kind", "since", "by", "reason"))


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".") + "."
