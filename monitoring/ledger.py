"""What the next row of `deployments` says. Pure: the caller writes it, and the primary key lets one writer win."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Row = Mapping[str, Any]
Role = Literal["canary", "shadow"]
CANARY = "canary"
RESERVED = ("champion", "shadow")
"""Names that no canary may have: an arm is asked for by its name."""
EMPTY: dict[str, Any] = {
    "canary_version": None,
    "canary_run_id": None,
    "canary_name": None,
    "canary_weight": 0.0,
    "shadow_version": None,
    "shadow_run_id": None,
}
"""Nobody beside the champion."""


class LedgerError(Exception):
    """This change cannot be made; the message says why and what can."""

    for_people = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Who changes production, why, and when. Times are aware UTC."""

    actor: str
    reason: str
    run_key: str
    as_of: datetime
    """Data time."""
    created_at: datetime
    """Wall clock."""


def promotion(
    current: Row | None,
    change: Change,
    *,
    version: str,
    run_id: str,
    evidence_uri: str | None,
    evidence_hash: str | None,
) -> dict[str, Any]:
    """The generation in which a contender becomes the champion."""
    return _next(current, change, "promote", version, run_id, evidence_uri, evidence_hash)


def rollback(current: Row, change: Change, *, target: Row) -> dict[str, Any]:
    """The generation in which `target`'s model, with the evidence that once brought it, serves again."""
    return _next(
        current,
        change,
        "rollback",
        target["champion_version"],
        target["champion_run_id"],
        target["evidence_uri"],
        target["evidence_hash"],
    )


def canary(
    current: Row | None, change: Change, *, version: str, run_id: str, weight: float, name: str | None = None
) -> dict[str, Any]:
    """The generation in which `version` answers a share of the senders beside the champion, who stays.

    The same version again changes its weight, and its name where one is given: the senders that it has, it keeps.

    Raises:
        LedgerError: nothing is in production, it is the champion itself, the weight is no share, or another canary
            is there.
    """
    row = _beside(current, change, "canary", version)
    if not 0 < weight < 1:
        raise LedgerError(f"canary weight {weight:g}: must be above 0 and below 1, such as 0.1 for every tenth sender")
    if row["canary_version"] not in (None, version):
        raise LedgerError(
            f"version {row['canary_version']} is the canary already; `classy canary drop` or `classy canary promote` "
            "ends it, then start the next"
        )
    name = name or (row["canary_name"] if row["canary_version"] == version else None)
    if name in RESERVED:
        raise LedgerError(f"canary name {name!r}: is taken; choose another, such as B")
    return {
        **row,
        "canary_version": version,
        "canary_run_id": run_id,
        "canary_name": name or CANARY,
        "canary_weight": weight,
    }


def shadow(current: Row | None, change: Change, *, version: str, run_id: str) -> dict[str, Any]:
    """The generation in which `version` answers everything too, and nobody gets its answers.

    Raises:
        LedgerError: nothing is in production, or it is the champion itself.
    """
    return {**_beside(current, change, "shadow", version), "shadow_version": version, "shadow_run_id": run_id}


def drop(current: Row | None, change: Change, *, role: Role) -> dict[str, Any]:
    """The generation in which the canary, or the shadow, is no more; the champion answers its senders.

    Raises:
        LedgerError: there is none.
    """
    if current is None or current[f"{role}_version"] is None:
        raise LedgerError(f"there is no {role} to drop; `classy status` shows what serves")
    gone = {name: EMPTY[name] for name in EMPTY if name.startswith(role)}
    return {**_same(current, change, "drop"), **gone}


def brought(generations: Sequence[Row]) -> Row | None:
    """The promotion or rollback that brought the champion of now: canaries and shadows come and go beside it.

    Args:
        generations: all rows, oldest first.
    """
    return next((row for row in reversed(generations) if row["kind"] in ("promote", "rollback")), None)


def trial(generations: Sequence[Row]) -> list[Row]:
    """The generations of the canary of now, oldest first: each is another weight, or another shadow beside it."""
    found: list[Row] = []
    for row in reversed(generations):
        now = generations[-1]
        if row["canary_run_id"] is None or any(row[name] != now[name] for name in ("champion_run_id", "canary_run_id")):
            break
        found.insert(0, row)
    return found


def answered_by(row: Row, run_id: str) -> Role | None:
    """Which role a model had in a generation, if it was not the champion."""
    roles: tuple[Role, ...] = ("canary", "shadow")
    return next((role for role in roles if row[f"{role}_run_id"] == run_id), None)


def _beside(current: Row | None, change: Change, kind: str, version: str) -> dict[str, Any]:
    if current is None:
        raise LedgerError(f"no {kind} without a champion: nothing is in production yet; `classy promote` comes first")
    if current["champion_version"] == version:
        raise LedgerError(f"version {version} is the champion itself; a {kind} is another version (`classy history`)")
    return _same(current, change, kind)


def _same(current: Row, change: Change, kind: str) -> dict[str, Any]:
    """The next generation, with everybody in the place that they have."""
    return {
        **current,
        "generation": current["generation"] + 1,
        "kind": kind,
        "actor": change.actor,
        "reason": change.reason,
        "run_key": change.run_key,
        "as_of": change.as_of,
        "created_at": change.created_at,
    }


def _next(
    current: Row | None,
    change: Change,
    kind: str,
    version: str,
    run_id: str,
    evidence_uri: str | None,
    evidence_hash: str | None,
) -> dict[str, Any]:
    return {
        "generation": current["generation"] + 1 if current else 1,
        "champion_version": version,
        "champion_run_id": run_id,
        "previous_version": _previous(current, version),
        # A canary or shadow was set up beside the old champion; it does not outlive it.
        **EMPTY,
        "kind": kind,
        "actor": change.actor,
        "reason": change.reason,
        "evidence_uri": evidence_uri,
        "evidence_hash": evidence_hash,
        "run_key": change.run_key,
        "as_of": change.as_of,
        "created_at": change.created_at,
    }


def _previous(current: Row | None, version: str) -> str | None:
    """Which other version was in production before: one that is promoted again was not its own predecessor."""
    if current is None:
        return None
    return current["previous_version"] if current["champion_version"] == version else current["champion_version"]


def rollback_target(generations: Sequence[Row], to: int | None) -> Row:
    """The generation whose model a rollback puts back.

    Without a number it is the newest one before the current model was promoted, whose model no rollback has
    taken out since the last promotion. A second rollback therefore goes further back; it never brings back
    the model that the first one took out.

    Args:
        generations: all rows, oldest first.
        to: a generation, or None.

    Raises:
        LedgerError: nothing is in production, nothing came before, or there is no such generation.
    """
    if not generations:
        raise LedgerError(
            "nothing to roll back: nothing is in production yet; `classy promote` makes the first generation"
        )
    by_number = {row["generation"]: row for row in generations}
    current = generations[-1]
    if to is not None:
        if to not in by_number:
            raise LedgerError(
                f"rollback to generation {to}: there is none; there are {_list(by_number)} (`classy history`)"
            )
        return by_number[to]
    taken_out = _taken_out(generations)
    promoted = _promoted(generations)["generation"]
    before = [row for row in generations if row["generation"] < promoted and row["champion_version"] not in taken_out]
    if not before:
        choice = f"; name one with --to: {_list(by_number)}" if len(by_number) > 1 else ""
        raise LedgerError(
            f"nothing to roll back to: generation {current['generation']} serves version "
            f"{current['champion_version']}, and no other was in production before it{choice}"
        )
    return before[-1]


def _promoted(generations: Sequence[Row]) -> Row:
    """The promotion that brought the current model; a rollback carries the evidence of the one it went back to."""
    current = generations[-1]
    same = [row for row in generations if row["champion_version"] == current["champion_version"]]
    judged = [row for row in same if row["evidence_hash"] == current["evidence_hash"]]
    return next((row for row in reversed(judged) if row["kind"] == "promote"), same[0])


def _taken_out(generations: Sequence[Row]) -> set[str]:
    """The current version, and those that a rollback took out since the last promotion."""
    found = {generations[-1]["champion_version"]}
    for row in reversed(generations):
        if row["kind"] == "promote":
            break
        if row["kind"] == "rollback":
            found.add(row["previous_version"])
    return found


def _list(by_number: Mapping[int, Row]) -> str:
    return ", ".join(f"{number} (version {row['champion_version']})" for number, row in sorted(by_number.items())[-10:])


def last_served(generations: Sequence[Row]) -> dict[str, int]:
    """The newest generation that each version was the champion of: version → generation."""
    return {row["champion_version"]: row["generation"] for row in generations}


def served_at(generations: Sequence[Row], at: datetime, *, clock: str) -> Row | None:
    """The generation in production at `at`; None before the first.

    A generation cannot start before the one that it replaced: a promotion on older data than the last
    one's counts from the last one's time on.

    Args:
        generations: all rows, oldest first.
        at: aware time.
        clock: `as_of` for data time, `created_at` for the wall clock.
    """
    serving = None
    start = None
    for row in generations:
        start = row[clock] if start is None else max(start, row[clock])
        if start > at:
            break
        serving = row
    return serving
