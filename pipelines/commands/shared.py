"""What the commands share: their options, the door to settings and recipe, tables for people, JSON for programs."""

import importlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipelines.recipe import Recipe, load_recipe
from pipelines.settings import Settings, load_settings

RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="A name in recipes/ or a path; default CLASSY_RECIPE.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document for programs instead of a table.")]
DayOption = Annotated[str, typer.Option("--day", help="The day, such as 2026-03-01 (UTC).")]
RunKeyOption = Annotated[str, typer.Option("--run-key", help="Names this training; the same key twice trains once.")]


def door(recipe: str) -> tuple[Settings, Recipe]:
    settings = load_settings(**({"recipe": recipe} if recipe else {}))
    return settings, load_recipe(settings.recipe)


def as_day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date; write it as 2026-03-01", param_hint="--day") from None


def as_time(text: str, hint: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time; write 2026-03-07 or 2026-03-07T12:00", param_hint=hint
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def as_values(text: str, hint: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f'{text!r} is no JSON ({error}); write {{"lr": 0.004}}', param_hint=hint) from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f'{text!r} names no fields; write {{"lr": 0.004}}', param_hint=hint)
    return found


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


def run_step(name: str, recipe: str, as_json: bool, **arguments: Any) -> None:
    settings, loaded = door(recipe)
    step = importlib.import_module(f"pipelines.{name}")
    receipt = step.run(settings, loaded, **arguments)
    if os.environ.get("RANK", "0") == "0":
        # Of a command that torchrun started many times, one speaks.
        show(receipt, as_json)
