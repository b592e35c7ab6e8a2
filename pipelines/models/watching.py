"""The recipe's word on watching, as the pure functions of `monitoring` take it."""

from monitoring.watch import Watching
from pipelines.recipe import Recipe
from serving.pictures import STATS


def watching_of(recipe: Recipe) -> Watching:
    """How a day of this recipe is watched."""
    asked = recipe.monitoring
    return Watching(
        classes=recipe.taxonomy.classes,
        stats=STATS,
        min_rows=asked.min_rows,
        alpha=asked.alpha,
        min_effect=asked.min_effect,
        window_days=asked.window_days,
        truth_days=asked.truth_days,
        season=asked.season,
    )
