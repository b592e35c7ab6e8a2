"""Tensors on the wire: REST with JSON, REST with binary tensors, and gRPC, to a model that does nothing with them.

    python -m benchmarks.tensors serve     the server, until its standard input closes

What is measured is a request's whole way through the real server: eight 224 × 224 images as float32.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import orjson

from benchmarks.load import Target, request, saturate
from benchmarks.record import Row
from pipelines.recipe import ROOT

SHAPE = (8, 3, 224, 224)
ROUNDS, SECONDS = 3, 1.5
METHOD = "/inference.GRPCInferenceService/ModelInfer"
SIDES = {"64 (the clothing recipe)": 64, "112": 112, "224 (VGG, ResNet)": 224, "299 (Inception)": 299}


def rows() -> list[Row]:
    """Median time of a request over each door, in turns."""
    images = np.random.default_rng(1).random(SHAPE, np.float32)
    with _server() as (rest, port):
        json_body, binary_body, head = _json(images), *_binary(images)
        doors: dict[str, Callable[[], float]] = {
            "JSON": lambda: _rest(rest, json_body, {"content-type": "application/json"}),
            "binary": lambda: _rest(rest, binary_body, {"inference-header-content-length": str(head)}),
            "gRPC": lambda: _grpc(port, images),
        }
        took: dict[str, list[float]] = {name: [] for name in doors}
        for _ in range(ROUNDS):
            for name, door in doors.items():
                took[name].append(1000 * door())
    median = {name: statistics.median(values) for name, values in took.items()}
    spread = "; ".join(f"{name} {min(values):.2f} to {max(values):.2f}" for name, values in took.items())
    sizes = f"{len(json_body) / 1e6:.1f} MB of JSON, {len(binary_body) / 1e6:.1f} MB binary"
    return [
        Row(name="binary_vs_json", ours=median["binary"], other=median["JSON"], other_name="REST with JSON",
            unit=f"ms a request of {'×'.join(map(str, SHAPE))} float32", better="less", goal=20.0,
            spread=f"{spread} ms; {sizes}; one photo's tensor: {_wire()}"),
        Row(name="grpc_vs_json", ours=median["gRPC"], other=median["JSON"], other_name="REST with JSON",
            unit=f"ms a request of {'×'.join(map(str, SHAPE))} float32", better="less", goal=1.0, spread=spread),
    ]  # fmt: skip


def _wire() -> str:
    """Bytes of one canonical image on the way, for the sides that common architectures take."""
    told = []
    for name, side in SIDES.items():
        image = np.random.default_rng(side).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        text = len(orjson.dumps({"data": image.ravel()}, option=orjson.OPT_SERIALIZE_NUMPY))
        told.append(f"{name}: {image.nbytes / 1000:.0f} kB binary, {text / 1000:.0f} kB JSON")
    return ", ".join(told)


def _json(images: np.ndarray) -> bytes:
    tensor = {"name": "images", "shape": images.shape, "datatype": "FP32", "data": images.ravel()}
    return orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)


def _binary(images: np.ndarray) -> tuple[bytes, int]:
    tensor = {"name": "images", "shape": images.shape, "datatype": "FP32",
              "parameters": {"binary_data_size": images.nbytes}}  # fmt: skip
    head = orjson.dumps({"inputs": [tensor]})
    return head + images.tobytes(), len(head)


def _rest(port: int, body: bytes, headers: dict[str, str]) -> float:
    url = f"http://127.0.0.1:{port}/v2/models/nothing/infer"
    target = Target("127.0.0.1", port, [request(url, body, headers)])
    report = saturate(target, seconds=SECONDS, connections=1)
    if report.errors:
        raise RuntimeError(f"tensors over REST: {report.errors}")
    return report.p50


def _grpc(port: int, images: np.ndarray) -> float:
    from serving.wire import protobuf as pb

    message = pb.ModelInferRequest(model_name="nothing")
    tensor = message.inputs.add()
    tensor.name, tensor.datatype = "images", "FP32"
    tensor.shape.extend(images.shape)
    message.raw_input_contents.append(images.tobytes())
    data = message.SerializeToString()
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = channel.unary_unary(METHOD)
        call(data)
        times, until = [], time.perf_counter() + SECONDS
        while time.perf_counter() < until:
            start = time.perf_counter()
            call(data)
            times.append(time.perf_counter() - start)
    return statistics.median(times)


@contextmanager
def _server() -> Iterator[tuple[int, int]]:
    command = [sys.executable, "-m", "benchmarks.tensors", "serve"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        rest, port = json.loads(process.stdout.readline())
        yield rest, port
        process.stdin.close()


def serve() -> None:
    """A server with one model that answers with a tensor's shape."""
    from serving.access.gate import OpenGate
    from serving.components.base import Call, Component
    from serving.listen import run
    from serving.listen import serve as listen
    from serving.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorSpec
    from serving.server import Server

    class Nothing(Component):
        name, takes, gives = "nothing", ("images",), ("shape",)

        def metadata(self) -> ModelMetadata:
            inputs = (TensorSpec("images", "FP32", (-1, -1, -1, -1)),)
            return ModelMetadata("nothing", "", inputs, (TensorSpec("shape", "INT64", (4,)),))

        async def apply(self, photos: Any, call: Call) -> None:
            """There is nothing to do."""

        async def infer(self, request: InferRequest, call: Call) -> InferResponse:
            shape = np.asarray(request.inputs[0].shape, np.int64)
            return InferResponse(request.model, [Tensor("shape", "INT64", (len(shape),), shape)])

    async def work() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: stop.set())
        await listen(
            Server(components={"nothing": Nothing()}, gate=OpenGate()), host="127.0.0.1", rest_port=0, grpc_port=0,
            ready=lambda rest, port: print(json.dumps([rest, port]), flush=True), stop=stop,
        )  # fmt: skip

    run(work())


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        for row in rows():
            print(json.dumps(row.as_json(), indent=1))
