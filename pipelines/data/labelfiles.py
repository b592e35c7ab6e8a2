"""Labels of the queue as files: a CSV for a spreadsheet, and Label Studio's JSON, both ways.

Label Studio's formats: https://labelstud.io/guide/tasks and https://labelstud.io/guide/task_format. A task is written
with `data` (the photo, and what it is), `predictions` (the model's answer) and `annotations` (what was said already);
read back are annotations whose result is one choice.

A file is read whole or not at all: everything that is wrong is told with its place.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import quoteattr

import orjson

from monitoring.votes import Said
from pipelines.errors import ClassyError
from pipelines.sections import Taxonomy
from serving.rest.truth import as_text, as_time

NEEDED = ("image_id", "label", "author")
COLUMNS = (
    "image_id", "day", "sender", "captured_at", "reason", "probability", "wanted", "state", "predicted", "confidence",
    "model_version", "label", "author", "labelled_at", "cannot_tell",
)  # fmt: skip
"""Of the CSV, a row a word; a photo of which nobody has spoken has one row with no label and no author."""
FROM, TO = "choice", "photo"
"""Names of the two parts of Label Studio's labelling page."""
TOLD = 10
"""Wrong places that are told of one file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """What a file says: the words, and of how many photos it says nothing."""

    words: list[Said]
    silent: int


@dataclass(frozen=True, slots=True)
class _Given:
    """A word as it stands in a file."""

    where: str
    fields: Mapping[str, Any]


# ----------------------------------------------------------------------------------------------- reading


def read_csv(text: str, taxonomy: Taxonomy, *, author: str, now: datetime, name: str) -> Read:
    """Words of a CSV: image_id, label, author, and, if they are there, labelled_at and cannot_tell (yes or nothing).

    Other columns are left alone. A row without label and `cannot_tell` says nothing.

    Args:
        author: of rows that name none.
        name: of the file, for messages.

    Raises:
        ClassyError: something is wrong; each place is named.
    """
    try:
        table = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
        there = table.fieldnames or []
        if missing := [column for column in NEEDED if column not in there and not (column == "author" and author)]:
            raise ClassyError(
                f"{name}: line 1: no column {missing[0]}; a CSV of labels has {', '.join(NEEDED)}, and may have "
                f"labelled_at and cannot_tell; this one has {', '.join(there)[:200] or 'nothing'}"
            )
        given = [_Given(f"line {table.line_num}", row) for row in table]
    except csv.Error as error:
        raise ClassyError(f"{name}: no CSV: {error}; save it as comma-separated UTF-8") from error
    return _words(given, _of_row, taxonomy, author=author, now=now, name=name)


def _of_row(row: Mapping[Any, Any]) -> dict[str, Any] | None:
    if None in row:
        raise ValueError("has more cells than the first line; put a text with commas into double quotes")
    found = {key: (value or "").strip() for key, value in row.items()}
    skipped = found.get("cannot_tell", "").lower()
    if skipped not in ("", "yes", "no"):
        raise ValueError(f"cannot_tell {skipped[:40]!r}: write yes, or leave it empty")
    if skipped == "yes" and found["label"]:
        raise ValueError(f"label {found['label'][:40]!r}: but cannot_tell is yes; keep one of them")
    if skipped != "yes" and not found["label"]:
        return None
    return {**found, "label": found["label"] or None}


def read_label_studio(text: str, taxonomy: Taxonomy, *, author: str, now: datetime, name: str) -> Read:
    """Words of Label Studio's JSON export (not JSON-MIN): a choice is a label, a skipped task is "cannot tell".

    Who said it is the e-mail of `completed_by`, else `label-studio:ID`.

    Raises:
        ClassyError: something is wrong; each place is named.
    """
    try:
        tasks = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ClassyError(f"{name}: no JSON: {error}; export from Label Studio as JSON") from error
    if not isinstance(tasks, list):
        raise ClassyError(f"{name}: is no list of tasks; export from Label Studio as JSON")
    given = []
    for number, task in enumerate(tasks, start=1):
        where = f"task {number}"
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            raise ClassyError(f"{name}: {where}: data: is missing; export from Label Studio as JSON, not as JSON-MIN")
        told = task.get("annotations") or []
        if not isinstance(told, list):
            raise ClassyError(f"{name}: {where}: annotations: must be a list, is {str(told)[:40]!r}")
        given += [
            _Given(f"{where}, annotation {place}", {"data": task["data"], "annotation": one})
            for place, one in enumerate(told or [{}], start=1)
        ]
    return _words(given, _of_annotation, taxonomy, author=author, now=now, name=name)


def _of_annotation(given: Mapping[str, Any]) -> dict[str, Any] | None:
    annotation = given["annotation"]
    if not isinstance(annotation, dict):
        raise ValueError(f"{str(annotation)[:40]!r} is no annotation")
    skipped, result = annotation.get("was_cancelled") is True, annotation.get("result") or []
    if not skipped and not result:
        return None
    if "image_id" not in given["data"]:
        raise ValueError("data.image_id: is missing; tasks that `classy labels export` wrote have it")
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    return {
        "image_id": given["data"]["image_id"],
        "label": None if skipped else _choice(result),
        "author": who if isinstance(who, str) else "" if who is None else f"label-studio:{who}",
        "labelled_at": annotation.get("updated_at") or annotation.get("created_at") or "",
    }


def _choice(result: Any) -> Any:
    """The one class that an annotation chose."""
    parts = result if isinstance(result, list) else [result]
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else part
        if kind != "choices":
            raise ValueError(f"result: type {str(kind)[:40]!r}: only choices say what a photo shows")
    value = parts[0].get("value") if len(parts) == 1 else None
    chosen = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(chosen, list) or len(chosen) != 1:
        raise ValueError("result: must be one choice; a photo has one class")
    return chosen[0]


def _words(
    given: Sequence[_Given],
    read: Callable[[Mapping[str, Any]], dict[str, Any] | None],
    taxonomy: Taxonomy,
    *,
    author: str,
    now: datetime,
    name: str,
) -> Read:
    words: dict[tuple[str, str], tuple[str, Said]] = {}
    wrong, silent = [], 0
    for one in given:
        try:
            fields = read(one.fields)
            if fields is None:
                silent += 1
                continue
            said = _said(fields, taxonomy, author, now)
            where, before = words.setdefault((said.image_id, said.author), (one.where, said))
            if before.label != said.label:
                raise ValueError(
                    f"label {said.label!r}: {where} says {before.label!r} of the photo, by the same author; keep one"
                )
        except ValueError as error:
            wrong.append(f"{one.where}: {error}")
    refuse(name, wrong)
    return Read(words=[said for _, said in words.values()], silent=silent)


def refuse(name: str, wrong: Sequence[str]) -> None:
    """Raises ClassyError where something is wrong, with the first places."""
    if wrong:
        more = [f"and {len(wrong) - TOLD} more"] if len(wrong) > TOLD else []
        lines = "\n".join(f"  {line}" for line in [*wrong[:TOLD], *more])
        raise ClassyError(f"{name}: {len(wrong)} wrong, nothing was taken\n{lines}")


def _said(fields: Mapping[str, Any], taxonomy: Taxonomy, author: str, now: datetime) -> Said:
    """Raises ValueError, with a message for people."""
    label = fields["label"]
    if label is not None:
        label = taxonomy.resolve(as_text("label", label))
        if label is None:
            raise ValueError(f"label {fields['label']!r}: is no class; classes are {', '.join(taxonomy.classes)}")
    who = fields.get("author") or author
    if not who:
        raise ValueError("author: is missing; fill it in, or say --author for all")
    at = fields.get("labelled_at")
    return Said(
        image_id=as_text("image_id", fields["image_id"]),
        author=as_text("author", who),
        label=label,
        at=as_time(as_text("labelled_at", at), now) if at else now,
    )


# ----------------------------------------------------------------------------------------------- writing


def write_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `monitoring.queued.listed` as CSV."""
    found = io.StringIO()
    table = csv.DictWriter(found, COLUMNS, lineterminator="\n")
    table.writeheader()
    for row in rows:
        same = {
            **{name: row[name] for name in COLUMNS if name in row},
            "sender": row["source_id"],
            "captured_at": _iso(row["captured_at"]),
            # What `ground_truth` was given is not what one person said.
            "labelled_at": "",
        }
        for vote in row["votes"] or [None]:
            said = {} if vote is None else {
                "label": vote["label"] or "", "author": vote["author"], "labelled_at": _iso(vote["at"]),
                "cannot_tell": "" if vote["label"] else "yes",
            }  # fmt: skip
            table.writerow({**same, **said})
    return found.getvalue()


def write_label_studio(rows: Sequence[Mapping[str, Any]], photo: Callable[[Mapping[str, Any]], str]) -> Iterator[str]:
    """Rows of `monitoring.queued.listed` as tasks that Label Studio imports, in pieces.

    Args:
        photo: gives a row's photo as an address, or as `data:`.
    """
    yield "["
    for number, row in enumerate(rows):
        yield ",\n" if number else "\n"
        yield json.dumps(_task(row, photo(row)), ensure_ascii=False)
    yield "\n]\n"


def _task(row: Mapping[str, Any], photo: str) -> dict[str, Any]:
    return {
        "data": {
            TO: photo,
            "image_id": row["image_id"],
            "day": row["day"],
            "sender": row["source_id"],
            "reason": row["reason"],
            "probability": row["probability"],
        },
        "predictions": [
            {"model_version": row["model_version"], "score": row["confidence"], "result": [_chosen(row["predicted"])]}
        ],
        "annotations": [
            {
                "completed_by": {"email": vote["author"]},
                "was_cancelled": vote["label"] is None,
                "created_at": _iso(vote["at"]),
                "updated_at": _iso(vote["at"]),
                "result": [] if vote["label"] is None else [_chosen(vote["label"])],
            }
            for vote in row["votes"]
        ],
    }


def _chosen(label: str) -> dict[str, Any]:
    return {"from_name": FROM, "to_name": TO, "type": "choices", "value": {"choices": [label]}}


def label_studio_config(taxonomy: Taxonomy) -> str:
    """Label Studio's labelling page for these classes."""
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in taxonomy.classes)
    return (
        f'<View>\n  <Image name="{TO}" value="${TO}"/>\n'
        f'  <Choices name="{FROM}" toName="{TO}" choice="single" showInline="true">\n{choices}\n  </Choices>\n</View>\n'
    )


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
