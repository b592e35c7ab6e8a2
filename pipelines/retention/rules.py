"""What may go and what must stay: pure. `pipelines/prune.py` looks, asks here, and deletes.

A generation can be rolled back to and has to be explained, so whatever it names stays for ever. Whatever could
still become a generation stays too: a verdict PROMOTE about the present champion, a training that is under way.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

SECONDS_A_DAY = 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One MLflow run, as far as retention asks."""

    run_id: str
    run_key: str | None
    candidate: str | None
    snapshot_id: str | None
    finished: bool
    newest: datetime
    """When it was last worked on."""
    package_sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Records:
    """All that refers to something."""

    generations: Sequence[Mapping[str, Any]]
    decisions: Sequence[Mapping[str, Any]]
    evidence: Mapping[str, Mapping[str, Any] | None]
    """evidence_uri → the judge's document, None where it cannot be read."""
    trainings: Sequence[Training]
    aliases: Mapping[str, str]
    """Version → alias."""


@dataclass(frozen=True, kw_only=True, slots=True)
class References:
    """Who refers to what: name → words. What is in none of these may go once it is old."""

    versions: dict[str, str] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    snapshots: dict[str, str] = field(default_factory=dict)
    run_keys: dict[str, str] = field(default_factory=dict)
    doubt: list[str] = field(default_factory=list)
    """Records that should name a snapshot and cannot be read: while there are any, no snapshot goes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """Something that could go."""

    what: str
    """snapshot, checkpoint, version or cache."""
    name: str
    uri: str
    bytes: int | None
    newest: datetime | None
    """When it was made or last used; None where nothing says."""
    because: str
    """Why it may go."""
    run_ids: tuple[str, ...] = ()
    run_key: str | None = None
    left_over: bool = False
    """A deletion that was killed left it: it is gone for readers already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A thing and what becomes of it."""

    what: str
    name: str
    uri: str
    bytes: int | None
    age_days: float | None
    goes: bool
    why: str


def references(records: Records, *, now: datetime, days: int, in_flight_days: int) -> References:
    """Everything that must stay, and who says so.

    Args:
        days: what is younger than this is nobody's to delete.
        in_flight_days: a retraining that no judge has answered for longer is given up (recipe.policy).
    """
    found = References()
    by_run = {training.run_id: training for training in records.trainings}
    for row in records.generations:
        _of_generation(found, row, records, by_run)
    for version, alias in records.aliases.items():
        found.versions.setdefault(version, f"alias {alias}")
    current = records.generations[-1]["champion_version"] if records.generations else None
    judged = [row for row in records.decisions if row["kind"] == "judge"]
    rejected = {row["run_key"] for row in records.decisions if row["kind"] == "approval" and row["action"] == "REJECT"}
    for row in judged:
        young, refused = now - row["created_at"] < timedelta(days=days), row["run_key"] in rejected
        _of_judgement(found, row, records, by_run, current=current, young=young, refused=refused)
    _in_flight(found, records, {row["run_key"] for row in judged}, now=now, days=max(days, in_flight_days))
    for training in records.trainings:
        who = found.run_keys.get(training.run_key) if training.run_key is not None else None
        if now - training.newest < timedelta(days=days):
            who = who or f"run {training.run_id[:8]}, which is younger than {days} days"
            if training.run_key is not None:
                found.run_keys.setdefault(training.run_key, who)
        if who is not None:
            _of_run(found, training.run_id, by_run, who)
    return found


def _of_generation(found: References, row: Mapping[str, Any], records: Records, by_run: Mapping[str, Training]) -> None:
    who = f"generation {row['generation']}"
    for name in ("champion_version", "previous_version", "canary_version", "shadow_version"):
        if row[name] is not None:
            found.versions.setdefault(str(row[name]), who)
    named = _of_run(found, row["champion_run_id"], by_run, who)
    for name in ("canary_run_id", "shadow_run_id"):
        if row[name] is not None:
            _of_run(found, row[name], by_run, who)
    evidence = records.evidence.get(row["evidence_uri"]) if row["evidence_uri"] else None
    if evidence is not None:
        named |= _of_evidence(found, evidence, by_run, who)
    elif row["evidence_uri"]:
        found.doubt.append(f"{who}'s evidence cannot be read")
    if not named:
        found.doubt.append(f"nothing says which snapshot {who} was trained on")


def _of_judgement(
    found: References,
    row: Mapping[str, Any],
    records: Records,
    by_run: Mapping[str, Training],
    *,
    current: str | None,
    young: bool,
    refused: bool,
) -> None:
    evidence = records.evidence.get(row["evidence_uri"])
    promotable = row["action"] == "PROMOTE" and not refused
    open_still = promotable and (evidence is None or evidence["champion_version"] == current)
    if not young and not open_still:
        return
    who = f"{row['decision_key']}, which could be promoted" if open_still else f"{row['decision_key']} (young)"
    found.run_keys.setdefault(str(row["run_key"]), who)
    if evidence is None:
        found.doubt.append(f"the evidence of {row['decision_key']} cannot be read")
    else:
        _of_evidence(found, evidence, by_run, who)


def _of_evidence(found: References, evidence: Mapping[str, Any], by_run: Mapping[str, Training], who: str) -> set[str]:
    """Both sides, all candidates and seeds, their snapshots; gives the snapshots."""
    sides = [evidence["contender"], evidence["opponent"]]
    snapshots = {evidence["snapshot"]["id"], *(side.get("trained_on") for side in sides)} - {None}
    for side in sides:
        if side.get("version") is not None:
            found.versions.setdefault(str(side["version"]), who)
    seeds = (evidence.get("seeds") or {}).get("runs", [])
    named = [
        *(side.get("run_id") for side in sides),
        *evidence.get("candidates", []),
        *(one["run_id"] for one in seeds),
    ]
    for run_id in named:
        if run_id is not None:
            snapshots |= _of_run(found, run_id, by_run, who)
    for snapshot in snapshots:
        found.snapshots.setdefault(str(snapshot), who)
    return snapshots


def _of_run(found: References, run_id: str, by_run: Mapping[str, Training], who: str) -> set[str]:
    found.runs.setdefault(run_id, who)
    training = by_run.get(run_id)
    if training is None or training.snapshot_id is None:
        return set()
    found.snapshots.setdefault(training.snapshot_id, who)
    return {training.snapshot_id}


def _in_flight(found: References, records: Records, judged: set[Any], *, now: datetime, days: int) -> None:
    """Trainings that were asked for, and that no judge has answered yet."""
    for row in records.decisions:
        waiting = row["kind"] == "monitor" and row["action"] == "RETRAIN" and row["run_key"] not in judged
        if waiting and now - row["created_at"] < timedelta(days=days):
            found.run_keys.setdefault(str(row["run_key"]), f"{row['decision_key']}: its training is under way")


# ------------------------------------------------------------------------------------------------- ruling


def rule(things: Iterable[Thing], refs: References, *, now: datetime, days: int) -> list[Item]:
    """What becomes of each thing."""
    return [_item(thing, refs, now, days) for thing in things]


def _item(thing: Thing, refs: References, now: datetime, days: int) -> Item:
    age = None if thing.newest is None else (now - thing.newest).total_seconds() / SECONDS_A_DAY
    kept = None if thing.left_over else _kept_by(thing, refs) or _too_young(age, days)
    return Item(
        what=thing.what,
        name=thing.name,
        uri=thing.uri,
        bytes=thing.bytes,
        age_days=None if age is None else round(age, 1),
        goes=kept is None,
        why=thing.because if kept is None else kept,
    )


def _too_young(age: float | None, days: int) -> str | None:
    if age is None:
        return "nothing says how old it is"
    return None if age >= days else f"it is younger than {days} days"


def _kept_by(thing: Thing, refs: References) -> str | None:
    """Who needs it, or None."""
    needed = next((refs.runs[run_id] for run_id in thing.run_ids if run_id in refs.runs), None)
    if needed is None and thing.what == "version":
        needed = refs.versions.get(thing.name)
    if needed is None and thing.what == "snapshot":
        needed = refs.snapshots.get(thing.name) or (refs.doubt[0] if refs.doubt else None)
    if needed is None and thing.run_key is not None:
        needed = refs.run_keys.get(thing.run_key)
    return None if needed is None else f"kept for {needed}" if needed not in refs.doubt else f"kept, because {needed}"
