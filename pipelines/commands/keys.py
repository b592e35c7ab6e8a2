"""`classy keys`: who may ask the server."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.commands.shared import JsonOption, show
from pipelines.settings import load_settings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Keys of the server's clients. A key is shown once, when it is made; what is kept cannot be turned back "
    "into it. A client sends it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`.",
)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Who will use it, such as `shop-app`: it stands in lists and messages.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it is for, once for each: infer (ask for classes; the default), truth (say what photos "
        "show), admin (load and unload models), metrics (read /metrics and the monitor)."),
    ] = None,
    rate: Annotated[str, typer.Option(help="Photos, such as 50/second or 10000/hour; default: no bound.")] = "",
    daily_quota: Annotated[int | None, typer.Option(help="Photos of a day (UTC); default: no bound.")] = None,
    expires_days: Annotated[int | None, typer.Option(help="Ends by itself after so many days; default: never.")] = None,
    json_: JsonOption = False,
) -> None:  # fmt: skip
    """Make a key and show it, this once. Running servers take it within seconds."""
    from pipelines.online import keys

    made = keys.create(
        load_settings(), name=name, scopes=scope or ["infer"], rate=rate or None, daily_quota=daily_quota,
        expires_days=expires_days, now=datetime.now(UTC),
    )  # fmt: skip
    if json_:
        show(made, True)
        return
    console = Console(highlight=False)
    console.print(f"[bold]{made.key}[/]", soft_wrap=True)
    console.print(
        f"Key {made.key_id} for {', '.join(made.scopes)}. It is not shown again: keep it where its user keeps secrets.",
        markup=False, soft_wrap=True,
    )  # fmt: skip


@app.command("list")
def list_(json_: JsonOption = False) -> None:
    """Every key: its state, what it may, what it used today. Nothing of its secret."""
    from pipelines.online import keys

    rows = keys.listed(load_settings(), now=datetime.now(UTC))
    if json_:
        show(rows, True)
        return
    console = Console(highlight=False)
    if not rows:
        console.print("No keys yet: `classy keys create --name …` makes one.", markup=False)
        return
    table = Table("key_id", "name", "state", "scopes", "rate", "today", "expires")
    table.columns[0].no_wrap = True
    for row in rows:
        quota = f" of {row['daily_quota']:,}" if row["daily_quota"] else ""
        ends = f"{row['expires_at']:%Y-%m-%d}" if row["expires_at"] else "–"
        cells = (
            row["name"],
            row["state"],
            ", ".join(row["scopes"]),
            row["rate"] or "–",
            f"{row['today']:,}{quota}",
            ends,
        )
        table.add_row(row["key_id"], *(escape(cell) for cell in cells))
    console.print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The twelve letters after `classy_`, as `classy keys list` shows.")],
    json_: JsonOption = False,
) -> None:
    """Refuse a key from now on; running servers do within seconds. It cannot be taken back: make another."""
    from pipelines.online import keys

    show(keys.revoke(load_settings(), key_id, now=datetime.now(UTC)), json_)
