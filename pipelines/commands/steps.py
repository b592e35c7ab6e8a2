"""`classy STEP`: one command a step, made from the same functions as the DAGs' tasks."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from pipelines.commands.shared import (
    DayOption,
    JsonOption,
    RecipeOption,
    RunKeyOption,
    as_day,
    as_time,
    as_values,
    run_step,
)

app = typer.Typer()
STEPS = "Steps, in the order of the loop"


@app.command(rich_help_panel=STEPS)
def gather(day: DayOption, recipe: RecipeOption = "", json_: JsonOption = False) -> None:
    """Read one day's photos from the source, and the labels that arrived on it."""
    run_step("gather", recipe, json_, day=as_day(day))


@app.command(rich_help_panel=STEPS)
def validate(
    raw_uri: Annotated[str, typer.Option(help="A raw partition, as `gather` printed it.")],
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Put bad records into quarantine, each with its reason; say whether the day may go on."""
    run_step("validate", recipe, json_, raw_uri=raw_uri)


@app.command(rich_help_panel=STEPS)
def prepare(
    clean_uri: Annotated[str, typer.Option(help="A clean partition, as `validate` printed it.")],
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Canonical images and picture statistics into a shard."""
    run_step("prepare", recipe, json_, clean_uri=clean_uri)


@app.command(rich_help_panel=STEPS)
def materialize(
    shard_uri: Annotated[str, typer.Option(help="A shard, as `prepare` printed it.")],
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Features of a day's photos and senders into Feast, offline and online."""
    run_step("materialize", recipe, json_, shard_uri=shard_uri)


@app.command(rich_help_panel=STEPS)
def snapshot(
    as_of: Annotated[str, typer.Option(help="Only what was known by then, such as 2026-03-07 (UTC).")],
    window_days: Annotated[int | None, typer.Option(help="How far back; default: the recipe's.")] = None,
    drift_from: Annotated[str, typer.Option(help="The day a drift began: its rows decide the judgement.")] = "",
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Freeze a point-in-time training set; its content is its name."""
    since = as_day(drift_from) if drift_from else None
    run_step("snapshot", recipe, json_, as_of=as_time(as_of, "--as-of"), window_days=window_days, drift_from=since)


@app.command(rich_help_panel=STEPS)
def search(
    snapshot_uri: Annotated[str, typer.Option(help="A snapshot, as `snapshot` printed it.")],
    run_key: RunKeyOption,
    candidate: Annotated[str, typer.Option(help="A candidate that the recipe has a [search.space] of.")],
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Look for better values of a candidate's fields in the recipe's space; a killed search goes on where it was.

    Each trial is an MLflow run under the search's run. `chosen` is what `classy train --chosen` takes.
    """
    run_step("search", recipe, json_, snapshot_uri=snapshot_uri, run_key=run_key, candidate=candidate)


@app.command(rich_help_panel=STEPS)
def train(
    snapshot_uri: Annotated[str, typer.Option(help="A snapshot, as `snapshot` printed it.")],
    run_key: RunKeyOption,
    candidate: Annotated[str, typer.Option(help="The name of one of the recipe's candidates.")],
    epochs: Annotated[int | None, typer.Option(help="Instead of the candidate's own.")] = None,
    budget_minutes: Annotated[float | None, typer.Option(help="Instead of the recipe's.")] = None,
    chosen: Annotated[
        str,
        typer.Option(
            help="""Values of fields instead of the recipe's, such as '{"lr": 0.004}': what `search` chose."""
        ),
    ] = "{}",
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Fit one candidate on one snapshot; a killed run goes on where it was."""
    run_step(
        "train", recipe, json_, snapshot_uri=snapshot_uri, run_key=run_key, candidate=candidate, epochs=epochs,
        budget_minutes=budget_minutes, chosen=as_values(chosen, "--chosen"),
    )  # fmt: skip


@app.command(rich_help_panel=STEPS)
def optimize(
    run_id: Annotated[str, typer.Option(help="The MLflow run, as `train` printed it.")],
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Export a trained candidate to ONNX, check it against torch, log the package."""
    run_step("optimize", recipe, json_, run_id=run_id)


@app.command(rich_help_panel=STEPS)
def evaluate(
    run_id: Annotated[list[str], typer.Option(help="An optimized run; once for each candidate.")],
    snapshot_uri: Annotated[str, typer.Option(help="The snapshot they were fitted on.")],
    run_key: RunKeyOption,
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Judge the best candidate against the champion on the same held-out rows."""
    run_step("evaluate", recipe, json_, run_ids=run_id, snapshot_uri=snapshot_uri, run_key=run_key)


@app.command(rich_help_panel=STEPS)
def promote(
    run_key: RunKeyOption,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "",
    approved_by: Annotated[str | None, typer.Option(help="Who approves it.")] = None,
    rejected_by: Annotated[str | None, typer.Option(help="Who rejects it: production stays as it is.")] = None,
    note: Annotated[str, typer.Option(help="What that person says, for the ledger.")] = "",
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Make a judged contender the champion: one new generation, unless a person rejects it."""
    run_step(
        "promote", recipe, json_, run_key=run_key, reason=reason, approved_by=approved_by, rejected_by=rejected_by,
        note=note,
    )  # fmt: skip


@app.command(rich_help_panel=STEPS)
def rollback(
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")],
    to: Annotated[int | None, typer.Option(help="A generation; default: the one before.")] = None,
    run_key: Annotated[str, typer.Option(help="Names this rollback; the same key twice rolls back once.")] = "",
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Put an earlier generation's model back, after checking that it still loads."""
    key = run_key or f"rollback-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    run_step("rollback", recipe, json_, to=to, reason=reason, run_key=key)


@app.command(rich_help_panel=STEPS)
def score(day: DayOption, recipe: RecipeOption = "", json_: JsonOption = False) -> None:
    """The champion over a day's photos, into `predictions`."""
    run_step("score", recipe, json_, day=as_day(day))


@app.command(rich_help_panel="Photos that are no day's")
def score_photos(
    photos: Annotated[
        list[str],
        typer.Argument(help="Files, folders, patterns such as 'photos/*.jpg', addresses (s3://…, https://…)."),
    ],
    to: Annotated[str, typer.Option(help="Folder or URI of the answers: answers.parquet and its manifest.")],
    sender: Annotated[str, typer.Option(help="Who sent them, as the feature store knows senders.")] = "",
    senders: Annotated[
        str, typer.Option(help="Regular expression with one group, searched in each name for its sender: '^([0-9]+)_'.")
    ] = "",
    day: Annotated[
        str, typer.Option(help="A sender's profile too old by its end counts as none; default: today.")
    ] = "",
    processes: Annotated[
        int, typer.Option(min=0, help="Processes in place of threads; default: one a core where the photos are many.")
    ] = 0,
    ray: Annotated[str, typer.Option(help="Address of a Ray cluster that scores; local: one of this machine's.")] = "",
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """The champion over photos wherever they lie, into one Parquet table, on every core or by Ray Data."""
    from pipelines.commands.predict import find

    places = [str(place) for place in find(photos, others=True)]
    known = senders_of(places, sender, senders)
    when = as_day(day) if day else datetime.now(UTC).date()
    run_step("score_photos", recipe, json_, photos=places, to=to, day=when, senders=known, processes=processes, ray=ray)


def senders_of(places: Sequence[str], sender: str, pattern: str) -> list[str]:
    """The sender of each photo: the one who sent them all, or who its name says."""
    if not pattern:
        return [sender] * len(places)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise typer.BadParameter(f"{pattern!r} is no regular expression: {error}", param_hint="--senders") from None
    if compiled.groups != 1:
        raise typer.BadParameter(f"{pattern!r} has {compiled.groups} groups; give it one", param_hint="--senders")
    found = (compiled.search(place.rsplit("/", 1)[-1]) for place in places)
    return [(match.group(1) or sender)[:128] if match else sender for match in found]


@app.command(rich_help_panel=STEPS)
def monitor(day: DayOption, recipe: RecipeOption = "", json_: JsonOption = False) -> None:
    """Drift against the champion's reference, accuracy on the labels that arrived, a report to read."""
    run_step("monitor", recipe, json_, day=as_day(day))


@app.command(rich_help_panel=STEPS)
def queue(day: DayOption, recipe: RecipeOption = "", json_: JsonOption = False) -> None:
    """Choose photos of the day that people label: at the server's page /label or elsewhere (`classy labels export`)."""
    run_step("queue", recipe, json_, day=as_day(day))


@app.command(rich_help_panel=STEPS)
def decide(day: DayOption, recipe: RecipeOption = "", json_: JsonOption = False) -> None:
    """KEEP, WATCH, LABEL or RETRAIN, with the reason; once a day."""
    run_step("decide", recipe, json_, day=as_day(day))


@app.command(rich_help_panel=STEPS)
def resume(
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")],
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Let the loop ask for contenders again, after it gave up and called a person."""
    run_step("resume", recipe, json_, reason=reason)
