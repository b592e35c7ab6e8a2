"""Several workers on one machine, started and watched by torch's elastic agent, and brought back when one dies."""

import logging
import multiprocessing
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from training.options import FitError

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Those that torch's agent listens for."""


class Refusal:
    """An error that is meant for people: to begin again would not help."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def answer(work: Callable[..., Any], *args: Any) -> Any:
    """What `work` gives, or its refusal; any other error is raised. Whoever started a worker calls this in it."""
    try:
        return work(*args)
    except Exception as error:
        if not getattr(error, "for_people", False):
            raise
        return Refusal(error)


def launch(
    work: Callable[..., Any], *args: Any, workers: int, restarts: int, logs: Path, mark: Callable[[], object]
) -> Any:
    """What `work(*args)`, called in as many processes, gives to the first of them.

    Where a worker dies the others are stopped, and all begin again; where they die once more before `mark` has changed,
    with one fewer.

    Args:
        work: a module's function, or a `partial` of one. Finds its place in RANK and WORLD_SIZE, as under torchrun.
        logs: folder of what workers print.
        mark: something that changes as the work gets on.

    Raises:
        FitError: workers died more than `restarts` times.
        Exception: what `work` refused.
    """
    # Workers are forked from a process that has imported what they need, and has done nothing yet.
    multiprocessing.set_forkserver_preload([getattr(work, "func", work).__module__])
    before, said = mark(), ""
    for attempt in range(restarts + 1):
        try:
            found = _once(work, args, workers, logs)
        except ChildFailedError as failed:
            said = _told(failed, logs)
            now = mark()
            fewer = attempt > 0 and workers > 1 and now == before
            log.warning(
                "%s; %s", said, f"going on with {workers - fewer} workers" if attempt < restarts else "that was all"
            )
            workers, before = workers - fewer, now
            continue
        if isinstance(found, Refusal):
            raise found.error
        return found
    raise FitError(f"workers died {restarts + 1} times, and CLASSY_TRAIN_RESTARTS is {restarts}; the last time {said}")


def _once(work: Callable[..., Any], args: tuple[Any, ...], workers: int, logs: Path) -> Any:
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=workers,
        run_id=uuid.uuid4().hex[:8],
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL),
        shutdown_timeout=5,
    )
    with _own_signals():
        return elastic_launch(config, answer)(work, *args)[0]


@contextmanager
def _own_signals() -> Iterator[None]:
    """The agent stops its workers when this process is told to stop; then whoever listened before is told."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    told: signal.Signals | None = None
    try:
        yield
    except SignalException as error:
        told = error.sigval
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if told is not None:
            signal.raise_signal(told)


def _told(failed: ChildFailedError, logs: Path) -> str:
    """Who died of what, and where it is written."""
    rank, failure = failed.get_first_failure()
    how = f"ended with exit code {failure.exitcode} ({_message(failure)})"
    if failure.exitcode < 0:
        how = f"was ended by {failure.signal_name()}"
    # torch knows the folder only of one that left a word.
    folders = logs.glob(f"*/attempt_*/{failure.local_rank}")
    place = max(folders, key=lambda folder: folder.stat().st_mtime, default=logs)
    return f"worker {rank} {how}, its log is {place}"


def _message(failure: ProcessFailure) -> str:
    said = failure.message
    return said if isinstance(said, str) else str(said.get("message", ""))
