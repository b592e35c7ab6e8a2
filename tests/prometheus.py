"""A real Prometheus of a test's own, on a free port, with its data in a folder of the test's."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from pipelines.stage.stack import ticks
from tests.serving import free_port


def binary(name: str) -> str:
    """`prometheus` or `promtool`. Skips where it is not installed, and fails where CI is set."""
    found = shutil.which(name)
    if found is None:
        missing = f"{name} is not installed; `.ci/packages` installs it"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@dataclass(frozen=True, slots=True)
class Prometheus:
    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Samples of an instant query.

        Raises:
            AssertionError: Prometheus cannot evaluate it; the message says why.
        """
        answer = httpx.post(f"{self.url}/api/v1/query", data={"query": expression}, timeout=30).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        return answer["data"]["result"]

    def rules(self) -> list[dict[str, Any]]:
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=30).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def wait_for(self, expression: str, meanwhile: Callable[[], object] = lambda: None) -> list[dict[str, Any]]:
        """What it gives, once it gives something; `meanwhile` is done before each look."""
        for _ in ticks(120, 0.25):
            meanwhile()
            if found := self.query(expression):
                return found
        targets = httpx.get(f"{self.url}/api/v1/targets", timeout=30).text
        raise AssertionError(f"{expression} gave nothing in two minutes; targets: {targets}")


@contextlib.contextmanager
def prometheus(folder: Path, config: Mapping[str, Any]) -> Iterator[Prometheus]:
    """Running on `config`, until the block ends."""
    folder.mkdir(parents=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(dict(config)))
    port = free_port()
    log = folder / "log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            [
                binary("prometheus"), f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=out, stderr=subprocess.STDOUT, cwd=folder,
        )  # fmt: skip
    try:
        _wait(child, f"http://127.0.0.1:{port}", log)
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        child.terminate()
        child.wait(timeout=30)


def _wait(child: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in ticks(60, 0.1):
        assert child.poll() is None, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/-/ready", timeout=5).status_code == 200:
                return
    raise AssertionError(f"Prometheus did not answer at {url}: {log.read_text()}")
