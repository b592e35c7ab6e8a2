"""Where the recipe's image section meets serving's canonicaliser."""

from pipelines.recipe import Recipe
from serving.canonical import ImageSpec


def spec_of(recipe: Recipe) -> ImageSpec:
    """The canonical image that a recipe asks for."""
    image = recipe.image
    return ImageSpec(
        size=image.size,
        fit=image.fit,
        max_bytes=image.max_bytes,
        max_pixels=image.max_pixels,
        min_side=image.min_side,
    )
