"""A photo as a person is shown it: decoded by the one canonicaliser, upright, on no more pixels than asked for."""

import io
from dataclasses import replace

from PIL import Image

from serving.canonical import ImageSpec, canonicalise, inspect

SMALL = 128
"""Pixels of the longest side up to which nothing may be lost: such a photo stays a PNG."""
QUALITY = 88


def preview(data: bytes, limits: ImageSpec, longest: int) -> tuple[bytes, str]:
    """The whole photo, its longest side at most `longest` pixels; a smaller one is not made larger.

    Args:
        limits: what is let in; its size and fit do not matter.

    Returns:
        The bytes, and their media type: image/png or image/jpeg. They carry nothing of the original but pixels.

    Raises:
        BadImage: the photo may not come in, or cannot be decoded whole.
    """
    header = inspect(data, limits)
    side = min(longest, max(header.width, header.height))
    square = Image.fromarray(canonicalise(data, replace(limits, size=side, fit="pad")))
    scale = side / max(header.width, header.height)
    width, height = max(1, round(header.width * scale)), max(1, round(header.height * scale))
    left, top = (side - width) // 2, (side - height) // 2
    photo = square.crop((left, top, left + width, top + height))
    kind, options = ("png", {"optimize": True}) if side <= SMALL else ("jpeg", {"quality": QUALITY})
    found = io.BytesIO()
    photo.save(found, kind.upper(), **options)
    return found.getvalue(), f"image/{kind}"
