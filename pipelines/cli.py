"""`classy`: every step, the loop, and what is in production. Made from the same functions as the DAGs."""

import os
import sys
import warnings

import typer
from rich.console import Console

from pipelines.commands import canary, keys, labels, predict, production, scorecard, serving, stage, steps, upkeep

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="Keeps an image classifier good in production. Start with `classy loop`, or `make run` for the whole of it.",
)  # fmt: skip
for part in (steps, stage, scorecard, serving, predict, production):
    app.add_typer(part.app)
app.add_typer(canary.app, name="canary")
app.add_typer(keys.app, name="keys")
app.add_typer(labels.app, name="labels")
app.add_typer(upkeep.recipe_app, name="recipe")
app.add_typer(upkeep.db_app, name="db")
app.add_typer(upkeep.bench_app, name="bench")


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
