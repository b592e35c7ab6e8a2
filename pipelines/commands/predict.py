"""`classy predict`: photos and addresses in, a table of classes out."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.commands import sequence
from pipelines.commands.shared import JsonOption, show
from pipelines.errors import ClassyError
from pipelines.models.links import server_url
from pipelines.settings import load_settings

if TYPE_CHECKING:
    from serving.client import Answer

app = typer.Typer()
app.add_typer(sequence.app)
ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp"})
LONG = 32
"""Photos from which on progress is shown."""


class Sequencing(StrEnum):
    server = "server"
    client = "client"
    hybrid = "hybrid"


@app.command(rich_help_panel="Live answers")
def predict(
    photos: Annotated[
        list[str], typer.Argument(help="Files, folders, patterns such as 'photos/*.jpg', addresses (https://…).")
    ],
    sender: Annotated[str, typer.Option(help="Who sent them, as the feature store knows senders.")] = "",
    url: Annotated[str, typer.Option(help="The server: http(s)://host:port, or grpc(s)://host:port.")] = "",
    key: Annotated[
        str, typer.Option(help="API key; default CLASSY_API_KEY, or the one in HOME/serving of this machine's server.")
    ] = "",
    sequencing: Annotated[
        Sequencing,
        typer.Option(help="Who leads a photo through the components: server, client, or hybrid (each hands on)."),
    ] = Sequencing.server,
    arm: Annotated[str, typer.Option(help="Which model must answer: champion, canary, its name, or a version.")] = "",
    timeout: Annotated[float, typer.Option(help="Seconds for one request.")] = 30.0,
    cafile: Annotated[str, typer.Option(help="Certificates to trust, for a server with its own.")] = "",
    json_: JsonOption = False,
) -> None:
    """Ask the server what photos show. Exit code 1 where any of them was not answered."""
    from serving.client import AsyncClient, Unreachable
    from serving.client.answers import find_key

    settings = load_settings()
    address = url or server_url(settings)
    sources = find(photos)
    client = AsyncClient(
        address, key or find_key(None, home=settings.home), sequencing=sequencing.value, arm=arm, timeout_s=timeout,
        verify=cafile or settings.tls_cert,
    )  # fmt: skip
    try:
        answers = asyncio.run(_ask(client, sources, sender, quiet=json_))
    except Unreachable as error:
        raise ClassyError(f"{error}. Is the server up? `classy serve` starts it, `--url` says where it is") from None
    if json_:
        show([answer.as_json() for answer in answers], True)
    else:
        tell(answers, Console(highlight=False))
    if not all(answer.ok for answer in answers):
        raise typer.Exit(1)


def find(given: Sequence[str], *, others: bool = False) -> list[Path | str]:
    """Files, and addresses as text, in the order given; folders and patterns give their photos by name.

    Args:
        others: addresses of any kind (s3://…) are taken, not those of the web alone.

    Raises:
        ClassyError: something is no file, folder, pattern or address.
    """
    found: list[Path | str] = []
    for text in given:
        path = Path(text).expanduser()
        if "://" in text and (others or text.lower().startswith(("http://", "https://"))):
            found.append(text)
        elif path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
            if not inside:
                raise ClassyError(f"{text}: no photo in this folder ({', '.join(sorted(ENDINGS))})")
            found += inside
        elif path.exists():
            found.append(path)
        elif any(sign in text for sign in "*?["):
            root = Path(path.anchor) if path.is_absolute() else Path()
            matched = sorted(file for file in root.glob(str(path.relative_to(path.anchor))) if file.is_file())
            if not matched:
                raise ClassyError(f"{text}: matches no file")
            found += matched
        else:
            schemes = "s3:// or https://, say" if others else "https:// or http://"
            raise ClassyError(f"{text}: no such file or folder, and no address that begins with {schemes}")
    return found


async def _ask(client: Any, sources: Sequence[Path | str], sender: str, *, quiet: bool) -> list["Answer"]:
    async with client:
        with _progress(len(sources), quiet) as bar:
            task = bar.add_task("photos", total=len(sources)) if bar else None
            return await client.classify_many(
                sources, sender=sender, told=(lambda count: bar.advance(task, count)) if bar else None
            )


def _progress(count: int, quiet: bool) -> Any:
    if quiet or count < LONG:
        return nullcontext()
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    return Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    )


def tell(answers: Sequence["Answer"], console: Console) -> None:
    """For people: a row a photo, and below it what is wrong with those that were not answered, each thing once."""
    names = _short([answer.source for answer in answers])
    answered = [(name, answer) for name, answer in zip(names, answers, strict=True) if answer.problem is None]
    if answered:
        console.print(_table(answered))
    wrong: dict[str, list[str]] = {}
    for name, answer in zip(names, answers, strict=True):
        if answer.problem is not None:
            wrong.setdefault(answer.problem.message, []).append(name)
    for message, photos in wrong.items():
        shown = ", ".join(photos[:3]) + (f" and {len(photos) - 3} more" if len(photos) > 3 else "")
        console.print(f"[red]{escape(shown)}[/]: {escape(message)}", soft_wrap=True)


def _table(answered: Sequence[tuple[str, "Answer"]]) -> Table:
    found = Table(box=None, pad_edge=False)
    for name in ("photo", "class", "confidence", "version", "arm", "ms"):
        found.add_column(name, justify="right" if name in ("confidence", "ms") else "left", overflow="fold")
    for name, answer in answered:
        marks = [text for text, there in (("cached", answer.cached), ("sender not known", answer.defaulted)) if there]
        found.add_row(
            escape(name),
            f"[bold]{escape(answer.label)}[/]",
            f"{answer.confidence:.1%}",
            escape(answer.model_version),
            escape(", ".join([answer.arm, *marks])),
            f"{answer.milliseconds:.1f}",
        )
    return found


def _short(sources: Sequence[str]) -> list[str]:
    """Names of files instead of their paths, where these tell them apart."""
    names = [source if "://" in source else Path(source).name for source in sources]
    return names if len(set(names)) == len(set(sources)) else list(sources)
