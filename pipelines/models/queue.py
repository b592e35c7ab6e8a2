"""Where a day's label queue lies, and the photos in it as they are shown."""

import hashlib
from datetime import date

import fsspec

from pipelines import files
from pipelines.errors import ClassyError
from pipelines.settings import Settings

ROWS = "queue.json"


def queue_root(settings: Settings, day: date | str) -> str:
    """The partition with the day's choice and its photos."""
    return files.join(settings.data_root, "queue", f"date={day}")


def name_of(image_id: str) -> str:
    """The file of a photo: ids are what others named, and no file names."""
    return hashlib.sha256(image_id.encode()).hexdigest()[:32]


def photo_of(settings: Settings, day: date | str, image_id: str) -> tuple[bytes, str]:
    """A photo of a day's queue as it is shown, and its media type.

    Raises:
        ClassyError: it is gone.
    """
    uri = files.join(queue_root(settings, day), name_of(image_id))
    fs, path = fsspec.url_to_fs(uri)
    try:
        data = fs.cat_file(path)
    except FileNotFoundError:
        raise ClassyError(f"{uri}: the photo {image_id!r} of the queue is gone") from None
    return data, "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
