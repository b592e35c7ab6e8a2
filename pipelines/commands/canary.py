"""`classy canary`: a new version beside the champion, for some senders or for nobody's eyes."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.commands.shared import JsonOption, RecipeOption, as_time, door, show

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="A new version beside the champion. A **canary** answers a share of the senders, each sender always by the "
    "same model; a **shadow** answers everything, and nobody gets its answers. Servers follow within a second or two."
    "\n\n"
    "`classy canary start 7 --weight 0.1 --reason 'first try'`, then `show` to watch, `weight` to give it more, and "
    "`promote` or `drop` to end it. With `automatic = true` under `[serving.canary]` in the recipe the server ends it.",
)

ReasonOption = Annotated[str, typer.Option(help="Why, for the ledger.")]
KeyOption = Annotated[str, typer.Option("--run-key", help="Names this change; the same key twice changes once.")]
COLOURS = {"holds": "green", "broken": "bold red", "open": "yellow"}


class Role(StrEnum):
    canary = "canary"
    shadow = "shadow"


def _do(verb: str, recipe: str, as_json: bool, key: str, **arguments: Any) -> None:
    from pipelines import canary

    settings, loaded = door(recipe)
    run_key = key or f"canary-{verb}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    show(getattr(canary, verb)(settings, loaded, run_key=run_key, **arguments), as_json)


@app.command()
def start(
    version: Annotated[str, typer.Argument(help="Of the registered model, such as 7.")],
    reason: ReasonOption,
    weight: Annotated[
        float | None, typer.Option(help="Share of senders, between 0 and 1; default: the recipe's.")
    ] = None,
    name: Annotated[str, typer.Option(help="Its arm's name, such as B; a request may ask for it. Default: canary.")]="",
    run_key: KeyOption = "",
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:  # fmt: skip
    """Let a version answer a share of the senders, after checking that it can serve."""
    _do("start", recipe, json_, run_key, version=version, weight=weight, name=name, reason=reason)


@app.command()
def weight(
    share: Annotated[float, typer.Argument(help="Share of senders, between 0 and 1.")],
    reason: ReasonOption,
    run_key: KeyOption = "",
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Give the canary another share; whoever it answered at a smaller one, it answers at a larger."""
    _do("weight", recipe, json_, run_key, weight=share, reason=reason)


@app.command()
def promote(
    reason: ReasonOption, run_key: KeyOption = "", recipe: RecipeOption = "", json_: JsonOption = False
) -> None:
    """Make the canary the champion."""
    _do("promote", recipe, json_, run_key, reason=reason)


@app.command()
def drop(
    reason: ReasonOption,
    role: Annotated[Role, typer.Option(help="Which of the two goes.")] = Role.canary,
    run_key: KeyOption = "",
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Let the canary, or the shadow, go: the champion answers its senders again."""
    _do("drop", recipe, json_, run_key, role=role.value, reason=reason)


@app.command()
def shadow(
    version: Annotated[str, typer.Argument(help="Of the registered model, such as 7.")],
    reason: ReasonOption,
    run_key: KeyOption = "",
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Let a version answer everything too, for the log alone."""
    _do("shadow", recipe, json_, run_key, version=version, reason=reason)


@app.command()
def judge(
    as_of: Annotated[str, typer.Option(help="Labels known by then (UTC); default: now.")] = "",
    act: Annotated[
        bool | None, typer.Option("--act/--no-act", help="Promote or drop it; default: as the recipe says.")
    ] = None,
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Judge the canary by its answers so far, as often as you like: PROMOTE, DROP or CONTINUE."""
    from pipelines import canary

    settings, loaded = door(recipe)
    found = canary.judge(settings, loaded, as_of=_time(as_of), act=act)
    if json_:
        show(found, True)
        return
    _table(found.verdict, found.reason, found.findings)
    if found.acted:
        Console(highlight=False).print(f"Done: generation {found.generation}.")


@app.command("show")
def show_(
    as_of: Annotated[str, typer.Option(help="Labels known by then (UTC); default: now.")] = "",
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """What answers beside the champion, and how it does by now. Changes nothing."""
    from pipelines import canary

    settings, loaded = door(recipe)
    found = canary.show(settings, loaded, as_of=_time(as_of))
    if json_ or found["generation"] is None:
        show(found, json_)
        return
    console = Console(highlight=False)
    console.print(f"[bold]champion[/] version {found['version']}, generation {found['generation']}")
    for role in ("canary", "shadow"):
        if (one := found[role]) is not None:
            share = f" ({escape(one['name'])}), {one['weight']:.0%} of senders" if role == "canary" else ""
            since = one["since_wall_clock"][:16].replace("T", " ")
            console.print(
                f"[bold]{role}[/] version {one['version']}{share}, since {since} by {escape(one['by'])}: "
                f"{escape(one['reason'])}"
            )
    _table(found["verdict"], found["reason"], found["findings"])


def _time(text: str) -> datetime:
    return as_time(text, "--as-of") if text else datetime.now(UTC)


def _table(verdict: str | None, reason: str, findings: Any) -> None:
    console = Console(highlight=False)
    if verdict is None:
        console.print(reason)
        return
    table = Table("gate", "state", "what was found", box=None)
    for finding in findings:
        state = f"[{COLOURS[finding['state']]}]{finding['state']}[/]"
        table.add_row(finding["gate"], state, escape(finding["sentence"]))
    console.print(table)
    console.print(f"[bold]{verdict}[/]")
