"""Changes of the world from a day on: drift that is made on purpose, and therefore known.

Some scenarios change which records there are and what is said of them (`changed_rows`), the others change
the encoded photo itself (`changed_photo`). Both look only at the seed and the image_id, so a day can be made
without any other.
"""

import io
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, time

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter, ImageOps

from pipelines.sections import Scenario
from pipelines.sources.base import seed_of
from serving.canonical import BadImage, ImageSpec, inspect

PHOTO_KINDS = ("darker", "blurred", "rotated", "inverted", "cropped", "jpeg")
"""Scenarios that change pixels. The others change records."""

_JPEG_QUALITY = 92  # of a photo that came as JPEG and is written again


# ---------------------------------------------------------------------------------------------- records


def changed_rows(rows: pd.DataFrame, scenarios: Sequence[Scenario], classes: Sequence[str], seed: int) -> pd.DataFrame:
    """The records of the changed world.

    new_class: its class is there only inside the scenario's days. class_mix: of the n-th class (in a seeded
    order) only a share n^-amount of the photos is kept. new_senders: a share of the records (whole groups, that
    lie inside the days, so that no copy is torn from its sender) comes from senders never seen before.
    label_noise: a share of the labels names another class.
    """
    for number, scenario in enumerate(scenarios):
        change = _ROW_CHANGES.get(scenario.kind)
        if change is not None and len(rows):
            rows = change(rows, scenario, classes, seed_of(seed, number, scenario.kind))
    return rows.reset_index(drop=True)


def _inside(rows: pd.DataFrame, scenario: Scenario) -> pd.Series:
    since = datetime.combine(scenario.from_, time(), UTC)
    inside = rows["captured_at"] >= since
    if scenario.until is not None:
        inside &= rows["captured_at"] < datetime.combine(scenario.until, time(), UTC)
    return inside


def _chances(names: pd.Series, seed: int) -> np.ndarray:
    """A number in [0, 1) for each name, the same wherever and in whatever order it is asked."""
    return np.array([seed_of(seed, name) / 2**64 for name in names])


def _new_class(rows: pd.DataFrame, scenario: Scenario, classes: Sequence[str], seed: int) -> pd.DataFrame:
    return rows[_inside(rows, scenario) | (rows["label"] != scenario.label)]


def _class_mix(rows: pd.DataFrame, scenario: Scenario, classes: Sequence[str], seed: int) -> pd.DataFrame:
    order = np.random.default_rng(seed).permutation(len(classes)) + 1
    share = {name: float(rank) ** -scenario.amount for name, rank in zip(classes, order, strict=True)}
    keep = _chances(rows["image_id"], seed) < rows["label"].map(share).fillna(1.0).to_numpy(dtype=float)
    return rows[~_inside(rows, scenario) | keep]


def _new_senders(rows: pd.DataFrame, scenario: Scenario, classes: Sequence[str], seed: int) -> pd.DataFrame:
    inside = _inside(rows, scenario)
    whole = inside & ~rows["group_id"].isin(set(rows.loc[~inside, "group_id"]))
    wanted = scenario.amount * inside.sum() / max(int(whole.sum()), 1)
    chance = _chances(rows["group_id"], seed)
    count = max(2, rows["source_id"].nunique() // 4)
    names = [f"new-{seed_of(seed, 'sender', group) % count:03d}" for group in rows["group_id"]]
    return rows.assign(source_id=rows["source_id"].where(~(whole & (chance < wanted)), names))


def _label_noise(rows: pd.DataFrame, scenario: Scenario, classes: Sequence[str], seed: int) -> pd.DataFrame:
    hit = _inside(rows, scenario) & rows["label"].notna() & (_chances(rows["image_id"], seed) < scenario.amount)

    def other(image_id: str, label: str) -> str:
        others = [name for name in classes if name != label]
        return others[seed_of(seed, "other", image_id) % len(others)]

    said = [
        other(image_id, label) if wrong else label
        for image_id, label, wrong in zip(rows["image_id"], rows["label"], hit, strict=True)
    ]
    return rows.assign(label=pd.Series(said, index=rows.index, dtype=object))


_ROW_CHANGES: dict[str, Callable[[pd.DataFrame, Scenario, Sequence[str], int], pd.DataFrame]] = {
    "new_class": _new_class,
    "class_mix": _class_mix,
    "new_senders": _new_senders,
    "label_noise": _label_noise,
}


# ----------------------------------------------------------------------------------------------- photos


def photo_scenarios(scenarios: Sequence[Scenario], captured_at: datetime) -> list[Scenario]:
    """The scenarios that change a photo taken at that time, in the recipe's order."""
    day = captured_at.astimezone(UTC).date()
    return [s for s in scenarios if s.kind in PHOTO_KINDS and s.from_ <= day and (s.until is None or day < s.until)]


def changed_photo(data: bytes, scenarios: Sequence[Scenario], spec: ImageSpec, seed: int) -> bytes:
    """An encoded photo as the changed world would have sent it.

    A JPEG stays a JPEG (quality 92), anything else becomes a PNG. Bytes that are no photo stay as they are:
    judging them is validation's work.
    """
    if not scenarios:
        return data
    try:
        header = inspect(data, spec)
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "GIF", "WEBP", "BMP")) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB" if opened.mode not in ("L", "1") else "L")
    except (BadImage, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return data
    for scenario in scenarios:
        image = _PHOTO_CHANGES[scenario.kind](image, scenario.amount, np.random.default_rng(seed))
    out = io.BytesIO()
    last_jpeg = next((s for s in reversed(scenarios) if s.kind == "jpeg"), None)
    if last_jpeg is not None and last_jpeg is scenarios[-1]:
        image.save(out, "JPEG", quality=int(last_jpeg.amount))
    elif header.format == "JPEG":
        image.save(out, "JPEG", quality=_JPEG_QUALITY)
    else:
        image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _darker(image: Image.Image, amount: float, rng: np.random.Generator) -> Image.Image:
    return image.point(lambda value: value * (1 - amount))


def _blurred(image: Image.Image, amount: float, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(amount))


def _rotated(image: Image.Image, amount: float, rng: np.random.Generator) -> Image.Image:
    """Clockwise. Quarter turns are exact and swap the sides, others keep the size and fill with the border's colour."""
    turns = {
        0: None,
        90: Image.Transpose.ROTATE_270,
        180: Image.Transpose.ROTATE_180,
        270: Image.Transpose.ROTATE_90,
    }
    if amount % 360 in turns:
        turn = turns[int(amount % 360)]
        return image if turn is None else image.transpose(turn)
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = np.median(border, axis=0).astype(int)
    fill = tuple(int(c) for c in colour) if colour.ndim else int(colour)
    return image.rotate(-amount, Image.Resampling.BICUBIC, fillcolor=fill)


def _inverted(image: Image.Image, amount: float, rng: np.random.Generator) -> Image.Image:
    return ImageOps.invert(image)


def _cropped(image: Image.Image, amount: float, rng: np.random.Generator) -> Image.Image:
    """A window with the rest of the area and the same shape, anywhere in the photo."""
    width, height = image.size
    side = (1 - amount) ** 0.5
    inner = max(min(8, width), round(width * side)), max(min(8, height), round(height * side))
    left, top = (int(rng.integers(0, outer - kept + 1)) for outer, kept in zip(image.size, inner, strict=True))
    return image.crop((left, top, left + inner[0], top + inner[1]))


def _jpeg(image: Image.Image, amount: float, rng: np.random.Generator) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=int(amount))
    with Image.open(io.BytesIO(out.getvalue())) as crushed:
        return crushed.copy()


_PHOTO_CHANGES: dict[str, Callable[[Image.Image, float, np.random.Generator], Image.Image]] = {
    "darker": _darker,
    "blurred": _blurred,
    "rotated": _rotated,
    "inverted": _inverted,
    "cropped": _cropped,
    "jpeg": _jpeg,
}
