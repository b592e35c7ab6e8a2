"""The three sequencings, measured: components as servers in processes of their own, one photo, every hop watched."""

import asyncio
import io
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.client.answers import as_photo
from serving.components.base import Call
from serving.components.pipeline import Pipeline
from serving.components.remote import Remote
from serving.photos import Photo
from serving.problems import Problem

COMPONENTS = ("downloader", "preprocessor", "classifier")
CLIENT = "client"
STARTS_S = 180.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Hop:
    """One request of one process to another: bytes of the messages, and milliseconds there and back."""

    name: str
    sent: int
    received: int
    milliseconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One sequencing. Hops that lie inside another one (the server's own) are in its time too."""

    sequencing: str
    hops: list[Hop]
    sent: int
    received: int
    """Over the client's own line: what a phone pays for."""
    milliseconds: float
    """Median of the whole, as the client sees it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences:
    label: str
    photo_bytes: int
    protocol: str
    asks: int
    ways: list[Way]


def drawn_photo(width: int = 800, height: int = 600) -> bytes:
    """A JPEG of soft shapes and grain, about as large as a phone's small photo."""
    rng = np.random.default_rng(7)
    small = Image.fromarray(rng.integers(40, 220, (9, 12, 3), dtype=np.uint8)).resize((width, height))
    grain = rng.normal(0, 6, (height, width, 3))
    pixels = np.clip(np.asarray(small) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()


def run(
    settings: Settings,
    recipe: Recipe,
    *,
    photo: bytes | Path | str,
    sender: str = "",
    asks: int = 20,
    protocol: str = "grpc",
    say: Callable[[str], None] = print,
) -> Sequences:
    """Start the servers, go each way `asks` times in turns, stop the servers.

    Raises:
        ClassyError: a server does not start, or the answers differ.
    """
    with servers(settings, say) as at:
        addresses = {name: ports[protocol] for name, ports in at.items()}
        return asyncio.run(measure(addresses, photo, sender=sender, asks=asks, protocol=protocol))


# --------------------------------------------------------------------------------------------- the servers


@contextmanager
def servers(settings: Settings, say: Callable[[str], None]) -> Iterator[dict[str, dict[str, str]]]:
    """`classy serve` for each component and for the whole before them, on free ports of this machine."""
    names = (*COMPONENTS, "classy")
    free = iter(_free_ports(2 * len(names)))
    ports = {name: {"rest": next(free), "grpc": next(free)} for name in names}
    at = {
        name: {"rest": f"http://127.0.0.1:{port['rest']}", "grpc": f"grpc://127.0.0.1:{port['grpc']}"}
        for name, port in ports.items()
    }
    hops = {name: at[name]["grpc"] for name in COMPONENTS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="classy-sequences-")))
        running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        for name in names:
            elsewhere = ",".join(f"{hop}={address}" for hop, address in hops.items() if hop != name)
            environment = {
                **os.environ,
                "CLASSY_HOME": str(settings.home),
                "CLASSY_RECIPE": settings.recipe,
                "CLASSY_HOST": "127.0.0.1",
                "CLASSY_REST_PORT": str(ports[name]["rest"]),
                "CLASSY_GRPC_PORT": str(ports[name]["grpc"]),
                "CLASSY_AUTH": "off",
                "CLASSY_WORKERS": "1",
                "CLASSY_HOPS": elsewhere,
            }
            log = folder / f"{name}.log"
            running[name] = (stack.enter_context(_process(["serve", name], environment, log)), log)
        say(f"starting {', '.join(names)} as processes of their own …")
        for name, (process, log) in running.items():
            _wait(name, at[name]["rest"], process, log)
        try:
            yield at
        except Problem:
            for name, (process, log) in running.items():
                _still_runs(name, process, log)
            raise


@contextmanager
def _process(arguments: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *arguments], env=environment, stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(name: str, address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + STARTS_S
    why = "no answer yet"
    while time.monotonic() < until:
        _still_runs(name, process, log)
        try:
            found = httpx.get(f"{address}/v2/health/ready", timeout=5, trust_env=False)
            if found.status_code == 200:
                about = httpx.get(f"{address}/v2/models/{name}", timeout=5, trust_env=False).json()
                # It may have looked for the others before they were there: gRPC tries again only after a while.
                unseen = [hop for hop, told in about["properties"].get("hops", {}).items() if not told["ready"]]
                if not unseen:
                    return
                why = f"it does not reach {', '.join(unseen)}"
            else:
                why = found.text[:200]
        except httpx.TransportError as error:
            why = str(error)
        time.sleep(0.2)
    raise ClassyError(
        f"classy serve {name} is not ready after {STARTS_S:.0f} s: {why}; a home needs a champion (`classy status`)"
    )


def _still_runs(name: str, process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None:
        said = log.read_text(errors="replace").strip()[-600:]
        raise ClassyError(f"classy serve {name} ended with {process.returncode}: {said}")


def _free_ports(count: int) -> list[int]:
    """Different ones: each is held until all are found."""
    with ExitStack() as held:
        found = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in found]


# --------------------------------------------------------------------------------------------- the measure


async def measure(at: dict[str, str], photo: bytes | Path | str, *, sender: str, asks: int, protocol: str) -> Sequences:
    """Go each way in turns: what slows the machine for a while slows all three."""
    remotes = {name: Remote(name, [address]) for name, address in at.items()}
    for remote in remotes.values():
        await remote.start()
    client = Pipeline(*(remotes[name] for name in COMPONENTS))
    asked = as_photo(photo, sender=sender)
    first, following = ("downloader", "preprocessor,classifier") if asked.url else ("preprocessor", "classifier")

    async def by_client(one: Photo) -> None:
        await client.apply([one], Call())

    async def by_server(one: Photo) -> None:
        await remotes["classy"].apply([one], Call())

    async def hybrid(one: Photo) -> None:
        await remotes[first].apply([one], Call(parameters={"next": following}))

    ways = {"client": by_client, "server": by_server, "hybrid": hybrid}
    answers: dict[str, Photo] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for name, go in ways.items():
        for _ in range(3):  # connections, caches
            answers[name] = await _once(go, photo, sender)
    _check(answers)
    for _ in range(asks):
        for name, go in ways.items():
            start = time.perf_counter()
            await _once(go, photo, sender)
            seconds[name].append(time.perf_counter() - start)
    found = [await _way(name, go, remotes, photo, sender, asks, seconds[name]) for name, go in ways.items()]
    for remote in remotes.values():
        await remote.stop()
    size = len(asked.photo or b"") or len(answers["client"].photo or b"")
    return Sequences(label=answers["client"].label, photo_bytes=size, protocol=protocol, asks=asks, ways=found)


async def _once(go: Any, photo: bytes | Path | str, sender: str) -> Photo:
    one = as_photo(photo, sender=sender)
    await go(one)
    if one.problem is not None:
        raise one.problem
    return one


def _check(answers: dict[str, Photo]) -> None:
    said = {name: None if one.probabilities is None else one.probabilities.tobytes() for name, one in answers.items()}
    if len(set(said.values())) > 1:
        raise ClassyError(f"the sequencings answer differently: { {name: one.label for name, one in answers.items()} }")


async def _way(
    name: str, go: Any, remotes: dict[str, Remote], photo: Any, sender: str, asks: int, seconds: list[float]
) -> Way:
    """One way alone, and what every process counted before and after it."""
    before = await _traffic(remotes)
    for _ in range(asks):
        await _once(go, photo, sender)
    after = await _traffic(remotes)
    hops = []
    for key, now in after.items():
        then = before[key]
        if now["requests"] > then["requests"]:
            mean = {what: (now[what] - then[what]) / asks for what in ("sent_bytes", "received_bytes", "seconds")}
            hops.append(
                Hop(
                    name=key,
                    sent=round(mean["sent_bytes"]),
                    received=round(mean["received_bytes"]),
                    milliseconds=1000 * mean["seconds"],
                )
            )
    return Way(
        sequencing=name,
        hops=hops,
        sent=sum(hop.sent for hop in hops if hop.name.startswith(CLIENT)),
        received=sum(hop.received for hop in hops if hop.name.startswith(CLIENT)),
        milliseconds=1000 * statistics.median(seconds),
    )


async def _traffic(remotes: dict[str, Remote]) -> dict[str, dict[str, float]]:
    """Counted so far, by hop: of this client, and of each server that asks others."""
    found = {f"{CLIENT} → {name}": remote.traffic() for name, remote in remotes.items()}
    for name, remote in remotes.items():
        told = (await remote.learn(STARTS_S)).properties.get("hops") or {}
        found |= {f"{name} → {hop}": counted for hop, counted in told.items()}
    return found
