"""A tiny made-up world: raw and clean partitions and truth, as `gather` and `validate` would leave them.

For tests of the steps after those two. The pictures can be learned: each class is a bright block in a place
of its own, on noise.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from monitoring.stores import open_store
from pipelines import files
from pipelines.recipe import Recipe
from pipelines.settings import Settings

START = date(2026, 3, 1)
TIME = pa.timestamp("us", "UTC")

RAW = pa.schema(
    [
        ("image_id", pa.string()),
        ("source_id", pa.string()),
        ("captured_at", TIME),
        ("image", pa.binary()),
        ("origin", pa.string()),
        ("error", pa.string()),
        ("group_id", pa.string()),
    ]
)
LABELS = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.string()),
        ("labelled_at", TIME),
        ("said_by", pa.string()),
        ("captured_at", TIME),
    ]
)
CLEAN = pa.schema(
    [
        ("image_id", pa.string()),
        ("source_id", pa.string()),
        ("captured_at", TIME),
        ("sha256", pa.string()),
        ("phash", pa.string()),
        ("group_id", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("format", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """What was made."""

    days: list[date]
    clean_uris: list[str]
    photos: pd.DataFrame
    """A row a photo: image_id, source_id, captured_at, group_id, label, labelled_at, sha256, width, height, image."""


def end_of(day: date) -> datetime:
    """The `as_of` of a day: its end, UTC."""
    return datetime.combine(day, time(), UTC) + timedelta(days=1)


def draw(label: int, classes: int, rng: np.random.Generator, *, width: int = 24, height: int = 20) -> bytes:
    """A PNG with noise and one bright block whose place and colour tell the class."""
    pixels = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
    left = int(label * (width - 6) / max(classes - 1, 1))
    pixels[4:16, left : left + 6, label % 3] = 230
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_photos(
    recipe: Recipe,
    *,
    days: int = 4,
    per_day: int = 40,
    senders: int = 12,
    seed: int = 0,
    start: date = START,
    delay: tuple[float, float] = (0.2, 0.9),
    groups: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Seeded photos; `delay` is the range of a label's delay in days, `groups` sets group_id by image_id."""
    rng = np.random.default_rng(seed)
    classes = recipe.taxonomy.classes
    rows = []
    for offset in range(days):
        midnight = datetime.combine(start + timedelta(days=offset), time(), UTC)
        for number, second in enumerate(np.sort(rng.integers(0, 86_400, per_day))):
            label = int(rng.integers(len(classes)))
            image = draw(label, len(classes), rng)
            captured_at = midnight + timedelta(seconds=int(second))
            rows.append(
                {
                    "image_id": f"p{offset:03d}-{number:04d}",
                    "source_id": f"sender-{int(rng.integers(senders)):02d}",
                    "captured_at": captured_at,
                    "label": classes[label],
                    "labelled_at": captured_at + timedelta(days=float(rng.uniform(*delay))),
                    "image": image,
                    "sha256": hashlib.sha256(image).hexdigest(),
                    "width": 24,
                    "height": 20,
                }
            )
    photos = pd.DataFrame(rows)
    given = groups or {}
    photos["group_id"] = [given.get(image_id, image_id) for image_id in photos["image_id"]]
    return photos


def write_world(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> World:
    """Write raw and clean partitions and the truth of `photos`, one day after the other."""
    by_day = photos["captured_at"].dt.date
    days = sorted(by_day.unique())
    store = open_store(settings.database_url)
    uris = []
    for day in days:
        labels = photos[photos["labelled_at"].dt.date == day].assign(said_by="tester")
        uris.append(_write_day(settings, recipe, day, photos[by_day == day], labels))
    said = photos[["image_id", "label", "labelled_at"]].assign(said_by="tester")
    store.upsert_truth([{**row, "labelled_at": row["labelled_at"].to_pydatetime()} for row in said.to_dict("records")])
    return World(days=days, clean_uris=uris, photos=photos)


def make_world(settings: Settings, recipe: Recipe, **given: object) -> World:
    """`make_photos`, written."""
    return write_world(settings, recipe, make_photos(recipe, **given))  # type: ignore[arg-type]


def _write_day(settings: Settings, recipe: Recipe, day: date, photos: pd.DataFrame, labels: pd.DataFrame) -> str:
    raw_uri = files.join(settings.data_root, "raw", f"date={day}")
    clean_uri = files.join(settings.data_root, "clean", f"date={day}")
    raw = photos.assign(origin=photos["image_id"], error=None)
    clean = photos.assign(phash=photos["sha256"].str[:16], format="PNG")
    with files.new_partition(raw_uri) as draft:
        _save(raw, RAW, draft, "records.parquet")
        _save(labels, LABELS, draft, "labels.parquet")
        draft.meta = {"day": str(day), "records": len(raw), "labels": len(labels), "recipe": recipe.digest()}
    with files.new_partition(clean_uri) as draft:
        _save(clean, CLEAN, draft, "records.parquet")
        draft.meta = {
            "day": str(day),
            "raw_uri": raw_uri,
            "ok": True,
            "reasons": [],
            "kept": len(clean),
            "quarantined": 0,
            "by_reason": {},
        }
    return clean_uri


def _save(frame: pd.DataFrame, schema: pa.Schema, draft: files.Draft, name: str) -> None:
    pq.write_table(pa.Table.from_pandas(frame[schema.names], schema, preserve_index=False), draft.folder / name)
