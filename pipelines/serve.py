"""The live server: `classy`, or one of its components, over REST and gRPC.

    classy serve [COMPONENT] [--next NAMES] [--workers N] [--engine ray] [--tls-cert FILE --tls-key FILE]

One process, or several on the same two ports. `pipelines/online/` says what each is made of.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from monitoring.stores import StoreError
from pipelines.online import workers
from pipelines.recipe import Recipe
from pipelines.settings import Settings

Show = Callable[[Any], None]
NOTICE_S = 1.0
"""How long "not ready" is said before the ports close, so that a balancer sends nobody any more."""
WITH_MODELS = ("classy", "classifier")
"""Components whose process has models: it makes a key, and shows the monitor."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True, slots=True)
class Where:
    """Where a server answers."""

    model: str
    rest: str
    grpc: str
    page: str
    monitor: str | None
    """The monitor's pages; None: this is one component."""
    key_file: str | None
    """A key for this machine; None: access control is off, or this is one component."""


def run(
    settings: Settings,
    recipe: Recipe,
    *,
    component: str = "classy",
    onward: Sequence[str] = (),
    engine: str = "plain",
    worker: int = -1,
    ready: Show,
    say: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        component: classy, downloader, preprocessor or classifier.
        onward: hops that go on with what this component made.
        engine: plain, or ray.
        worker: number of this process among several; -1: it is the first.
        ready: told where the server answers, once it does.
        say: told what a person should know.

    Raises:
        ClassyError, Problem: a port, a certificate or a setting is wrong.
    """
    _check(settings, say)
    if engine == "ray":
        from pipelines.online import ray

        key_file = _key_file(settings, component, say)
        told = partial(_where, settings, component)
        ray.run(settings, recipe, ready=lambda rest, grpc: ready(asdict(told(rest, grpc, key_file))), say=say)
        return
    if worker >= 0 or settings.workers == 1:
        from serving import listen

        listen.run(_serve(settings, recipe, component, onward, worker, ready, say))
        return
    _fleet(settings, recipe, component, onward, ready, say)


def _check(settings: Settings, say: Callable[[str], None]) -> None:
    from serving.access.certificates import check_certificate

    certificate = check_certificate(settings.tls_cert, settings.tls_key)
    if certificate is not None and certificate.warning:
        say(certificate.warning)
    if settings.auth == "off" and settings.host not in LOOPBACK:
        say(f"access control is off, and {settings.host} is not this machine alone: whoever reaches it may do anything")


def _fleet(
    settings: Settings, recipe: Recipe, component: str, onward: Sequence[str], ready: Show, say: Callable[[str], None]
) -> None:
    from pipelines.online.assembly import clean_metrics

    clean_metrics(settings)
    with ExitStack() as stack:
        rest = stack.enter_context(workers.reserved(settings.host, settings.rest_port))
        grpc = stack.enter_context(workers.reserved(settings.host, settings.grpc_port))
        arguments = ["serve", component, "--workers", str(settings.workers), "--recipe", settings.recipe]
        if onward:
            arguments += ["--next", ",".join(onward)]
        fixed = {
            "CLASSY_HOME": str(settings.home),
            "CLASSY_REST_PORT": str(rest),
            "CLASSY_GRPC_PORT": str(grpc),
            "CLASSY_TLS_CERT": settings.tls_cert,
            "CLASSY_TLS_KEY": settings.tls_key,
        }
        key_file = _key_file(settings, component, say)
        workers.supervise(
            arguments,
            workers=settings.workers,
            environment=fixed,
            ready=lambda: ready(asdict(_where(settings, component, rest, grpc, key_file))),
            say=say,
        )


async def _serve(
    settings: Settings,
    recipe: Recipe,
    component: str,
    onward: Sequence[str],
    worker: int,
    ready: Show,
    say: Callable[[str], None],
) -> None:
    from pipelines.online.assembly import assemble, clean_metrics
    from serving.listen import serve

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if worker < 0:
        clean_metrics(settings)
    key_file = _key_file(settings, component, say)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def answering(rest: int, grpc: int) -> None:
        if worker < 0:
            ready(asdict(_where(settings, component, rest, grpc, key_file)))
        workers.say_ready()

    async with assemble(settings, recipe, component=component, onward=onward, worker=max(worker, 0)) as made:
        await serve(
            made.server,
            metrics=made.metrics,
            host=settings.host,
            rest_port=settings.rest_port,
            grpc_port=settings.grpc_port,
            tls_cert=settings.tls_cert,
            tls_key=settings.tls_key,
            ready=answering,
            stop=stop,
            notice_s=NOTICE_S,
        )


def _key_file(settings: Settings, component: str, say: Callable[[str], None]) -> str | None:
    if settings.auth == "off" or component not in WITH_MODELS:
        return None
    from pipelines.online.keys import first_key, local_key_file

    try:
        first_key(settings)
    except StoreError as error:
        say(f"no key for this machine was made: {error}")
        return None
    return str(local_key_file(settings))


def _where(settings: Settings, component: str, rest: int, grpc: int, key_file: str | None) -> Where:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    secure = "s" if settings.tls_cert else ""
    address = f"http{secure}://{f'[{host}]' if ':' in host else host}:{rest}"
    return Where(
        model=component,
        rest=address,
        grpc=f"grpc{secure}://{host}:{grpc}",
        page=f"{address}/",
        monitor=f"{address}/monitor" if component in WITH_MODELS else None,
        key_file=key_file,
    )
