"""Where a day's scores and evidence lie, and how evidence is read back.

`monitor` writes evidence, `decide` and a later day's `monitor` read it; none of them imports another.
"""

import json
from datetime import date
from typing import Any

import fsspec

from pipelines import files
from pipelines.settings import Settings

EVIDENCE = "evidence.json"
REPORT = "report.html"


def scores_root(settings: Settings, day: date) -> str:
    """Folder with one partition of predictions for each generation that scored the day."""
    return files.join(settings.data_root, "scores", f"date={day}")


def monitor_root(settings: Settings, day: date) -> str:
    """The partition with the day's evidence and report."""
    return files.join(settings.data_root, "monitor", f"date={day}")


def read_evidence(settings: Settings, day: date) -> dict[str, Any] | None:
    """What `monitor` found on `day`, or None where it has not run."""
    uri = monitor_root(settings, day)
    if files.read_manifest(uri) is None:
        return None
    fs, path = fsspec.url_to_fs(files.join(uri, EVIDENCE))
    return json.loads(fs.cat_file(path))


def days_before(settings: Settings, day: date) -> list[date]:
    """Days with evidence before `day`, newest first."""
    names = files.list_partitions(files.join(settings.data_root, "monitor"))
    days = sorted((date.fromisoformat(name.removeprefix("date=")) for name in names), reverse=True)
    return [found for found in days if found < day]
