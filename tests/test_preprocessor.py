"""Code: bytes become an image, figures and a hash or a reason with a status, at a cost that is bounded."""

import asyncio
import hashlib
import io
import struct
import threading
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.canonical import BadImage, ImageSpec, canonicalise, canonicalise_with_header
from serving.components.base import Call
from serving.components.decoders import DECODERS, Decoder, Room
from serving.components.preprocessor import Preprocessor
from serving.messages import BYTES, InferRequest, Tensor
from serving.photos import Photo
from serving.pictures import STATS, picture_stats
from serving.problems import Problem
from tests.test_canonical import ENCODED, FORMATS, bomb, encode, picture, png_chunk

SPEC = ImageSpec(size=32)


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Preprocessor]:
    part = Preprocessor(options.pop("spec", SPEC), **options)
    await part.start()
    try:
        yield part
    finally:
        await part.stop()


def prepare(*photos: Photo, **options: Any) -> None:
    async def work() -> None:
        async with running(**options) as part:
            await part.apply(photos, Call())

    asyncio.run(work())


def refusal(data: bytes, **options: Any) -> Problem:
    photo = Photo(photo=data)
    prepare(photo, **options)
    assert photo.problem is not None
    assert photo.image is None
    return photo.problem


# ---------------------------------------------------------------------------------------------- what is given


@pytest.mark.parametrize("kind", FORMATS)
def test_a_photo_gets_the_image_that_training_had_and_what_can_be_said_of_it(kind: str) -> None:
    photo = Photo(photo=ENCODED[kind])
    prepare(photo)
    header, image = canonicalise_with_header(ENCODED[kind], SPEC)
    assert photo.problem is None
    assert np.array_equal(photo.image, image)
    assert photo.image_spec == SPEC.digest()
    assert photo.content_hash == hashlib.sha256(ENCODED[kind]).hexdigest()
    assert photo.stats is not None
    assert photo.stats.dtype == np.float32
    expected = picture_stats(image, width=header.width, height=header.height)
    assert photo.stats.tolist() == pytest.approx([expected[name] for name in STATS])
    assert photo.seconds["preprocess"] > 0


def test_many_photos_each_have_their_own_end() -> None:
    photos = [Photo(photo=ENCODED[kind]) for kind in FORMATS]
    photos += [Photo(photo=b"no"), Photo(), Photo(problem=Problem("too_late", "earlier")), Photo(url="http://a/")]
    done = Photo(photo=b"not looked at", image=np.zeros((32, 32, 3), np.uint8))
    prepare(*photos, done)
    assert [photo.problem.reason if photo.problem else None for photo in photos] == [None] * 5 + [
        "unsupported", "bad_request", "too_late", "bad_request",
    ]  # fmt: skip
    assert done.problem is None


def test_the_spec_of_the_moment_is_used() -> None:
    specs = [ImageSpec(size=16), ImageSpec(size=24, fit="pad")]

    async def work() -> None:
        async with running(spec=lambda: specs[0]) as part:
            for spec in list(specs):
                photo = Photo(photo=ENCODED["JPEG"])
                await part.apply([photo], Call())
                assert np.array_equal(photo.image, canonicalise(ENCODED["JPEG"], spec))
                assert photo.image_spec == spec.digest()
                assert part.shapes()["image"] == (spec.size, spec.size, 3)
                specs.pop(0) if len(specs) > 1 else None

    asyncio.run(work())


def test_it_is_a_model_of_its_own() -> None:
    async def work() -> None:
        async with running() as part:
            tensor = Tensor("photo", BYTES, (2,), [ENCODED["JPEG"], b"no"])
            answer = await part.infer(InferRequest("preprocessor", [tensor]), Call())
            found = {output.name: output for output in answer.outputs}
            assert found["image"].shape == (2, 32, 32, 3)
            assert found["stats"].shape == (2, len(STATS))
            assert found["error"].data[0] == b""
            assert b"not_an_image" in found["error"].data[1]
            with pytest.raises(Problem) as caught:
                await part.infer(InferRequest("preprocessor", [Tensor("photo", BYTES, (1,), [b"no"])]), Call())
            assert caught.value.kind.status == 415

    asyncio.run(work())


def test_a_further_decoder_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(data: bytes, spec: ImageSpec, room: Any) -> Any:
        with room(1):
            return canonicalise_with_header(data[4:], spec, room)

    monkeypatch.setitem(DECODERS, "ODD", Decoder(lambda data: data[:4] == b"odd:", decode))
    photo = Photo(photo=b"odd:" + ENCODED["PNG"])
    prepare(photo, pixels=10_000)
    assert np.array_equal(photo.image, canonicalise(ENCODED["PNG"], SPEC))


def test_decoding_leaves_the_event_loop_alone() -> None:
    large = encode(picture(3000, 2000), "JPEG")

    async def work() -> None:
        async with running(threads=2) as part:
            async with asyncio.TaskGroup() as tasks:
                photos = [Photo(photo=large) for _ in range(8)]
                work = tasks.create_task(part.apply(photos, Call()))
                worst = 0.0
                while not work.done():
                    start = time.perf_counter()
                    await asyncio.sleep(0.001)
                    worst = max(worst, time.perf_counter() - start)
            assert worst < 0.2

    asyncio.run(work())


def test_a_full_queue_says_when_to_come_again() -> None:
    held, began = threading.Event(), threading.Event()

    def decode(data: bytes, spec: ImageSpec, room: Any) -> Any:
        began.set()
        held.wait(10)
        return canonicalise_with_header(ENCODED["PNG"], spec)

    async def work() -> None:
        async with running(queue=2, batch=1) as part:
            tasks = [asyncio.create_task(part.apply([Photo(photo=b"held")], Call()))]
            await asyncio.to_thread(began.wait, 10)
            tasks.append(asyncio.create_task(part.apply([Photo(photo=b"held"), Photo(photo=b"held")], Call())))
            await asyncio.sleep(0)
            assert part.lane.waiting == 2
            with pytest.raises(Problem) as caught:
                await part.apply([Photo(photo=b"held")], Call())
            assert caught.value.kind.status == 429
            assert caught.value.retry_after
            held.set()
            await asyncio.gather(*tasks)

    DECODERS["HELD"] = Decoder(lambda data: data == b"held", decode)
    try:
        asyncio.run(asyncio.wait_for(work(), 20))
    finally:
        del DECODERS["HELD"]


# -------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("data", "status", "detail"),
    [
        (b"", 415, "not_an_image"),
        (b"hello", 415, "not_an_image"),
        (b"%PDF-1.7" + bytes(50), 415, "format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "format"),
        (ENCODED["JPEG"][:-200], 422, "truncated"),
        (encode(picture(20, 4)), 422, "too_small"),
        *[(bomb(kind), 413, "too_many_pixels") for kind in FORMATS],
    ],
)
def test_each_refusal_has_its_status_and_word(data: bytes, status: int, detail: str) -> None:
    found = refusal(data)
    assert (found.kind.status, found.detail) == (status, detail)
    assert found.message.startswith("photo: ")


def test_too_many_bytes_and_frames_too() -> None:
    assert refusal(ENCODED["PNG"], spec=ImageSpec(size=32, max_bytes=10)).kind.status == 413
    dots = [Image.new("L", (8, 8), i % 2 * 255) for i in range(1001)]
    found = refusal(encode(dots[0], "GIF", save_all=True, append_images=dots[1:]))
    assert (found.kind.status, found.detail) == (422, "too_many_frames")


# ------------------------------------------------------------------------------- small files that cost much


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def in_header(*parts: bytes) -> bytes:
    return ENCODED["JPEG"][:2] + b"".join(parts) + ENCODED["JPEG"][2:]


def png_with(*chunks: bytes) -> bytes:
    return ENCODED["PNG"][:33] + b"".join(chunks) + ENCODED["PNG"][33:]


def gif_with(blocks: bytes) -> bytes:
    at = ENCODED["GIF"].index(b",\0\0\0\0")
    return ENCODED["GIF"][:at] + blocks + ENCODED["GIF"][at:]


def many_scans(side: int, count: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (side, side), 128).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + b"\xff\xd9"


BLANK = zlib.compress(bytes(1 << 20), 9)
COSTLY: dict[str, Callable[[], bytes]] = {
    "a JPEG of 1,000 scans": lambda: many_scans(2000, 1000),
    "a large JPEG of 60 scans": lambda: many_scans(7000, 60),
    "a JPEG with a million notes": lambda: in_header(segment(0xEA, b"") * 1_000_000),
    "a JPEG with notes behind one without a length": lambda: in_header(b"\xff\xf0", segment(0xEA, b"") * 1_000_000),
    "a JPEG with padding": lambda: in_header(b"\xff" * 5_000_000),
    "a JPEG with junk": lambda: in_header(segment(0xEA, b""), b"\1" * 5_000_000),
    "a JPEG with much EXIF": lambda: in_header(segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 50),
    "a PNG of a million chunks": lambda: png_with(png_chunk(b"teSt", b"") * 1_000_000),
    "a PNG of a million texts": lambda: png_with(png_chunk(b"tEXt", b"a\0b") * 1_000_000),
    "a PNG of packed texts": lambda: png_with(png_chunk(b"zTXt", b"a\0\0" + BLANK) * 200),
    "a PNG with much EXIF": lambda: png_with(png_chunk(b"eXIf", b"II*\0" + bytes(1_000_000))),
    "a GIF of a million comments": lambda: gif_with(b"\x21\xfe\x01a\0" * 1_000_000),
    "a GIF with one long comment": lambda: gif_with(b"\x21\xfe" + b"\x01a" * 3_000_000 + b"\0"),
    "a GIF with junk": lambda: gif_with(b"\0" * 5_000_000),
}


@pytest.mark.parametrize("what", COSTLY)
def test_a_costly_file_is_refused_for_the_price_of_a_look(what: str) -> None:
    data = COSTLY[what]()
    start = time.process_time()
    with pytest.raises(BadImage) as caught:
        canonicalise(data, SPEC)
    assert caught.value.reason == "too_many_parts"
    assert time.process_time() - start < 0.25
    assert refusal(data).kind.status == 422


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt"])
def test_a_note_that_unpacks_to_much_is_cut_off(kind: bytes) -> None:
    data = png_with(png_chunk(kind, b"a\0\0" + zlib.compress(bytes(100 << 20), 1)))
    tracemalloc.start()
    with pytest.raises(BadImage):
        canonicalise(data, SPEC)
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


def test_photos_as_they_come_are_not_taken_for_costly() -> None:
    noise = Image.effect_noise((900, 700), 80).convert("RGB")
    icc = segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(range(256)) * 200)
    jpeg = encode(noise, "JPEG", quality=95, progressive=True)
    expected = canonicalise(jpeg, SPEC)
    film = bytes(np.random.default_rng(0).integers(0, 256, 2_000_000, dtype=np.uint8)) + b"\xff\xda" * 500
    for data in (jpeg[:2] + icc * 30 + jpeg[2:], jpeg + film, jpeg[:2] + b"\xff\xff" + jpeg[2:]):
        assert np.array_equal(canonicalise(data, SPEC), expected)
    assert canonicalise(encode(noise, "GIF"), SPEC).shape == (32, 32, 3)
    big = encode(Image.effect_noise((2200, 2000), 120), "GIF")
    assert len(big) > 2_600_000  # more than 10,000 blocks of pixels
    assert canonicalise(big, SPEC).shape == (32, 32, 3)


def test_a_file_of_two_kinds_is_what_its_beginning_says() -> None:
    zipped = b"PK\3\4" + bytes(60) + b"PK\5\6" + bytes(18)
    assert np.array_equal(canonicalise(ENCODED["JPEG"] + zipped, SPEC), canonicalise(ENCODED["JPEG"], SPEC))
    script = ENCODED["GIF"] + b"=1;alert(1)//"
    assert np.array_equal(canonicalise(script, SPEC), canonicalise(ENCODED["GIF"], SPEC))
    assert refusal(b"PK\3\4" + ENCODED["JPEG"]).detail == "not_an_image"
    assert refusal(b"<script>alert(1)</script>" + ENCODED["PNG"]).detail == "not_an_image"


def test_broken_notes_do_not_fill_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    tags = b"".join(struct.pack("<HHII", tag, 7, 30_000, 20_000) for tag in range(1, 2000))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1999) + tags
    photo = Photo(photo=in_header(segment(0xE1, exif.ljust(60_000, b"\0"))))
    prepare(photo)
    assert photo.problem is None
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_large_photos_are_the_same_in_strips(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.canonical._STRIP", 5_000)
    side = 310
    values = np.linspace(0, 255, side * side).astype(np.uint8).reshape(side, side)
    grey = Image.fromarray(values)
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16) << 8)
    elif mode == "P":
        image = grey.convert("P")
    else:
        image = grey.convert(mode[:-1])
        image.putalpha(grey.transpose(Image.Transpose.ROTATE_90))
    options = {"transparency": 7} if mode == "P" else {}
    data = encode(image, compress_level=1, **options)
    if mode == "I;16":
        whole = grey.convert("RGB")
    else:
        with Image.open(io.BytesIO(data)) as opened:
            seen = opened.convert("RGBA")
        whole = Image.alpha_composite(Image.new("RGBA", seen.size, (255, 255, 255, 255)), seen).convert("RGB")
    assert np.array_equal(canonicalise(data, SPEC), canonicalise(encode(whole, compress_level=1), SPEC))


def test_photos_decoded_at_once_have_so_many_pixels_together() -> None:
    room = Room(100)
    inside: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def decode(pixels: int) -> None:
        for _ in range(50):
            with room.take(pixels):
                with lock:
                    inside.append(min(pixels, 100))
                    most.append(sum(inside))
                with lock:
                    inside.remove(min(pixels, 100))

    threads = [threading.Thread(target=decode, args=(pixels,)) for pixels in (60, 50, 30, 10, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert max(most) <= 100
    assert len(most) == 250


def test_room_is_given_back_by_photos_that_cannot_be_decoded() -> None:
    async def work() -> None:
        async with running(threads=2, pixels=40 * 30) as part:
            photos = [Photo(photo=ENCODED["PNG"][:-30] + ENCODED["PNG"][-12:]) for _ in range(6)]
            photos += [Photo(photo=ENCODED["PNG"]) for _ in range(6)]
            await part.apply(photos, Call())
            assert [photo.problem is None for photo in photos] == [False] * 6 + [True] * 6

    asyncio.run(asyncio.wait_for(work(), 20))
