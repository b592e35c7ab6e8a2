"""What the model is told beside the picture."""

from serving.pictures import STATS

from pipelines.recipe import Recipe


def context_names(recipe: Recipe) -> tuple[str, ...]:
    """The F names of a context row, in order: 7 STATS, log_photos, label_share, mix_CLASS for each class."""
    mix = tuple(f"mix_{name}" for name in recipe.taxonomy.classes)
    return (*STATS, "log_photos", "label_share", *mix)
