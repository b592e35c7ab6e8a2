"""Answers and what became true of them, counted: millions of predictions as a few thousand rows.

Everything that is measured on labels is a sum of these counts. `counted` makes them in the database, in one pass that
keeps no photo in memory; `tally` makes the same of frames, for worlds that are only played.

Of several answers of a version about a photo the last counts. A label's age is told in days of data time: a photo of
the 3rd whose label came on the 5th has one that is two days old, and at the end of the 5th all labels of that age are
known.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from datetime import date, datetime
from typing import Any

import pandas as pd
from sqlalchemy import Date, case, cast, func, literal, null, select

from monitoring.stores import Store
from monitoring.tables import ground_truth, predictions

GROUPS = ("captured_on", "labelled_on", "version", "again", "unseen", "early", "source_id", "said", "label")
"""`captured_on`, `labelled_on`: days. `version`: whose answer. `again`: another version is counted with the photo
already. `unseen`: captured since what the champion was trained on was known. `early`: labelled before it was captured,
which cannot be. `source_id`: the sender, where that is asked for. `said`: the answer; `label`: the truth. Without a
label, labelled_on, source_id, said and label are None."""
CHUNK = 10_000  # rows of one fetch


def counted(
    store: Store,
    *,
    since: datetime,
    until: datetime,
    unseen_from: datetime,
    senders_since: datetime,
    arm: str = "champion",
) -> pd.DataFrame:
    """Answers about photos captured in [since, until), with the labels known at `until`.

    Args:
        unseen_from: photos from then on are `unseen`.
        senders_since: photos from then on are counted by sender.

    Returns:
        one row a group (GROUPS), with `rows`: photos.
    """
    # One sort for both: the newest answer of a version is the one before which another version, or nobody, stands.
    before = func.lag(predictions.c.model_version).over(
        partition_by=predictions.c.image_id,
        order_by=(
            predictions.c.model_version,
            predictions.c.predicted_at.desc(),
            predictions.c.prediction_id.desc(),
        ),
    )
    known = ground_truth.c.label.is_not(None)
    by_sender = known & (predictions.c.captured_at >= senders_since)
    answers = (
        select(
            _day(store, predictions.c.captured_at).label("captured_on"),
            _day(store, ground_truth.c.labelled_at).label("labelled_on"),
            predictions.c.model_version.label("version"),
            before.is_not(None).label("again"),
            (predictions.c.captured_at >= unseen_from).label("unseen"),
            func.coalesce(ground_truth.c.labelled_at < predictions.c.captured_at, literal(False)).label("early"),
            case((by_sender, predictions.c.source_id), else_=null()).label("source_id"),
            case((known, predictions.c.label), else_=null()).label("said"),
            ground_truth.c.label.label("label"),
            before.label("before"),
        )
        .outerjoin(
            ground_truth,
            (ground_truth.c.image_id == predictions.c.image_id)
            & (ground_truth.c.labelled_at <= until)
            & ground_truth.c.rejected.is_(None),
        )
        .where(predictions.c.arm == arm, predictions.c.captured_at >= since, predictions.c.captured_at < until)
        .subquery()
    )
    groups = [answers.c[name] for name in GROUPS]
    statement = (
        select(*groups, func.count().label("rows"))
        .where(~answers.c.again | (answers.c.before != answers.c.version))
        .group_by(*groups)
    )
    with store.reading() as connection:
        found = connection.execution_options(yield_per=CHUNK).execute(statement)
        return _frame(tuple(row) for row in found)


def tally(
    answers: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    since: datetime,
    until: datetime,
    unseen_from: datetime,
    senders_since: datetime,
) -> pd.DataFrame:
    """What `counted` gives, of frames.

    Args:
        answers: image_id, source_id, captured_at, predicted_at, label, model_version.
        truth: image_id, label, labelled_at; accepted labels, each photo once.
    """
    inside = (answers["captured_at"] >= since) & (answers["captured_at"] < until)
    photo = ["image_id", "model_version"]
    last = answers[inside].sort_values("predicted_at", kind="stable").drop_duplicates(photo, keep="last")
    last = last.sort_values(photo, kind="stable")
    known = truth[truth["labelled_at"] <= until][["image_id", "label", "labelled_at"]]
    rows = last.rename(columns={"label": "said", "model_version": "version"}).merge(
        known, on="image_id", how="left", validate="many_to_one"
    )
    labelled, captured = rows["label"].notna(), rows["captured_at"]
    columns = {
        "captured_on": captured.dt.date,
        "labelled_on": pd.to_datetime(rows["labelled_at"], utc=True).dt.date.where(labelled, None),
        "version": rows["version"],
        "again": rows["image_id"].duplicated(),
        "unseen": captured >= unseen_from,
        "early": labelled & (pd.to_datetime(rows["labelled_at"], utc=True) < captured),
        "source_id": rows["source_id"].where(labelled & (captured >= senders_since), None),
        "said": rows["said"].where(labelled, None),
        "label": rows["label"].where(labelled, None),
    }
    found = Counter(zip(*(columns[name] for name in GROUPS), strict=True))
    return _frame((*key, count) for key, count in found.items())


def labels_known(store: Store, classes: Collection[str], *, as_of: datetime) -> int:
    """Accepted labels of these classes that are known at `as_of`."""
    statement = select(func.count()).where(
        ground_truth.c.labelled_at <= as_of, ground_truth.c.rejected.is_(None), ground_truth.c.label.in_(classes)
    )
    with store.reading() as connection:
        return connection.execute(statement).scalar_one()


def doubts(store: Store, *, since: datetime, until: datetime) -> dict[str, int]:
    """Labels that came in (since, until] and tell nothing: reason → how many.

    "unknown photo": nobody was asked about it; else why validation did not accept it.
    """
    came = (ground_truth.c.labelled_at > since) & (ground_truth.c.labelled_at <= until)
    asked = select(predictions.c.image_id).where(predictions.c.image_id == ground_truth.c.image_id).exists()
    unknown = select(func.count()).where(came, ground_truth.c.rejected.is_(None), ~asked)
    rejected = (
        select(ground_truth.c.rejected, func.count())
        .where(came, ground_truth.c.rejected.is_not(None))
        .group_by(ground_truth.c.rejected)
        .order_by(ground_truth.c.rejected)
    )
    with store.reading() as connection:
        found = {"unknown photo": connection.execute(unknown).scalar_one()}
        found |= {str(reason): int(rows) for reason, rows in connection.execute(rejected)}
    return {reason: rows for reason, rows in found.items() if rows}


def _day(store: Store, moment: Any) -> Any:
    """The UTC day of a column, which both databases keep as UTC without a zone."""
    return cast(moment, Date) if store.engine.dialect.name == "postgresql" else func.date(moment)


def _frame(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    found = pd.DataFrame.from_records(list(rows), columns=[*GROUPS, "rows"])
    for name in ("captured_on", "labelled_on"):
        found[name] = [_as_date(value) for value in found[name]]
    for name in ("source_id", "said", "label"):
        found[name] = found[name].astype(object).where(found[name].notna(), None)
    return found.astype(
        {"again": bool, "unseen": bool, "early": bool, "rows": "int64", "captured_on": object, "labelled_on": object}
    )


def _as_date(value: Any) -> date | None:
    if value is None or value != value:  # NaN, where pandas had no date
        return None
    return date.fromisoformat(value) if isinstance(value, str) else value
