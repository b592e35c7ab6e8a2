"""What a person decides on: pictures, tables, and all of it as one HTML file that needs nothing else.

`write` fills the folder of a judgement; `markdown` is the model version's page in MLflow (`description`).
"""

import base64
import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from monitoring import disagreement, figures
from monitoring.comparison import Paired, confusion
from monitoring.disagreement import Disagreement
from monitoring.slices import SliceRow
from pipelines.models.judgement import opponent_name
from pipelines.review import telling
from pipelines.review.description import PICTURES, REPORT, markdown
from pipelines.review.telling import Evidence

__all__ = ["REPORT", "SLICES", "Photo", "Photos", "Picture", "html", "markdown", "write"]

SLICES = "slices.csv"
TINY = 64
"""Pixels; a smaller photo is shown with its pixels, and kept without loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Photos:
    """The judged photos, so that only those that are shown are read. Element i is about row i of the paired rows."""

    image_ids: NDArray[np.str_]
    images: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
    """From positions [n] to uint8 [n, S, S, 3]."""
    senders: NDArray[np.str_] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One chart of the report."""

    name: str
    title: str
    source: str
    """A `data:` address."""
    alt: str
    words: str
    """What it shows, for those who do not look; empty where a table beside it says the same."""
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Photo:
    """One photo of the report, and what both say about it."""

    source: str
    truth: str
    contender: str
    opponent: str
    right: disagreement.Right
    image_id: str
    sender: str
    tiny: bool

    @property
    def alt(self) -> str:
        return f"Photo {self.image_id}: {self.truth}"


def write(
    folder: Path, evidence: Evidence, paired: Paired, table: Sequence[SliceRow], classes: Sequence[str], photos: Photos
) -> None:
    """Slices as CSV, the pictures, and the report, into a folder that is there; evidence.json is the caller's."""
    with (folder / SLICES).open("w", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(SliceRow)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in table)
    picked = disagreement.pick(paired)
    positions = np.array([one.position for one in picked], dtype=np.int64)
    images = photos.images(positions) if len(positions) else np.empty((0, 1, 1, 3), np.uint8)
    if len(paired.labels):
        names = f"contender: {evidence['contender']['candidate']}", opponent_name(evidence["opponent"])
        figures.draw_confusion(folder / "confusion.png", paired, classes, *names)
        figures.draw_reliability(folder / "reliability.png", paired, *names)
        figures.draw_slices(folder / "slices.png", table, evidence["gates"]["confidence"])
        figures.draw_disagreements(folder / "disagreements.png", images, picked, classes)
    pictures = _pictures(folder, paired, classes)
    shown = [_photo(one, image, classes, photos) for one, image in zip(picked, images, strict=True)]
    (folder / REPORT).write_text(html(evidence, pictures, shown), encoding="utf-8")


def html(evidence: Evidence, pictures: Sequence[Picture] = (), photos: Sequence[Photo] = ()) -> str:
    """The report, whole: no script, no other file, no network. Everything is escaped by the template engine."""
    url = evidence["contender"]["run_url"]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            evidence=evidence,
            headline=telling.headline(evidence),
            judged_on=telling.judged_on(evidence),
            approval=telling.approval(evidence),
            metrics=_by_part(telling.metric_lines(evidence)),
            golden_uses=telling.golden_uses(evidence),
            seeds=telling.seeds(evidence),
            ratios=telling.ratio_lines(evidence),
            names=telling.BEHAVIOUR,
            slices=telling.slice_rows(evidence),
            too_small=telling.too_small(evidence),
            groups=telling.slices_by_standing(evidence),
            data=telling.data(evidence),
            code=telling.code(evidence),
            training=telling.training(evidence),
            pictures=pictures,
            photos=photos,
            run_link=url if url.startswith(("http://", "https://")) else "",
        )
    )


def _by_part(lines: Sequence[telling.MetricLine]) -> dict[str, list[telling.MetricLine]]:
    return {part: list(found) for part, found in groupby(lines, lambda line: line.part)}


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("pipelines.review", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    found.filters["signed"] = telling.signed
    found.filters["percent"] = lambda share: "–" if share is None else f"{share:.0%}"
    return found


# -------------------------------------------------------------------------------------------- pictures


def _pictures(folder: Path, paired: Paired, classes: Sequence[str]) -> list[Picture]:
    """The charts that were drawn."""
    words = {"confusion.png": _changes(paired, classes)}
    alts = {
        "confusion.png": "Three confusion matrices: what changes, the opponent's, the contender's.",
        "slices.png": "The difference of accuracy with its interval in each slice; the numbers are in the table below.",
        "reliability.png": "How often each model is right against how confident it is.",
    }
    found = []
    for name, alt in alts.items():
        path = folder / name
        if not path.is_file():
            continue
        with Image.open(path) as image:
            width, height = image.size
        source = _inline("image/png", path.read_bytes())
        text = words.get(name, "")
        found.append(
            Picture(name=name, title=PICTURES[name], source=source, alt=alt, words=text, width=width, height=height)
        )
    return found


def _changes(paired: Paired, classes: Sequence[str], most: int = 5) -> str:
    """The largest changes of the confusion matrix in words."""
    ours, theirs = (
        confusion(said.argmax(axis=1), paired.labels, len(classes)) for said in (paired.contender, paired.opponent)
    )
    change = ours - theirs
    np.fill_diagonal(change, 0)
    order = np.argsort(-np.abs(change), axis=None, kind="stable")[:most]
    said = [
        f"{classes[true]} taken for {classes[answer]} {theirs[true, answer]} → {ours[true, answer]}"
        for true, answer in zip(*np.unravel_index(order, change.shape), strict=True)
        if change[true, answer]
    ]
    return f"Largest changes, opponent → contender, in photos: {'; '.join(said)}." if said else "They confuse the same."


def _photo(one: Disagreement, image: NDArray[np.uint8], classes: Sequence[str], photos: Photos) -> Photo:
    return Photo(
        source=_photo_source(image),
        truth=classes[one.label],
        contender=f"{classes[one.contender]} {figures.sure(one.contender_confidence)}",
        opponent=f"{classes[one.opponent]} {figures.sure(one.opponent_confidence)}",
        right=one.right,
        image_id=str(photos.image_ids[one.position]),
        sender="" if photos.senders is None else str(photos.senders[one.position]),
        tiny=len(image) < TINY,
    )


def _photo_source(image: NDArray[np.uint8]) -> str:
    kind, options = ("png", {}) if len(image) < TINY else ("jpeg", {"quality": 88})
    data = io.BytesIO()
    Image.fromarray(image).save(data, kind.upper(), **options)
    return _inline(f"image/{kind}", data.getvalue())


def _inline(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
