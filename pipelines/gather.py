"""Fetch one day's photos and the labels that arrived on it.

    classy gather --day 2026-03-01

Photos are kept as they came, also the missing ones, with the reason. Labels go to the ground truth under
their class's name; a label that is no class is kept as it was said, and validation rejects it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from tqdm import tqdm

from monitoring.stores import open_store
from pipelines.data.labels import save_labels
from pipelines.data.records import LABELS, RAW, SENDERS, write_rows
from pipelines.errors import ClassyError
from pipelines.files import join, new_partition
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from pipelines.sources import Source, open_source

_LABEL_LENGTH = 128  # of ground_truth.label


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """What came in. `missing` of the `records` have no bytes."""

    raw_uri: str
    day: str
    records: int
    labels: int
    missing: int


def _class_or_said(label: str, recipe: Recipe) -> str:
    return recipe.taxonomy.resolve(label) or label[:_LABEL_LENGTH]


class _Tally:
    """Counts what passes by on its way to the file."""

    def __init__(self) -> None:
        self.missing = 0
        self.unreadable = 0
        self.example = ""
        self.senders: Counter[str] = Counter()

    def rows(self, source: Source, day: date) -> Iterator[dict[str, Any]]:
        photos = tqdm(source.photos(day), total=source.count(day), desc=f"gather {day}", unit="photo", disable=None)
        for photo in photos:
            if photo.image is None:
                self.missing += 1
                self.unreadable += (photo.error or "").startswith("unreadable")
                self.example = self.example or photo.error or ""
            self.senders[photo.source_id] += 1
            yield asdict(photo)


def _said(source: Source, day: date) -> Iterator[dict[str, Any]]:
    """Rows of labels.parquet."""
    for row in source.labels(day).to_dict("records"):
        yield {
            "image_id": row["image_id"],
            "label": row["label"],
            "labelled_at": row["labelled_at"].to_pydatetime(),
            "said_by": source.said_by,
            "captured_at": row["captured_at"].to_pydatetime(),
        }


def run(settings: Settings, recipe: Recipe, *, day: date) -> Gathered:
    """Write raw/date=DAY and upsert the labels that arrived on DAY (UTC). A day without photos is written too.

    Raises:
        ClassyError: the source is not there or wrongly described, or none of its photos can be read.
    """
    source = open_source(recipe, settings)
    raw_uri = join(settings.data_root, "raw", f"date={day}")
    said = list(_said(source, day))
    store = open_store(settings.database_url)  # first: a database that cannot be used must leave no partition
    tally = _Tally()
    with new_partition(raw_uri) as draft:
        records = write_rows(draft.folder / "records.parquet", RAW, tally.rows(source, day))
        if records and tally.unreadable == records:
            # Not bad photos but a place that does not answer: worth a retry, and no partition.
            raise ClassyError(f"{raw_uri}: none of the day's {records} photos could be read; {tally.example}")
        write_rows(draft.folder / "labels.parquet", LABELS, said)
        sent = ({"source_id": sender, "photos": count} for sender, count in sorted(tally.senders.items()))
        write_rows(draft.folder / "senders.parquet", SENDERS, sent)
        draft.meta.update(day=str(day), records=records, labels=len(said), recipe=recipe.digest())
    columns = ("image_id", "label", "labelled_at", "said_by")
    truth = [{name: row[name] for name in columns} | {"label": _class_or_said(row["label"], recipe)} for row in said]
    save_labels(store, truth)
    return Gathered(raw_uri=raw_uri, day=str(day), records=records, labels=len(said), missing=tally.missing)
