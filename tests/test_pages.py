"""Code: `classy up` gives pages that answer, and `classy down` takes all of it away."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(400)]


def classy(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CLASSY_HOME": str(home), "CLASSY_RECIPE": "digits"}
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *arguments], capture_output=True, text=True, env=env, timeout=300
    )


def test_pages_come_up_once_and_go_down(tmp_path: Path) -> None:
    home = tmp_path / "var"
    assert json.loads(classy("down", "--json", home=home).stdout)["stopped"] is False
    up = classy("up", "--json", home=home)
    try:
        assert up.returncode == 0, up.stderr
        said = json.loads(up.stdout)
        assert httpx.get(said["mlflow"] + "/health").status_code == 200
        assert httpx.get(said["airflow"] + "/api/v2/version").status_code == 200
        login = {"username": said["user"], "password": said["password"]}
        assert httpx.post(said["airflow"] + "/auth/token", json=login).status_code == 201
        wrong = httpx.post(said["airflow"] + "/auth/token", json={**login, "password": "guess"})
        assert wrong.status_code == 401
        assert httpx.get(said["airflow"] + "/api/v2/dags").status_code == 401
        again = classy("up", home=home)
        assert again.returncode == 1
        assert "already up" in again.stderr
    finally:
        down = classy("down", "--json", home=home)
    assert json.loads(down.stdout)["stopped"] is True
    for page in (said["airflow"], said["mlflow"]):
        with pytest.raises(httpx.ConnectError):
            httpx.get(page)
    # Airflow's components write their titles over their environment; what still has one must not be ours.
    environments = [process.info["environ"] or {} for process in psutil.process_iter(["environ"])]
    assert not [found for found in environments if found.get("CLASSY_HOME") == str(home)]
