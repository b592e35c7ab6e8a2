"""Our own server for a benchmark: `classy serve`, as anybody starts it, with keys, features and the log."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from benchmarks.load import Target, request
from benchmarks.peers.launch import Missing, end, free_port, process_waits
from benchmarks.world import World
from pipelines.recipe import ROOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    port: int
    key: str
    process: subprocess.Popen[bytes]


@contextmanager
def running(world: World, *, workers: int, patience: float = 90.0) -> Iterator[Ours]:
    """`classy serve --workers N` on the world's home.

    Raises:
        Missing: it does not answer within `patience` seconds.
    """
    port, log = free_port(), world.settings.home / "serve.log"
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | {
        "CLASSY_HOME": str(world.settings.home),
        "CLASSY_REST_PORT": str(port),
        "CLASSY_GRPC_PORT": str(free_port()),
        "CLASSY_AUTH": "on",
    }
    command = [str(Path(sys.executable).parent / "classy"), "serve", "--workers", str(workers),
               "--recipe", str(world.recipe_path)]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        _wait(process, f"http://127.0.0.1:{port}/v2/health/ready", log, patience)
        key = (world.settings.home / "serving" / "local.key").read_text().strip()
        yield Ours(port=port, key=key, process=process)
    finally:
        end(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, patience: float) -> None:
    until, why = time.monotonic() + patience, "nothing was said"
    while time.monotonic() < until:
        if process.poll() is not None:
            raise Missing(f"classy serve ended: {log.read_text(errors='replace')[-400:]}")
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (OSError, ValueError) as error:
            why = str(error)
            process_waits(process, 0.2)
    raise Missing(f"classy serve is not ready after {patience:.0f} s: {why}. {log.read_text(errors='replace')[-400:]}")


def target(ours: Ours, world: World) -> Target:
    """Each photo as its sender sends it, to `/predict`."""
    requests = []
    for photo in world.sent:
        url = f"http://127.0.0.1:{ours.port}/predict?{urlencode({'sender': photo.sender})}"
        headers = {"content-type": "image/jpeg", "authorization": f"Bearer {ours.key}"}
        requests.append(request(url, photo.data, headers))
    return Target("127.0.0.1", ours.port, requests)


def label(said: Any) -> str:
    return str(said["label"])
