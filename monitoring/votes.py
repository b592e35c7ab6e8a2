"""The label queue in SQL: who has which photo in hands, what each person said, and what becomes the truth.

A photo is in one person's hands at a time, by compare-and-swap, and comes back when the time is over. Every word and
every undo is one transaction that takes the photo's row first, so that several people never mix, on SQLite and on
PostgreSQL. Time comes in.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, and_, case, delete, exists, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from monitoring.labelling import Chosen
from monitoring.opinions import ASKED, Opinion, Outcome, settle, verdict
from monitoring.stores import CHUNK, Store, StoreError
from monitoring.tables import ground_truth, label_queue, label_votes

AT_ONCE = 10
"""Photos that are looked at to claim one: others may be quicker with some of them."""


class LostClaim(StoreError):
    """The photo is not in this person's hands any more, or the word was taken back already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A person's word on a photo of the queue; no label: they cannot tell."""

    image_id: str
    author: str
    label: str | None
    at: datetime


def fill(store: Store, day: date, chosen: Sequence[Chosen], about: Mapping[str, Mapping[str, Any]]) -> int:
    """Put a day's photos into the queue; those that are there already stay as they are. Gives how many are new.

    Args:
        about: image_id → source_id, captured_at, predicted, confidence, model_version.
    """
    rows = [{**asdict(one), "day": str(day), "state": "open", **about[one.image_id]} for one in chosen]
    new = 0
    with store.writing() as connection:
        for start in range(0, len(rows), CHUNK):
            statement = _insert(store, label_queue).values(rows[start : start + CHUNK])
            new += connection.execute(statement.on_conflict_do_nothing(index_elements=["image_id"])).rowcount
    return new


# ------------------------------------------------------------------------------------------------ claims


def claim(
    store: Store, author: str, *, now: datetime, minutes: float, passed: Collection[str] = ()
) -> dict[str, Any] | None:
    """Give a person a photo that nobody else has in hands: the one they have already, or the next, newest day first.

    A photo is not given to somebody who has spoken of it, nor when its label came from elsewhere meanwhile.

    Args:
        minutes: after which the photo is given to others.
        passed: photos that this person wants later; one of them that they hold is let go.
    """
    until = now + timedelta(minutes=minutes)
    _let_go(store, author, passed)
    while True:
        with store.reading() as connection:
            rows = connection.execute(open_to(author, now, passed).limit(AT_ONCE)).mappings().all()
        if not rows:
            return None
        for row in rows:
            if _take(store, row["image_id"], author, now, until):
                return {**row, "claimed_by": author, "claimed_until": until}


def _let_go(store: Store, author: str, passed: Collection[str]) -> None:
    if passed:
        with store.writing() as connection:
            connection.execute(
                update(label_queue)
                .where(label_queue.c.claimed_by == author, label_queue.c.image_id.in_(passed))
                .values(claimed_by=None, claimed_until=None)
            )


def _free(author: str, now: datetime) -> Any:
    held = label_queue.c.claimed_by
    return and_(
        label_queue.c.state.in_(ASKED),
        or_(held.is_(None), held == author, label_queue.c.claimed_until <= now),
    )


def open_to(author: str, now: datetime, passed: Collection[str]) -> Select[Any]:
    """Photos that a person may be asked about, the one in their hands first."""
    spoken = exists().where(
        label_votes.c.image_id == label_queue.c.image_id,
        label_votes.c.author == author,
        label_votes.c.undone.is_(None),
    )
    # A case, because PostgreSQL puts what is null first.
    mine = case((and_(label_queue.c.claimed_by == author, label_queue.c.claimed_until > now), 0), else_=1)
    return (
        select(label_queue)
        .where(_free(author, now), ~spoken, ~told_elsewhere(), label_queue.c.image_id.not_in(passed))
        .order_by(mine, label_queue.c.day.desc(), label_queue.c.place, label_queue.c.image_id)
    )


def told_elsewhere() -> Any:
    """Whether a label of the photo is known."""
    return exists().where(ground_truth.c.image_id == label_queue.c.image_id, ground_truth.c.rejected.is_(None))


def _take(store: Store, image_id: str, author: str, now: datetime, until: datetime) -> bool:
    with store.writing() as connection:
        statement = update(label_queue).where(label_queue.c.image_id == image_id, _free(author, now))
        return connection.execute(statement.values(claimed_by=author, claimed_until=until)).rowcount == 1


# ------------------------------------------------------------------------------------------------- words


def say(store: Store, said: Said) -> Outcome:
    """Take what a person says of the photo that they have in hands; it goes to `ground_truth` when it is settled.

    Raises:
        LostClaim: it is not in their hands, or in somebody else's by now.
    """
    with store.writing() as connection:
        held = connection.execute(
            update(label_queue)
            .where(label_queue.c.image_id == said.image_id, label_queue.c.claimed_by == said.author)
            .values(claimed_by=None, claimed_until=None)
        )
        if held.rowcount != 1:
            raise LostClaim(
                f"photo {said.image_id!r} is not in {said.author}'s hands any more: the time was over and somebody "
                "else may have it; take the next one"
            )
        _replace(connection, said, said.at)  # they may have said it in a file meanwhile
        return _settle(store, connection, said.image_id)


def take_in(store: Store, words: Sequence[Said], *, now: datetime) -> dict[str, int]:
    """Take words that were said elsewhere, all or none; a person's later word replaces their earlier one.

    Args:
        words: of photos that are in the queue; one a person and photo.

    Returns:
        How many were new, changed and unchanged.
    """
    counts = {"new": 0, "changed": 0, "unchanged": 0}
    by_photo: dict[str, list[Said]] = {}
    for said in words:
        by_photo.setdefault(said.image_id, []).append(said)
    with store.writing() as connection:
        for image_id in sorted(by_photo):  # one order: two imports do not wait for each other in a circle
            _lock(connection, image_id)
            for said in by_photo[image_id]:
                counts[_replace(connection, said, now)] += 1
            _settle(store, connection, image_id)
    return counts


def _replace(connection: Connection, said: Said, now: datetime) -> str:
    mine = and_(
        label_votes.c.image_id == said.image_id, label_votes.c.author == said.author, label_votes.c.undone.is_(None)
    )
    known = connection.execute(select(label_votes.c.label).where(mine)).all()
    if known and known[0].label == said.label:
        return "unchanged"
    connection.execute(update(label_votes).where(mine).values(undone=now))
    connection.execute(label_votes.insert().values(asdict(said)))
    return "changed" if known else "new"


def undo(store: Store, author: str, *, now: datetime, minutes: float) -> str | None:
    """Take a person's last word back, also from `ground_truth`, where what it replaced comes back; gives the photo.

    The photo is in their hands again, in place of another, unless somebody else has it. None: they have said nothing.

    Raises:
        LostClaim: it is being taken back by another window of theirs.
    """
    last = select(label_votes).where(label_votes.c.author == author, label_votes.c.undone.is_(None))
    with store.reading() as connection:
        vote = connection.execute(last.order_by(label_votes.c.vote_id.desc()).limit(1)).mappings().first()
    if vote is None:
        return None
    with store.writing() as connection:
        _lock(connection, vote["image_id"])
        gone = update(label_votes).where(label_votes.c.vote_id == vote["vote_id"], label_votes.c.undone.is_(None))
        if connection.execute(gone.values(undone=now)).rowcount != 1:
            raise LostClaim(f"{author}'s last word was taken back already, in another window")
        _settle(store, connection, vote["image_id"])
        connection.execute(
            update(label_queue).where(label_queue.c.claimed_by == author).values(claimed_by=None, claimed_until=None)
        )
        connection.execute(
            update(label_queue)
            .where(label_queue.c.image_id == vote["image_id"], _free(author, now))
            .values(claimed_by=author, claimed_until=now + timedelta(minutes=minutes))
        )
    return str(vote["image_id"])


def _lock(connection: Connection, image_id: str) -> None:
    """Let nobody else change this photo until the transaction ends: a write, because SQLite locks for nothing less."""
    connection.execute(update(label_queue).where(label_queue.c.image_id == image_id).values(place=label_queue.c.place))


def _settle(store: Store, connection: Connection, image_id: str) -> Outcome:
    """Bring the photo's state and the ground truth to what its opinions come to now."""
    item = connection.execute(select(label_queue).where(label_queue.c.image_id == image_id)).mappings().one()
    spoken = select(label_votes).where(label_votes.c.image_id == image_id, label_votes.c.undone.is_(None))
    rows = connection.execute(spoken.order_by(label_votes.c.vote_id)).mappings()
    opinions = [Opinion(author=row["author"], label=row["label"], at=row["at"]) for row in rows]
    outcome = settle(opinions, item["wanted"])
    _withdraw(store, connection, dict(item))
    written = _write(store, connection, image_id, outcome)
    connection.execute(
        update(label_queue).where(label_queue.c.image_id == image_id).values(state=outcome.state, **written)
    )
    return outcome


def _known(connection: Connection, image_id: str) -> dict[str, Any] | None:
    found = connection.execute(select(ground_truth).where(ground_truth.c.image_id == image_id)).mappings().first()
    return None if found is None else dict(found)


def _withdraw(store: Store, connection: Connection, item: Mapping[str, Any]) -> None:
    """Give `ground_truth` back what it had, unless somebody has spoken there since."""
    known = _known(connection, item["image_id"])
    if known is None or (known["said_by"], known["labelled_at"]) != (item["said_by"], item["labelled_at"]):
        return
    if item["before"] is None:
        connection.execute(delete(ground_truth).where(ground_truth.c.image_id == item["image_id"]))
    else:
        before = {**item["before"], "labelled_at": datetime.fromisoformat(item["before"]["labelled_at"])}
        _put(store, connection, before)


def _write(store: Store, connection: Connection, image_id: str, outcome: Outcome) -> dict[str, Any]:
    """Write a settled label where it is news; gives what the queue keeps of that."""
    nothing = {"said_by": None, "labelled_at": None, "before": None}
    if outcome.label is None:
        return nothing
    row = {"image_id": image_id, "label": outcome.label, "labelled_at": outcome.at, "said_by": outcome.said_by}
    known = _known(connection, image_id)
    if verdict(known, row) == "unchanged":
        return nothing
    _put(store, connection, {**row, "rejected": None})
    before = None if known is None else {**known, "labelled_at": known["labelled_at"].isoformat()}
    return {"said_by": outcome.said_by, "labelled_at": outcome.at, "before": before}


def _put(store: Store, connection: Connection, row: Mapping[str, Any]) -> None:
    statement = _insert(store, ground_truth).values(dict(row))
    values = {name: statement.excluded[name] for name in row if name != "image_id"}
    connection.execute(statement.on_conflict_do_update(index_elements=["image_id"], set_=values))


def _insert(store: Store, table: Any) -> Any:
    return (postgresql.insert if store.engine.dialect.name == "postgresql" else sqlite.insert)(table)
