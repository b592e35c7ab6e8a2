"""Which decoder takes which bytes, and how much is decoded at once."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from serving import canonical
from serving.canonical import Header, ImageSpec, canonicalise_with_header

Decode = Callable[[bytes, ImageSpec, canonical.Room], tuple[Header, np.ndarray]]
"""Bytes → the header and the canonical image, uint8 [S, S, 3]; raises BadImage. The third argument is entered with the
number of pixels while they are held."""


@dataclass(frozen=True, slots=True)
class Decoder:
    claims: Callable[[bytes], bool]
    """Whether the first bytes are of its format."""
    decode: Decode


def _begins(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(magics)


DECODERS: dict[str, Decoder] = {
    "JPEG": Decoder(_begins(b"\xff\xd8\xff"), canonicalise_with_header),
    "PNG": Decoder(_begins(b"\x89PNG\r\n\x1a\n"), canonicalise_with_header),
    "GIF": Decoder(_begins(b"GIF87a", b"GIF89a"), canonicalise_with_header),
    "WEBP": Decoder(lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", canonicalise_with_header),
    "BMP": Decoder(_begins(b"BM"), canonicalise_with_header),
}
"""By format, asked in this order. A further one is added before the server starts:

    DECODERS["AVIF"] = Decoder(lambda data: data[4:12] == b"ftypavif", decode_avif)

It gives what `serving.canonical` would: photos that a model was not trained on are its owner's business.
"""


def decode(data: bytes, spec: ImageSpec, room: canonical.Room) -> tuple[Header, np.ndarray]:
    """The header and the canonical image, by the decoder that claims these bytes.

    Raises:
        BadImage: nobody does, or it is not taken.
    """
    for decoder in DECODERS.values():
        if decoder.claims(data):
            return decoder.decode(data, spec, room)
    return canonicalise_with_header(data, spec, room)  # it says what else the bytes are


class Room:
    """Pixels that may be decoded at once, in all threads together. What is larger than the room has it alone."""

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self._left = pixels
        self._change = threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Wait until there is room."""
        pixels = min(pixels, self.pixels)
        with self._change:
            while self._left < pixels:
                self._change.wait()
            self._left -= pixels
        try:
            yield
        finally:
            with self._change:
                self._left += pixels
                self._change.notify_all()
