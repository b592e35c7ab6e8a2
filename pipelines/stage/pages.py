"""`classy up` and `classy down`: the pages to look at, kept by one process in the background."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import psutil

from pipelines.errors import ClassyError
from pipelines.files import write_text
from pipelines.online.keys import first_key
from pipelines.settings import Settings
from pipelines.stage.stack import Stack, ticks
from pipelines.stage.story import MARK

STATE = "stack.json"


def bring_up(settings: Settings, *, stay: bool, show: Callable[[Any], None]) -> None:
    """Start the pages; with `stay` in this process, else in one of its own. Prints addresses and login.

    Raises:
        ClassyError: they are up already, or did not come up.
    """
    running = _running(settings)
    if running:
        pages = f"Airflow {running['airflow']}, MLflow {running['mlflow']}, Classy {running['classy']}"
        raise ClassyError(f"already up (process {running['pid']}): {pages}; stop it with `make down`")
    if stay:
        _serve(settings)
        return
    log = settings.home / "logs" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", "up", "--stay", "--recipe", settings.recipe],
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "CLASSY_HOME": str(settings.home)},
        )  # fmt: skip
    for _ in ticks(240, 0.5):
        if running := _running(settings):
            show(
                {
                    **running,
                    "monitor": f"{running['classy']}/monitor",
                    "user": "admin",
                    "password_file": str(settings.home / "airflow" / "simple_auth_manager_passwords.json.generated"),
                    "password": Stack.password_of(settings),
                    "classy_key": first_key(settings) if settings.auth == "on" else None,
                }
            )
            return
        if child.poll() is not None:
            break
    raise ClassyError(f"the pages did not come up. End of {log}:\n{log.read_text()[-2000:]}")


def _serve(settings: Settings) -> None:
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    state = settings.home / STATE
    # A home that the story made holds a replay: a schedule would gather its days again.
    with Stack(settings, replay=(settings.home / MARK).exists(), serve=True) as stack:
        pages = {"airflow": stack.airflow_url, "mlflow": stack.mlflow_url, "classy": stack.server_url}
        write_text(str(state), json.dumps({"pid": os.getpid(), **pages}))
        try:
            while not done.wait(timeout=2):
                stack.need_alive()
        finally:
            state.unlink(missing_ok=True)


def take_down(settings: Settings) -> dict[str, Any]:
    """Stop what `bring_up` started. Returns what was stopped."""
    running = _running(settings)
    if not running:
        return {"stopped": False, "reason": f"nothing of {settings.home} is up"}
    process = psutil.Process(running["pid"])
    process.terminate()
    process.wait(timeout=90)
    return {"stopped": True, **running}


def _running(settings: Settings) -> dict[str, Any] | None:
    try:
        state = json.loads((settings.home / STATE).read_text())
    except FileNotFoundError:
        return None
    # A number may be another's by now: only a Classy that stays counts.
    alive = psutil.pid_exists(state["pid"]) and "--stay" in psutil.Process(state["pid"]).cmdline()
    return state if alive else None
