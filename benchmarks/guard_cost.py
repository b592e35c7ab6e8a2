"""What it costs to download and decode a stranger's photo with care.

    python -m benchmarks.guard_cost

Guarded: `serving.fetching.Fetcher` (addresses checked on every connection, time, size and redirects bounded) and
`serving.canonical` (header checked before pixels are decoded), as they serve. Beside them, in turns, from one server on
this machine that answers with photos of 400×533:

- naive: `httpx.AsyncClient().get(url)`, then Pillow `open`, `exif_transpose`, `convert("RGB")`, crop and `resize`: what
  one writes first. It decodes the photo in full;
- strict: the same libraries and calls without any check: `aiohttp.ClientSession().get(url)`, then Pillow `open`,
  `draft`, `load`, and the very same crop and resize, which gives the same pixels.
"""

import asyncio
import io
import random
import time
from collections.abc import Awaitable, Callable

import aiohttp
import httpcore
import httpx
import numpy as np
from PIL import Image, ImageOps

from benchmarks.record import Row, record
from serving.canonical import ImageSpec, canonicalise
from serving.fetching import Fetcher

SIZE, PHOTOS, ROUNDS = 64, 40, 30
SPEC = ImageSpec(size=SIZE)
GOAL = 1 / 1.1
Way = Callable[[str], Awaitable[np.ndarray]]


def photos(count: int = PHOTOS) -> list[bytes]:
    """JPEGs of 400×533 with the detail of a phone's photo, about 30 kB each."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (20, 15, 3), dtype=np.uint8)).resize(
            (400, 533), Image.Resampling.BICUBIC
        )
        noise = rng.normal(0, 6, (533, 400, 3))
        out = io.BytesIO()
        Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=75)
        found.append(out.getvalue())
    return found


class _Server(asyncio.Protocol):
    """Answers /N with photo N, as fast as it can be done: what is measured is the client."""

    def __init__(self, bodies: list[bytes]) -> None:
        self._bodies = bodies
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._head += data
        while b"\r\n\r\n" in self._head:
            head, _, self._head = self._head.partition(b"\r\n\r\n")
            body = self._bodies[int(head.split(b" ", 2)[1].lstrip(b"/"))]
            lines = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body)
            self._transport.write(lines + body)  # type: ignore[attr-defined]


def _square(image: Image.Image) -> tuple[float, float, float, float]:
    width, height = image.size
    edge = min(width, height)
    left, top = (width - edge) / 2, (height - edge) / 2
    return left, top, left + edge, top + edge


def naive_decode(data: bytes) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    box = tuple(int(side) for side in _square(image))
    return np.asarray(image.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def strict_decode(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    width, height = image.size
    edge = min(width, height)
    image.draft(None, (2 * SIZE * width // edge, 2 * SIZE * height // edge))
    image.load()
    size = (SIZE, SIZE)
    return np.array(image.resize(size, Image.Resampling.BILINEAR, box=_square(image), reducing_gap=2.0))


async def _measure() -> dict[str, list[float]]:
    bodies = photos()
    server = await asyncio.get_running_loop().create_server(lambda: _Server(bodies), "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    fetcher = Fetcher(allow_private=True)
    seconds: dict[str, list[float]] = {}
    async with server, httpx.AsyncClient() as simple, aiohttp.ClientSession() as bare:

        async def guarded(url: str) -> np.ndarray:
            return canonicalise(await fetcher.fetch(url), SPEC)

        async def naive(url: str) -> np.ndarray:
            return naive_decode((await simple.get(url)).content)

        async def strict(url: str) -> np.ndarray:
            async with bare.get(url) as answer:
                return strict_decode(await answer.read())

        ways: dict[str, Way] = {"guarded": guarded, "naive": naive, "strict": strict}
        for number in range(PHOTOS):
            url = f"{base}/{number}"
            if not np.array_equal(await guarded(url), await strict(url)):
                raise AssertionError(f"photo {number}: guarded and strict give other pixels")
            await naive(url)
        order = list(ways)
        for _ in range(ROUNDS):
            for number in range(PHOTOS):
                random.shuffle(order)
                for name in order:
                    start = time.perf_counter()
                    await ways[name](f"{base}/{number}")
                    seconds.setdefault(name, []).append(time.perf_counter() - start)
    await fetcher.stop()
    return seconds


def rows() -> list[Row]:
    """Guarded against naive and against strict, at the median; less than ten seconds."""
    seconds = asyncio.run(_measure())
    ours = np.array(seconds["guarded"]) * 1000
    found = []
    for name, other in (("guard_cost", "naive"), ("guard_cost_strict", "strict")):
        theirs = np.array(seconds[other]) * 1000
        low, high = np.quantile(_medians(ours, theirs), [0.025, 0.975])
        label = {"naive": "httpx + Pillow, as one writes first", "strict": "aiohttp + Pillow draft, no checks"}[other]
        found.append(
            Row(
                name=name,
                ours=round(float(np.median(ours)), 4),
                other=round(float(np.median(theirs)), 4),
                other_name=label,
                unit="ms at p50, one photo of 400×533 from a local server to 64×64",
                better="less",
                spread=f"95% of the ratio {low:.3f} to {high:.3f}, {len(ours)} each",
                goal=GOAL,
            )
        )
    return found


def _medians(ours: np.ndarray, theirs: np.ndarray) -> list[float]:
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(ours), (500, len(ours)))
    return [float(np.median(theirs[pick]) / np.median(ours[pick])) for pick in picks]


async def _libraries() -> dict[str, float]:
    bodies = photos(1)
    server = await asyncio.get_running_loop().create_server(lambda: _Server(bodies), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    found: dict[str, float] = {}
    async with (
        server,
        httpx.AsyncClient() as simple,
        httpcore.AsyncConnectionPool() as core,
        aiohttp.ClientSession() as bare,
    ):

        async def by_aiohttp() -> None:
            async with bare.get(url) as answer:
                await answer.read()

        ways = {"httpx": lambda: simple.get(url), "httpcore": lambda: core.request("GET", url), "aiohttp": by_aiohttp}
        for _ in range(8):
            for name, way in ways.items():
                start = time.process_time()
                for _ in range(100):
                    await way()
                found[name] = min(found.get(name, 1e9), (time.process_time() - start) * 10)
    return found


if __name__ == "__main__":
    path, libraries = record("guard", found := rows()), asyncio.run(_libraries())
    for row in found:
        print(f"{row.name}: {row.ours} ms, {row.other_name} {row.other} ms ({row.spread})")
    print("CPU of one download, server included: " + ", ".join(f"{k} {v:.2f} ms" for k, v in libraries.items()))
    print(path)
