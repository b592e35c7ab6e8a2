"""Telling people: whom, how, and what happens where one cannot be told."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipelines.recipe import ROOT

DECISION = {
    "day": "2026-03-11", "action": "RETRAIN", "incident": "incident-2026-03-10", "reason": "Drift since 2026-03-10.",
}  # fmt: skip
PROGRAM = """
import json, sys
from notifying import notifiers
for notifier in notifiers(sys.argv[1], json.loads(sys.argv[2])):
    notifier({{}})
    print("TOLD", type(notifier).__name__)
"""


class Board(HTTPServer):
    """Takes messages, and keeps them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taker)
        self.got: list[tuple[str, dict]] = []
        self.status = 200


class _Taker(BaseHTTPRequestHandler):
    server: Board

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, json.loads(body)))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the tests' own output."""


@pytest.fixture
def board() -> Iterator[Board]:
    with Board() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def tell(home: Path, asked: str, **connections: str) -> subprocess.CompletedProcess[str]:
    """What a task's process would do, with Airflow's connections from the environment."""
    env = {
        "PATH": "/usr/bin:/bin",
        "AIRFLOW_HOME": str(home),
        "CLASSY_HOME": str(home),
        "PYTHONPATH": f"{ROOT / 'dags'}:{ROOT / 'dags' / 'preload'}:{ROOT}",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        **{f"AIRFLOW_CONN_{name.upper()}": uri for name, uri in connections.items()},
    }
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{{}}", "{}"), asked, json.dumps([DECISION])],
        env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_webhook_gets_a_sentence_for_people_and_the_decision_for_programs(tmp_path: Path, board: Board) -> None:
    done = tell(
        tmp_path, "log,webhook:team", team=json.dumps(
            {"conn_type": "http", "schema": "http", "host": "127.0.0.1", "port": board.server_port,
             "extra": {"path": "hooks/7"}}
        ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("TOLD")] == ["TOLD Log", "TOLD Webhook"]
    sentence = "digits, 2026-03-11: RETRAIN (incident-2026-03-10). Drift since 2026-03-10."
    assert board.got == [("/hooks/7", {"text": sentence, "decisions": [DECISION]})]


def test_a_webhook_that_refuses_is_an_error_that_names_the_connection(tmp_path: Path, board: Board) -> None:
    board.status = 410
    url = f"http://127.0.0.1:{board.server_port}/secret"
    done = tell(tmp_path, "webhook:team", team=json.dumps({"conn_type": "http", "password": url}))
    assert done.returncode != 0
    assert "connection team: answered 410" in done.stderr
    assert board.got[0][0] == "/secret"


@pytest.mark.parametrize("asked", ["pigeon", "webhook:", "smtp:mail", "log:loud"])
def test_a_wrong_word_names_itself(tmp_path: Path, asked: str) -> None:
    done = tell(tmp_path, asked)
    assert done.returncode != 0
    assert f"CLASSY_NOTIFY='{asked}': '{asked}' is none of log, webhook:CONNECTION, smtp:CONNECTION:TO" in done.stderr
