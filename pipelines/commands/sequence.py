"""`classy sequence-demo`: one photo, three ways through the components, with bytes and milliseconds at each hop."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipelines.commands.shared import JsonOption, RecipeOption, door, show

app = typer.Typer()


@app.command("sequence-demo", rich_help_panel="Live answers")
def sequence_demo(
    photo: Annotated[str, typer.Option(help="A file or an address; default: a drawn photo of 800 × 600 pixels.")] = "",
    sender: Annotated[str, typer.Option(help="Who sent it.")] = "",
    asks: Annotated[int, typer.Option(min=1, help="How often each way is gone; the table has the medians.")] = 20,
    protocol: Annotated[str, typer.Option(help="grpc or rest: how everybody talks.")] = "grpc",
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Start the components as servers of their own and lead a photo through them in three ways.

    The home must have a champion (`classy loop` makes one). client: a call to each component. server: one call to
    `classy`, which asks the others. hybrid: one call, each component hands on to the next. The answers must be equal.
    """
    from pipelines.online import sequences

    if protocol not in ("grpc", "rest"):
        raise typer.BadParameter(f"{protocol!r}: grpc or rest", param_hint="--protocol")
    settings, loaded = door(recipe)
    source = photo if "://" in photo else Path(photo) if photo else sequences.drawn_photo()
    console = Console(stderr=True)
    found = sequences.run(
        settings, loaded, photo=source, sender=sender, asks=asks, protocol=protocol,
        say=lambda line: console.print(line, highlight=False, markup=False),
    )  # fmt: skip
    if json_:
        show(found, True)
        return
    table = Table("sequencing", "hop", "sent, bytes", "received, bytes", "ms", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for way in found.ways:
        for number, hop in enumerate(way.hops):
            name = f"[bold]{way.sequencing}[/]" if number == 0 else ""
            table.add_row(name, hop.name, f"{hop.sent:,}", f"{hop.received:,}", f"{hop.milliseconds:.2f}")
        table.add_row(
            "", "[bold]the client's line", f"{way.sent:,}", f"{way.received:,}", f"[bold]{way.milliseconds:.2f}"
        )
        table.add_section()
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{found.label} in each of them, to the last bit; a photo of {found.photo_bytes:,} bytes, {found.protocol}. "
        "Bytes of messages, without what HTTP and TCP put around them; times of hops are means, of a whole the median.",
        soft_wrap=True,
    )
