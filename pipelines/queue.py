"""Choose photos of one day that people are asked about, and put them into the label queue.

    classy queue --day 2026-03-07

The choice and the photos as they are shown are a partition, `queue/date=D`, which is made once; the table `label_queue`
is filled from it. Run again, nothing changes, whatever came in between.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow.parquet as pq

from monitoring import queued, votes
from monitoring.days import end_of
from monitoring.labelling import Chosen, Rules, choose
from monitoring.stores import Store, open_store
from pipelines import files
from pipelines.cache import cache_of
from pipelines.data.images import spec_of
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.models.evidence import scores_root
from pipelines.models.queue import ROWS, name_of, queue_root
from pipelines.models.reference import read_reference
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.previews import preview

PREDICTIONS, RECORDS = "predictions.parquet", "records.parquet"
COLUMNS = ("image_id", "source_id", "captured_at", "label", "confidence", "probabilities", "embedding")
BATCH = 64
"""Photos in memory at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """The day's queue. `photos`: how many it was chosen from; `reason`: why it is empty."""

    day: str
    queued: int
    new: int
    photos: int
    by_reason: dict[str, int]
    queue_uri: str | None
    reason: str


def run(settings: Settings, recipe: Recipe, *, day: date) -> Queued:
    """Queue photos of `day` that its champion scored and that nobody has labelled.

    Where a source is replayed its labels come by themselves, and nothing is queued unless `labelling.replayed`.

    Raises:
        ClassyError: the raw photos are gone, or the champion's reference cannot be fetched.
    """
    if recipe.no_queue:
        return _nothing(day, recipe.no_queue)
    store = open_store(settings.database_url)
    uri = queue_root(settings, day)
    if files.read_manifest(uri) is None:
        scores = _scores(settings, day)
        if scores is None:
            return _nothing(
                day, f"the day was not scored; `classy score --day {day}` does it, once there is a champion"
            )
        _choose(settings, recipe, store, day, scores, uri)
    rows = _read(uri)
    new = votes.fill(store, day, [row[0] for row in rows], {row[0].image_id: row[1] for row in rows})
    reasons = [row[0].reason for row in rows]
    return Queued(
        day=str(day),
        queued=len(rows),
        new=new,
        photos=rows[0][0].photos if rows else 0,
        by_reason={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        queue_uri=uri,
        reason="" if rows else "the day has no photos without a label",
    )


def _nothing(day: date, reason: str) -> Queued:
    return Queued(day=str(day), queued=0, new=0, photos=0, by_reason={}, queue_uri=None, reason=reason)


def _scores(settings: Settings, day: date) -> str | None:
    """The partition of the day's answers by the newest generation that gave them."""
    root = scores_root(settings, day)
    names = files.list_partitions(root)
    newest = max(names, key=lambda name: int(name.removeprefix("generation=")), default=None)
    return None if newest is None else files.join(root, newest)


def _choose(settings: Settings, recipe: Recipe, store: Store, day: date, scores: str, uri: str) -> None:
    asked = recipe.labelling
    manifest = files.need_manifest(scores, "score")
    window = pd.read_parquet(files.local(scores, cache_of(settings)) / PREDICTIONS, columns=list(COLUMNS))
    ids = window["image_id"].tolist()
    window = window[~window["image_id"].isin(queued.labelled(store, ids) | queued.queued(store, ids).keys())]
    chosen = choose(
        window,
        Rules(
            per_day=asked.per_day,
            random_share=asked.random_share,
            per_sender=asked.per_sender,
            overlap=asked.overlap,
        ),
        reference=read_reference(tracking.fetch_reference(settings, manifest["run_id"]))[0] if len(window) else None,
        otherwise=_otherwise(store, window, day, manifest["generation"]),
        seed=[asked.seed, day.toordinal()],
    )
    about = window.set_index("image_id")
    rows = [
        {
            **asdict(one),
            "source_id": about["source_id"][one.image_id],
            "captured_at": about["captured_at"][one.image_id].isoformat(),
            "predicted": about["label"][one.image_id],
            "confidence": float(about["confidence"][one.image_id]),
            "model_version": manifest["version"],
        }
        for one in chosen
    ]
    with files.new_partition(uri) as draft:
        types = _previews(settings, recipe, manifest["shard_uri"], [one.image_id for one in chosen], draft.folder)
        told = [{**row, "media_type": types[row["image_id"]]} for row in rows]
        (draft.folder / ROWS).write_text(json.dumps(told, indent=1, allow_nan=False))
        draft.meta = {"day": str(day), "scores_uri": scores, "photos": len(window), "queued": len(rows)}


def _otherwise(store: Store, window: pd.DataFrame, day: date, generation: int) -> dict[str, float]:
    """Photos that a canary, a shadow or an earlier champion answered otherwise: the surest of those answers."""
    since = end_of(day) - timedelta(days=1)
    ours = dict(zip(window["image_id"], window["label"], strict=True))
    found: dict[str, float] = {}
    for row in queued.other_answers(store, since=since, until=end_of(day), generation=generation):
        image_id = row["image_id"]
        if image_id in ours and row["label"] != ours[image_id]:
            found[image_id] = max(found.get(image_id, 0.0), row["confidence"])
    return found


def _previews(
    settings: Settings, recipe: Recipe, shard_uri: str, image_ids: Sequence[str], folder: Path
) -> dict[str, str]:
    """Write each photo as it is shown, from the raw records that the shard was made of; gives the media types."""
    waiting, types = set(image_ids), dict[str, str]()
    clean_uri = files.need_manifest(shard_uri, "prepare")["clean_uri"]
    raw_uri = files.need_manifest(clean_uri, "validate")["raw_uri"]
    if waiting:
        files.need_manifest(raw_uri, "gather (the raw photos are gone)")
        limits, longest = spec_of(recipe), recipe.labelling.preview
        with fsspec.open(files.join(raw_uri, RECORDS)) as file:
            for batch in pq.ParquetFile(file).iter_batches(BATCH, columns=["image_id", "image"]):
                for record in batch.to_pylist():
                    if record["image_id"] in waiting and record["image"] is not None:
                        waiting.discard(record["image_id"])
                        data, types[record["image_id"]] = preview(record["image"], limits, longest)
                        (folder / name_of(record["image_id"])).write_bytes(data)
    if waiting:
        raise ClassyError(f"{raw_uri}: {len(waiting)} photos that were scored are gone, such as {min(waiting)}")
    return types


def _read(uri: str) -> list[tuple[Chosen, Mapping[str, Any]]]:
    fs, path = fsspec.url_to_fs(files.join(uri, ROWS))
    found: list[tuple[Chosen, Mapping[str, Any]]] = []
    for row in json.loads(fs.cat_file(path)):
        chosen = Chosen(**{name: row[name] for name in Chosen.__dataclass_fields__})
        names = ("source_id", "predicted", "confidence", "model_version")
        about = {**{name: row[name] for name in names}, "captured_at": datetime.fromisoformat(row["captured_at"])}
        found.append((chosen, about))
    return found
