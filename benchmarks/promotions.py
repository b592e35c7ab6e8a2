"""Does production stay one thing? Promotions killed at random moments, and many at once.

    uv run python -m benchmarks.promotions [KILLS] [RACES]

Each promotion is `classy promote` in a process of its own, against a real MLflow server over HTTP and PostgreSQL
(SQLite where PostgreSQL is not installed), both in one database. It is killed with SIGKILL after a time drawn evenly
from the time that a promotion takes, every second one from the part that begins with the row it writes (most of the
time goes into connecting); then the same promotion is asked for again, twice, and everything is looked at.
"""

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.tracking import MlflowClient

from benchmarks.record import Row, record
from monitoring.stores import Store, open_store
from pipelines.recipe import Recipe, load_recipe
from pipelines.settings import Settings, load_settings
from pipelines.stage.stack import HOST, MLFLOW_PORT, Process, free_port, ticks
from tests.postgres import NoPostgres, Server
from tests.promotions import CONTEXT, at_every_write, disorder, plant, promote_it, rule, shown, told

CONTENDERS = 8
"""Versions that take turns as champion."""
CALIBRATION = 8
"""Promotions that are not killed, to learn how long one takes."""
STARTED, WRITES = "started", "writes its row"
BEFORE, BETWEEN, AFTER = "before the commit", "after it, MLflow not yet right", "after everything was written"


@dataclass(kw_only=True, slots=True)
class Kills:
    """What was seen. A kill counts when the process died of it."""

    database: str
    times: list[float] = field(default_factory=list)
    """Seconds after its start at which each process was killed."""
    places: Counter[str] = field(default_factory=Counter)
    double: int = 0
    lost: int = 0
    disagreeing: int = 0
    written_again: int = 0
    """Kills after which the second repeat still wrote something."""
    too_late: int = 0
    """Processes that were done before their time came."""
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.times)


@dataclass(kw_only=True, slots=True)
class Race:
    """Promotions that started together."""

    asked: int
    winners: int
    told_why: int
    """Losers that said which champion came in between, and what to do."""
    agreeing: bool
    """MLflow shows the winner without a repair."""
    seconds: float


def rows(kills: int = 500, races: int = 50) -> list[Row]:
    """Kill promotions, then race them; the figures as rows of a benchmark.

    Args:
        kills: processes that die of SIGKILL.
        races: promotions of different contenders at once.
    """
    with _world() as (settings, recipe, runs):
        killed = _kill(settings, recipe, runs, kills)
        raced = _race(settings, recipe, runs, races)
    for problem in killed.problems:
        print(problem)
    where = ", ".join(f"{killed.places[place]} {place}" for place in (BEFORE, BETWEEN, AFTER))
    times = f"at {min(killed.times):.2f} to {max(killed.times):.2f} s, median {statistics.median(killed.times):.2f} s"
    spread = f"{killed.count} kills on {killed.database} in {killed.seconds:.0f} s, {times}: {where}"
    survived = partial(
        Row, other=float(killed.count), other_name="kills", unit="promotions", better="more", spread=spread
    )
    race = f"{raced.winners} of {raced.asked} won, {raced.told_why} said why not, {raced.seconds:.1f} s"
    return [
        survived(name="killed_promotions_made_once", ours=float(killed.count - killed.double)),
        survived(name="killed_promotions_not_lost", ours=float(killed.count - killed.lost)),
        survived(name="killed_promotions_agreeing_after_repair", ours=float(killed.count - killed.disagreeing)),
        survived(name="killed_promotions_repaired_by_one_repeat", ours=float(killed.count - killed.written_again)),
        Row(
            name="races_with_one_winner", ours=float(raced.winners == 1), other=1.0, other_name="races", unit="races",
            better="more", spread=race,
        ),
        Row(
            name="losers_told_why", ours=float(raced.told_why), other=float(raced.asked - 1), other_name="losers",
            unit="promotions", better="more", spread=f"{race}; MLflow agrees without repair: {raced.agreeing}",
        ),
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------------- kills


def _kill(settings: Settings, recipe: Recipe, runs: list[str], kills: int) -> Kills:
    random = np.random.default_rng(5)
    found = Kills(database=settings.database_url.split(":")[0].split("+")[0])
    started, turn = time.perf_counter(), 0
    taken: dict[str, list[float]] = {STARTED: [], WRITES: []}
    while found.count < kills:
        turn += 1
        run_key, since = f"kill-{turn}", (STARTED, WRITES)[turn % 2]
        rule(settings, recipe, runs[turn % len(runs)], run_key)
        had = len(open_store(settings.database_url).generations())
        known = taken[since]
        after = None if len(known) < CALIBRATION else float(random.uniform(0, np.quantile(known, 0.9)))
        lived, rest, died = _promote_and_kill(settings, recipe, run_key, since, after)
        if not died:
            taken[since] = [*known, rest][-50:]
            found.too_late += after is not None
        _look(settings, recipe, run_key, had, lived if died else None, found)
    found.seconds = time.perf_counter() - started
    return found


def _promote_and_kill(
    settings: Settings, recipe: Recipe, run_key: str, since: str, after: float | None
) -> tuple[float, float, bool]:
    """Run one promotion; kill it so many seconds after it said `since`.

    Returns:
        Seconds it lived, seconds it lived after it said so, and whether it died of the kill.
    """
    receiver, sender = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=_say_and_promote, args=(sender, settings, recipe, run_key))
    child.start()
    sender.close()
    start = said = _heard(receiver, STARTED)
    if since == WRITES:
        said = _heard(receiver, WRITES)
    child.join(after)
    if child.is_alive() and child.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
    end = time.perf_counter()
    child.join()
    if child.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"promotion {run_key} ended with exit code {child.exitcode}")
    return end - start, end - said, child.exitcode == -signal.SIGKILL


def _heard(receiver: Connection, word: str) -> float:
    """The moment at which the child says the word."""
    said = receiver.recv()
    if said != word:
        raise RuntimeError(f"a promotion says {said!r}, not {word!r}")
    return time.perf_counter()


def _say_and_promote(sender: Connection, settings: Settings, recipe: Recipe, run_key: str) -> None:
    write = Store.add_generation

    def say_and_write(store: Store, row: Mapping[str, Any]) -> None:
        sender.send(WRITES)
        write(store, row)

    Store.add_generation = say_and_write  # type: ignore[method-assign]
    sender.send(STARTED)
    promote_it(settings, recipe, run_key)


def _look(settings: Settings, recipe: Recipe, run_key: str, had: int, lived: float | None, found: Kills) -> None:
    """What the kill left, then what two repeats make of it."""
    store, client = open_store(settings.database_url), MlflowClient(settings.mlflow_uri, settings.mlflow_uri)
    committed = store.deployment_of(run_key)
    place = BEFORE if committed is None else AFTER if shown(settings, client) == told(settings) else BETWEEN
    first = promote_it(settings, recipe, run_key)
    right = shown(settings, client) == told(settings)
    again = at_every_write(promote_it, None, settings, recipe, run_key)
    rows = store.generations()
    double = sum(row["run_key"] == run_key for row in rows) != 1 or bool(disorder(settings))
    lost = first != had + 1 or len(rows) != had + 1 or (committed is not None and committed != rows[-1])
    if lived is None:
        if double or lost or not right:
            raise RuntimeError(f"{run_key}: was not even killed, and: {disorder(settings)}, {shown(settings)}")
        return
    found.times.append(lived)
    found.places[place] += 1
    found.double += double
    found.lost += lost
    found.disagreeing += not right
    found.written_again += bool(again)
    if double or lost or not right or again:
        found.problems.append(f"{run_key}, killed at {lived:.3f} s, {place}: {double=} {lost=} {right=} {again=}")


# --------------------------------------------------------------------------------------------------- races


def _race(settings: Settings, recipe: Recipe, runs: list[str], races: int) -> Race:
    """As many promotions as asked for, of contenders that were all judged against the same champion, at one moment."""
    current = open_store(settings.database_url).current()
    others = [run_id for run_id in runs if current is None or run_id != current["champion_run_id"]]
    keys = [f"race-{number}" for number in range(races)]
    for number, key in enumerate(keys):
        rule(settings, recipe, others[number % len(others)], key)
    barrier = CONTEXT.Barrier(races)
    pipes = [CONTEXT.Pipe(duplex=False) for _ in keys]
    children = [
        CONTEXT.Process(target=_wait_and_promote, args=(barrier, sender, settings, recipe, key))
        for key, (_, sender) in zip(keys, pipes, strict=True)
    ]
    started = time.perf_counter()
    for child in children:
        child.start()
    answers = [receiver.recv() for receiver, _ in pipes]
    for child in children:
        child.join()
    winners = [answer for answer in answers if isinstance(answer, int)]
    why = [text for text in answers if isinstance(text, str) and "was judged against champion" in text]
    return Race(
        asked=races,
        winners=len(winners),
        told_why=sum("Judge it again" in text for text in why),
        agreeing=shown(settings) == told(settings) and not disorder(settings),
        seconds=time.perf_counter() - started,
    )


def _wait_and_promote(barrier: Barrier, sender: Connection, settings: Settings, recipe: Recipe, run_key: str) -> None:
    barrier.wait(timeout=300)
    try:
        sender.send(promote_it(settings, recipe, run_key))
    except Exception as error:  # noqa: BLE001  whatever it says is what is measured
        sender.send(str(error))


# --------------------------------------------------------------------------------------------------- world


@contextlib.contextmanager
def _world() -> Iterator[tuple[Settings, Recipe, list[str]]]:
    """A home with an MLflow server, a database and packaged contenders."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="classy-promotions-")))
        try:
            database = stack.enter_context(Server()).new_database()
            backend = database.replace("postgresql:", "postgresql+psycopg2:")
        except NoPostgres as error:
            print(f"on SQLite: {error}")
            database, backend = f"sqlite:///{home / 'classy.db'}", f"sqlite:///{home / 'mlflow.db'}"
        url = stack.enter_context(_mlflow_server(home, backend))
        settings = load_settings(home=home, database_url=database, mlflow_uri=url, actor="bench", threads=1)
        recipe = load_recipe("digits")
        yield settings, recipe, [plant(settings, recipe, f"contender-{number}") for number in range(CONTENDERS)]


@contextlib.contextmanager
def _mlflow_server(home: Path, backend: str) -> Iterator[str]:
    port, log = free_port(MLFLOW_PORT), home / "mlflow.log"
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
                   "DO_NOT_TRACK": "1"}  # fmt: skip
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1",
             "--backend-store-uri", backend, "--artifacts-destination", str(home / "artifacts")],
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, start_new_session=True,
        )  # fmt: skip
    server = Process("mlflow", child, log)
    url = f"http://{HOST}:{port}"
    try:
        _wait_for(server, url)
        yield url
    finally:
        server.stop()


def _wait_for(server: Process, url: str) -> None:
    import httpx

    for _ in ticks(180, 0.25):
        server.need_alive()
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
    raise RuntimeError(f"MLflow did not answer at {url}:\n{server.tail()}")


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:]]
    started = time.perf_counter()
    found = rows(*numbers)
    for row in found:
        print(f"{row.name}: {row.ours:.0f} of {row.other:.0f} {row.other_name} ({row.spread})")
    print(f"{time.perf_counter() - started:.0f} s; {record('promotions', found)}")


if __name__ == "__main__":
    main()
