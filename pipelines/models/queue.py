"""Where a day's label queue lies, and the photos in it as they are shown."""

import hashlib
from datetime import date

from pipelines import files
from pipelines.settings import Settings

ROWS = "queue.json"


def queue_root(settings: Settings, day: date | str) -> str:
    """The partition with the day's choice and its photos."""
    return files.join(settings.data_root, "queue", f"date={day}")


def name_of(image_id: str) -> str:
    """The file of a photo: ids are what others named, and no file names."""
    return hashlib.sha256(image_id.encode()).hexdigest()[:32]
