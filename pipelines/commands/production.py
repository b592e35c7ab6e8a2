"""`classy status`, `history`, `explain`, `prune`: what is and was in production and why, and what nothing needs."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from pipelines.commands.shared import JsonOption, RecipeOption, as_time, door, show
from pipelines.settings import load_settings

app = typer.Typer()
LOOK = "What is and was in production"


class Clock(StrEnum):
    data = "data"
    wall = "wall"


@app.command(rich_help_panel=LOOK)
def status(json_: JsonOption = False) -> None:
    """What is in production, since when, on what evidence."""
    from pipelines.status import status as find

    show(find(load_settings()), json_)


@app.command(rich_help_panel=LOOK)
def history(
    at: Annotated[str, typer.Option(help="Only what served at that time (UTC).")] = "",
    clock: Annotated[Clock, typer.Option(help="Whether --at is a time of the data or of the wall clock.")] = Clock.data,
    json_: JsonOption = False,
) -> None:
    """What served when, on which evidence, and why."""
    from pipelines.commands.trees import history_table
    from pipelines.status import history as find

    lines = find(load_settings(), at=as_time(at, "--at") if at else None, clock=clock.value)
    if json_:
        show(lines, True)
        return
    console = Console()
    if not lines:
        console.print("Nothing was in production then." if at else "Nothing was in production yet.")
        return
    console.print(history_table(lines))
    if at:
        console.print(f"evidence: {lines[0]['evidence_uri'] or 'none recorded'}", soft_wrap=True, highlight=False)


@app.command(rich_help_panel=LOOK)
def explain(
    generation: Annotated[int | None, typer.Argument(help="Default: the current one.")] = None,
    prediction: Annotated[str, typer.Option(help="Begin at this prediction_id instead.")] = "",
    quick: Annotated[
        bool, typer.Option(help="Look whether things are there; do not read and hash every file.")
    ] = False,
    openlineage: Annotated[bool, typer.Option(help="The same as OpenLineage events, one JSON a line.")] = False,
    send: Annotated[
        bool, typer.Option(help="Send those events: OPENLINEAGE_URL or openlineage.yml says where.")
    ] = False,
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Why this model serves: prediction, version, run, snapshot, partitions, features, commit, evidence."""
    from pipelines import explain as chain

    settings, loaded = door(recipe)
    if openlineage or send:
        from pipelines.lineage import events as lineage

        if prediction:
            raise typer.BadParameter("events are a generation's: name it instead of --prediction")
        if send:
            show(lineage.send(settings, loaded, generation=generation), json_)
        if openlineage:
            typer.echo(lineage.as_lines(lineage.events(settings, loaded, generation=generation)), nl=False)
        return
    found = chain.run(settings, loaded, generation=generation, prediction=prediction or None, quick=quick)
    if json_:
        show(found, True)
        return
    from pipelines.commands.trees import chain_tree

    Console(highlight=False).print(chain_tree(found))


@app.command(rich_help_panel=LOOK)
def prune(
    older_than: Annotated[int, typer.Option(help="Days; younger things stay whatever refers to them.")] = 30,
    what: Annotated[str, typer.Option(help="Some of versions,checkpoints,caches,snapshots.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it nothing is deleted.")] = False,
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Delete old snapshots, checkpoints, model versions and caches that nothing refers to; a dry run without --yes.

    Never: what a generation names, the golden rows, a verdict that could still be promoted, a training under way.
    Days, shards, evidence and the ledger are not touched. A version goes for good; its run is deleted as MLflow
    deletes: it can be restored until `mlflow gc`, which frees its artifacts.
    """
    from pipelines import prune as attic

    settings, loaded = door(recipe)
    kinds = tuple(kind.strip() for kind in what.split(",")) if what else attic.KINDS
    found = attic.run(settings, loaded, now=datetime.now(UTC), older_than_days=older_than, what=kinds, delete=yes)
    if json_:
        show(found, True)
        return
    from pipelines.commands.trees import prune_table

    console = Console(highlight=False)
    console.print(prune_table(found))


@app.command(rich_help_panel=LOOK)
def redecide(
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A field of [policy] as FIELD=VALUE; may be given several times.")
    ] = None,
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Make the monitor's decisions again from the evidence they keep; with --set, what other rules would have said.

    Without --set the exit code is 1 where one comes out differently: its row was changed, or the policy was.
    """
    from pipelines.redecide import run

    settings, found = door(recipe)
    told = run(settings, found, changes=dict(_pair(text) for text in set_ or []))
    if json_:
        show(told, True)
    elif told.differences:
        show(told.differences, False, columns=("day", "recorded", "now", "reason"))
    elif told.decisions:
        Console().print(f"{told.decisions} decisions, all as they were recorded")
    else:
        Console().print("No decision of the monitor is there that keeps its evidence; is CLASSY_HOME the right one?")
    if not set_ and not told.same:
        raise typer.Exit(1)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r}: write it as min_loss=0.1", param_hint="--set")
    return name.strip(), value.strip()
