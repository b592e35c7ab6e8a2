"""The processes of Classy on one machine: MLflow, Airflow and the live server, started, watched and stopped.

    with Stack(settings, "digits", replay=True) as stack: …

Everything is bound to the loopback address, logs to HOME/logs and belongs to one process group each, so
that nothing is left running, also after Ctrl-C.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType

import httpx
import psutil

from pipelines.errors import ClassyError
from pipelines.recipe import ROOT
from pipelines.settings import Settings

HOST = "127.0.0.1"
MLFLOW_PORT, AIRFLOW_PORT = 5000, 8080
SERVER_GRACE_S = 45.0
"""The live server first answers what it has begun."""
TRAINING_POOL = "classy_training"
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


def free_port(wanted: int) -> int:
    """`wanted`, or the next port that nobody listens on."""
    for port in range(wanted, wanted + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise ClassyError(f"ports {wanted} to {wanted + 99} are all taken; stop what listens there (`ss -ltnp`)")


def _keep(file: Path, make: Callable[[], str]) -> str:
    """The text of a file that only its owner may read; made where there is none."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(make())
    return file.read_text()


@dataclass(slots=True)
class Process:
    """One child in a process group of its own, its output in a log file."""

    name: str
    child: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def need_alive(self) -> None:
        if self.child.poll() is not None:
            raise ClassyError(
                f"{self.name} ended with exit code {self.child.returncode}. End of {self.log}:\n{self.tail()}"
            )

    def stop(self, grace_s: float = 15) -> None:
        """End the whole group: politely, then by force. Workers that outlive their parent are ended too."""
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            family = [*psutil.Process(self.child.pid).children(recursive=True), psutil.Process(self.child.pid)]
            os.killpg(self.child.pid, signal.SIGTERM)
            _, alive = psutil.wait_procs(family, timeout=grace_s)
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(alive, timeout=grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()


@dataclass
class Stack:
    """A context manager around MLflow and Airflow. Ports are free ones at or after the usual."""

    settings: Settings
    replay: bool = False
    """A driver triggers each day; nothing is on a schedule."""
    mlflow_port: int = MLFLOW_PORT
    airflow_port: int = AIRFLOW_PORT
    serve: bool = False
    """Whether the live server runs too, on the settings' ports or free ones after them."""
    say: Callable[[str], None] = print
    processes: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mlflow_port = free_port(self.mlflow_port)
        self.airflow_port = free_port(self.airflow_port)
        self.rest_port, self.grpc_port = self.settings.rest_port, self.settings.grpc_port
        if self.serve:
            self.rest_port = free_port(self.rest_port)
            self.grpc_port = free_port(max(self.grpc_port, self.rest_port + 1))
        self.logs = self.settings.home / "logs"
        self.airflow_home = self.settings.home / "airflow"

    @property
    def mlflow_url(self) -> str:
        return f"http://{HOST}:{self.mlflow_port}"

    @property
    def airflow_url(self) -> str:
        return f"http://{HOST}:{self.airflow_port}"

    @property
    def server_url(self) -> str:
        secure = "s" if self.settings.tls_cert else ""
        return f"http{secure}://{HOST}:{self.rest_port}"

    @property
    def password(self) -> str:
        """Airflow's admin password: made once for this home, readable by its owner alone."""
        return self.password_of(self.settings)

    @staticmethod
    def password_of(settings: Settings) -> str:
        """The same without a stack."""
        file = settings.home / "airflow" / "simple_auth_manager_passwords.json.generated"
        return json.loads(_keep(file, lambda: json.dumps({"admin": secrets.token_urlsafe(12)})))["admin"]

    def environment(self) -> dict[str, str]:
        """What the children run with: our settings, and Airflow tuned for one machine."""
        given = self.settings
        return {
            **os.environ,
            "CLASSY_HOME": str(given.home),
            "CLASSY_RECIPE": given.recipe,
            "CLASSY_DATA_ROOT": given.data_root,
            "CLASSY_DATABASE_URL": given.database_url,
            "CLASSY_FEATURES_ROOT": given.features_root,
            "CLASSY_MLFLOW_URI": self.mlflow_url,
            "CLASSY_TRAINING_POOL": TRAINING_POOL,
            "CLASSY_REST_PORT": str(self.rest_port),
            "CLASSY_GRPC_PORT": str(self.grpc_port),
            "CLASSY_PAGES_URL": given.pages_url or self.server_url,
            "CLASSY_SCHEDULE": "none" if self.replay else given.schedule,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "dags" / "preload"), str(ROOT)]),
            "AIRFLOW_HOME": str(self.airflow_home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "dags" / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.airflow_url}/execution/",
            # Airflow makes a shorter key of its own, and warns of it with every request.
            "AIRFLOW__API_AUTH__JWT_SECRET": _keep(self.airflow_home / "jwt_secret", lambda: secrets.token_urlsafe(64)),
            "AIRFLOW__API__HOST": HOST,
            "AIRFLOW__API__PORT": str(self.airflow_port),
            "AIRFLOW__API__BASE_URL": self.airflow_url,
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port(8793)),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "wiring=INFO pipelines=INFO training=INFO",
            # A step of the loop is a second or two: do not sleep a second between looking for the next.
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
            # A task's supervisor may miss the end of its process by a moment and then sleeps this long, in seconds.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300" if self.replay else "30",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.airflow_home / 'airflow.db'}",
            # Tasks share the cores with the servers: a thread that waits should sleep, not spin.
            "OMP_WAIT_POLICY": "PASSIVE",
            # MLflow's seven workers for jobs that Classy does not have.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            # Libraries' telemetry stays off.
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "DO_NOT_TRACK": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "FEAST_USAGE": "False",
        }  # fmt: skip

    def __enter__(self) -> "Stack":
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        store = self.settings.home / "mlflow"
        store.mkdir(parents=True, exist_ok=True)
        backend = f"sqlite:///{store / 'mlflow.db'}"
        self.say(f"starting MLflow at {self.mlflow_url} and Airflow at {self.airflow_url} (logs in {self.logs})")
        mlflow = self._spawn(
            "mlflow", sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(self.mlflow_port),
            "--workers", "1", "--backend-store-uri", backend, "--artifacts-destination", str(store / "artifacts"),
        )  # fmt: skip
        _ = self.password
        self._call("airflow-db", sys.executable, "-m", "airflow", "db", "migrate")
        api = self._spawn("airflow-api", sys.executable, "-m", "airflow", "api-server")
        self._spawn("airflow-dags", sys.executable, "-m", "airflow", "dag-processor")
        self._spawn("airflow-scheduler", sys.executable, "-m", "airflow", "scheduler")
        # While a person is asked, it looks for an answer outside Airflow.
        self._spawn("airflow-triggerer", sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs")
        self._call("airflow-pool", sys.executable, "-m", "airflow", "pools", "set", TRAINING_POOL, "1", "GPU work")
        self._wait_for(mlflow, f"{self.mlflow_url}/health")
        self._wait_for(api, f"{self.airflow_url}/api/v2/version")
        if self.serve:
            server = self._spawn("classy", sys.executable, "-m", "pipelines.cli", "serve")
            self._wait_for(server, f"{self.server_url}/v2/health/live")

    def _spawn(self, name: str, *command: str) -> Process:
        log = self.logs / f"{name}.log"
        with log.open("wb") as out, uninterrupted():
            child = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=self.environment(),
                cwd=ROOT, start_new_session=True,
            )  # fmt: skip
            process = Process(name, child, log)
            self.processes.append(process)
        return process

    def _call(self, name: str, *command: str) -> None:
        process = self._spawn(name, *command)
        if process.child.wait(timeout=180) != 0:
            process.need_alive()
        self.processes.remove(process)

    def _wait_for(self, process: Process, url: str, timeout_s: float = 120) -> None:
        for _ in ticks(timeout_s, 0.25):
            process.need_alive()
            with contextlib.suppress(httpx.TransportError):
                # Our own server on this machine: a certificate for another name, or of one's own making, is fine.
                if httpx.get(url, timeout=5, verify=False).status_code == 200:  # noqa: S501
                    return
        raise ClassyError(
            f"{process.name} did not answer at {url} within {timeout_s:.0f} s. End of {process.log}:\n{process.tail()}"
        )

    def need_alive(self) -> None:
        """Raise with the end of the log when one of the processes has ended."""
        for process in self.processes:
            process.need_alive()

    def stop(self) -> None:
        """Stop everything that was started, last first."""
        while self.processes:
            process = self.processes.pop()
            process.stop(SERVER_GRACE_S if process.name == "classy" else 15)


@contextlib.contextmanager
def interrupts_to(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Within it Ctrl-C and TERM call `handler`. Not outside the main thread, where no signal is handled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


def interrupt_once(_number: int, _frame: FrameType | None) -> None:
    """Unwind, so that what was started is stopped; once, so that nothing cuts the stopping short."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and TERM wait until the end: a child that started is known to the one that will have to stop it."""
    came: list[int] = []
    with interrupts_to(lambda number, _frame: came.append(number)):
        yield
    if came:
        signal.raise_signal(came[0])


def ticks(timeout_s: float, every_s: float) -> Iterator[float]:
    """Poll an outside process: yields elapsed seconds until the time is over."""
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < timeout_s:
        yield elapsed
        time.sleep(every_s)
