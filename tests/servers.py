"""A real MLflow server on a free port, as `make up` starts one."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from pipelines.settings import Settings, load_settings
from pipelines.stage.stack import HOST, Process, Stack, ticks
from tests.judged import ready_mlflow


@contextlib.contextmanager
def mlflow_server(settings: Settings) -> Iterator[str]:
    """Its address. The store is HOME/mlflow; the server ends with the block."""
    store = settings.home / "mlflow"
    if not (store / "mlflow.db").exists():
        ready_mlflow(load_settings(home=settings.home))
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    log = store / "server.log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1",
                "--backend-store-uri", f"sqlite:///{store / 'mlflow.db'}",
                "--artifacts-destination", str(store / "artifacts"),
            ],
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            env=Stack(settings).environment(), cwd=Path.cwd(),
        )  # fmt: skip
    process = Process("mlflow", child, log)
    try:
        _wait_for(process, f"http://{HOST}:{port}")
        yield f"http://{HOST}:{port}"
    finally:
        process.stop()


def _wait_for(process: Process, url: str) -> None:
    for _ in ticks(120, 0.25):
        process.need_alive()
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
    raise AssertionError(f"MLflow did not answer at {url}. End of {process.log}:\n{process.tail()}")
