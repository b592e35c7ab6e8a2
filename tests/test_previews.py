"""Photos as a person is shown them: whole, upright, bounded, and nothing but pixels."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from PIL import Image

from serving.canonical import BadImage, ImageSpec
from serving.previews import preview

LIMITS = ImageSpec(size=16, min_side=4)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    found = io.BytesIO()
    Image.fromarray(pixels).save(found, kind, **options)
    return found.getvalue()


@given(st.integers(4, 128), st.integers(4, 128), st.integers(0, 99))
@budget(max_examples=30, deadline=None)
def test_a_small_photo_is_shown_pixel_by_pixel(width: int, height: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data, kind = preview(encoded(pixels), LIMITS, 1024)
    assert kind == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)


@given(st.integers(130, 700), st.integers(130, 700))
@budget(max_examples=15, deadline=None)
def test_a_large_photo_is_bounded_and_keeps_its_shape(width: int, height: int) -> None:
    data, kind = preview(encoded(np.full((height, width, 3), 120, np.uint8), "JPEG"), LIMITS, 200)
    shown = Image.open(io.BytesIO(data))
    assert (kind, shown.format) == ("image/jpeg", "JPEG")
    assert max(shown.size) == min(200, max(width, height))
    scale = max(shown.size) / max(width, height)
    assert abs(shown.width - width * scale) <= 1
    assert abs(shown.height - height * scale) <= 1
    # Nothing of what the photo is laid on is seen.
    assert int(np.asarray(shown).max()) < 140


def test_it_is_upright_and_its_notes_stay_behind() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :10] = 255  # bright on the left; turned by EXIF it is bright on top
    notes = Image.Exif()
    notes[0x0112], notes[0x010E] = 6, "where I live"
    data, _ = preview(encoded(pixels, "JPEG", exif=notes.tobytes(), quality=95), LIMITS, 1024)
    shown = Image.open(io.BytesIO(data))
    assert shown.size == (20, 40)
    assert np.asarray(shown)[:8].mean() > 200 > 50 > np.asarray(shown)[20:].mean()
    assert not shown.getexif()
    assert b"where I live" not in data


def test_what_may_not_come_in_is_not_shown() -> None:
    whole = encoded(np.zeros((200, 200, 3), np.uint8), "JPEG")
    for data in (whole[: len(whole) // 2], b"<svg/>"):
        with pytest.raises(BadImage):
            preview(data, LIMITS, 1024)
    with pytest.raises(BadImage, match="pixels"):
        preview(whole, ImageSpec(size=16, max_pixels=1_000), 1024)
