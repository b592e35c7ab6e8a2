"""Telling people: whom, how, and what happens where one cannot be told."""

import email
import email.policy
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword

from pipelines.recipe import ROOT
from tests.serving import free_port

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")

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


class PostOffice:
    """A mail server on this machine that knows one user, and keeps what it is given."""

    def __init__(self, **ways: Any) -> None:
        self.got: list[tuple[list[str], EmailMessage]] = []
        self.full = False
        self.controller = Controller(
            self, hostname="127.0.0.1", port=free_port(), auth_required=True, authenticator=self.let_in, **ways
        )

    def let_in(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, given: LoginPassword) -> AuthResult:
        return AuthResult(success=(given.login, given.password) == (b"classy", b"se/cret"), handled=False)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:  # noqa: N802
        if self.full:
            return "452 4.3.1 the disk is full"
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.got.append((envelope.rcpt_tos, message))
        return "250 taken"

    def connection(self, password: str = "se/cret", *, disable: str = "disable_tls disable_ssl") -> str:
        """Airflow's, as a person would write it. Retrying is the task's."""
        extra = {**dict.fromkeys(disable.split(), True), "from_email": "loop@example.org", "retry_limit": 1}
        return json.dumps(
            {"conn_type": "smtp", "host": "127.0.0.1", "port": self.controller.port, "login": "classy",
             "password": password, "extra": extra}
        )  # fmt: skip


@pytest.fixture
def post_office() -> Iterator[PostOffice]:
    found = PostOffice(auth_require_tls=False)
    found.controller.start()
    yield found
    found.controller.stop()


def tell(
    home: Path, asked: str, decision: dict[str, str] = DECISION, *, authority: Path | None = None, **connections: str
) -> subprocess.CompletedProcess[str]:
    """What a task's process would do, with Airflow's connections from the environment."""
    env = {
        "PATH": "/usr/bin:/bin",
        "AIRFLOW_HOME": str(home),
        "CLASSY_HOME": str(home),
        "PYTHONPATH": f"{ROOT / 'dags'}:{ROOT / 'dags' / 'preload'}:{ROOT}",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        **({} if authority is None else {"SSL_CERT_FILE": str(authority)}),
        **{f"AIRFLOW_CONN_{name.upper()}": uri for name, uri in connections.items()},
    }
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{{}}", "{}"), asked, json.dumps([decision])],
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


def test_a_mail_arrives_with_its_decision_and_nothing_in_it_is_a_program(
    tmp_path: Path, post_office: PostOffice
) -> None:
    nasty = {**DECISION, "reason": "Sender {{ 7 * 7 }} <script>alert(1)</script> brachte <b>Röcke</b>."}
    done = tell(tmp_path, "smtp:post:team@example.org", nasty, post=post_office.connection())
    assert done.returncode == 0, done.stderr
    ((to, mail),) = post_office.got
    assert to == ["team@example.org"]
    assert (mail["From"], mail["To"]) == ("loop@example.org", "team@example.org")
    assert mail["Subject"] == "Classy, digits: RETRAIN"
    body = mail.get_body(("html",))
    assert body is not None
    text = body.get_content().strip()
    assert text.startswith("<p>digits, 2026-03-11: RETRAIN (incident-2026-03-10). Sender {{ 7 * 7 }} &lt;script&gt;")
    assert "&lt;b&gt;Röcke&lt;/b&gt;" in text


@pytest.mark.parametrize("way", ["encrypted from the start", "after STARTTLS"])
def test_a_mail_goes_encrypted_to_a_server_whose_certificate_is_known(tmp_path: Path, way: str) -> None:
    """As docs/policy.md says to set the connection up for ports 465 and 587."""
    authority = trustme.CA()
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    from_start = way == "encrypted from the start"
    found = PostOffice(
        **({"ssl_context": context, "auth_require_tls": False} if from_start
           else {"tls_context": context, "require_starttls": True})
    )  # fmt: skip
    found.controller.start()
    try:
        connection = found.connection(disable="disable_tls" if from_start else "disable_ssl")
        stranger = tell(tmp_path, "smtp:post:team@example.org", post=connection)
        done = tell(tmp_path, "smtp:post:team@example.org", post=connection, authority=tmp_path / "ca.pem")
    finally:
        found.controller.stop()
    assert stranger.returncode != 0
    assert "CERTIFICATE_VERIFY_FAILED" in stranger.stderr
    assert done.returncode == 0, done.stderr
    assert [mail["Subject"] for _, mail in found.got] == ["Classy, digits: RETRAIN"]


def test_a_mail_that_is_not_taken_is_an_error_without_the_password(tmp_path: Path, post_office: PostOffice) -> None:
    done = tell(tmp_path, "smtp:post:team@example.org", post=post_office.connection(password="gu/essed"))
    assert done.returncode != 0
    assert "535" in done.stderr
    assert "gu/essed" not in done.stderr + done.stdout
    post_office.full = True
    done = tell(tmp_path, "smtp:post:team@example.org", post=post_office.connection())
    assert done.returncode != 0
    assert "the disk is full" in done.stderr
    assert post_office.got == []


@pytest.mark.parametrize("asked", ["pigeon", "webhook:", "smtp:mail", "log:loud"])
def test_a_wrong_word_names_itself(tmp_path: Path, asked: str) -> None:
    done = tell(tmp_path, asked)
    assert done.returncode != 0
    assert f"CLASSY_NOTIFY='{asked}': '{asked}' is none of log, webhook:CONNECTION, smtp:CONNECTION:TO" in done.stderr
