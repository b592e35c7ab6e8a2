"""Start a peer in its environment, tell how it wants to be asked, and stop it whole."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from benchmarks.load import Target, request
from benchmarks.peers.setup import environment
from pipelines.recipe import ROOT

Flavour = Literal["own", "same"]
BOUNDARY = "photo-boundary"


class Missing(Exception):
    """A peer that does not start; the message says why, in its own last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    name: str
    path: str
    """Where photos are sent."""
    ready: str
    """What answers 200 when it can work."""
    command: Callable[[Path, Path, int], list[str]]
    """Environment's bin, a folder for its files, port → the command."""
    body: Callable[[bytes], tuple[bytes, str]]
    """Photo → body and content type."""
    label: Callable[[Any], str]
    """The answer's JSON → class."""
    env: str = ""
    """Its environment's name; default: its own."""
    prepare: Callable[[Path, Path, int], list[str] | None] = lambda *_: None
    """A command to run before, or None after having written what is needed."""


def _json(value: object) -> tuple[bytes, str]:
    return json.dumps(value).encode(), "application/json"


def _text(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


def _form(field: str) -> Callable[[bytes], tuple[bytes, str]]:
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{field}"; filename="photo.jpg"\r\n'
    start, end = f"{head}content-type: image/jpeg\r\n\r\n".encode(), f"\r\n--{BOUNDARY}--\r\n".encode()
    return lambda photo: (start + photo + end, f"multipart/form-data; boundary={BOUNDARY}")


def _mlserver_files(_bin: Path, folder: Path, port: int) -> None:
    (folder / "settings.json").write_text(
        json.dumps(
            {
                "host": "127.0.0.1",
                "http_port": port,
                "grpc_port": free_port(),
                "metrics_port": free_port(),
                "parallel_workers": workers(),
                "debug": False,
            }
        )
    )
    (folder / "model-settings.json").write_text(
        json.dumps(
            {
                "name": "photos",
                "implementation": "benchmarks.peers.mlserver_model.Photos",
                "max_batch_size": 16,
                "max_batch_time": 0.005,
            }
        )
    )


def workers() -> int:
    return len(os.sched_getaffinity(0))


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            name="fastapi",
            path="/predict",
            ready="/openapi.json",
            command=lambda bin_, _, port: [
                str(bin_ / "uvicorn"), "benchmarks.peers.fastapi_app:app", "--port", str(port),
                "--workers", str(workers()), "--no-access-log", "--log-level", "warning",
            ],
            body=_form("file"),
            label=lambda said: said["label"],
        ),
        Peer(
            name="mlflow",
            path="/invocations",
            ready="/ping",
            prepare=lambda bin_, folder, _: [
                str(bin_ / "python"), "-m", "benchmarks.peers.mlflow_model", str(folder / "model"),
            ],
            command=lambda bin_, folder, port: [
                str(bin_ / "mlflow"), "models", "serve", "--model-uri", str(folder / "model"), "--port", str(port),
                "--env-manager", "local", "--workers", str(workers()),
            ],
            body=lambda photo: _json({"dataframe_split": {"columns": ["photo"], "data": [[_text(photo)]]}}),
            label=lambda said: said["predictions"][0],
        ),
        Peer(
            name="mlserver",
            path="/v2/models/photos/infer",
            ready="/v2/models/photos/ready",
            prepare=_mlserver_files,
            command=lambda bin_, folder, _: [str(bin_ / "mlserver"), "start", str(folder)],
            body=lambda photo: _json(
                {"inputs": [{"name": "photo", "shape": [1], "datatype": "BYTES",
                             "parameters": {"content_type": "base64"}, "data": [_text(photo)]}]}
            ),
            label=lambda said: said["outputs"][0]["data"][0],
        ),
        Peer(
            name="litserve",
            path="/predict",
            ready="/health",
            command=lambda bin_, *_: [str(bin_ / "python"), "-m", "benchmarks.peers.litserve_app"],
            body=lambda photo: _json({"image_data": _text(photo)}),
            label=lambda said: said["label"],
        ),
        Peer(
            name="bentoml",
            path="/predict",
            ready="/readyz",
            command=lambda bin_, _, port: [
                str(bin_ / "bentoml"), "serve", "benchmarks.peers.bentoml_service:Photos",
                "--host", "127.0.0.1", "--port", str(port),
            ],
            body=_form("photos"),
            label=lambda said: said[0],
        ),
        Peer(
            name="ray",
            path="/",
            ready="/-/healthz",
            command=lambda bin_, *_: [str(bin_ / "python"), "-m", "benchmarks.peers.ray_app"],
            body=lambda photo: (photo, "image/jpeg"),
            label=lambda said: said["label"],
        ),
    )
}  # fmt: skip
PEERS["fastapi_threads"] = replace(PEERS["fastapi"], name="fastapi_threads", env="fastapi", path="/predict-in-threads")


def target(peer: Peer, port: int, photos: list[bytes]) -> Target:
    """The photos as this peer takes them."""
    requests = []
    for photo in photos:
        body, kind = peer.body(photo)
        requests.append(request(f"http://127.0.0.1:{port}{peer.path}", body, {"content-type": kind}))
    return Target("127.0.0.1", port, requests)


@contextmanager
def running(peer: Peer, flavour: Flavour, package: Path, folder: Path, *, patience: float = 90.0) -> Iterator[int]:
    """The peer, answering; gives its port. What it started is ended with it.

    Raises:
        Missing: there is no environment, or it does not answer within `patience` seconds.
    """
    name = peer.env or peer.name
    bin_ = environment(name) / "bin"
    if not bin_.is_dir():
        raise Missing(f"no environment; `python -m benchmarks.peers.setup {name}` makes it")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    port, log = free_port(), folder / "log.txt"
    env = _environment(bin_, package, flavour, port)
    before = peer.prepare(bin_, folder, port)
    if before is not None:
        done = subprocess.run(before, env=env, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(" ".join(done.stderr.split())[-300:])
    with log.open("wb") as out:
        process = subprocess.Popen(
            peer.command(bin_, folder, port), env=env, cwd=folder, stdout=out, stderr=out, start_new_session=True
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}{peer.ready}", log, patience)
        yield port
    finally:
        end(process)


def _environment(bin_: Path, package: Path, flavour: Flavour, port: int) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")}
    return {
        **kept,
        "PATH": f"{bin_}:{kept.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "PEER_PACKAGE": str(package),
        "PEER_FLAVOUR": flavour,
        "PEER_PORT": str(port),
        "PEER_WORKERS": str(workers()),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "BENTOML_DO_NOT_TRACK": "True",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, patience: float) -> None:
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if process.poll() is not None:
            raise Missing(
                f"ended with {process.returncode}: {' '.join(log.read_text(errors='replace').split())[-300:]}"
            )
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (OSError, ValueError):  # nobody listens yet, or what answers is not ready
            process_waits(process, 0.2)
    raise Missing(f"did not answer in {patience:.0f} s: {' '.join(log.read_text(errors='replace').split())[-300:]}")


def process_waits(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Give a process time; returns early when it ends."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process and everything it started to end, then make it."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process_waits(process, 10)
    for member in family:
        if member.is_running() and member.pid != os.getpid():
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
    psutil.wait_procs(family, timeout=5)
    process_waits(process, 1)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
