"""What can be said of a picture without knowing what it shows.

All figures are computed on the canonical image, so they do not depend on how large the photo came.
"""

import math
import threading
from collections.abc import Sequence

import imagehash
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

STATS = ("brightness", "contrast", "sharpness", "colourfulness", "entropy", "edge_density", "aspect")
"""Names of `picture_stats`, in the order of the model's context."""

_TOGETHER = 8  # pictures in one pass: more leave the cache
_EDGE = 0.1  # a Sobel gradient above this share of full scale is an edge
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_RED_GREEN = np.array([1, -1, 0], dtype=np.float32)
_YELLOW_BLUE = np.array([0.5, 0.5, -1], dtype=np.float32)
# Squares of gradients, before they are divided by 4, beyond which rounding cannot change what is an edge.
_SURELY, _LIKELY = np.float32((4 * _EDGE) ** 2 * (1 + 2e-5)), np.float32((4 * _EDGE) ** 2 * (1 - 2e-5))


def picture_stats(image: np.ndarray, *, width: int, height: int) -> dict[str, float]:
    """Seven figures of one picture.

    Args:
        image: canonical image, uint8 [S, S, 3], RGB.
        width, height: the photo's own size in pixels, as seen (after orientation).

    Returns:
        brightness: mean luma, 0 to 1. contrast: its standard deviation, 0 to 0.5.
        sharpness: standard deviation of the Laplacian of luma, 0 to about 4.
        colourfulness: Hasler and Süsstrunk (2003), on channels from 0 to 1.
        entropy: of the 256-bin luma histogram, 0 to 8 bits.
        edge_density: share of pixels on an edge, 0 to 1. aspect: width / height.
    """
    return dict(zip(STATS, _figures(image[None], [(width, height)])[0], strict=True))


def picture_figures(image: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """`picture_stats` as float32 [len(STATS)], in the order of STATS."""
    return np.array(_figures(image[None], [(width, height)])[0], dtype=np.float32)


def figures_of_many(images: np.ndarray, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """`picture_figures` of many pictures, the very same numbers: float32 [N, len(STATS)].

    Each step is done on several pictures at once. Threads that each go through them one by one wait for the
    interpreter more often than they compute.

    Args:
        images: uint8 [N, S, S, 3].
        sizes: (width, height) of each photo as it came.
    """
    found = [
        row
        for start in range(0, len(images), _TOGETHER)
        for row in _figures(images[start : start + _TOGETHER], sizes[start : start + _TOGETHER])
    ]
    return np.array(found, np.float32).reshape(len(images), len(STATS))


def perceptual_hash(image: np.ndarray) -> str:
    """64-bit pHash of a canonical image (uint8 [S, S, 3]) as 16 hex digits: near pictures differ in few bits."""
    return str(imagehash.phash(Image.fromarray(image)))


class _Scratch(threading.local):
    """Each thread's arrays for pictures of one size: memory that is asked for anew costs more than the arithmetic."""

    def __init__(self) -> None:
        self.shape = (0, 0, 0)

    def fit(self, count: int, height: int, width: int) -> None:
        shape = count, height, width
        if self.shape != shape:
            self.shape = shape
            self.pixels = np.empty((*shape, 3), np.float32)
            self.planes = np.empty((3, *shape), np.float32)
            self.twice, self.down, self.across = np.empty((3, *shape), np.float32)


_scratch = _Scratch()


def _figures(images: np.ndarray, sizes: Sequence[tuple[int, int]]) -> list[tuple[float, ...]]:
    # On the way of every request, hence few passes over few arrays; numpy leaves the interpreter to others in them.
    count = len(images)
    _scratch.fit(*images.shape[:3])
    pixels, planes = _scratch.pixels, _scratch.planes
    np.copyto(pixels, images)
    pixels /= 255
    for plane, weights in zip(planes, (_LUMA, _RED_GREEN, _YELLOW_BLUE), strict=True):
        np.matmul(pixels, weights, out=plane)
    entropies = _entropies(planes[0])
    edges = _edges(planes[0])
    means, spreads = _moments(planes.reshape(3 * count, -1))
    found: list[tuple[float, ...]] = []
    for i, (width, height) in enumerate(sizes):
        reds, yellows = count + i, 2 * count + i
        colourfulness = math.hypot(spreads[reds], spreads[yellows]) + 0.3 * math.hypot(means[reds], means[yellows])
        sharpness, density = edges[i]
        found.append((means[i], spreads[i], sharpness, colourfulness, entropies[i], density, width / height))
    return found


def _moments(rows: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each row; the rows are overwritten."""
    means = np.add.reduce(rows, axis=1, keepdims=True)
    means /= rows.shape[1]
    rows -= means
    np.square(rows, out=rows)
    spreads = np.sqrt(np.add.reduce(rows, axis=1) / rows.shape[1])
    return means[:, 0].tolist(), spreads.tolist()


def _edges(luma: np.ndarray) -> list[tuple[float, float]]:
    """Standard deviation of the Laplacian, and the share of Sobel gradients above _EDGE, of each of [N, H, W]."""
    count, high, wide = len(luma), luma.shape[1] - 2, luma.shape[2] - 2
    shape = count, high, wide
    twice = np.add(luma, luma, out=_scratch.twice)
    columns = np.add(luma[:, :-2], luma[:, 2:], out=_scratch.down[:, :high])
    rows = np.add(luma[:, :, :-2], luma[:, :, 2:], out=_scratch.across[:, :, :wide])
    free = _scratch.pixels.reshape(-1)[: count * high * wide].reshape(shape)
    laplacian = np.add(columns[:, :, 1:-1], rows[:, 1:-1], out=free)
    laplacian -= twice[:, 1:-1, 1:-1]
    laplacian -= twice[:, 1:-1, 1:-1]
    spreads = _moments(laplacian.reshape(count, -1))[1]
    columns += twice[:, 1:-1]
    rows += twice[:, :, 1:-1]
    squared = np.subtract(columns[:, :, 2:], columns[:, :, :-2], out=laplacian)
    squared *= squared
    down = np.subtract(rows[:, 2:], rows[:, :-2], out=twice[:, :high, :wide])
    down *= down
    squared += down
    above, likely = squared > _SURELY, squared > _LIKELY
    found = []
    for i, spread in enumerate(spreads):
        edges = np.count_nonzero(above[i])
        if np.count_nonzero(likely[i]) != edges:  # some lie on the limit, where the last bit decides
            edges += np.count_nonzero(_gradient(sliding_window_view(luma[i], (3, 3))[likely[i] ^ above[i]]) > _EDGE)
        found.append((spread, edges / (high * wide)))
    return found


def _gradient(around: np.ndarray) -> np.ndarray:
    """Sobel magnitude of the middles of [K, 3, 3], scaled so that a step from black to white is 1."""
    columns = around[:, 0] + 2 * around[:, 1] + around[:, 2]
    rows = around[:, :, 0] + 2 * around[:, :, 1] + around[:, :, 2]
    return np.hypot(columns[:, 2] - columns[:, 0], rows[:, 2] - rows[:, 0]) / 4


def _entropies(luma: np.ndarray) -> list[float]:
    """Of each of [N, H, W]."""
    levels = np.multiply(luma, np.float32(255), out=_scratch.twice)
    np.rint(levels, out=levels)
    found = []
    for counts in (np.bincount(one.ravel()) for one in levels.astype(np.intp)):
        shares = counts[counts > 0] / luma[0].size
        found.append(max(0.0, -float((shares * np.log2(shares)).sum())))
    return found
