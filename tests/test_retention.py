"""The rules of retention: whatever the ledger says, nothing that is referred to goes."""

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from pipelines.retention.rules import Records, Thing, Training, references, rule
from tests.attics import NOW

NAMES = st.integers(0, 7).map(str)
DAYS = st.integers(0, 90)


@st.composite
def records(draw: st.DrawFn) -> Records:
    """Any ledger about eight versions: run N made version N on some snapshot under run key N."""
    snapshots = {name: draw(NAMES) for name in map(str, range(8))}
    trainings = [
        Training(run_id=f"run-{n}", run_key=f"key-{n}", candidate="c", snapshot_id=snapshots[n], finished=True,
                 newest=NOW - timedelta(days=draw(DAYS)))
        for n in map(str, range(8)) if draw(st.booleans())
    ]  # fmt: skip
    evidence: dict[str, Any] = {}
    decisions = []
    for n in draw(st.lists(NAMES, unique=True)):
        against = draw(st.none() | NAMES)
        readable = draw(st.booleans())
        evidence[f"uri-{n}"] = {
            "contender": {"run_id": f"run-{n}", "version": n, "trained_on": snapshots[n]},
            "opponent": {"run_id": against and f"run-{against}", "version": against, "trained_on": None},
            "champion_version": against, "snapshot": {"id": snapshots[n]}, "candidates": [f"run-{n}"],
        } if readable else None  # fmt: skip
        decisions.append(
            {"decision_key": f"judge-{n}", "kind": "judge", "action": draw(st.sampled_from(["PROMOTE", "HOLD"])),
             "run_key": f"key-{n}", "evidence_uri": f"uri-{n}", "created_at": NOW - timedelta(days=draw(DAYS))}
        )  # fmt: skip
    generations = [
        {"generation": number, "champion_version": n, "champion_run_id": f"run-{n}", "previous_version": None,
         **_beside(draw, "canary"), **_beside(draw, "shadow"), "evidence_uri": f"uri-{n}"}
        for number, n in enumerate(draw(st.lists(NAMES, max_size=4)), 1)
    ]  # fmt: skip
    aliases = dict.fromkeys(draw(st.lists(NAMES, max_size=2)), "alias")
    return Records(
        generations=generations, decisions=decisions, evidence=evidence, trainings=trainings, aliases=aliases
    )


def _beside(draw: st.DrawFn, role: str) -> dict[str, str | None]:
    version = draw(st.none() | NAMES)
    return {f"{role}_version": version, f"{role}_run_id": version and f"run-{version}"}


def every_thing(found: Records, age: int) -> list[Thing]:
    newest = NOW - timedelta(days=age)
    made = []
    for n in map(str, range(8)):
        shared = {"uri": n, "bytes": 1, "newest": newest, "because": "nobody"}
        made += [
            Thing(what="version", name=n, run_ids=(f"run-{n}",), run_key=f"key-{n}", **shared),
            Thing(what="snapshot", name=n, **shared),
            Thing(what="cache", name=f"models/{n}", run_ids=(f"run-{n}",), **shared),
            Thing(what="checkpoint", name=f"key-{n}/c", run_key=f"key-{n}", **shared),
        ]
    return made


@given(found=records(), age=st.integers(0, 90), days=st.integers(1, 60))
@example_settings(max_examples=300, deadline=None)
def test_whatever_the_ledger_nothing_that_is_referred_to_goes(found: Records, age: int, days: int) -> None:
    refs = references(found, now=NOW, days=days, in_flight_days=7)
    goes = {(item.what, item.name) for item in rule(every_thing(found, age), refs, now=NOW, days=days) if item.goes}
    assert not goes or age >= days
    by_run = {training.run_id: training for training in found.trainings}
    needed: set[tuple[str, str]] = {("version", version) for version in found.aliases}
    for row in found.generations:
        document = found.evidence.get(row["evidence_uri"])
        versions = {row["champion_version"], row["canary_version"], row["shadow_version"]}
        snapshots = {by_run[row["champion_run_id"]].snapshot_id} if row["champion_run_id"] in by_run else set()
        if document is None:
            assert not [name for what, name in goes if what == "snapshot"]
        else:
            versions |= {document["opponent"]["version"]}
            snapshots |= {document["snapshot"]["id"]}
        needed |= {("version", name) for name in versions} | {("snapshot", name) for name in snapshots}
        needed.add(("cache", f"models/{row['champion_version']}"))
    current = found.generations[-1]["champion_version"] if found.generations else None
    for row in found.decisions:
        document, n = found.evidence[row["evidence_uri"]], row["run_key"].removeprefix("key-")
        open_still = row["action"] == "PROMOTE" and document is not None and document["champion_version"] == current
        if open_still or NOW - row["created_at"] < timedelta(days=days):
            needed |= {("checkpoint", f"key-{n}/c"), ("version", n)}
            needed |= {("snapshot", document["snapshot"]["id"])} if document else set()
    for training in found.trainings:
        if NOW - training.newest < timedelta(days=days):
            needed |= {("snapshot", str(training.snapshot_id)), ("cache", f"models/{training.run_id[4:]}")}
    assert not goes & needed


@given(age=st.integers(1, 90))
def test_in_an_empty_ledger_all_that_is_old_goes(age: int) -> None:
    empty = Records(generations=[], decisions=[], evidence={}, trainings=[], aliases={})
    refs = references(empty, now=NOW, days=30, in_flight_days=7)
    items = rule(every_thing(empty, age), refs, now=NOW, days=30)
    assert {item.goes for item in items} == {age >= 30}


def test_what_has_no_age_stays() -> None:
    empty = Records(generations=[], decisions=[], evidence={}, trainings=[], aliases={})
    thing = Thing(what="snapshot", name="s", uri="s", bytes=None, newest=None, because="nobody")
    (item,) = rule([thing], references(empty, now=NOW, days=30, in_flight_days=7), now=NOW, days=30)
    assert (item.goes, item.why) == (False, "nothing says how old it is")
