"""Bytes to the canonical image: the one decoder of training, batch scoring and live requests.

The header is read before anything is decoded: a file that is no image, of another format, too large or
too small is refused for the price of its header. What is decoded is decoded whole: a cut or damaged
file is refused, never filled up with grey. One rule for every pixel format:

- orientation: EXIF is applied, the pixels are what the eye saw;
- 16 bits: the high byte; grey and bilevel: three equal channels; palette and CMYK: as Pillow converts them;
- alpha, and transparent colours: over white; animations: their first frame;
- colour profiles are ignored.

Every call works on its own objects and changes no global of Pillow, so threads may call it at once.
"""

import hashlib
import io
import json
import re
import struct
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import BmpImagePlugin, ExifTags, GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin
from PIL import WebPImagePlugin as WebPPlugin

RULES = 1
"""Version of the rules above. Raise it when a change alters a pixel: models refuse another version's images."""

MAX_FRAMES = 1_000
"""An animation with more frames is refused, although only the first is used."""

# A small file can cost much: parts that are parsed one by one, scans that each go over the whole picture, notes that
# are unpacked. A photo has a few dozen parts and a dozen scans.
MAX_PARTS, MAX_SCANS = 10_000, 64
_MAX_SCANNED = 1_000_000_000  # pixels times scans of a JPEG
_MAX_SEGMENTS, _MAX_PACKED, _MAX_EXIF = 1_000, 32, 262_144
_STRIP = 4_000_000  # pixels that are put over white at once

Reason = Literal[
    "not_an_image", "format", "truncated", "too_many_bytes", "too_many_pixels", "too_small", "too_many_frames",
    "too_many_parts",
]  # fmt: skip

Room = Callable[[int], AbstractContextManager[object]]

_ALLOWED = "JPEG, PNG, GIF, WebP or BMP"
_OPENERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPPlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's parsers are known to raise on damaged bytes, besides their own OSError and SyntaxError.
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError, TypeError,
    AttributeError, OverflowError, RuntimeError, Image.DecompressionBombError,
)  # fmt: skip


_PADDING = re.compile(rb"[^\xff]*\xff+")
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # of a part with a length, or the end; not in a scan's own data


class BadImage(ValueError):
    """These bytes are not taken. `reason` is one word for tables, the message is for people."""

    for_people = True

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """What the canonical image is, and what is let in.

    `size` is the side in pixels; `fit` is crop (centre square), pad (whole photo on white) or stretch.
    """

    size: int
    fit: str = "crop"
    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    min_side: int = 8

    def __post_init__(self) -> None:
        if self.fit not in ("crop", "pad", "stretch"):
            raise ValueError(f"fit={self.fit!r}: crop, pad and stretch are known")

    def digest(self) -> str:
        """12 hex digits over what changes pixels. Limits only refuse, so they are left out."""
        text = json.dumps({"size": self.size, "fit": self.fit, "rules": RULES}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What a photo says of itself: JPEG, PNG, GIF, WEBP or BMP, and its size as seen, after orientation."""

    format: str
    width: int
    height: int


def inspect(data: bytes, spec: ImageSpec) -> Header:
    """Read and check the header; no pixel is decoded.

    Raises:
        BadImage: the photo may not come in.
    """
    name, image = _open(data, spec)
    return _header(name, image, _orientation(name, image))


def canonicalise(data: bytes, spec: ImageSpec) -> np.ndarray:
    """The canonical image of encoded bytes: uint8 [size, size, 3], RGB.

    Raises:
        BadImage: the photo may not come in, or cannot be decoded whole.
    """
    return canonicalise_with_header(data, spec)[1]


def canonicalise_with_header(data: bytes, spec: ImageSpec, room: Room = nullcontext) -> tuple[Header, np.ndarray]:
    """`inspect` and `canonicalise` for the price of one. `room` is entered with the pixels that are to be decoded.

    Raises:
        BadImage: the photo may not come in, or cannot be decoded whole.
    """
    name, image = _open(data, spec)
    orientation = _orientation(name, image)  # before load(): Pillow drops or adds EXIF while it decodes
    header = _header(name, image, orientation)
    image.draft(None, _draft_size(image.size, spec))  # JPEG alone: decode at a half, a quarter or an eighth
    try:
        with room(header.width * header.height):
            image.load()
            small = _fit(_to_rgb(image), spec)
            del image  # its pixels, before others are let in
    except _DAMAGE as error:
        raise BadImage("truncated", f"the {name} file is cut off or damaged: {error}. Send the whole file") from error
    if orientation in _ORIENTATIONS:
        small = small.transpose(_ORIENTATIONS[orientation])
    return header, np.array(small, dtype=np.uint8)


# ----------------------------------------------------------------------------------------------- header


def _open(data: bytes, spec: ImageSpec) -> tuple[str, ImageFile.ImageFile]:
    if len(data) > spec.max_bytes:
        raise BadImage("too_many_bytes", f"the file has {len(data):,} bytes; at most {spec.max_bytes:,} are allowed")
    name = _sniff(data)
    if name == "WEBP":  # its decoder allocates the whole canvas when it is opened
        _check_size(_webp_size(data), spec)
    elif name == "GIF" and _gif_frames(data) > MAX_FRAMES:
        raise BadImage("too_many_frames", f"the animation has more than {MAX_FRAMES:,} frames; send a still")
    in_scan = _check_segments(data) if name == "JPEG" else 0
    if name == "PNG":
        _check_chunks(data)
    try:
        image = _OPENERS[name](io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise BadImage("too_many_pixels", f"{error} At most {spec.max_pixels:,} are allowed") from error
    except _DAMAGE as error:
        raise BadImage("truncated", f"the {name} header is cut off or damaged: {error}. Send the whole file") from error
    if name == "PNG" and not 0 < data.rfind(b"IEND") <= len(data) - 8:
        raise BadImage("truncated", "the PNG file is cut off: its last chunk is missing. Send the whole file")
    _check_size(image.size, spec)
    if in_scan and (in_scan < len(image.getbands()) or "progressive" in image.info):
        _check_scans(data, image.size)
    if len(image.info.get("exif", b"")) > _MAX_EXIF:
        raise _too_many_parts(f"its EXIF notes have more than {_MAX_EXIF:,} bytes")
    if name in ("WEBP", "PNG") and getattr(image, "n_frames", 1) > MAX_FRAMES:
        raise BadImage("too_many_frames", f"the animation has more than {MAX_FRAMES:,} frames; send a still")
    return name, image


def _sniff(data: bytes) -> str:
    """The format by magic number; a file's name and media type are not believed."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and len(data) >= 26:
        return "BMP"
    other = _other_format(data)
    if other:
        raise BadImage("format", f"the file is {other}; convert it to {_ALLOWED}")
    shown = f"it begins with {data[:8].hex(' ')}" if data else "it is empty"
    raise BadImage("not_an_image", f"the file is no image ({shown}); send {_ALLOWED}")


def _other_format(data: bytes) -> str | None:
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "TIFF"
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"avif", b"avis"):
        return "AVIF" if data[8:11] == b"avi" else "HEIC"
    if data[:12] == b"\0\0\0\x0cJXL \r\n\x87\n" or data[:2] == b"\xff\x0a":
        return "JPEG XL"
    if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":
        return "JPEG 2000"
    known = {b"8BPS": "a Photoshop file", b"%PDF": "a PDF", b"\0\0\1\0": "an icon", b"qoif": "QOI"}
    return known.get(data[:4]) or ("SVG" if b"<svg" in data[:256].lower() else None)


def _check_size(size: tuple[int, int], spec: ImageSpec) -> None:
    width, height = size
    if width * height > spec.max_pixels:
        message = f"the photo is {width}×{height}, {width * height:,} pixels; at most {spec.max_pixels:,} are allowed"
        raise BadImage("too_many_pixels", message)
    if min(size) < spec.min_side:
        message = f"the photo is {width}×{height}; each side needs at least {spec.min_side} pixels"
        raise BadImage("too_small", message)


def _webp_size(data: bytes) -> tuple[int, int]:
    # https://developers.google.com/speed/webp/docs/riff_container: three kinds of first chunk.
    chunk = data[12:16]
    try:
        if chunk == b"VP8X":
            low = struct.unpack_from("<HBHB", data, 24)
            return low[0] + (low[1] << 16) + 1, low[2] + (low[3] << 16) + 1
        if chunk == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if chunk == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    except struct.error as error:
        raise BadImage("truncated", "the WEBP header is cut off. Send the whole file") from error
    raise BadImage("truncated", f"the WEBP file begins with an unknown chunk {chunk!r}. Send the whole file")


def _too_many_parts(what: str) -> BadImage:
    return BadImage("too_many_parts", f"{what}; no photo needs that. Save it again as a plain photo")


def _check_segments(data: bytes) -> int:
    """Colours in a JPEG's first scan. Refuses a header that Pillow, which reads it the same way, would be long in."""
    at, end, parts, exif = 2, len(data), 0, 0
    while at + 4 <= end and parts <= _MAX_SEGMENTS:
        if data[at] != 0xFF or data[at + 1] == 0xFF:  # junk and padding, which Pillow reads byte by byte
            found = _PADDING.match(data, at + 1)
            parts += found.end() - at if found else 0
            at = found.end() - (data[found.end() - 1] == 0xFF) if found else end
            continue
        marker = 0xFF00 | data[at + 1]
        if marker == 0xFFDA:
            break
        parts += 1
        _, _, handler = JpegImagePlugin.MARKER.get(marker, ("", "", None))
        if marker == 0xFFE1 and data[at + 4 : at + 8] == b"Exif":
            exif += 1
        at += 2 + (max(2, data[at + 2] << 8 | data[at + 3]) if handler else 0)
    if parts > _MAX_SEGMENTS or exif > _MAX_EXIF >> 16:
        raise _too_many_parts(f"the JPEG header has more than {_MAX_SEGMENTS:,} parts, or much padding or EXIF")
    return data[at + 4] if at + 4 < end else 0


def _check_scans(data: bytes, size: tuple[int, int]) -> None:
    most = min(MAX_SCANS, max(1, _MAX_SCANNED // (size[0] * size[1])))
    if data.count(b"\xff\xda") <= most:  # a thumbnail or a film behind the photo may have some of its own
        return
    at, scans, parts = 2, 0, 0
    while (found := _MARKER.search(data, at)) is not None and found.group() != b"\xff\xd9":
        scans += found.group() == b"\xff\xda"
        parts += 1
        if scans > most or parts > MAX_PARTS:
            raise _too_many_parts(f"the JPEG has more than {most} scans")
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")


def _check_chunks(data: bytes) -> None:
    at, end, parts, packed = 8, len(data), 0, 0
    while at + 12 <= end and (kind := data[at + 4 : at + 8]) != b"IEND":
        parts += 1
        packed += kind in (b"zTXt", b"iTXt", b"iCCP")
        if parts > MAX_PARTS or packed > _MAX_PACKED:
            raise _too_many_parts(f"the PNG has more than {MAX_PARTS:,} chunks, or {_MAX_PACKED} packed texts")
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _gif_frames(data: bytes) -> int:
    """Image blocks in a GIF, counted without decoding; stops soon after MAX_FRAMES."""
    frames, at, end, parts, most = 0, 13, len(data), 0, MAX_PARTS
    if end > 10 and data[10] & 0x80:
        at += 3 << ((data[10] & 7) + 1)
    # Up to the first frame Pillow goes block by block, and byte by byte through junk; later ones are only counted.
    while at < end and frames <= MAX_FRAMES and parts <= most:
        parts += 1
        if data[at] == 0x2C:
            frames, most = frames + 1, MAX_PARTS + end // 64
            flags = data[at + 9] if at + 9 < end else 0
            at += 11 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
        elif data[at] == 0x21:
            at += 2
        elif data[at] == 0x3B or frames:
            break
        else:
            at += 1
            continue
        while at < end and data[at] and parts <= most:
            at += data[at] + 1
            parts += 1
        at += 1
    if parts > most:
        raise _too_many_parts(f"the GIF has more than {most:,} parts")
    return frames


def _orientation(name: str, image: ImageFile.ImageFile) -> int:
    # A PNG may carry EXIF behind its pixels, and asking for it would decode them: only EXIF in front counts.
    if name in ("GIF", "BMP") or (name == "PNG" and "exif" not in image.info):
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGE:
        return 1  # a photo is not refused for its broken notes
    return found if isinstance(found, int) and found in _ORIENTATIONS else 1


def _header(name: str, image: ImageFile.ImageFile, orientation: int) -> Header:
    width, height = image.size if orientation < 5 else image.size[::-1]
    return Header(format=name, width=width, height=height)


# ----------------------------------------------------------------------------------------------- pixels


def _draft_size(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """At least twice the canonical size each way, so that the last resize still averages."""
    width, height = size
    longest = max(size) if spec.fit == "pad" else min(size)
    if spec.fit == "stretch":
        return 2 * spec.size, 2 * spec.size
    return max(1, 2 * spec.size * width // longest), max(1, 2 * spec.size * height // longest)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow itself takes the high byte of 16-bit colour
        high = np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(high).convert("RGB")
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return image if image.mode == "RGB" else image.convert("RGB")
    width, height = image.size
    lines = max(1, _STRIP // width)
    if lines >= height:
        return _over_white(image)
    seen = Image.new("RGB", image.size)  # strip by strip: four copies of a large photo are too much to hold
    for top in range(0, height, lines):
        strip = image.crop((0, top, width, min(top + lines, height)))
        seen.paste(_over_white(strip), (0, top))
    return seen


def _over_white(image: Image.Image) -> Image.Image:
    seen = image.convert("RGBA")
    white = Image.new("RGBA", seen.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, seen).convert("RGB")


def _fit(image: Image.Image, spec: ImageSpec) -> Image.Image:
    width, height = image.size
    side = spec.size
    # Boxes are in fractions of a pixel: the centre is the same whichever way the photo was turned.
    if spec.fit == "crop":
        edge = min(width, height)
        left, top = (width - edge) / 2, (height - edge) / 2
        return _resize(image, (side, side), (left, top, left + edge, top + edge))
    if spec.fit == "stretch":
        return _resize(image, (side, side), (0, 0, width, height))
    scale = side / max(width, height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = Image.new("RGB", (side, side), (255, 255, 255))
    canvas.paste(_resize(image, inner, (0, 0, width, height)), ((side - inner[0]) // 2, (side - inner[1]) // 2))
    return canvas


def _resize(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    return image.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
