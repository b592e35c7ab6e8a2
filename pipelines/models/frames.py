"""What a day is watched with: read from the store, the scores, the champion's run, and the evidence of days before."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pandas as pd

from monitoring import tallies
from monitoring.days import end_of, start_of
from monitoring.stores import Store
from monitoring.watch import Champion, Frames, earliest
from pipelines import files
from pipelines.cache import cache_of
from pipelines.models import tracking
from pipelines.models.choice import read_choice
from pipelines.models.evidence import days_before, read_evidence, scores_root
from pipelines.models.reference import read_reference
from pipelines.models.watching import watching_of
from pipelines.recipe import Recipe
from pipelines.settings import Settings

PREDICTIONS = "predictions.parquet"


@dataclass(frozen=True, slots=True)
class Earlier:
    """Evidence of the days before, newest first; read as it is asked for."""

    settings: Settings
    day: date

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for earlier in days_before(self.settings, self.day):
            evidence = read_evidence(self.settings, earlier)
            if evidence is None:
                return
            yield evidence


def frames_of(
    settings: Settings,
    recipe: Recipe,
    store: Store,
    champion: Champion | None,
    day: date,
    earlier: Iterable[Mapping[str, Any]],
) -> Frames:
    """All that is known at the end of `day`.

    Raises:
        ClassyError: MLflow does not answer, or the champion has no reference.
    """
    rules = watching_of(recipe)
    reference, trained = (None, None) if champion is None else _reference(settings, store, champion)
    return Frames(
        reference=reference,
        trained=trained,
        window=_window(settings, recipe, champion, day),
        tally=tallies.counted(
            store,
            since=start_of(earliest(rules, champion, day, earlier)),
            until=end_of(day),
            unseen_from=end_of(day) if champion is None else champion.as_of,
            senders_since=start_of(day - timedelta(days=rules.truth_days - 1)),
        ),
        labels_known=tallies.labels_known(store, rules.classes, as_of=end_of(day)),
        doubts=tallies.doubts(store, since=start_of(day), until=end_of(day)),
    )


def _reference(settings: Settings, store: Store, champion: Champion) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The champion's reference, with the time at which each label was known, and the rows that it was fitted on."""
    rows, trained = read_reference(tracking.fetch_reference(settings, champion.run_id))
    told = store.truth(as_of=champion.as_of, image_ids=rows["image_id"].tolist()).set_index("image_id")["labelled_at"]
    return rows.assign(labelled_at=pd.to_datetime(rows["image_id"].map(told), utc=True)), trained


def _window(settings: Settings, recipe: Recipe, champion: Champion | None, day: date) -> pd.DataFrame:
    """The champion's scored photos of the last days, each once, with `predicted` for its answer."""
    if champion is None:
        return pd.DataFrame()
    parts = []
    for back in range(recipe.monitoring.window_days):
        root = scores_root(settings, day - timedelta(days=back))
        for name in files.list_partitions(root):
            uri = files.join(root, name)
            manifest = files.need_manifest(uri, "score")
            if manifest["version"] == champion.version:
                parts.append(files.local(uri, cache_of(settings)) / PREDICTIONS)
    since = champion.as_of
    rows = read_choice(parts, keep=lambda rows: rows["captured_at"] >= since)
    return rows.rename(columns={"label": "predicted"})
