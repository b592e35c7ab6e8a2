"""A label queue to work on: made-up rows in the tables, or a real day that was scored and queued."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from monitoring import votes
from monitoring.labelling import Chosen
from monitoring.stores import Store, open_store
from monitoring.tables import ground_truth
from pipelines import files, queue, score
from pipelines.models.queue import name_of, queue_root
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from tests.champions import install_champion, prepare_days
from tests.conftest import TINY
from tests.worlds import draw, make_photos, write_world

DAY = date(2026, 3, 7)
NOON = datetime(2026, 3, 8, 12, tzinfo=UTC)


def put(store: Store, count: int, *, twice: Sequence[int] = (), day: date = DAY, **changed: Any) -> list[str]:
    """Photos p0, p1, … in the queue, those of `twice` for two people; the model says 0 of each."""
    chosen = [
        Chosen(
            image_id=f"p{number}",
            reason="random" if number % 2 else "uncertain",
            probability=0.1 if number % 2 else 1.0,
            photos=200,
            place=number,
            wanted=2 if number in twice else 1,
        )
        for number in range(count)
    ]
    about = {
        "source_id": "sender-1",
        "captured_at": datetime(day.year, day.month, day.day, 9, tzinfo=UTC),
        "predicted": "0",
        "confidence": 0.6,
        "model_version": "1",
        **changed,
    }
    votes.fill(store, day, chosen, {one.image_id: about for one in chosen})
    return [one.image_id for one in chosen]


def put_photos(settings: Settings, image_ids: Sequence[str], *, day: date = DAY) -> None:
    """Their photos, as they are shown."""
    rng = np.random.default_rng(7)
    with files.new_partition(queue_root(settings, day)) as draft:
        for number, image_id in enumerate(image_ids):
            (draft.folder / name_of(image_id)).write_bytes(draw(number % 10, 10, rng))


@dataclass(frozen=True, kw_only=True)
class Home:
    """A home whose last day was scored; its labels are not there yet."""

    settings: Settings
    recipe: Recipe
    day: date
    label_of: dict[str, str]
    """What each photo of the day shows."""

    def queue(self, **changed: Any) -> queue.Queued:
        recipe = self.recipe.model_copy(update={"labelling": self.recipe.labelling.model_copy(update=changed)})
        return queue.run(self.settings, recipe, day=self.day)

    @property
    def store(self) -> Store:
        return open_store(self.settings.database_url)


def scored_home(root: Path, *, per_day: int = 60, **labelling: Any) -> Home:
    """Two days of history, a champion, and a third day that it scored."""
    settings = load_settings(home=root / "var", actor="tester", threads=1)
    asked = {"replayed": True, "per_day": 20, "overlap": 0.2, **labelling}
    recipe = Recipe.model_validate({**TINY, "labelling": asked})
    photos = make_photos(recipe, days=3, per_day=per_day, senders=15)
    late = photos["captured_at"] >= photos["captured_at"].min().normalize() + timedelta(days=2)
    world = write_world(settings, recipe, photos)
    prepare_days(settings, recipe, world.clean_uris)
    install_champion(settings, recipe, world.days[:2])
    day = world.days[2]
    label_of = dict(zip(photos.loc[late, "image_id"], photos.loc[late, "label"], strict=True))
    forget(open_store(settings.database_url), list(label_of))
    score.run(settings, recipe, day=day)
    return Home(settings=settings, recipe=recipe, day=day, label_of=label_of)


def forget(store: Store, image_ids: list[str]) -> None:
    """As if nobody had said anything of these photos."""
    with store.writing() as connection:
        connection.execute(ground_truth.delete().where(ground_truth.c.image_id.in_(image_ids)))
