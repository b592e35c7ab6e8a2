"""`classy`: every step, the loop, and what is in production. Made from the same functions as the DAGs."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipelines.errors import ClassyError
from pipelines.recipe import Recipe, load_recipe
from pipelines.settings import Settings, load_settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="Keeps an image classifier good in production. Start with `classy loop`, or `make run` for the whole of it.",
)  # fmt: skip
recipe_app = typer.Typer(no_args_is_help=True, help="Check and show recipes.")
db_app = typer.Typer(no_args_is_help=True, help="Classy's own tables.")
bench_app = typer.Typer(no_args_is_help=True, help="What was measured.")
app.add_typer(recipe_app, name="recipe")
app.add_typer(bench_app, name="bench")
app.add_typer(db_app, name="db")

RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="A name in recipes/ or a path; default CLASSY_RECIPE.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document for programs instead of a table.")]
DayOption = Annotated[str, typer.Option("--day", help="The day, such as 2026-03-01 (UTC).")]
RunKeyOption = Annotated[str, typer.Option("--run-key", help="Names this training; the same key twice trains once.")]

STEPS, LOOP, LOOK, STACK = "Steps, in the order of the loop", "The loop", "What is and was in production", "Pages"


def _door(recipe: str) -> tuple[Settings, Recipe]:
    settings = load_settings(**({"recipe": recipe} if recipe else {}))
    return settings, load_recipe(settings.recipe)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date; write it as 2026-03-01", param_hint="--day") from None


def _time(text: str, hint: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time; write 2026-03-07 or 2026-03-07T12:00", param_hint=hint
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def show(value: Any, as_json: bool, columns: Iterable[str] = ()) -> None:
    """Print a receipt or a list of rows: a table for people, JSON for programs."""
    value = _plain(value)
    if as_json:
        print(json.dumps(value, indent=1, default=str))  # noqa: T201
        return
    console = Console()
    if isinstance(value, Mapping):
        table = Table("field", "value", show_header=False, box=None)
        for key, entry in value.items():
            table.add_row(f"[bold]{key}", _cell(entry))
    else:
        names = list(columns) or (list(value[0]) if value else ["nothing"])
        table = Table(*names)
        for row in value:
            table.add_row(*(_cell(row.get(name)) for name in names))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "\n".join(_cell(entry) for entry in value) or "–"
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_cell(entry)}" for key, entry in value.items()) or "–"
    return str(value)


def _run(name: str, recipe: str, as_json: bool, **arguments: Any) -> None:
    import importlib

    settings, loaded = _door(recipe)
    step = importlib.import_module(f"pipelines.{name}")
    show(step.run(settings, loaded, **arguments), as_json)


# ------------------------------------------------------------------------------------------------ steps


@app.command(rich_help_panel=STEPS)
def gather(day: DayOption, recipe: RecipeOption = "", json_: JsonOption = False) -> None:
    """Read one day's photos from the source, and the labels that arrived on it."""
    _run("gather", recipe, json_, day=_day(day))


@app.command(rich_help_panel=STEPS)
def validate(
    raw_uri: Annotated[str, typer.Option(help="A raw partition, as `gather` printed it.")],
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Put bad records into quarantine, each with its reason; say whether the day may go on."""
    _run("validate", recipe, json_, raw_uri=raw_uri)


@app.command(rich_help_panel=STEPS)
def prepare(
    clean_uri: Annotated[str, typer.Option(help="A clean partition, as `validate` printed it.")],
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Canonical images and picture statistics into a shard."""
    _run("prepare", recipe, json_, clean_uri=clean_uri)


@app.command(rich_help_panel=STEPS)
def materialize(
    shard_uri: Annotated[str, typer.Option(help="A shard, as `prepare` printed it.")],
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Features of a day's photos and senders into Feast, offline and online."""
    _run("materialize", recipe, json_, shard_uri=shard_uri)


@app.command(rich_help_panel=STEPS)
def snapshot(
    as_of: Annotated[str, typer.Option(help="Only what was known by then, such as 2026-03-07 (UTC).")],
    window_days: Annotated[int | None, typer.Option(help="How far back; default: the recipe's.")] = None,
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Freeze a point-in-time training set; its content is its name."""
    _run("snapshot", recipe, json_, as_of=_time(as_of, "--as-of"), window_days=window_days)


@app.command(rich_help_panel=STEPS)
def train(
    snapshot_uri: Annotated[str, typer.Option(help="A snapshot, as `snapshot` printed it.")],
    run_key: RunKeyOption,
    candidate: Annotated[str, typer.Option(help="The name of one of the recipe's candidates.")],
    epochs: Annotated[int | None, typer.Option(help="Instead of the candidate's own.")] = None,
    budget_minutes: Annotated[float | None, typer.Option(help="Instead of the recipe's.")] = None,
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Fit one candidate on one snapshot; a killed run goes on where it was."""
    _run(
        "train", recipe, json_, snapshot_uri=snapshot_uri, run_key=run_key, candidate=candidate, epochs=epochs,
        budget_minutes=budget_minutes,
    )  # fmt: skip


@app.command(rich_help_panel=STEPS)
def optimize(
    run_id: Annotated[str, typer.Option(help="The MLflow run, as `train` printed it.")],
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Export a trained candidate to ONNX, check it against torch, log the package."""
    _run("optimize", recipe, json_, run_id=run_id)


@app.command(rich_help_panel=STEPS)
def evaluate(
    run_id: Annotated[list[str], typer.Option(help="An optimized run; once for each candidate.")],
    snapshot_uri: Annotated[str, typer.Option(help="The snapshot they were fitted on.")],
    run_key: RunKeyOption,
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Judge the best candidate against the champion on the same held-out rows."""
    _run("evaluate", recipe, json_, run_ids=run_id, snapshot_uri=snapshot_uri, run_key=run_key)


@app.command(rich_help_panel=STEPS)
def promote(
    run_key: RunKeyOption,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "",
    approved_by: Annotated[str | None, typer.Option(help="Who approved it.")] = None,
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Make a judged contender the champion: one new generation."""
    _run("promote", recipe, json_, run_key=run_key, reason=reason, approved_by=approved_by)


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
    _run("rollback", recipe, json_, to=to, reason=reason, run_key=key)


@app.command(rich_help_panel=STEPS)
def score(day: DayOption, recipe: RecipeOption = "", json_: JsonOption = False) -> None:
    """The champion over a day's photos, into `predictions`."""
    _run("score", recipe, json_, day=_day(day))


@app.command(rich_help_panel=STEPS)
def monitor(day: DayOption, recipe: RecipeOption = "", json_: JsonOption = False) -> None:
    """Drift against the champion's reference, accuracy on the labels that arrived, a report to read."""
    _run("monitor", recipe, json_, day=_day(day))


@app.command(rich_help_panel=STEPS)
def decide(day: DayOption, recipe: RecipeOption = "", json_: JsonOption = False) -> None:
    """KEEP, WATCH, LABEL or RETRAIN, with the reason; once a day."""
    _run("decide", recipe, json_, day=_day(day))


# ------------------------------------------------------------------------------------------------- loop


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

    settings, loaded = _door(recipe)
    console = Console(stderr=as_json)
    summary = play(settings, loaded, lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True))
    if as_json:
        show(summary.as_json(), True)
    else:
        table(summary, console)
    if not summary.closed:
        raise typer.Exit(1)


# ------------------------------------------------------------------------------------------- production


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

    rows = find(load_settings(), at=_time(at, "--at") if at else None)
    if not json_:
        rows = [{**row, "since": row["from_data_time"][:16], "reason": _first_sentence(row["reason"])} for row in rows]
    show(rows, json_, columns=("generation", "version", "kind", "since", "by", "reason"))


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".") + "."


# ------------------------------------------------------------------------------------------------ pages


@app.command(rich_help_panel=STACK)
def up(
    stay: Annotated[bool, typer.Option(help="Stay in the foreground; Ctrl-C stops it.")] = False,
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Start Airflow and MLflow with their pages."""
    from pipelines.stage.pages import bring_up

    settings, _ = _door(recipe)
    bring_up(settings, stay=stay, show=lambda value: show(value, json_))


@app.command(rich_help_panel=STACK)
def down(json_: JsonOption = False) -> None:
    """Stop what `classy up` started."""
    from pipelines.stage.pages import take_down

    show(take_down(load_settings()), json_)


# ---------------------------------------------------------------------------------------- recipe and db


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
    columns = ("bench", "name", "ours", "other", "other_name", "unit", "ratio", "spread", "goal", "holds")
    show(rows, json_, columns=columns)


def main() -> None:
    """The door: an error meant for people is one message on stderr and exit code 1, anything else a traceback."""
    # What libraries say of their own ageing and start-up is not for our users.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    warnings.simplefilter("ignore", DeprecationWarning)
    try:
        app()
    except Exception as error:
        if not getattr(error, "for_people", False):
            raise
        Console(stderr=True).print(f"[bold red]classy:[/] {_escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
