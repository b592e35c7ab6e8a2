"""What a client gives and gets: photos of any kind, and answers."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from serving.photos import Photo
from serving.problems import Problem

Source = bytes | Path | str
"""A photo: its bytes, its file, or its URL (http or https)."""
KEY_FILE = Path("serving") / "local.key"
"""Under CLASSY_HOME: the key that a server of this machine made for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a photo shows, or why that is not known."""

    source: str
    """What was asked about: a path, a URL, or `bytes`."""
    label: str = ""
    confidence: float = 0.0
    """Probability of `label`, 0 to 1."""
    top: tuple[tuple[str, float], ...] = ()
    """The most probable classes, the first one first."""
    image_id: str = ""
    """Names the photo when its true class is told."""
    model_version: str = ""
    generation: int = 0
    arm: str = ""
    cached: bool = False
    defaulted: bool = False
    """The sender was not known (well enough): defaults stood in for its features."""
    prediction_id: str = ""
    milliseconds: float = 0.0
    """From asking to having the answer, of the request that this photo was in."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds by stage, of that request."""
    problem: Problem | None = None
    """Set only where several photos were asked about; one photo's problem is raised."""

    @property
    def ok(self) -> bool:
        return self.problem is None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        problem = self.problem.as_json() if self.problem else None
        return {**plain, "timing": dict(self.timing), "problem": problem}


def as_photo(source: Source, *, sender: str = "", image_id: str = "", captured_at: str = "") -> Photo:
    """A photo to ask about; a file is read.

    Raises:
        Problem: there is no such file, or the text is no URL.
    """
    photo = Photo(sender=sender, image_id=image_id, captured_at=captured_at)
    if isinstance(source, str):
        if not source.lower().startswith(("http://", "https://")):
            raise Problem("bad_request", f"{source!r}: is no URL; give a file as a pathlib.Path")
        photo.url = source
        return photo
    if isinstance(source, Path):
        try:
            data = source.read_bytes()
        except OSError as error:
            raise Problem("bad_request", f"{source}: cannot be read: {error.strerror}", detail="no_file") from None
        if not data:
            raise Problem("bad_request", f"{source}: is empty", detail="empty")
        photo.photo = data
        return photo
    photo.photo = bytes(source)
    return photo


def named(source: Source) -> str:
    return "bytes" if isinstance(source, bytes | bytearray) else str(source)


def as_answer(
    source: Source, photo: Photo, classes: Sequence[str], *, milliseconds: float, timing: Mapping[str, float]
) -> Answer:
    problem = photo.problem
    if problem is None and photo.probabilities is None:
        problem = Problem("internal", "the server answered without probabilities")
    if problem is not None:
        return Answer(source=named(source), milliseconds=milliseconds, timing=timing, problem=problem)
    return Answer(
        source=named(source),
        label=photo.label,
        confidence=float(photo.confidence),
        top=_top(photo, classes),
        image_id=photo.image_id or photo.content_hash,
        model_version=photo.model_version,
        generation=int(photo.generation),
        arm=photo.arm,
        cached=bool(photo.cached),
        defaulted=bool(photo.defaulted),
        prediction_id=photo.prediction_id,
        milliseconds=milliseconds,
        timing=timing,
    )


def _top(photo: Photo, classes: Sequence[str], most: int = 3) -> tuple[tuple[str, float], ...]:
    if photo.probabilities is None or len(classes) != len(photo.probabilities):
        return ((photo.label, float(photo.confidence)),)
    order = photo.probabilities.argsort()[::-1][:most]
    return tuple((classes[i], float(photo.probabilities[i])) for i in order)


def find_key(key: str | None, *, home: Path | None = None) -> str:
    """The key given, or CLASSY_API_KEY, or what a server of this machine wrote into its home; else none."""
    if key is not None:
        return key
    if found := os.environ.get("CLASSY_API_KEY"):
        return found.strip()
    home = home or Path(os.environ.get("CLASSY_HOME") or "var").expanduser()
    try:
        return (home / KEY_FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""  # access control may be off; if it is not, the server says so
