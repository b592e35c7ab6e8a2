"""What can be said of a picture without knowing what it shows.

All figures are computed on the canonical image, so they do not depend on how large the photo came.
"""

import math
import threading

import imagehash
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

STATS = ("brightness", "contrast", "sharpness", "colourfulness", "entropy", "edge_density", "aspect")
"""Names of `picture_stats`, in the order of the model's context."""

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
    return dict(zip(STATS, _figures(image, width, height), strict=True))


def picture_figures(image: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """`picture_stats` as float32 [len(STATS)], in the order of STATS."""
    return np.array(_figures(image, width, height), dtype=np.float32)


def perceptual_hash(image: np.ndarray) -> str:
    """64-bit pHash of a canonical image (uint8 [S, S, 3]) as 16 hex digits: near pictures differ in few bits."""
    return str(imagehash.phash(Image.fromarray(image)))


class _Scratch(threading.local):
    """Each thread's arrays for pictures of one size: memory that is asked for anew costs more than the arithmetic."""

    def __init__(self) -> None:
        self.shape = (0, 0)

    def fit(self, height: int, width: int) -> None:
        if self.shape != (height, width):
            self.shape = (height, width)
            self.pixels = np.empty((height, width, 3), np.float32)
            self.planes = np.empty((3, height, width), np.float32)
            self.twice, self.down, self.across = np.empty((3, height, width), np.float32)


_scratch = _Scratch()


def _figures(image: np.ndarray, width: int, height: int) -> tuple[float, ...]:
    # On the way of every request, hence few passes over few arrays; numpy leaves the interpreter to others in them.
    _scratch.fit(*image.shape[:2])
    pixels, planes = _scratch.pixels, _scratch.planes
    np.copyto(pixels, image)
    pixels /= 255
    for plane, weights in zip(planes, (_LUMA, _RED_GREEN, _YELLOW_BLUE), strict=True):
        np.matmul(pixels, weights, out=plane)
    entropy = _entropy(planes[0])
    sharpness, edge_density = _edges(planes[0])
    means, spreads = _moments(planes.reshape(3, -1))
    colourfulness = math.hypot(spreads[1], spreads[2]) + 0.3 * math.hypot(means[1], means[2])
    return means[0], spreads[0], sharpness, colourfulness, entropy, edge_density, width / height


def _moments(rows: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each row; the rows are overwritten."""
    means = np.add.reduce(rows, axis=1, keepdims=True)
    means /= rows.shape[1]
    rows -= means
    np.square(rows, out=rows)
    spreads = np.sqrt(np.add.reduce(rows, axis=1) / rows.shape[1])
    return means[:, 0].tolist(), spreads.tolist()


def _edges(luma: np.ndarray) -> tuple[float, float]:
    """Standard deviation of the Laplacian, and the share of Sobel gradients above _EDGE."""
    high, wide = luma.shape[0] - 2, luma.shape[1] - 2
    twice = np.add(luma, luma, out=_scratch.twice)
    columns = np.add(luma[:-2], luma[2:], out=_scratch.down[:high])
    rows = np.add(luma[:, :-2], luma[:, 2:], out=_scratch.across[:, :wide])
    laplacian = np.add(columns[:, 1:-1], rows[1:-1], out=_scratch.pixels.reshape(-1)[: high * wide].reshape(high, wide))
    laplacian -= twice[1:-1, 1:-1]
    laplacian -= twice[1:-1, 1:-1]
    spread = _moments(laplacian.reshape(1, -1))[1][0]
    columns += twice[1:-1]
    rows += twice[:, 1:-1]
    squared = np.subtract(columns[:, 2:], columns[:, :-2], out=laplacian)
    squared *= squared
    down = np.subtract(rows[2:], rows[:-2], out=twice[:high, :wide])
    down *= down
    squared += down
    above = squared > _SURELY
    edges = np.count_nonzero(above)
    likely = squared > _LIKELY
    if np.count_nonzero(likely) != edges:  # some lie on the limit, where the last bit decides
        edges += np.count_nonzero(_gradient(sliding_window_view(luma, (3, 3))[likely ^ above]) > _EDGE)
    return spread, edges / squared.size


def _gradient(around: np.ndarray) -> np.ndarray:
    """Sobel magnitude of the middles of [K, 3, 3], scaled so that a step from black to white is 1."""
    columns = around[:, 0] + 2 * around[:, 1] + around[:, 2]
    rows = around[:, :, 0] + 2 * around[:, :, 1] + around[:, :, 2]
    return np.hypot(columns[:, 2] - columns[:, 0], rows[:, 2] - rows[:, 0]) / 4


def _entropy(luma: np.ndarray) -> float:
    levels = np.multiply(luma, np.float32(255), out=_scratch.twice)
    np.rint(levels, out=levels)
    counts = np.bincount(levels.astype(np.intp).ravel())
    shares = counts[counts > 0] / luma.size
    return max(0.0, -float((shares * np.log2(shares)).sum()))
