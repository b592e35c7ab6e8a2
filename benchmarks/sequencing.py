"""Who leads a photo through the components, and what travels: time and bytes of the sequencings, bytes of the formats.

python -m benchmarks.sequencing        the table for docs/clients.md
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import orjson

from benchmarks import ours, world
from benchmarks.record import Row
from serving.channels.restwire import write_request
from serving.components.base import Call
from serving.components.pipeline import Pipeline
from serving.components.remote import Remote
from serving.messages import InferRequest, Tensor
from serving.photos import Photo
from serving.wire import rpc

ROUNDS = 200
ARCHITECTURES = {"VGG-16": 224, "ResNet-50": 224, "Inception-v3": 299, "MobileNet-v3": 224}
"""Sides of the pictures that they take: Simonyan & Zisserman (2015), He et al. (2016), Szegedy et al. (2016), Howard et
al. (2019)."""


def rows() -> list[Row]:
    """One call to `classy` beside a call to each component of the same server; then bytes of the formats."""
    made = world.settle()
    with ours.running(made, workers=1) as server:
        times, sizes = asyncio.run(_ways(f"http://127.0.0.1:{server.port}", server.key, made.sent[0]))
    median = {name: 1000 * statistics.median(found) for name, found in times.items()}
    around = "; ".join(
        f"{name} {1000 * np.quantile(found, 0.1):.2f} to {1000 * np.quantile(found, 0.9):.2f} ms"
        for name, found in times.items()
    )
    return [
        Row(name="server_vs_client_sequencing", ours=median["server"], other=median["client"],
            other_name="client sequencing", unit="ms a photo", better="less", goal=1.0,
            spread=f"10% to 90%: {around}; {ROUNDS} in turns, one server, REST"),
        Row(name="server_vs_client_sequencing_bytes", ours=sizes["server"], other=sizes["client"],
            other_name="client sequencing", unit="bytes a photo, there and back", better="less", goal=1.0,
            spread=f"hybrid: {sizes['hybrid']:.0f}; the photo has {len(made.sent[0].data)}"),
        *wire(made.sent[0].data),
    ]  # fmt: skip


async def _ways(address: str, key: str, sent: world.Sent) -> tuple[dict[str, list[float]], dict[str, float]]:
    remotes = {
        name: Remote(name, [address], key=key) for name in ("downloader", "preprocessor", "classifier", "classy")
    }
    client = Pipeline(remotes["downloader"], remotes["preprocessor"], remotes["classifier"])
    ways: dict[str, tuple[Callable[[Photo, Call], Awaitable[Any]], dict[str, str]]] = {
        "server": (lambda photo, call: remotes["classy"].apply([photo], call), {}),
        "client": (lambda photo, call: client.apply([photo], call), {}),
        "hybrid": (lambda photo, call: remotes["preprocessor"].apply([photo], call), {"next": "classifier"}),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    sizes: dict[str, float] = {}
    answers: dict[str, bytes] = {}
    for number in range(-5, ROUNDS):  # the first pay for connections and caches
        for name, (go, parameters) in ways.items():
            photo = Photo(photo=sent.data, sender=sent.sender)
            before = sum(_bytes(remote) for remote in remotes.values())
            start = time.perf_counter()
            await go(photo, Call(parameters=dict(parameters)))
            if number >= 0:
                times[name].append(time.perf_counter() - start)
            sizes[name] = sum(_bytes(remote) for remote in remotes.values()) - before
            if photo.problem is not None or photo.probabilities is None:
                raise RuntimeError(f"{name}: {photo.problem}")
            answers[name] = photo.probabilities.tobytes()
    for remote in remotes.values():
        await remote.stop()
    if len(set(answers.values())) > 1:
        raise RuntimeError("the sequencings answer differently")
    return times, sizes


def _bytes(remote: Remote) -> float:
    counted = remote.traffic()
    return counted["sent_bytes"] + counted["received_bytes"]


# ------------------------------------------------------------------------------------------------- formats


def wire(jpeg: bytes) -> list[Row]:
    """Bytes of one photo's request: as the file it is, beside the tensor that each architecture takes, in JSON."""
    found = []
    for name, sizes in table(jpeg).items():
        rest = ", ".join(f"{what} {count:,}" for what, count in sizes.items())
        found.append(
            Row(name=f"wire_{name}", ours=sizes["JPEG, binary"], other=sizes["float32, JSON"],
                other_name="float32 tensor in JSON", unit="bytes a photo", better="less", spread=rest)
        )  # fmt: skip
    return found


def table(jpeg: bytes) -> dict[str, dict[str, int]]:
    """Architecture → format → bytes of one request."""
    rng = np.random.default_rng(3)
    found: dict[str, dict[str, int]] = {}
    for name, side in ARCHITECTURES.items():
        pixels = rng.integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        floats = (pixels.astype(np.float32) / 255 - 0.45) / 0.225
        tensors = {
            "JPEG": Tensor("photo", "BYTES", (1,), [jpeg]),
            "uint8": Tensor("image", "UINT8", pixels.shape, pixels),
            "float32": Tensor("image", "FP32", floats.shape, floats),
        }
        found[name] = {}
        for what, tensor in tensors.items():
            request = InferRequest("classifier", [tensor])
            if what != "JPEG":
                found[name][f"{what}, JSON"] = len(_json(tensor))
            found[name][f"{what}, binary"] = len(write_request(request)[1])
            found[name][f"{what}, gRPC"] = len(rpc.write_request(request))
    return found


def _json(tensor: Tensor) -> bytes:
    data = np.asarray(tensor.data).reshape(-1)
    entry = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape, "data": data}
    return orjson.dumps({"inputs": [entry]}, option=orjson.OPT_SERIALIZE_NUMPY)


def main() -> None:
    """Print the formats' table in Markdown."""
    found = table(world.photos(1)[0].data)
    formats = list(next(iter(found.values())))
    lines = [f"| | side | {' | '.join(formats)} |", f"|---|---|{'---|' * len(formats)}"]
    for name, sizes in found.items():
        lines.append(f"| {name} | {ARCHITECTURES[name]} | {' | '.join(f'{size:,}' for size in sizes.values())} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
