"""Code: what starts processes also ends them, and says what went wrong."""

import socket
import sys
from pathlib import Path

import psutil
import pytest

from pipelines.errors import ClassyError
from pipelines.settings import Settings
from pipelines.stage.airflow_client import AirflowClient
from pipelines.stage.stack import HOST, Stack, free_port


def test_a_taken_port_gives_the_next_free_one() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        wanted = taken.getsockname()[1]
        found = free_port(wanted)
        assert wanted < found < wanted + 100


def test_stopping_ends_the_whole_family(settings: Settings) -> None:
    stack = Stack(settings)
    stack.logs.mkdir(parents=True)
    # A parent that ignores the polite signal, with a child that does too.
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {stubborn!r}]); exec({stubborn!r})"
    process = stack._spawn("stubborn", sys.executable, "-c", parent)
    while process.log.read_text().count("up") < 2:
        process.need_alive()
    family = [psutil.Process(process.child.pid), *psutil.Process(process.child.pid).children(recursive=True)]
    assert len(family) == 2
    stack.processes.pop().stop(grace_s=0.5)
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family)


def test_a_process_that_ends_shows_the_end_of_its_log(settings: Settings) -> None:
    stack = Stack(settings)
    stack.logs.mkdir(parents=True)
    process = stack._spawn("mlflow", sys.executable, "-c", "raise SystemExit('no such database')")
    process.child.wait()
    with pytest.raises(ClassyError, match=r"mlflow ended with exit code 1[\s\S]*no such database"):
        stack.need_alive()
    stack.stop()


def test_an_airflow_that_is_not_there_is_named_with_the_remedy() -> None:
    url = f"http://{HOST}:{free_port(18000)}"
    with pytest.raises(ClassyError, match=rf"Airflow at {url} does not answer .*start it with `make up`"):
        AirflowClient(url, "no password")


def test_the_password_is_made_once_and_for_its_owner_alone(settings: Settings) -> None:
    first = Stack(settings).password
    assert len(first) >= 12
    assert Stack(settings).password == first
    file = Path(settings.home) / "airflow" / "simple_auth_manager_passwords.json.generated"
    assert file.stat().st_mode & 0o077 == 0
