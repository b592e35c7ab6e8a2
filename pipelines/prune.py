"""Delete what nothing refers to any more: old snapshots, checkpoints, model versions, caches.

    classy prune [--older-than DAYS] [--what snapshots,checkpoints,versions,caches] [--yes]

Nothing is deleted without `--yes`. Whatever a generation names stays for ever; see `pipelines/retention/rules.py`.
Right before each deletion is asked again who refers to it. Killed in the middle, the next prune finishes.
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from monitoring.stores import Store, open_store
from pipelines import files
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.recipe import Recipe
from pipelines.retention.attic import KINDS, Attic, StillNeeded
from pipelines.retention.rules import Item, References, Thing, references, rule
from pipelines.settings import Settings

__all__ = ["KINDS", "Pruned", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What went, or would go, and what stays because who refers to it."""

    deleted: bool
    """False: only looked."""
    older_than_days: int
    goes: list[Item]
    stays: list[Item]
    bytes: int
    """Of what goes, where it is known."""
    receipt_uri: str | None
    """The list of what was deleted; a row of `decisions` names it too."""


def run(
    settings: Settings,
    recipe: Recipe,
    *,
    now: datetime,
    older_than_days: int = 30,
    what: Sequence[str] = KINDS,
    delete: bool = False,
    actor: str | None = None,
) -> Pruned:
    """Say what may go; delete it if told so.

    Args:
        now: the wall clock: ages are counted from it.
        older_than_days: younger things stay whatever refers to them.
        what: some of KINDS.
        actor: who, for the record; default CLASSY_ACTOR.

    Raises:
        ClassyError: less than a day, an unknown kind, or MLflow does not answer: without it nobody can say who
            refers to what.
    """
    _check(older_than_days, what)
    store, client = open_store(settings.database_url), tracking.connect(settings)
    attic = Attic(settings=settings, store=store, client=client)

    def refer() -> References:
        in_flight = recipe.policy.in_flight_days
        return references(attic.records(), now=now, days=older_than_days, in_flight_days=in_flight)

    def ask(things: Sequence[Thing]) -> list[Item]:
        return rule(things, refer(), now=now, days=older_than_days)

    with tracking.answering(settings):
        things = [thing for kind in KINDS if kind in what for thing in attic.things(kind)]
        items = ask(things)
        doomed = [thing for thing, item in zip(things, items, strict=True) if item.goes]
        receipt_uri = None
        if delete and doomed:
            stay = [item for item in items if not item.goes]
            gone, receipt_uri = _delete(settings, store, attic, doomed, ask, now=now, actor=actor or settings.actor)
            items = [*stay, *gone]
    goes = [item for item in items if item.goes]
    return Pruned(
        deleted=delete,
        older_than_days=older_than_days,
        goes=goes,
        stays=[item for item in items if not item.goes],
        bytes=sum(item.bytes or 0 for item in goes),
        receipt_uri=receipt_uri,
    )


def _check(days: int, what: Sequence[str]) -> None:
    if days < 1:
        raise ClassyError(
            f"older than {days} days: at least 1, so that what is being made now is never taken for something old"
        )
    unknown = [kind for kind in what if kind not in KINDS]
    if unknown or not what:
        raise ClassyError(f"what={','.join(unknown) or 'nothing'}: choose some of {','.join(KINDS)}")


def _delete(
    settings: Settings,
    store: Store,
    attic: Attic,
    doomed: Sequence[Thing],
    ask: Callable[[Sequence[Thing]], list[Item]],
    *,
    now: datetime,
    actor: str,
) -> tuple[list[Item], str]:
    """Delete one after the other; gives what became of each, and the receipt's URI."""
    key = f"prune-{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
    uri = files.join(settings.data_root, "pruned", f"{key}.json")
    done: list[Item] = []
    # Written before the first deletion: a prune that is killed has said what it was about.
    _write(uri, now, actor, done, todo=[thing.uri for thing in doomed])
    try:
        for thing in doomed:
            done.append(_delete_one(attic, thing, ask))
    finally:
        text = _write(uri, now, actor, done, todo=[thing.uri for thing in doomed[len(done) :]])
        _record(store, key, uri, text, done, now=now, actor=actor)
    return done, uri


def _delete_one(attic: Attic, thing: Thing, ask: Callable[[Sequence[Thing]], list[Item]]) -> Item:
    (item,) = ask([thing])
    if not item.goes:
        return replace(item, why=f"{item.why} (since it was listed)")
    try:
        attic.remove(thing)
    except StillNeeded as error:
        return replace(item, goes=False, why=str(error))
    return item


def _write(uri: str, now: datetime, actor: str, done: Sequence[Item], todo: Sequence[str]) -> str:
    about = {"at": now.isoformat(), "by": actor, "done": [asdict(item) for item in done], "not_reached": list(todo)}
    text = json.dumps(about, indent=1)
    files.write_text(uri, text)
    return text


def _record(store: Store, key: str, uri: str, text: str, done: Sequence[Item], *, now: datetime, actor: str) -> None:
    """The row of `decisions` that names the receipt. Deleting moves no data time: it takes the newest there is."""
    gone = [item for item in done if item.goes]
    if not gone:
        return
    counts = {kind: sum(item.what == kind for item in gone) for kind in sorted({item.what for item in gone})}
    words = ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items())
    times = [row["as_of"] for row in [*store.decisions(), *store.generations()]]
    store.record_decision(
        {
            "decision_key": key,
            "kind": "prune",
            "action": "DELETE",
            "reason": f"{words}: nothing referred to them",
            "run_key": None,
            "evidence_uri": uri,
            "evidence_hash": hashlib.sha256(text.encode()).hexdigest(),
            "actor": actor,
            "as_of": max(times, default=now),
            "created_at": now,
        }
    )
