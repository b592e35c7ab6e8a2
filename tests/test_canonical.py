"""Code: whatever the bytes are, they become the one canonical image or a reason; nothing in between."""

import io
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from serving.canonical import MAX_FRAMES, BadImage, ImageSpec, canonicalise, canonicalise_with_header, inspect

SPEC = ImageSpec(size=16)
FORMATS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "GIF": {},
    "WEBP": {"lossless": True},
    "BMP": {},
}


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Smooth colours with four different corners, so that every turn of it looks different."""
    corners = np.random.default_rng(seed).integers(0, 255, size=(2, 2, 3), dtype=np.uint8)
    corners[0, 0], corners[1, 1] = (255, 0, 0), (0, 0, 255)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


ENCODED = {kind: encode(picture(), kind, **options) for kind, options in FORMATS.items()}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_16_bits(values: np.ndarray, colour: int) -> bytes:
    """A PNG with 16 bits a channel, which Pillow itself can only write in grey. `colour`: 2 is RGB, 6 RGBA."""
    height, width = values.shape[:2]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(lines)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def reason(data: bytes, spec: ImageSpec = SPEC) -> str:
    with pytest.raises(BadImage) as caught:
        canonicalise(data, spec)
    assert caught.value.for_people
    assert str(caught.value)
    return caught.value.reason


# ------------------------------------------------------------------------------------------ what is taken


@pytest.mark.parametrize("kind", FORMATS)
def test_each_allowed_format_gives_the_same_picture(kind: str) -> None:
    header, image = canonicalise_with_header(ENCODED[kind], SPEC)
    assert (header.format, header.width, header.height) == (kind, 40, 30)
    assert header == inspect(ENCODED[kind], SPEC)
    assert (image.shape, image.dtype, image.flags["C_CONTIGUOUS"]) == ((16, 16, 3), np.uint8, True)
    expected = canonicalise(ENCODED["PNG"], SPEC)
    # JPEG loses a little, and GIF has 256 colours.
    assert np.abs(image.astype(int) - expected).mean() < {"JPEG": 4, "GIF": 8}.get(kind, 0.01)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "not_an_image"),
        (b"hello, I am a text", "not_an_image"),
        (b"\0" * 100, "not_an_image"),
        (b"II*\0" + b"\0" * 100, "format"),
        (b"\0\0\0\x20ftypheic" + b"\0" * 100, "format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format"),
        (b"%PDF-1.7" + b"\0" * 100, "format"),
        (encode(picture(), "TIFF"), "format"),
        (encode(picture(), "ICO"), "format"),
    ],
)
def test_other_bytes_are_named_for_what_they_are(data: bytes, expected: str) -> None:
    assert reason(data) == expected


def test_the_limits() -> None:
    data = ENCODED["PNG"]
    assert reason(data, ImageSpec(size=16, max_bytes=len(data) - 1)) == "too_many_bytes"
    assert reason(data, ImageSpec(size=16, max_pixels=40 * 30 - 1)) == "too_many_pixels"
    assert reason(data, ImageSpec(size=16, min_side=31)) == "too_small"
    spec = ImageSpec(size=16, max_bytes=len(data), max_pixels=40 * 30, min_side=30)
    assert canonicalise(data, spec).shape == (16, 16, 3)


def bomb(kind: str) -> bytes:
    """A few bytes that promise a picture of hundreds of megapixels."""
    if kind == "PNG":
        header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0")) + png_chunk(b"IEND", b"")
    if kind == "GIF":
        return b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0x80, 0, 0) + ENCODED["GIF"][13:]
    if kind == "BMP":
        return ENCODED["BMP"][:18] + struct.pack("<ii", 30_000, 30_000) + ENCODED["BMP"][26:]
    if kind == "WEBP":
        data = bytearray(ENCODED["WEBP"])
        bits = struct.unpack_from("<I", data, 21)[0]
        struct.pack_into("<I", data, 21, (bits & ~0xFFFFFFF) | 16_382 | 16_382 << 14)
        return bytes(data)
    data = bytearray(ENCODED["JPEG"])
    at = data.index(b"\xff\xc0") + 5
    struct.pack_into(">HH", data, at, 60_000, 60_000)
    return bytes(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_bomb_costs_its_header_only(kind: str) -> None:
    start = time.perf_counter()
    assert reason(bomb(kind)) == "too_many_pixels"
    assert time.perf_counter() - start < 0.5


def test_an_animation_gives_its_first_frame_and_too_many_frames_are_refused() -> None:
    frames = [picture(seed=seed) for seed in range(3)]
    for kind in ("GIF", "WEBP", "PNG"):
        options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
        animated = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert np.array_equal(canonicalise(animated, SPEC), canonicalise(encode(frames[0], kind, **options), SPEC))
    dots = [Image.new("L", (8, 8), i % 2 * 255) for i in range(MAX_FRAMES + 1)]
    assert reason(encode(dots[0], "GIF", save_all=True, append_images=dots[1:])) == "too_many_frames"
    assert canonicalise(encode(dots[0], "GIF", save_all=True, append_images=dots[1:-1]), SPEC).shape == (16, 16, 3)


# ------------------------------------------------------------------------------------------ cut or damaged


@pytest.mark.parametrize("kind", FORMATS)
@given(share=st.floats(0, 1, exclude_max=True), size=st.sampled_from([(40, 30), (13, 97)]))
@settings(max_examples=60, deadline=None)
def test_a_cut_file_is_refused_or_was_whole_already(kind: str, share: float, size: tuple[int, int]) -> None:
    data = encode(picture(*size), kind, **FORMATS[kind])
    whole = canonicalise(data, SPEC)
    try:
        image = canonicalise(data[: int(len(data) * share)], SPEC)
    except BadImage as error:
        assert error.reason in ("truncated", "not_an_image")  # noqa: PT017 - refused is one of two right ends
    else:
        assert np.array_equal(image, whole)  # only padding or an end mark was cut


@pytest.mark.parametrize("kind", FORMATS)
def test_half_a_file_is_truncated(kind: str) -> None:
    assert reason(ENCODED[kind][: len(ENCODED[kind]) // 2]) == "truncated"


@pytest.mark.parametrize("kind", FORMATS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damage_gives_a_picture_or_a_reason_and_nothing_else(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(ENCODED[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert canonicalise(bytes(damaged), SPEC).shape == (16, 16, 3)
    except BadImage as error:
        assert error.reason  # noqa: PT017 - as above


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"]))
@settings(max_examples=200, deadline=None)
def test_noise_behind_a_magic_number_is_refused(noise: bytes, magic: bytes) -> None:
    assert reason(magic + noise)


# --------------------------------------------------------------------------------------- one rule of pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(), kind, exif=exif.tobytes(), **FORMATS[kind])
    with Image.open(io.BytesIO(data)) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    header, image = canonicalise_with_header(data, SPEC)
    assert (header.width, header.height) == upright.size == ((40, 30) if orientation < 5 else (30, 40))
    assert np.abs(image.astype(int) - canonicalise(encode(upright), SPEC)).max() <= 1


def test_broken_exif_does_not_refuse_a_photo() -> None:
    data = encode(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 20)
    assert inspect(data, SPEC).width == 40


def test_grey_palette_and_bilevel_become_rgb() -> None:
    grey = picture().convert("L")
    expected = canonicalise(encode(grey.convert("RGB")), SPEC)
    assert np.array_equal(canonicalise(encode(grey), SPEC), expected)
    assert np.array_equal(canonicalise(encode(grey.convert("P")), SPEC), expected)
    assert set(canonicalise(encode(Image.new("1", (20, 20), 1)), SPEC).ravel()) == {255}


def test_transparency_is_over_white() -> None:
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    half = Image.new("RGBA", (20, 20), (0, 0, 0, 128))
    assert set(canonicalise(encode(clear), SPEC).ravel()) == {255}
    assert set(canonicalise(encode(clear, "WEBP", lossless=True), SPEC).ravel()) == {255}
    assert set(canonicalise(encode(half), SPEC).ravel()) == {127}
    assert set(canonicalise(encode(half.convert("LA")), SPEC).ravel()) == {127}
    palette = Image.new("P", (20, 20), 3)
    palette.putpalette([9, 9, 9] * 8)
    for kind in ("PNG", "GIF"):
        assert set(canonicalise(encode(palette, kind, transparency=3), SPEC).ravel()) == {255}
    assert set(canonicalise(encode(Image.new("RGB", (20, 20), (9, 9, 9)), transparency=(9, 9, 9)), SPEC).ravel()) == {
        255
    }


def test_16_bits_give_their_high_byte_in_grey_and_in_colour() -> None:
    values = np.full((20, 20), 0x80FF, dtype=np.uint16)
    assert set(canonicalise(encode(Image.fromarray(values)), SPEC).ravel()) == {0x80}
    colours = np.stack([values, values // 2, values // 4], axis=-1)
    expected = [0x80, 0x80FF // 2 >> 8, 0x80FF // 4 >> 8]
    assert canonicalise(png_of_16_bits(colours, 2), SPEC)[5, 5].tolist() == expected
    opaque = np.concatenate([colours, np.full((20, 20, 1), 0xFFFF)], axis=-1)
    assert canonicalise(png_of_16_bits(opaque, 6), SPEC)[5, 5].tolist() == expected


def test_cmyk_jpeg_has_the_colours_of_the_rgb_one() -> None:
    cmyk = canonicalise(encode(picture().convert("CMYK"), "JPEG", quality=95), SPEC)
    assert np.abs(cmyk.astype(int) - canonicalise(ENCODED["PNG"], SPEC)).mean() < 6


# ------------------------------------------------------------------------------------------------ geometry


def test_crop_takes_the_centre_pad_keeps_all_stretch_fills() -> None:
    wide = Image.new("RGB", (60, 20), (255, 0, 0))
    wide.paste((0, 0, 255), (20, 0, 40, 20))  # the middle third is blue
    data = encode(wide)
    assert set(map(tuple, canonicalise(data, ImageSpec(size=16))[:, 1:-1].reshape(-1, 3).tolist())) == {(0, 0, 255)}
    padded = canonicalise(data, ImageSpec(size=18, fit="pad"))
    assert (padded[:5] == 255).all()
    assert padded[9, 1].tolist() == [255, 0, 0]
    assert padded[9, 9].tolist() == [0, 0, 255]
    stretched = canonicalise(data, ImageSpec(size=18, fit="stretch"))
    assert stretched[0, 0].tolist() == [255, 0, 0]
    assert stretched[0, 9].tolist() == [0, 0, 255]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_large_jpeg_is_decoded_small_and_looks_the_same(fit: str) -> None:
    large = picture(1600, 1200)
    spec = ImageSpec(size=32, fit=fit)
    quick = canonicalise(encode(large, "JPEG", quality=95), spec)
    assert np.abs(quick.astype(int) - canonicalise(encode(large), spec)).mean() < 3


@given(st.integers(8, 300), st.integers(8, 300), st.sampled_from(["crop", "pad", "stretch"]), st.sampled_from([8, 33]))
@settings(max_examples=50, deadline=None)
def test_any_shape_becomes_the_canonical_one(width: int, height: int, fit: str, size: int) -> None:
    for kind in ("JPEG", "PNG"):
        assert canonicalise(encode(picture(width, height), kind), ImageSpec(size=size, fit=fit)).shape == (
            size,
            size,
            3,
        )


def test_the_digest_is_of_what_changes_pixels() -> None:
    assert ImageSpec(size=16, max_bytes=1, min_side=9).digest() == SPEC.digest()
    assert len({ImageSpec(size=s, fit=f).digest() for s in (16, 17) for f in ("crop", "pad", "stretch")}) == 6
    assert len(SPEC.digest()) == 12
    with pytest.raises(ValueError, match="squeeze"):
        ImageSpec(size=16, fit="squeeze")


def test_threads_agree_and_pillow_stays_as_it_was() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    photos = [encode(picture(200, 150, seed), kind, **FORMATS[kind]) for seed in range(8) for kind in FORMATS]
    alone = [canonicalise(data, SPEC) for data in photos]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: canonicalise(data, SPEC), photos))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
