"""Where photos come from: one connector a kind of place, a calendar for those without times, and scenarios.

    source = open_source(recipe, settings)
    for photo in source.photos(day): ...

Bytes are read only for the photos that are asked for; everything else of a record is known beforehand.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pandas as pd

from pipelines.data.images import spec_of
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.sections import DigitsSource, FolderSource, ManifestSource, SqlSource, TorchvisionSource
from pipelines.settings import Settings
from pipelines.sources.base import Connector, Fetched, Photo, seed_of
from pipelines.sources.replay import replayed
from pipelines.sources.scenarios import changed_photo, changed_rows, photo_scenarios

PLAN = ["image_id", "source_id", "group_id", "label", "captured_at", "labelled_at", "origin"]
"""Columns of `Source.plan`."""

_PLANS: dict[tuple[str, str], pd.DataFrame] = {}  # one process, one look at a place that has not changed
_KEPT_PLANS = 4


class Source:
    """The photos and labels of a recipe, day by day. Made by `open_source`."""

    def __init__(self, recipe: Recipe, connector: Connector) -> None:
        self._recipe = recipe
        self._connector = connector
        self._spec = spec_of(recipe)
        self._rows: pd.DataFrame | None = None

    @property
    def said_by(self) -> str:
        """Who said the labels, for the ground truth."""
        return self._recipe.source.kind if self._connector.timed else "replay"

    def plan(self) -> pd.DataFrame:
        """All records in order of time, with every label, also those that have not come yet: columns PLAN.

        `label` is as it will be said (None: nobody knows), `labelled_at` is when (NaT: never).

        Raises:
            ClassyError: the place, or a field of the recipe that describes it, is wrong.
        """
        return self._all()[PLAN].copy()

    def photos(self, day: date) -> Iterator[Photo]:
        """The photos captured on `day`, oldest first, a few in memory at a time."""
        rows = _of_day(self._all(), "captured_at", day)
        for row, (_, image, error) in zip(rows.itertuples(), self._read(rows), strict=True):
            yield Photo(
                image_id=str(row.image_id),
                source_id=str(row.source_id),
                group_id=str(row.group_id),
                captured_at=_moment(row.captured_at),
                origin=str(row.origin),
                attributes=str(row.attributes),
                image=image,
                error=error,
            )

    def count(self, day: date) -> int:
        """How many photos were captured on `day`."""
        return len(_of_day(self._all(), "captured_at", day))

    def labels(self, day: date) -> pd.DataFrame:
        """The labels that arrive on `day`, for photos of any day: columns PLAN, in order of arrival."""
        rows = _of_day(self._all(), "labelled_at", day)
        return rows[PLAN].sort_values(["labelled_at", "image_id"], ignore_index=True)

    def read(self, image_ids: Iterable[str]) -> Iterator[Fetched]:
        """(image_id, bytes or None, why not or None) for each id, in the order given.

        Raises:
            KeyError: an id is not in the plan.
        """
        rows = self._all().set_index("image_id", drop=False).loc[list(image_ids)]
        return self._read(rows)

    def _read(self, rows: pd.DataFrame) -> Iterator[Fetched]:
        scenarios, seed = self._recipe.scenarios, self._recipe.replay.seed
        for captured, (image_id, data, error) in zip(rows["captured_at"], self._connector.read(rows), strict=True):
            if data is not None:
                active = photo_scenarios(scenarios, _moment(captured))
                data = changed_photo(data, active, self._spec, seed_of(seed, "photo", image_id))
            yield image_id, data, error

    def _all(self) -> pd.DataFrame:
        if self._rows is None:
            self._rows = self._cached()
        return self._rows

    def _cached(self) -> pd.DataFrame:
        fingerprint = self._connector.fingerprint()
        if fingerprint is None:
            return self._make()
        key = (self._recipe.digest(), fingerprint)
        if key not in _PLANS:
            made = self._make()
            while len(_PLANS) >= _KEPT_PLANS:
                _PLANS.pop(next(iter(_PLANS)), None)
            _PLANS[key] = made
            return made
        return _PLANS[key]

    def _make(self) -> pd.DataFrame:
        recipe = self._recipe
        rows = self._connector.rows()
        _check_labels(rows, recipe)
        if self._connector.timed:
            rows = rows.sort_values(["captured_at", "image_id"], ignore_index=True)
        else:
            rows = replayed(rows, recipe.replay)
        return changed_rows(rows, recipe.scenarios, recipe.taxonomy.classes, recipe.replay.seed)


def open_source(recipe: Recipe, settings: Settings) -> Source:
    """The recipe's source. Nothing is read yet.

    Raises:
        ClassyError: a field of the recipe's source cannot be right; the message names it.
    """
    return Source(recipe, _connector(recipe, settings))


def _connector(recipe: Recipe, settings: Settings) -> Connector:
    # Each connector brings its own library, and only the one that is used is imported.
    source: Any = recipe.source
    if isinstance(source, DigitsSource):
        from pipelines.sources.digits import Digits

        return Digits(source)
    if isinstance(source, TorchvisionSource):
        from pipelines.sources.torchvision import Torchvision

        return Torchvision(source, settings.home)
    if isinstance(source, FolderSource):
        from pipelines.sources.folder import Folder

        return Folder(source, settings.home, recipe.image.max_bytes)
    if isinstance(source, ManifestSource):
        from pipelines.sources.manifest import Manifest

        return Manifest(source, settings.home, recipe.image.max_bytes)
    if isinstance(source, SqlSource):
        from pipelines.sources.sql import Sql

        return Sql(source, settings.home, recipe.image.max_bytes)
    raise ClassyError(f"source.kind = {source.kind!r}: no connector")


def _check_labels(rows: pd.DataFrame, recipe: Recipe) -> None:
    """One unknown label is a bad record; none that is known is a wrong recipe."""
    said = rows["label"].dropna()
    if len(said) and not said.map(lambda label: recipe.taxonomy.resolve(label) is not None).any():
        common = ", ".join(repr(label) for label in said.value_counts().index[:10])
        raise ClassyError(
            f"taxonomy.classes = {list(recipe.taxonomy.classes)[:10]}: no label of the source is among them. "
            f"Its commonest are {common}; put them into taxonomy.classes or taxonomy.aliases"
        )


def _of_day(rows: pd.DataFrame, column: str, day: date) -> pd.DataFrame:
    start = datetime.combine(day, time(), UTC)
    return rows[(rows[column] >= start) & (rows[column] < start + timedelta(days=1))]


def _moment(value: Any) -> datetime:
    return pd.Timestamp(value).to_pydatetime()
