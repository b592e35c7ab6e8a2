"""A promotion and a rollback are killed at every write, and asked for by many at once: production stays one thing."""

import multiprocessing
import multiprocessing.synchronize
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from monitoring.stores import make_engine, open_store
from monitoring.tables import METADATA
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from tests.conftest import TINY
from tests.judged import ready_mlflow
from tests.promotions import (
    CONTEXT,
    Ended,
    at_every_write,
    disorder,
    in_a_process,
    plant,
    promote_it,
    roll_back,
    rule,
    shown,
    state_files,
    told,
)

CONTENDERS = ("second", "third", "fourth")


class World:
    """A home with its database of one kind, and states of it that can be had again.

    `judged`: generation 1 serves `first`; the others were judged better than it, under key-2 and so on.
    `promoted`: then key-2 was promoted.
    """

    def __init__(self, folder: Path, recipe: Recipe, database_url: str = "") -> None:
        self.recipe = recipe
        self.settings = load_settings(home=folder / "var", actor="tester", threads=1, database_url=database_url)
        self._files: dict[str, dict[Path, bytes]] = {}
        self._postgres = make_engine(database_url) if database_url else None
        ready_mlflow(self.settings)
        for name, make in (("judged", _judge_all), ("promoted", _promote_second)):
            ended = in_a_process(make, self.settings, recipe)
            assert (ended.exit_code, ended.error) == (0, "")
            self._keep(name)

    def _keep(self, name: str) -> None:
        there = [file for file in state_files(self.settings) if not file.name.endswith("-shm")]
        self._files[name] = {file: file.read_bytes() for file in there}
        self._sql(*(f"CREATE TABLE {name}_{table} AS TABLE {table}" for table in METADATA.tables))

    def at(self, name: str) -> Settings:
        """Put everything back to a kept state; gives the settings to reach it by."""
        for file in state_files(self.settings):
            file.unlink()
        for file, content in self._files[name].items():
            file.write_bytes(content)
        self._sql(f"TRUNCATE {', '.join(METADATA.tables)}")
        self._sql(*(f"INSERT INTO {table} SELECT * FROM {name}_{table}" for table in METADATA.tables))
        return self.settings

    def _sql(self, *statements: str) -> None:
        if self._postgres is not None:
            with self._postgres.begin() as connection:
                for statement in statements:
                    connection.execute(text(statement))


def _judge_all(settings: Settings, recipe: Recipe) -> None:
    runs = [plant(settings, recipe, name) for name in ("first", *CONTENDERS)]
    rule(settings, recipe, runs[0], "key-1")
    promote_it(settings, recipe, "key-1")
    for number, run_id in enumerate(runs[1:], 2):
        rule(settings, recipe, run_id, f"key-{number}", day=number)


def _promote_second(settings: Settings, recipe: Recipe) -> None:
    promote_it(settings, recipe, "key-2")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    url = request.getfixturevalue("postgres").new_database() if request.param == "postgresql" else ""
    return World(tmp_path_factory.mktemp(request.param), Recipe.model_validate(TINY), url)


# --------------------------------------------------------------------------------------------------- kills


@dataclass(frozen=True, kw_only=True, slots=True)
class Aftermath:
    """What a new process finds after a kill, and after it asked for the same thing twice."""

    found: int
    """Generations before the repair."""
    receipts: list[int]
    registry: dict[str, Any]
    """What MLflow shows after the first repeat."""
    table: dict[str, Any]
    """What it should show, by the tables."""
    written_again: list[str]
    """What the second repeat wrote, on either side."""
    disorder: list[str]
    approved_by: str | None


def _repair(step: Callable[..., int], settings: Settings, *arguments: Any) -> Aftermath:
    found = len(open_store(settings.database_url).generations())
    receipts = [step(settings, *arguments)]
    first = shown(settings)
    written_again = at_every_write(lambda: receipts.append(step(settings, *arguments)), None)
    approval = open_store(settings.database_url).decision("approval-key-2")
    return Aftermath(
        found=found,
        receipts=receipts,
        registry=first,
        table=told(settings),
        written_again=written_again,
        disorder=disorder(settings),
        approved_by=approval["actor"] if approval else None,
    )


def _approved(settings: Settings, recipe: Recipe, run_key: str) -> int:
    return promote_it(settings, recipe, run_key, approved_by="grace")


def _kill_everywhere(
    world: World, state: str, step: Callable[..., Any], run_key: str, had: int
) -> Iterator[tuple[str, Aftermath]]:
    """Each place around a write, and what was found after a kill there. `had` generations were there before."""
    counted = in_a_process(at_every_write, step, None, world.at(state), world.recipe, run_key)
    assert not counted.error
    places = counted.answer
    begun, committed = places.index("before COMMIT deployments"), places.index("after COMMIT deployments")
    for number, place in enumerate(places):
        settings = world.at(state)
        killed = in_a_process(at_every_write, step, number, settings, world.recipe, run_key)
        assert killed.killed, (place, killed)
        repaired = in_a_process(_repair, step, settings, world.recipe, run_key)
        assert not repaired.error, (place, repaired.error)
        after: Aftermath = repaired.answer
        # A place is before its write: nothing is there up to the commit, and all that was committed stays.
        assert after.found == had + (number >= committed), place
        assert after.receipts == [had + 1, had + 1], place
        assert after.registry == after.table, place
        assert after.written_again == [], place
        assert after.disorder == [], place
        yield place, after
    assert 0 < begun < committed < len(places) - 1


def test_a_promotion_that_is_killed_at_any_write_happens_once_and_whole(world: World) -> None:
    places = []
    for place, after in _kill_everywhere(world, "judged", _approved, "key-2", had=1):
        places.append(place)
        assert after.table["aliases"] == {"champion": "2", "previous": "1", "contender": "4"}, place
        assert after.approved_by == "grace", place
    # The promotion that was watched is the whole one: its approval, its row, its aliases and its tags.
    for part in ("INSERT decisions", "INSERT deployments", "set_registered_model_alias champion", "classy.generation"):
        assert any(part in place for place in places), part


def test_a_rollback_that_is_killed_at_any_write_happens_once_and_whole(world: World) -> None:
    for place, after in _kill_everywhere(world, "promoted", roll_back, "oops", had=2):
        assert after.table["aliases"] == {"champion": "1", "previous": "2", "contender": "4"}, place


# --------------------------------------------------------------------------------------------------- races


def _at_once(calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Ended]:
    """Run each call in a process of its own; they start together when all are there."""
    barrier = CONTEXT.Barrier(len(calls))
    pipes = [CONTEXT.Pipe(duplex=False) for _ in calls]
    children = [
        CONTEXT.Process(target=_wait_and_answer, args=(barrier, sender, work, arguments))
        for (_, sender), (work, arguments) in zip(pipes, calls, strict=True)
    ]
    for child in children:
        child.start()
    found = [receiver.recv() for receiver, _ in pipes]
    for child in children:
        child.join()
    return [Ended(exit_code=child.exitcode or 0, **told_us) for child, told_us in zip(children, found, strict=True)]


def _wait_and_answer(
    barrier: multiprocessing.synchronize.Barrier, sender: Any, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    barrier.wait(timeout=120)
    try:
        sender.send({"answer": work(*arguments)})
    except Exception as error:  # noqa: BLE001  whatever it is, the test shows it
        sender.send({"error": f"{type(error).__name__}: {error}"})


def _state(settings: Settings) -> tuple[list[tuple[int, str]], dict[str, Any], dict[str, Any], list[str]]:
    rows = open_store(settings.database_url).generations()
    return [(row["generation"], row["run_key"]) for row in rows], shown(settings), told(settings), disorder(settings)


def test_of_several_contenders_at_once_one_wins_and_the_others_say_why_not(world: World) -> None:
    settings = world.at("judged")
    keys = [f"key-{number}" for number, _ in enumerate(CONTENDERS, 2)]
    ended = _at_once([(promote_it, (settings, world.recipe, key)) for key in keys])
    (winner,) = [key for key, end in zip(keys, ended, strict=True) if not end.error]
    version = winner.removeprefix("key-")
    for key, end in zip(keys, ended, strict=True):
        if key != winner:
            assert f"run key {key} was judged against champion version 1, but version {version}" in end.error
            assert "Judge it again" in end.error
    rows, registry, table, wrong = in_a_process(_state, settings).answer
    assert rows == [(1, "key-1"), (2, winner)]
    assert (registry, wrong) == (table, [])


def test_one_promotion_asked_for_by_many_processes_is_one_generation(world: World) -> None:
    settings = world.at("judged")
    ended = _at_once([(promote_it, (settings, world.recipe, "key-4"))] * 6)
    assert [(end.answer, end.error) for end in ended] == [(2, "")] * 6
    rows, registry, table, wrong = in_a_process(_state, settings).answer
    assert rows == [(1, "key-1"), (2, "key-4")]
    assert (registry, wrong) == (table, [])


def test_a_rollback_beside_a_promotion_leaves_one_order_of_events(world: World) -> None:
    """Whichever is first, the other one sees it: it is refused in words, or comes after it."""
    settings = world.at("promoted")
    ruled = in_a_process(_rule_fifth, settings, world.recipe)
    assert not ruled.error
    promotion, rollback = _at_once(
        [
            (promote_it, (settings, world.recipe, "key-5")),
            (roll_back, (settings, world.recipe, "oops")),
        ]
    )
    rows, registry, table, wrong = in_a_process(_state, settings).answer
    assert [key for _, key in rows][2:] in (["oops"], ["key-5"], ["key-5", "oops"])
    assert {promotion.answer, rollback.answer} - {None} == {number for number, _ in rows[2:]}
    if promotion.error:
        assert "was judged against champion version 2, but version 1 is the champion" in promotion.error
    if rollback.error:
        assert "came in between; nothing was rolled back" in rollback.error
    assert (registry, wrong) == (table, [])


def _rule_fifth(settings: Settings, recipe: Recipe) -> None:
    run_id = plant(settings, recipe, "fifth")
    rule(settings, recipe, run_id, "key-5", day=9)


def test_while_production_switches_every_reader_sees_one_whole_generation(world: World) -> None:
    """Readers in processes of their own watch promotions and rollbacks go by."""
    settings, seconds = world.at("judged"), 2.0
    readers = [(_watch, (settings, seconds))] * 2
    *watched, switched = _at_once([*readers, (_switch_on_and_off, (settings, world.recipe, seconds))])
    assert not switched.error
    whole = {row["generation"]: row for row in in_a_process(_rows, settings).answer}
    assert len(whole) == switched.answer >= 3
    for reader in watched:
        assert not reader.error
        numbers = [row["generation"] for row in reader.answer]
        assert numbers == sorted(set(numbers)), "a generation was seen in two forms, or went back in time"
        assert all(row == whole[row["generation"]] for row in reader.answer)
    assert max(len(reader.answer) for reader in watched) >= 2


def _watch(settings: Settings, seconds: float) -> list[dict[str, Any]]:
    """What was current, each time that it was not what it had been a moment before."""
    store, seen, until = open_store(settings.database_url), [], time.monotonic() + seconds
    while time.monotonic() < until:
        row = store.current()
        assert row is not None, "a moment without anything in production"
        if not seen or row != seen[-1]:
            seen.append(row)
    return seen


def _switch_on_and_off(settings: Settings, recipe: Recipe, seconds: float) -> int:
    """Promote, then roll back and forth: for a while, and at least twice. The number of generations."""
    until = time.monotonic() + seconds
    made = promote_it(settings, recipe, "key-2")
    while time.monotonic() < until or made < 3:
        made = roll_back(settings, recipe, f"switch-{made}", to=1 if made % 2 == 0 else 2)
    return made


def _rows(settings: Settings) -> list[dict[str, Any]]:
    return open_store(settings.database_url).generations()
