"""What the label queue holds, for those who look: lists, progress, agreement, and what estimates are made of."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select

from monitoring.labelling import Answered
from monitoring.opinions import ASKED, Pair, agreement
from monitoring.stores import CHUNK, Store
from monitoring.tables import ground_truth, label_queue, label_votes, predictions
from monitoring.votes import open_to, told_elsewhere

SHOWN = 20
"""Days, and undecided photos, that `progress` tells of."""


def find(store: Store, image_id: str) -> dict[str, Any] | None:
    """A photo's row of the queue."""
    with store.reading() as connection:
        found = connection.execute(select(label_queue).where(label_queue.c.image_id == image_id)).mappings().first()
    return None if found is None else dict(found)


def listed(store: Store, day: date | None = None) -> list[dict[str, Any]]:
    """Rows of the queue, oldest day first, each with `votes`: author, label and at of what was said of it."""
    rows, votes = select(label_queue), select(label_votes).where(label_votes.c.undone.is_(None))
    if day is not None:
        rows = rows.where(label_queue.c.day == str(day))
        votes = votes.join(label_queue, label_queue.c.image_id == label_votes.c.image_id)
        votes = votes.where(label_queue.c.day == str(day))
    with store.reading() as connection:
        found = connection.execute(rows.order_by(label_queue.c.day, label_queue.c.place)).mappings().all()
        said: dict[str, list[dict[str, Any]]] = {}
        for vote in connection.execute(votes.order_by(label_votes.c.vote_id)).mappings():
            said.setdefault(vote["image_id"], []).append({name: vote[name] for name in ("author", "label", "at")})
    return [{**row, "votes": said.get(row["image_id"], [])} for row in found]


def queued(store: Store, image_ids: Collection[str]) -> dict[str, datetime]:
    """Those of the photos that are in the queue, and when each was taken."""
    rows = _of(store, select(label_queue.c.image_id, label_queue.c.captured_at), label_queue.c.image_id, image_ids)
    return {row.image_id: row.captured_at for row in rows}


def labelled(store: Store, image_ids: Collection[str]) -> set[str]:
    """Those of the photos whose label is known, whoever said it."""
    known = select(ground_truth.c.image_id).where(ground_truth.c.rejected.is_(None))
    return {row.image_id for row in _of(store, known, ground_truth.c.image_id, image_ids)}


def _of(store: Store, statement: Select[Any], column: Any, image_ids: Collection[str]) -> Iterator[Any]:
    """Rows of a statement about these photos, asked for a few at a time."""
    once = sorted(set(image_ids))
    with store.reading() as connection:
        for start in range(0, len(once), CHUNK):
            yield from connection.execute(statement.where(column.in_(once[start : start + CHUNK])))


def answered(store: Store, day: date) -> tuple[list[Answered], int]:
    """A day's queue for `monitoring.labelling.estimate`: its photos, and how many they were chosen from."""
    statement = (
        select(label_queue.c.probability, label_queue.c.photos, label_queue.c.predicted, ground_truth.c.label)
        .join(
            ground_truth,
            and_(ground_truth.c.image_id == label_queue.c.image_id, ground_truth.c.rejected.is_(None)),
            isouter=True,
        )
        .where(label_queue.c.day == str(day))
    )
    with store.reading() as connection:
        rows = connection.execute(statement).all()
    found = [
        Answered(probability=row.probability, correct=None if row.label is None else row.label == row.predicted)
        for row in rows
    ]
    return found, rows[0].photos if rows else 0


def for_a_reason() -> ColumnElement[bool]:
    """Joins `label_queue` to rows of `ground_truth` that are there because the photo was picked for a reason, not by
    lot: of all photos such labels say nothing."""
    return and_(
        ground_truth.c.image_id == label_queue.c.image_id,
        ground_truth.c.said_by == label_queue.c.said_by,
        ground_truth.c.labelled_at == label_queue.c.labelled_at,
        label_queue.c.reason != "random",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The last days, newest first, with photos by state (`elsewhere`: the label came from elsewhere before people were
    asked); photos that a person may still be asked about; what people agree on; what three people saw differently."""

    days: list[dict[str, Any]]
    left: int
    mine: int
    pairs: list[Pair]
    undecided: list[dict[str, Any]]


def progress(store: Store, author: str, *, now: datetime) -> Progress:
    """How far the queue is; `mine` is what this person has said since midnight (UTC)."""
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    mine = select(func.count()).where(
        label_votes.c.author == author, label_votes.c.undone.is_(None), label_votes.c.at >= today
    )
    left = open_to(author, now, ()).order_by(None).with_only_columns(func.count())
    with store.reading() as connection:
        return Progress(
            days=_days(connection),
            left=int(connection.execute(left).scalar_one()),
            mine=int(connection.execute(mine).scalar_one()),
            pairs=agreement((a, b, ours, theirs, count) for a, b, ours, theirs, count in connection.execute(_pairs())),
            undecided=_undecided(connection),
        )


_STATES = ("open", "disputed", "labelled", "undecided", "unclear", "elsewhere")


def _days(connection: Connection) -> list[dict[str, Any]]:
    elsewhere = and_(label_queue.c.state.in_(ASKED), told_elsewhere()).label("elsewhere")
    last = select(label_queue.c.day).distinct().order_by(label_queue.c.day.desc()).limit(SHOWN)
    by_state = (
        select(label_queue.c.day, label_queue.c.state, elsewhere, func.count().label("photos"))
        .where(label_queue.c.day.in_(last))
        .group_by(label_queue.c.day, label_queue.c.state, elsewhere)
        .order_by(label_queue.c.day.desc())
    )
    days: dict[str, dict[str, Any]] = {}
    for row in connection.execute(by_state).mappings():
        entry = days.setdefault(row["day"], {"day": row["day"], **dict.fromkeys(_STATES, 0)})
        entry["elsewhere" if row["elsewhere"] else row["state"]] += row["photos"]
    return list(days.values())


def _undecided(connection: Connection) -> list[dict[str, Any]]:
    tied = select(label_queue.c.image_id, label_queue.c.day).where(label_queue.c.state == "undecided")
    rows = connection.execute(tied.order_by(label_queue.c.day.desc()).limit(SHOWN)).mappings().all()
    ids = [row["image_id"] for row in rows]
    words = select(label_votes).where(label_votes.c.image_id.in_(ids), label_votes.c.undone.is_(None))
    said: dict[str, dict[str, str | None]] = {}
    for vote in connection.execute(words).mappings():
        said.setdefault(vote["image_id"], {})[vote["author"]] = vote["label"]
    return [{**row, "said": said.get(row["image_id"], {})} for row in rows]


def _pairs() -> Select[Any]:
    one, other = label_votes.alias("one"), label_votes.alias("other")
    both = and_(one.c.image_id == other.c.image_id, one.c.author < other.c.author)
    told = (one.c.undone.is_(None), other.c.undone.is_(None), one.c.label.is_not(None), other.c.label.is_not(None))
    columns = (one.c.author, other.c.author, one.c.label, other.c.label)
    return select(*columns, func.count()).select_from(one.join(other, both)).where(*told).group_by(*columns)


def other_answers(store: Store, *, since: datetime, until: datetime, generation: int) -> list[dict[str, Any]]:
    """What others than this generation's champion said of photos of [since, until): image_id, label, confidence."""
    others = or_(predictions.c.arm != "champion", predictions.c.generation != generation)
    statement = select(predictions.c.image_id, predictions.c.label, predictions.c.confidence)
    statement = statement.where(predictions.c.captured_at >= since, predictions.c.captured_at < until, others)
    with store.reading() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]
