"""The champion over one day's photos, into Parquet and `predictions`.

    classy score --day 2026-03-07

A day is scored once, by the champion of that time: run again, the step finishes what it began and changes
nothing, even when another champion has come since.

The images are canonical already, so nothing is decoded: blocks of them go from the memory-mapped shard through the
model on every core, while the next rows are joined with their features and the last ones are written. Memory does not
grow with the day.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from monitoring.bulk import line_of
from monitoring.days import end_of
from monitoring.stores import Store, open_store
from pipelines import files
from pipelines.cache import cache_of
from pipelines.data import features
from pipelines.data.images import spec_of
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.models.evidence import scores_root
from pipelines.recipe import Recipe
from pipelines.scoring import check_model, gathered
from pipelines.settings import Settings
from serving.batch import Scorer, in_order
from serving.pictures import STATS
from serving.runtime import Answer
from training.shards import Images, open_shard

BATCH = 64
"""Rows that one thread takes at a time, few enough that a small day is shared by all. The runtime takes them apart as
is quickest for it."""
CONTEXT_ROWS = 8_192
"""Rows of one point-in-time join: Feast takes about a third of a second however few there are."""
ROWS = 2_000
"""Rows of one write into the table."""
CHANNEL = "batch"
PREDICTIONS = "predictions.parquet"

SCHEMA = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("image_id", pa.string()),
        ("source_id", pa.string()),
        ("captured_at", pa.timestamp("us", "UTC")),
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("probabilities", pa.list_(pa.float32())),
        ("embedding", pa.list_(pa.float32())),
        ("picture_label", pa.string()),
        ("picture_probabilities", pa.list_(pa.float32())),
        ("defaulted", pa.bool_()),
        ("content_hash", pa.string()),
        ("context", pa.list_(pa.float32())),
        *((stat, pa.float64()) for stat in STATS),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What was scored. Without a champion: no generation, no rows, and `reason` says so."""

    day: str
    generation: int | None
    version: str | None
    rows: int
    scores_uri: str | None
    reason: str
    run_url: str | None


def run(settings: Settings, recipe: Recipe, *, day: date) -> Scored:
    """Score `day`.

    Raises:
        ClassyError: the day has no shard, or the champion was made for other images or features than the recipe's.
    """
    store = open_store(settings.database_url)
    root = scores_root(settings, day)
    shard_uri = files.join(settings.data_root, "shards", f"date={day}")
    champion = _champion(store, root)
    if champion is None:
        nobody = "no champion yet; `classy evaluate` and `classy promote` make one"
        return Scored(day=str(day), generation=None, version=None, rows=0, scores_uri=None, reason=nobody, run_url=None)
    shard = files.need_manifest(shard_uri, f"prepare (of {day})")
    uri = files.join(root, f"generation={champion['generation']}")
    manifest = files.read_manifest(uri)
    if manifest is None or manifest["shard_hash"] != files.content_hash(shard):
        _score(settings, recipe, champion, shard, shard_uri, uri, day)
        manifest = files.need_manifest(uri, f"score --day {day}")
    _publish(store, settings, champion, manifest, uri, day)
    return Scored(
        day=str(day),
        generation=champion["generation"],
        version=champion["champion_version"],
        rows=manifest["rows"],
        scores_uri=uri,
        reason="" if manifest["rows"] else f"{day} has no photos",
        run_url=tracking.run_url(settings, champion["champion_run_id"]),
    )


def _champion(store: Store, root: str) -> dict[str, Any] | None:
    """The generation that scored the day already, or the current one."""
    done = [int(name.removeprefix("generation=")) for name in files.list_partitions(root)]
    return store.generation(max(done)) if done else store.current()


def _score(
    settings: Settings,
    recipe: Recipe,
    champion: dict[str, Any],
    shard: dict[str, Any],
    shard_uri: str,
    uri: str,
    day: date,
) -> None:
    package = tracking.fetch_package(settings, champion["champion_run_id"])
    scorer = Scorer(package, runtime=settings.runtime, threads=settings.cores)
    service_hash = features.service_hash(recipe)
    _check(scorer.card, recipe, champion, shard, shard_uri)
    folder = files.local(shard_uri, cache_of(settings))
    with files.new_partition(uri) as draft:
        rows = 0
        with pq.ParquetWriter(draft.folder / PREDICTIONS, SCHEMA) as writer:
            for table in gathered(_batches(settings, recipe, scorer, champion["generation"], folder, day)):
                writer.write_table(table)
                rows += len(table)
        draft.meta = {
            "day": str(day),
            "generation": champion["generation"],
            "version": champion["champion_version"],
            "run_id": champion["champion_run_id"],
            "champion_as_of": scorer.card["as_of"],
            "ran": scorer.about(),
            "service_hash": service_hash,
            "shard_uri": shard_uri,
            "shard_hash": files.content_hash(shard),
            "rows": rows,
        }


def _check(
    card: dict[str, Any],
    recipe: Recipe,
    champion: dict[str, Any],
    shard: dict[str, Any],
    shard_uri: str,
) -> None:
    check_model(card, recipe, f"champion version {champion['champion_version']}")
    spec = spec_of(recipe)
    if shard["spec_hash"] != spec.digest():
        raise ClassyError(
            f"{shard_uri}: its images were made for spec {shard['spec_hash']}, recipe {recipe.name} asks for "
            f"{spec.digest()}; run `classy prepare` for the day again"
        )


def _batches(
    settings: Settings, recipe: Recipe, scorer: Scorer, generation: int, folder: Path, day: date
) -> Iterator[pa.Table]:
    """The day's answers in the shard's order, BATCH rows at a time; images are read from the map as they are needed."""
    with pq.ParquetFile(folder / "index.parquet") as index:
        count = index.metadata.num_rows
        if count == 0:
            return
        images = open_shard(folder)
        handle = features.open_features(settings, recipe)
        # One join ahead: Feast looks up the next rows while the model works on these.
        told = in_order(partial(_tell, handle), index.iter_batches(CONTEXT_ROWS), threads=1, ahead=1)
        work = partial(_answer, scorer, images, generation)
        blocks = (block for rows, context in told for block in _blocks(rows, context))
        with tqdm(total=count, desc=f"score {day}", unit="photo", disable=None) as bar:
            for batch in in_order(work, blocks, threads=scorer.threads):
                yield batch
                bar.update(len(batch))


def _tell(handle: features.Features, part: pa.RecordBatch) -> tuple[pd.DataFrame, "_Told"]:
    rows = part.to_pandas()
    return rows, _Told(*features.context_rows(handle, rows[["image_id", "source_id", "captured_at"]]))


def _blocks(rows: pd.DataFrame, told: "_Told") -> Iterator[tuple[pd.DataFrame, "_Told"]]:
    for first in range(0, len(rows), BATCH):
        part = slice(first, first + BATCH)
        yield rows.iloc[part], _Told(told.context[part], told.defaulted[part])


def _answer(scorer: Scorer, images: Images, generation: int, block: tuple[pd.DataFrame, "_Told"]) -> pa.Table:
    rows, told = block
    where = rows["row"].to_numpy()
    first, last = int(where[0]), int(where[-1])
    # Rows that follow each other, as `prepare` writes them, are looked at where they lie; others are gathered.
    one_piece = last - first == len(where) - 1 and bool((np.diff(where) == 1).all())
    answer = scorer.predict(images[first : last + 1] if one_piece else images[where], told.context)
    return _as_batch(rows, answer, told, np.asarray(scorer.classes), generation)


@dataclass(frozen=True, slots=True)
class _Told:
    """What the model was told beside the pictures, float32 [N, F], and whose sender was unknown, bool [N]."""

    context: np.ndarray
    defaulted: np.ndarray


def _as_batch(
    rows: pd.DataFrame,
    answer: Answer,
    told: "_Told",
    classes: np.ndarray,
    generation: int,
) -> pa.Table:
    probabilities, alone = answer.probabilities, answer.picture_probabilities
    columns = {
        "prediction_id": [prediction_id(image_id, generation) for image_id in rows["image_id"]],
        "image_id": rows["image_id"].to_numpy(),
        "source_id": rows["source_id"].to_numpy(),
        "captured_at": pd.to_datetime(rows["captured_at"], utc=True).dt.as_unit("us").array,
        "label": classes[probabilities.argmax(axis=1)],
        "confidence": probabilities.max(axis=1),
        "probabilities": list(probabilities.astype(np.float32)),
        "embedding": list(answer.embedding.astype(np.float32)),
        "picture_label": None if alone is None else classes[alone.argmax(axis=1)],
        "picture_probabilities": None if alone is None else list(alone.astype(np.float32)),
        "defaulted": told.defaulted,
        # A shard of an older Classy may not say it: then nobody is answered from memory with this row.
        "content_hash": rows["sha256"].to_numpy() if "sha256" in rows else [None] * len(rows),
        "context": list(told.context),
        **{stat: rows[stat].to_numpy(float) for stat in STATS},
    }
    return pa.Table.from_pandas(pd.DataFrame(columns), SCHEMA, preserve_index=False)


def prediction_id(image_id: str, generation: int) -> str:
    """The same for the same photo and generation, 64 hex digits."""
    return hashlib.sha256(f"{image_id}\n{generation}\n{CHANNEL}".encode()).hexdigest()


def _publish(
    store: Store, settings: Settings, champion: dict[str, Any], manifest: dict[str, Any], uri: str, day: date
) -> None:
    """Upsert the partition's rows into `predictions`. `predicted_at` is data time: the end of the day."""
    folder = files.local(uri, cache_of(settings))
    common = {
        "predicted_at": end_of(day),
        "model_version": champion["champion_version"],
        "run_id": champion["champion_run_id"],
        "generation": champion["generation"],
        "arm": "champion",
        "channel": CHANNEL,
        "service_hash": manifest["service_hash"],
    }
    kept = [
        "prediction_id",
        "image_id",
        "source_id",
        "captured_at",
        "label",
        "confidence",
        "probabilities",
        "defaulted",
    ]
    newer = ("content_hash", "context")  # an older Classy scored without them

    def lines(batch: pa.RecordBatch) -> list[bytes]:
        return [line_of({**row, **common}) for row in batch.to_pylist()]

    with pq.ParquetFile(folder / PREDICTIONS) as table:
        kept += [name for name in newer if name in table.schema_arrow.names]
        # The next rows are read and written as JSON while the database takes these apart.
        for ready in in_order(lines, table.iter_batches(ROWS, columns=kept), threads=1, ahead=1):
            store.replace_predictions(ready)
