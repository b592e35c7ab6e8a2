"""What the prediction log costs the process that answers, by row, on SQLite and on PostgreSQL.

    python -m benchmarks.log_rows

A loop that does nothing but count stands for the serving loop: it writes rows at a steady rate, and it is seen how
much less it counts for it.
"""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.online.log import SqlLog
from pipelines.settings import load_settings
from tests.postgres import NoPostgres, Server

RATE = 1000
"""Rows a second."""
SECONDS = 3.0
TURNS = 4
SCALARS = {
    "source_id": "sender-1", "label": "Dress", "confidence": 0.93, "model_version": "1", "run_id": "a" * 32,
    "generation": 1, "arm": "champion", "channel": "online", "service_hash": "0" * 12, "defaulted": False,
    "cached": False, "timings": {"preprocess": 0.7, "features": 0.1, "queue": 0.2, "model": 0.5}, "key_id": "k" * 12,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a row, in µs; `slowed` is the share of its time that the loop lost."""

    cpu: float
    write: float
    slowed: float
    written: int


def measure(database_url: str = "") -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        log = SqlLog(load_settings(home=Path(folder), database_url=database_url))
        log.start()
        rows = _rows(int(RATE * SECONDS * TURNS) + 1)
        log.write(rows[:1])
        log.flush(30)
        quiet, busy, cpu, spent, at = [], [], 0.0, 0.0, 1
        for _ in range(TURNS):
            quiet.append(_loop(log, (), 0)[0])
            start = time.process_time(), time.thread_time()
            count, writing, taken = _loop(log, rows[at:], RATE)
            log.flush(30)
            own = time.thread_time() - start[1]
            cpu += time.process_time() - start[0] - own
            busy.append(count)
            spent += writing
            at += taken
        log.stop()
        written = log.counters()["written"]
        slowed = 1 - float(np.median(busy)) / float(np.median(quiet))
        return Cost(1e6 * (cpu + spent) / (at - 1), 1e6 * spent / (at - 1), slowed, written)


def _loop(log: SqlLog, rows: Sequence[Mapping[str, Any]], rate: float) -> tuple[int, float, int]:
    """Count for a while, and hand over rows when they are due; the count, seconds in `write`, rows handed over."""
    count, taken, writing = 0, 0, 0.0
    start = time.perf_counter()
    while (passed := time.perf_counter() - start) < SECONDS:
        for _ in range(100):
            count += 1
        due = int(passed * rate)
        while taken < due:
            before = time.perf_counter()
            log.write(rows[taken : taken + 1])
            writing += time.perf_counter() - before
            taken += 1
    return count, writing, taken


def _rows(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(7)
    now = datetime.now(UTC)
    return [
        {
            **SCALARS,
            "prediction_id": f"{number:08d}-{os.urandom(8).hex()}",
            "image_id": f"image-{number}",
            "captured_at": now,
            "predicted_at": now,
            "probabilities": rng.random(10).tolist(),
            "content_hash": os.urandom(32).hex(),
            "context": rng.random(19).astype(np.float32).tolist(),
            "request_id": f"request-{number}",
        }
        for number in range(count)
    ]


def _tell(name: str, cost: Cost) -> None:
    print(
        f"{name}: {cost.cpu:.0f} µs of CPU a row, {cost.write:.1f} µs in write; the loop lost "
        f"{100 * cost.slowed:.1f}%; {cost.written} rows in the database"
    )


if __name__ == "__main__":
    _tell("SQLite", measure())
    with ExitStack() as stack:
        try:
            server = stack.enter_context(Server())
        except NoPostgres as error:
            print(f"PostgreSQL: not measured: {error}")
        else:
            _tell("PostgreSQL", measure(server.new_database()))
