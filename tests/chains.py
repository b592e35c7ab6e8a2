"""A tiny chain that really happened: days, a snapshot of them, a fitted and packaged model, a verdict, a generation."""

from dataclasses import dataclass
from typing import Any

from pipelines import evaluate, optimize, promote, snapshot, train
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from tests.champions import prepare_days
from tests.judged import ready_mlflow
from tests.worlds import end_of, make_world

RUN_KEY = "key-1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What the steps gave."""

    settings: Settings
    recipe: Recipe
    days: list[str]
    snapshot_uri: str
    run_id: str
    package_sha256: str


def learnable(recipe: Recipe, **gates: Any) -> Recipe:
    """The recipe with one candidate that fits in a moment, and gates that a few rows can pass."""
    return recipe.model_copy(
        update={
            "candidates": recipe.candidates[:1],
            "gates": recipe.gates.model_copy(update={"min_rows": 5, **gates}),
        }
    )


def make_chain(settings: Settings, recipe: Recipe) -> Made:
    """Four days of 60 photos, from raw partitions to the first generation."""
    ready_mlflow(settings)
    world = make_world(settings, recipe, days=4, per_day=60, senders=40, delay=(0.02, 0.2))
    prepare_days(settings, recipe, world.clean_uris)
    snapped = snapshot.run(settings, recipe, as_of=end_of(world.days[-1]))
    assert snapped.ok, snapped.reasons
    trained = train.run(
        settings, recipe, snapshot_uri=snapped.snapshot_uri, candidate=recipe.candidates[0].name, run_key=RUN_KEY
    )
    packaged = optimize.run(settings, recipe, run_id=trained.run_id)
    judged = evaluate.run(
        settings, recipe, run_ids=[trained.run_id], snapshot_uri=snapped.snapshot_uri, run_key=RUN_KEY
    )
    assert judged.verdict == "PROMOTE", judged.reasons
    promote.run(settings, recipe, run_key=RUN_KEY)
    return Made(
        settings=settings,
        recipe=recipe,
        days=[str(day) for day in world.days],
        snapshot_uri=snapped.snapshot_uri,
        run_id=trained.run_id,
        package_sha256=packaged.package_sha256,
    )
