"""Code: the figures of a picture are what their names say, and stay in the ranges that are promised."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from serving.pictures import STATS, perceptual_hash, picture_figures, picture_stats


def flat(*colour: int, side: int = 16) -> np.ndarray:
    return np.broadcast_to(np.array(colour, dtype=np.uint8), (side, side, 3)).copy()


def stats(image: np.ndarray) -> dict[str, float]:
    return picture_stats(image, width=30, height=20)


def smooth(seed: int, side: int = 64) -> np.ndarray:
    """A picture with shapes of every size that the hash looks at."""
    waves = np.random.default_rng(seed).normal(size=(3, 9, 9))
    grid = np.linspace(0, np.pi, side)
    basis = np.cos(np.outer(np.arange(9), grid))
    field = np.einsum("cij,ix,jy->xyc", waves, basis, basis)
    return np.uint8(255 * (field - field.min()) / np.ptp(field))


def test_a_flat_picture_has_only_brightness() -> None:
    found = stats(flat(255, 255, 255))
    assert tuple(found) == STATS
    assert found["brightness"] == pytest.approx(1, abs=1e-6)
    for name in ("contrast", "sharpness", "colourfulness", "entropy", "edge_density"):
        assert found[name] == pytest.approx(0, abs=1e-6)
    assert found["aspect"] == 1.5
    assert stats(flat(0, 0, 0))["brightness"] == 0


def test_black_and_white_halves() -> None:
    image = flat(0, 0, 0)
    image[:, 8:] = 255
    found = stats(image)
    assert found["brightness"] == pytest.approx(0.5)
    assert found["contrast"] == pytest.approx(0.5)
    assert found["entropy"] == pytest.approx(1)
    assert found["edge_density"] == pytest.approx(2 / 14)


def test_colour_is_colourful_and_grey_is_not() -> None:
    image = flat(200, 30, 30)
    image[8:] = (30, 30, 200)
    assert stats(image)["colourfulness"] > 0.5
    assert stats(flat(90, 90, 90))["colourfulness"] == pytest.approx(0, abs=1e-6)


def test_blur_takes_sharpness() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 1), dtype=np.uint8).repeat(3, axis=2)
    blurred = ((noise + np.roll(noise, 1, 0).astype(int) + np.roll(noise, 1, 1)) / 3).astype(np.uint8)
    assert stats(blurred)["sharpness"] < stats(noise)["sharpness"] / 2


@given(arrays(np.uint8, (8, 8, 3)))
@settings(max_examples=100, deadline=None)
def test_ranges(image: np.ndarray) -> None:
    found = stats(image)
    limits = {"brightness": 1, "contrast": 0.5, "sharpness": 4, "colourfulness": 2, "entropy": 8, "edge_density": 1}
    for name, limit in limits.items():
        assert 0 <= found[name] <= limit + 1e-5
    assert len(perceptual_hash(image)) == 16
    assert 0 <= int(perceptual_hash(image), 16) < 2**64


def bits_apart(a: np.ndarray, b: np.ndarray) -> int:
    return (int(perceptual_hash(a), 16) ^ int(perceptual_hash(b), 16)).bit_count()


@pytest.mark.parametrize("seed", range(5))
def test_a_near_copy_is_near_and_another_picture_is_far(seed: int) -> None:
    image = smooth(seed)
    noise = np.random.default_rng(seed).normal(0, 3, image.shape)
    near = np.clip(image * 0.9 + noise + 5, 0, 255).astype(np.uint8)
    assert bits_apart(image, near) <= 4
    assert bits_apart(image, smooth(seed + 100)) > 12


def plain(image: np.ndarray) -> dict[str, float]:
    """The figures as they are defined, without any care for time."""
    pixels = image.astype(np.float32) / 255
    luma = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    middle = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * middle
    columns = luma[:-2] + 2 * luma[1:-1] + luma[2:]
    rows = luma[:, :-2] + 2 * luma[:, 1:-1] + luma[:, 2:]
    gradient = np.hypot(columns[:, 2:] - columns[:, :-2], rows[2:] - rows[:-2]) / 4
    red_green = pixels[..., 0] - pixels[..., 1]
    yellow_blue = (pixels[..., 0] + pixels[..., 1]) / 2 - pixels[..., 2]
    counts = np.bincount(np.rint(luma * 255).astype(int).ravel(), minlength=256)
    shares = counts[counts > 0] / luma.size
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return {
        "brightness": luma.mean(),
        "contrast": luma.std(),
        "sharpness": laplacian.std(),
        "colourfulness": spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()),
        "entropy": -(shares * np.log2(shares)).sum(),
        "edge_density": (gradient > 0.1).mean(),
        "aspect": 1.5,
    }


@given(arrays(np.uint8, (12, 9, 3)))
@settings(max_examples=200, deadline=None)
def test_the_quick_way_gives_what_the_definition_says(image: np.ndarray) -> None:
    for picture in (image, image[..., :1].repeat(3, axis=2), image // 16 * 17):  # grey has many edges on the limit
        assert stats(picture) == pytest.approx(plain(picture), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("side", [16, 64, 224])
def test_the_quick_way_holds_at_every_size_and_in_any_thread(side: int) -> None:
    pictures = [smooth(seed, side) for seed in range(4)] + [flat(*[level] * 3, side=side) for level in (0, 77, 255)]
    with ThreadPoolExecutor(3) as pool:
        for picture, found in zip(pictures, pool.map(stats, pictures), strict=True):
            assert found == pytest.approx(plain(picture), rel=1e-5, abs=1e-6)
            assert picture_figures(picture, width=30, height=20).tolist() == pytest.approx(list(found.values()))
