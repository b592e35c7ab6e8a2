"""The champion over photos wherever they lie: addresses in, classes out, a block at a time.

`PhotoScorer` is the one function: threads of this machine call it, and actors of Ray Data on many machines
(`pipelines/scoring_ray.py`). Photos are fetched, decoded, told about their senders and classified in one call; a photo
that cannot be answered gets its problem, and the others of its block are answered.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.data import features
from pipelines.data.images import spec_of
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.online.features import OnlineFeatures
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from pipelines.sources.base import fetch, shown
from serving.batch import Scorer
from serving.photos import Photo
from serving.problems import Problem

BLOCK = 32
"""Photos that one thread takes at a time: at most so many encoded ones are in memory for each thread."""

GROUP = 4_096
"""Rows of one row group of a table of answers, which are in memory until then."""

ASKED = pa.schema([("image_id", pa.string()), ("source_id", pa.string()), ("place", pa.string())])
"""What is asked: `place` is a path or any fsspec URI, `source_id` the sender; empty: nobody knows."""

ANSWERS = pa.schema(
    [
        ("image_id", pa.string()),
        ("source_id", pa.string()),
        ("origin", pa.string()),
        ("content_hash", pa.string()),
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("probabilities", pa.list_(pa.float32())),
        ("defaulted", pa.bool_()),
        ("problem", pa.string()),
    ]
)
"""What is answered, a row a photo. `defaulted`: the sender is unknown to the feature store. A photo with a `problem`
(`word: what is wrong`) has no label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a `PhotoScorer` is made from; small, plain, and the same on every machine."""

    settings: Settings
    recipe: Recipe
    run_id: str
    """The MLflow run whose package answers."""
    at: datetime
    """When it is asked, aware: a sender's profile that is too old by then counts as none."""
    threads: int


class PhotoScorer:
    """Rows of ASKED in, as many rows of ANSWERS out, in their order. Several threads may call it.

    Raises:
        ClassyError: the model was made for other images or features than the recipe's, or there are no features yet.
        ModelError: the package is not what it says, or nothing here runs it.
    """

    def __init__(self, wanted: Wanted) -> None:
        settings, recipe = wanted.settings, wanted.recipe
        package = tracking.fetch_package(settings, wanted.run_id)
        self.scorer = Scorer(package, runtime=settings.runtime, threads=wanted.threads)
        self.spec = spec_of(recipe)
        check_model(self.scorer.card, recipe, f"the model of run {wanted.run_id}")
        self._features = OnlineFeatures(settings, recipe)
        self._features.start()
        self._at = wanted.at

    def __call__(self, asked: pa.Table | pa.RecordBatch) -> pa.Table:
        rows = asked.to_pylist()
        photos = list(self._fetched(rows))
        self.scorer.read(photos, self.spec)
        self._features.fill(photos, self._at)
        self.scorer.classify(photos)
        return _as_table(rows, photos)

    def _fetched(self, rows: Sequence[dict[str, str]]) -> Iterator[Photo]:
        places = ((row["image_id"], row["place"]) for row in rows)
        found = fetch(places, max_bytes=self.spec.max_bytes, field="photos")
        for row, (image_id, data, error) in zip(rows, found, strict=True):
            photo = Photo(photo=data, sender=row["source_id"], image_id=image_id)
            if data is None:
                word, _, why = (error or "unreadable: for no known reason").partition(": ")
                photo.problem = Problem("unprocessable", why, detail=word)
            yield photo


def check_model(card: dict[str, Any], recipe: Recipe, who: str) -> None:
    """Whether a model takes the images and features that a recipe makes.

    Raises:
        ClassyError: it was trained on others.
    """
    remedy = "take its recipe (CLASSY_RECIPE), or train and promote a contender on this one"
    if card["image_spec_hash"] != spec_of(recipe).digest():
        raise ClassyError(
            f"{who}: was trained on images {card['image']}, recipe {recipe.name} has image = "
            f"{recipe.image.model_dump()}; {remedy}"
        )
    service_hash = features.service_hash(recipe)
    if card["service_hash"] != service_hash:
        raise ClassyError(
            f"{who}: was trained with features {card['service']} {card['service_hash']}, recipe {recipe.name} gives "
            f"{service_hash}; {remedy}"
        )


def blocks_of(asked: pa.Table) -> list[pa.Table]:
    """The rows in pieces of BLOCK."""
    return [asked.slice(start, BLOCK) for start in range(0, len(asked), BLOCK)]


def gathered(answers: Iterable[pa.Table], rows: int = GROUP) -> Iterator[pa.Table]:
    """The same rows in tables of at least `rows`, but for the last: a Parquet file of small groups is slow to read."""
    kept: list[pa.Table] = []
    for table in answers:
        kept.append(table)
        if sum(map(len, kept)) >= rows:
            yield pa.concat_tables(kept)
            kept.clear()
    if kept:
        yield pa.concat_tables(kept)


def _as_table(rows: Sequence[dict[str, str]], photos: Iterable[Photo]) -> pa.Table:
    found: list[dict[str, Any]] = []
    for row, photo in zip(rows, photos, strict=True):
        answered = photo.problem is None
        found.append(
            {
                "image_id": row["image_id"],
                "source_id": row["source_id"],
                "origin": shown(row["place"]),
                "content_hash": photo.content_hash or None,
                "label": photo.label if answered else None,
                "confidence": photo.confidence if answered else None,
                "probabilities": np.asarray(photo.probabilities) if answered else None,
                "defaulted": photo.defaulted if answered else None,
                "problem": f"{photo.problem.detail}: {photo.problem.message}" if photo.problem else None,
            }
        )
    return pa.Table.from_pylist(found, ANSWERS)
