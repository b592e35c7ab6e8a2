"""What can be said of a picture without knowing what it shows.

All figures are computed on the canonical image, so they do not depend on how large the photo came.
"""

import imagehash
import numpy as np
from PIL import Image

STATS = ("brightness", "contrast", "sharpness", "colourfulness", "entropy", "edge_density", "aspect")
"""Names of `picture_stats`, in the order of the model's context."""

_EDGE = 0.1  # a Sobel gradient above this share of full scale is an edge


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
    pixels = image.astype(np.float32) / 255
    luma = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return {
        "brightness": float(luma.mean()),
        "contrast": float(luma.std()),
        "sharpness": float(_laplacian(luma).std()),
        "colourfulness": _colourfulness(pixels),
        "entropy": _entropy(luma),
        "edge_density": float((_gradient(luma) > _EDGE).mean()),
        "aspect": width / height,
    }


def picture_figures(image: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """`picture_stats` as float32 [len(STATS)], in the order of STATS."""
    found = picture_stats(image, width=width, height=height)
    return np.fromiter(found.values(), np.float32, len(STATS))


def perceptual_hash(image: np.ndarray) -> str:
    """64-bit pHash of a canonical image (uint8 [S, S, 3]) as 16 hex digits: near pictures differ in few bits."""
    return str(imagehash.phash(Image.fromarray(image)))


def _laplacian(luma: np.ndarray) -> np.ndarray:
    middle = luma[1:-1, 1:-1]
    return luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * middle


def _gradient(luma: np.ndarray) -> np.ndarray:
    """Sobel magnitude, scaled so that a step from black to white is 1."""
    columns = luma[:-2] + 2 * luma[1:-1] + luma[2:]
    rows = luma[:, :-2] + 2 * luma[:, 1:-1] + luma[:, 2:]
    return np.hypot(columns[:, 2:] - columns[:, :-2], rows[2:] - rows[:-2]) / 4


def _colourfulness(pixels: np.ndarray) -> float:
    red_green = pixels[..., 0] - pixels[..., 1]
    yellow_blue = (pixels[..., 0] + pixels[..., 1]) / 2 - pixels[..., 2]
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def _entropy(luma: np.ndarray) -> float:
    counts = np.bincount(np.rint(luma * 255).astype(np.int64).ravel(), minlength=256)
    shares = counts[counts > 0] / luma.size
    return float(-(shares * np.log2(shares)).sum())
