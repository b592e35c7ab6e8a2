"""What people may do with the label queue outside its page: list it, take it elsewhere and back, see what it says."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from monitoring import queued, votes
from monitoring.labelling import Estimate, estimate
from monitoring.stores import open_store
from pipelines import files
from pipelines.data.labelfiles import read_csv, read_label_studio, refuse, write_csv, write_label_studio
from pipelines.errors import ClassyError
from pipelines.models.queue import photo_of
from pipelines.recipe import Recipe
from pipelines.settings import Settings

MOST_BYTES = 256_000_000
"""Of a file of labels."""
FORMATS = ("csv", "label-studio")


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A file that was written. `words`: how many labels and "cannot tell" it has."""

    file: str
    format: str
    photos: int
    words: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What became of a file's words. `silent`: photos of which it says nothing; `labelled`: of its photos, those whose
    label is settled now."""

    file: str
    new: int
    changed: int
    unchanged: int
    silent: int
    labelled: int


def listed(settings: Settings, *, day: date | None = None, state: str = "") -> list[dict[str, Any]]:
    """The queue, oldest day first; each photo with `votes`."""
    rows = queued.listed(open_store(settings.database_url), day)
    return [row for row in rows if not state or row["state"] == state]


def export(
    settings: Settings, path: Path, *, day: date | None, state: str, format_: str, photo_url: str = ""
) -> Exported:
    """Write the queue, or a part of it, to a file, whole or not at all.

    Args:
        format_: one of FORMATS, or empty: by the file's ending.
        photo_url: for Label Studio, the photos' addresses with {image_id} in them; empty: the photos are in the file.

    Raises:
        ClassyError: no such format, nothing to write, or the photos are gone.
    """
    kind = _format(path, format_)
    if photo_url and "{image_id}" not in photo_url:
        raise ClassyError(f"--photo-url {photo_url!r}: has no {{image_id}}; write https://host/photos/{{image_id}}.jpg")
    rows = listed(settings, day=day, state=state)
    if not rows:
        raise ClassyError(f"nothing is queued{f' on {day}' if day else ''}; `classy queue --day DAY` chooses photos")
    text = write_csv(rows) if kind == "csv" else "".join(write_label_studio(rows, _addresses(settings, photo_url)))
    files.write_text(str(path), text)
    return Exported(file=str(path), format=kind, photos=len(rows), words=sum(len(row["votes"]) for row in rows))


def take_in(settings: Settings, recipe: Recipe, path: Path, *, author: str, format_: str, now: datetime) -> Imported:
    """Take the words of a file, all or none. A file that is read twice changes nothing.

    Args:
        author: who said what the file gives no author of.

    Raises:
        ClassyError: the file cannot be read, or something in it is wrong; each place is named.
    """
    kind = _format(path, format_)
    read = (read_csv if kind == "csv" else read_label_studio)(
        _text(path), recipe.taxonomy, author=author, now=now, name=str(path)
    )
    store = open_store(settings.database_url)
    known = queued.queued(store, [said.image_id for said in read.words])
    wrong = []
    for said in read.words:
        if said.image_id not in known:
            wrong.append(
                f"image_id {said.image_id!r}: is not in the queue; labels of other photos go to POST /ground-truth"
            )
        elif said.at < known[said.image_id]:
            wrong.append(f"labelled_at {said.at.isoformat()}: is before the photo {said.image_id!r} was taken")
    refuse(str(path), wrong)
    counts = votes.take_in(store, read.words, now=now)
    ids = {said.image_id for said in read.words}
    settled = sum(row["state"] == "labelled" and row["image_id"] in ids for row in queued.listed(store))
    return Imported(file=str(path), silent=read.silent, labelled=settled, **counts)


def accuracy(settings: Settings, *, day: date) -> dict[str, Any]:
    """The champion's accuracy on all photos that the day's queue was chosen from, estimated from the queue's labels."""
    found: Estimate = estimate(*queued.answered(open_store(settings.database_url), day))
    return {"day": str(day), **asdict(found)}


def _format(path: Path, asked: str) -> str:
    found = asked or {".csv": "csv", ".json": "label-studio"}.get(path.suffix.lower(), "")
    if found not in FORMATS:
        what = f"--format {asked!r}" if asked else f"{path}: its ending"
        raise ClassyError(f"{what} names no format; formats are {' (.csv) and '.join(FORMATS)} (.json)")
    return found


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ClassyError(f"{path}: has more than {MOST_BYTES:,} bytes; split it")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ClassyError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ClassyError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error


def _addresses(settings: Settings, photo_url: str) -> Callable[[Mapping[str, Any]], str]:
    def address(row: Mapping[str, Any]) -> str:
        return photo_url.replace("{image_id}", quote(row["image_id"], safe=""))

    def inline(row: Mapping[str, Any]) -> str:
        data, kind = photo_of(settings, row["day"], row["image_id"])
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"

    return address if photo_url else inline
