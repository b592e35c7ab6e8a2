"""`classy serve`: the live server, or one of its components."""

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from pipelines.commands.shared import JsonOption, RecipeOption, door, show

app = typer.Typer()
SERVE = "Live answers"


class Served(StrEnum):
    classy = "classy"
    downloader = "downloader"
    preprocessor = "preprocessor"
    classifier = "classifier"


class Engine(StrEnum):
    plain = "plain"
    ray = "ray"


@app.command(rich_help_panel=SERVE)
def serve(
    component: Annotated[
        Served, typer.Argument(help="classy: all of it. Or one component, as a process of its own.")
    ] = Served.classy,
    onward: Annotated[
        str,
        typer.Option("--next", help="Components that go on with what this one made, such as preprocessor,classifier."),
    ] = "",
    workers: Annotated[int, typer.Option(help="Server processes on the same ports; default CLASSY_WORKERS.")] = 0,
    engine: Annotated[Engine, typer.Option(help="ray: the components as Ray Serve deployments.")] = Engine.plain,
    tls_cert: Annotated[
        str,
        typer.Option(help="Certificate and chain (PEM); with --tls-key both ports speak TLS. Default CLASSY_TLS_CERT."),
    ] = "",
    tls_key: Annotated[str, typer.Option(help="The certificate's key (PEM). Default CLASSY_TLS_KEY.")] = "",
    worker: Annotated[int, typer.Option(hidden=True)] = -1,
    recipe: RecipeOption = "",
    json_: JsonOption = False,
) -> None:
    """Answer live requests over REST and gRPC until Ctrl-C.

    What answers is what the ledger says: a promotion, a canary or a rollback is followed within seconds, and no request
    fails. Access control is on: `classy keys create` makes keys, and this machine has one in HOME/serving.
    Where it listens: CLASSY_HOST, CLASSY_REST_PORT, CLASSY_GRPC_PORT.
    """
    from pipelines import serve as server

    settings, loaded = door(recipe)
    given = {"workers": workers, "tls_cert": tls_cert, "tls_key": tls_key}
    settings = settings.model_copy(update={name: value for name, value in given.items() if value})
    console = Console(stderr=True)
    server.run(
        settings,
        loaded,
        component=component.value,
        onward=tuple(name.strip() for name in onward.split(",") if name.strip()),
        engine=engine.value,
        worker=worker,
        ready=lambda where: show(where, json_),
        say=lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
    )
