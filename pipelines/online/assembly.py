"""One server process, put together from settings and a recipe. Read from top to bottom it is the list of what there is.

async with assemble(settings, recipe, component="classy") as made:
    await serving.listen.serve(made.server, metrics=made.metrics, …)
"""

import asyncio
import importlib.metadata
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.data.images import spec_of
from pipelines.errors import ClassyError
from pipelines.online.keys import make_gate
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving import traces
from serving.access.gate import KeyGate
from serving.components.base import Component
from serving.components.downloader import Downloader
from serving.components.hops import HopError, Onward, open_hops, parse_hops
from serving.components.pipeline import Pipeline
from serving.components.preprocessor import Preprocessor
from serving.fetching import Fetcher, FetchLimits
from serving.metrics import Metrics
from serving.seams import Board, Gate, LabelDesk, TruthSink
from serving.server import Limits, Repository, Server
from serving.turns import Turns

if TYPE_CHECKING:
    from pipelines.online.byhand import ByHand
    from pipelines.online.features import OnlineFeatures
    from serving.lanes import Lane
    from serving.recall import Recall
    from serving.versions.arms import Arms
    from serving.versions.follower import Follower
    from serving.versions.shelf import Shelf

COMPONENTS = ("downloader", "preprocessor", "classifier")
WHOLE = "classy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A server whose parts have started."""

    server: Server
    metrics: Metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answering:
    """What a process needs that has models in it."""

    classifier: Component
    arms: "Arms"
    features: "OnlineFeatures"
    recall: "Recall | None"
    shelf: "Shelf"
    follower: "Follower"
    hand: "ByHand"


def metrics_folder(settings: Settings) -> Path:
    """Where workers put what they counted."""
    return settings.home / "serving" / "metrics"


def clean_metrics(settings: Settings) -> None:
    """Before the first worker: figures of an earlier server are not this one's."""
    from serving.metrics_files import clean

    clean(metrics_folder(settings))


@asynccontextmanager
async def assemble(
    settings: Settings,
    recipe: Recipe,
    *,
    component: str = WHOLE,
    onward: Sequence[str] = (),
    worker: int = 0,
) -> AsyncIterator[Made]:
    """The parts of one process. What stands behind the components is started, and stopped in reverse when the block
    ends, the log last; the components themselves are started and stopped by whoever listens.

    Args:
        component: `classy` for all of it, or one of COMPONENTS as a process of its own.
        onward: hops that go on with what it made.
        worker: this process's number among several.

    Raises:
        ClassyError: a setting is wrong; it is named.
    """
    async with AsyncExitStack() as stack:
        version = importlib.metadata.version("classy")
        traces.start(f"classy-{component}" if component != WHOLE else WHOLE, version=version)
        stack.callback(traces.stop)
        folder = metrics_folder(settings) if settings.workers > 1 else None
        metrics = Metrics(version=version, folder=folder, worker=str(worker))
        gate = await open_gate(settings, metrics, stack)
        turns = Turns(_threads(settings))
        local, answering = await _components(settings, recipe, component, metrics, stack, worker, turns)
        served, hops = _hops(settings, recipe, component, local, onward, answering)
        for hop in hops:
            await hop.start()
            stack.push_async_callback(hop.stop)
        server = Server(
            components=served,
            gate=gate,
            limits=Limits(
                max_bytes=recipe.serving.max_request_bytes,
                max_photos=recipe.serving.max_photos,
                timeout_s=recipe.serving.timeout_s,
            ),
            repository=_repository(served, answering) if answering else None,
            truth=_truth(settings, recipe) if answering else None,
            board=_board(settings) if answering else None,
            labels=_labels(settings, recipe) if answering else None,
            version=version,
            about={"recipe": recipe.name, "component": component, "worker": worker, "auth": settings.auth},
        )
        metrics.watch(lanes=partial(_lanes, served))
        metrics.start()
        stack.callback(metrics.stop)
        yield Made(server=server, metrics=metrics)


async def open_gate(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Gate:
    """Who may come in, as the settings say; it is stopped with the stack."""
    gate = make_gate(settings)
    if isinstance(gate, KeyGate):
        await gate.start()
        stack.push_async_callback(gate.stop)
        metrics.watch(keys=gate.ring)
    return gate


async def _components(
    settings: Settings,
    recipe: Recipe,
    component: str,
    metrics: Metrics,
    stack: AsyncExitStack,
    worker: int,
    turns: Turns,
) -> tuple[dict[str, Component], _Answering | None]:
    """The components of this process by name, not started yet, and what stands behind the classifier."""
    elsewhere = _elsewhere(settings)
    wanted = [name for name in COMPONENTS if name not in elsewhere] if component == WHOLE else [component]
    given = recipe.serving
    found: dict[str, Component] = {}
    answering = await _answering(settings, recipe, metrics, stack, worker, turns) if "classifier" in wanted else None
    if "downloader" in wanted:
        limits = FetchLimits(
            seconds=given.url_seconds,
            max_bytes=recipe.image.max_bytes,
            hosts=given.url_hosts,
            own_networks=tuple(map(str, given.url_networks)),
        )
        found["downloader"] = Downloader(Fetcher(limits), given.max_photos, max_total_bytes=given.max_request_bytes)
    if "preprocessor" in wanted:
        # The champion's own images: one that was trained on others is served with them.
        arms = answering.arms if answering else None
        found["preprocessor"] = Preprocessor(
            lambda: arms.image_spec() if arms and arms.all() else spec_of(recipe),
            threads=_threads(settings), queue=given.queue, limit=given.max_photos, turns=turns,
        )  # fmt: skip
    if answering is not None:
        found["classifier"] = answering.classifier
    return found, answering


async def _answering(
    settings: Settings, recipe: Recipe, metrics: Metrics, stack: AsyncExitStack, worker: int, turns: Turns
) -> _Answering:
    """Models that follow the ledger, with features, the log and what is remembered."""
    from pipelines.online import answers, deployments, guard, packages
    from pipelines.online.byhand import ByHand
    from pipelines.online.features import OnlineFeatures
    from pipelines.online.log import SqlLog
    from pipelines.online.loop_figures import LoopFigures
    from serving.components.classifier import Classifier
    from serving.engines.loaded import Loaded
    from serving.recall import Recall
    from serving.versions.arms import Arms
    from serving.versions.follower import Follower
    from serving.versions.shelf import Shelf
    from serving.versions.tally import Tally

    given = recipe.serving
    log = SqlLog(settings, worker=worker)
    await asyncio.to_thread(log.start)
    stack.push_async_callback(asyncio.to_thread, log.stop)
    tally = Tally(f"{socket.gethostname()}-{worker}-{os.getpid()}"[-64:])
    _beside(guard.flush(settings, tally), stack)
    if worker == 0:
        _beside(guard.guard(settings, recipe), stack)
        loop = LoopFigures(settings)
        _beside(loop.follow(), stack)
        metrics.watch(loop=loop)
    arms, features = Arms(tally), OnlineFeatures(settings, recipe)
    open_model = partial(
        Loaded.open,
        runtime=settings.runtime,
        threads=_threads(settings),
        batch=given.batch,
        wait_ms=given.batch_wait_ms,
        queue=given.queue,
        turns=turns,
    )
    shelf = Shelf(packages.fetcher(settings), open_model, service_hash=features.service_hash)
    hand = ByHand(settings)
    follower = Follower(arms, shelf, deployments.reader(settings), wanted=hand.wanted)
    await follower.start()
    stack.push_async_callback(follower.stop)
    recall = Recall(given.cache, answers.reader(settings)) if given.cache else None
    classifier = Classifier(arms, features, log, recall=recall, limit=given.max_photos)
    metrics.watch(arms=arms, log=log.counters)
    if recall is not None:
        metrics.watch(recall=lambda: {"hits": recall.hits, "misses": recall.misses})
    return _Answering(
        classifier=classifier, arms=arms, features=features, recall=recall, shelf=shelf, follower=follower, hand=hand
    )


def _threads(settings: Settings) -> int:
    """Threads of a lane: several workers have a core each."""
    return 1 if settings.workers > 1 else settings.cores


def _beside(work: Coroutine[Any, Any, None], stack: AsyncExitStack) -> None:
    """Run something beside the server until it ends."""
    task = asyncio.ensure_future(work)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)


def _elsewhere(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Components that other processes answer for: name → addresses."""
    try:
        return parse_hops(settings.hops)
    except HopError as error:
        raise ClassyError(f"CLASSY_HOPS={settings.hops!r}: {error}") from None


def _hops(
    settings: Settings,
    recipe: Recipe,
    component: str,
    local: dict[str, Component],
    onward: Sequence[str],
    answering: _Answering | None,
) -> tuple[dict[str, Component], list[Component]]:
    """What is served, each able to hand on, and the remote components that are started and stopped beside it."""
    # A process of one component serves it, also where the setting, which many processes share, names it.
    registry = {**open_hops(settings.hops), **local}
    remote = [hop for name, hop in registry.items() if name not in local]
    if unknown := [name for name in onward if name not in registry]:
        raise ClassyError(
            f"--next {','.join(onward)}: {unknown[0]!r} is nowhere; name it in CLASSY_HOPS, such as "
            f"{unknown[0]}=grpc://host:8001"
        )
    served: dict[str, Component] = {
        name: Onward(part, registry, tuple(onward) if name == component else ()) for name, part in local.items()
    }
    if component == WHOLE:
        served[WHOLE] = Pipeline(
            registry["downloader"],
            registry["preprocessor"],
            registry["classifier"],
            recall=answering.recall if answering else None,
            arms=answering.arms if answering else None,
            features=answering.features if answering else None,
            limit=recipe.serving.max_photos,
        )
    return served, remote


def _repository(served: Mapping[str, Component], answering: _Answering) -> Repository:
    from serving.versions.repository import Versions

    hand = answering.hand
    return Versions(
        served, answering.arms, answering.shelf, answering.follower,
        resolve=hand.resolve, wanted=hand.wanted, want=hand.want,
    )  # fmt: skip


def _truth(settings: Settings, recipe: Recipe) -> TruthSink:
    from pipelines.online.truth import SqlTruth

    return SqlTruth(settings, recipe)


def _board(settings: Settings) -> Board:
    from pipelines.online.board import FileBoard

    return FileBoard(settings)


def _labels(settings: Settings, recipe: Recipe) -> LabelDesk:
    from pipelines.online.labels import SqlDesk

    return SqlDesk(settings, recipe)


def _lanes(served: Mapping[str, Component]) -> list["Lane[Any, Any]"]:
    """Those of components; the metrics find those of models by themselves."""
    parts = [getattr(part, "component", part) for part in served.values()]
    return [part.lane for part in parts if isinstance(part, Preprocessor)]
