"""Several server processes on the same two ports: started, watched, started again, ended in order.

Each has its own interpreter, so two of them use two cores. The kernel spreads connections over them (SO_REUSEPORT).
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipelines.errors import ClassyError

READY_FD = "CLASSY_READY_FD"
"""Environment variable of a worker: the pipe on which it says that it answers."""
GRACE_S = 40.0
"""How long a worker may take to end its requests."""
FIRST_READY_S = 300.0
AGAIN_S = (0.5, 30.0)
"""A worker that ended is started again after the first of these, doubled each time up to the second."""


@dataclass
class Worker:
    number: int
    process: subprocess.Popen[bytes]
    ready: threading.Event = field(default_factory=threading.Event)
    wait_s: float = AGAIN_S[0]
    again_at: float = 0.0


@contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """A port that stays ours while the block lasts, though nobody listens on it yet; 0 takes a free one.

    Raises:
        ClassyError: somebody else has it, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # Somebody who listens without sharing is only seen by one who does not share either.
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind((host, port))
        except OSError as error:
            raise ClassyError(
                f"{host}:{port}: cannot be listened on: {error.strerror}; is a server running there already? "
                "Stop it, or choose others with CLASSY_HOST, CLASSY_REST_PORT and CLASSY_GRPC_PORT (0: any free one)"
            ) from error
        yield held.getsockname()[1]


def say_ready() -> None:
    """Tell the process that started this worker, if one did, that it answers."""
    number = os.environ.get(READY_FD)
    if number is not None:
        os.write(int(number), b"r")


def supervise(
    arguments: Sequence[str],
    *,
    workers: int,
    environment: Mapping[str, str],
    ready: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    """Run `classy ARGUMENTS --worker K` for each worker until SIGTERM or SIGINT.

    Raises:
        ClassyError: a worker ended before it ever answered; the others are ended too.
    """
    done = threading.Event()
    wake = threading.Event()

    def end(*_: object) -> None:
        done.set()
        wake.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    fleet = [_start(number, arguments, environment, wake) for number in range(workers)]
    try:
        _first(fleet, done, wake)
        if not done.is_set():
            ready()
        while not done.is_set():
            wake.wait(timeout=_next(fleet))
            wake.clear()
            if not done.is_set():
                _revive(fleet, arguments, environment, wake, say)
    finally:
        _stop(fleet)


def _start(number: int, arguments: Sequence[str], environment: Mapping[str, str], wake: threading.Event) -> Worker:
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *arguments, "--worker", str(number)],
        env={**os.environ, **environment, READY_FD: str(writer)}, pass_fds=(writer,), start_new_session=True,
    )  # fmt: skip
    os.close(writer)
    worker = Worker(number, process)

    def watch() -> None:
        with os.fdopen(reader, "rb") as pipe:
            if pipe.read(1):
                worker.ready.set()
                wake.set()
        process.wait()
        wake.set()

    threading.Thread(target=watch, name=f"worker-{number}", daemon=True).start()
    return worker


def _first(fleet: list[Worker], done: threading.Event, wake: threading.Event) -> None:
    until = time.monotonic() + FIRST_READY_S
    while not done.is_set() and not all(worker.ready.is_set() for worker in fleet):
        for worker in fleet:
            if worker.process.poll() is not None and not worker.ready.is_set():
                raise ClassyError(f"server process {worker.number} ended before it answered; its message is above")
        if time.monotonic() > until:
            raise ClassyError(f"the server did not answer within {FIRST_READY_S:.0f} s")
        wake.wait(timeout=1.0)
        wake.clear()


def _next(fleet: list[Worker]) -> float:
    waits = [worker.again_at - time.monotonic() for worker in fleet if worker.again_at]
    return max(0.0, min(waits, default=3600.0))


def _revive(
    fleet: list[Worker],
    arguments: Sequence[str],
    environment: Mapping[str, str],
    wake: threading.Event,
    say: Callable[[str], None],
) -> None:
    now = time.monotonic()
    for place, worker in enumerate(fleet):
        if worker.process.poll() is None:
            continue
        if not worker.again_at:
            say(f"server process {worker.number} ended with {worker.process.returncode}; again in {worker.wait_s:g} s")
            worker.again_at = now + worker.wait_s
        elif now >= worker.again_at:
            born = _start(worker.number, arguments, environment, wake)
            born.wait_s = AGAIN_S[0] if worker.ready.is_set() else min(2 * worker.wait_s, AGAIN_S[1])
            fleet[place] = born


def _stop(fleet: list[Worker]) -> None:
    for worker in fleet:
        if worker.process.poll() is None:
            worker.process.terminate()
    until = time.monotonic() + GRACE_S
    for worker in fleet:
        try:
            worker.process.wait(timeout=max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
