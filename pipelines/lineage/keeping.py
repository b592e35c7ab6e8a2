"""The last thing that a change of production does: its chain is kept, beside the evidence."""

from pipelines.recipe import Recipe
from pipelines.settings import Settings


def keep_chain(settings: Settings, recipe: Recipe, generation: int) -> None:
    """Keep where a generation came from, for `classy explain` and OpenLineage. Kept once; never fails a promotion."""
    from pipelines.lineage.events import (
        keep,  # OpenLineage's client takes two seconds to import, and only this needs it
    )

    keep(settings, recipe, generation)
