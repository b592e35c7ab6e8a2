"""How a benchmark writes what it measured: HOME/bench/NAME.json, read by `classy bench show`."""

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from pipelines.files import write_text
from pipelines.recipe import ROOT
from pipelines.settings import load_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure. `ratio` is written so that larger is better, and holds from `goal` on.

    `other` is a peer, measured in turns with ours, or a limit.
    """

    name: str
    ours: float
    other: float
    other_name: str
    unit: str
    better: Literal["less", "more"]
    spread: str
    goal: float = 1.0

    def as_json(self) -> dict[str, object]:
        ratio = self.other / self.ours if self.better == "less" else self.ours / self.other
        return {**asdict(self), "ratio": round(ratio, 3), "holds": ratio >= self.goal}


def before(name: str) -> dict[str, Any]:
    """What was recorded last under this name; nothing where nothing was."""
    try:
        return json.loads(path_of(f"{name}.json").read_text())
    except FileNotFoundError:
        return {"rows": []}


def record(name: str, rows: list[Row], *, beside: bool = False, **more: object) -> Path:
    """Write the rows with the machine and the commit they were measured on; `more` is for readers.

    Args:
        beside: rows of other names that were recorded before stay: only a part was measured.
    """
    memory = psutil.virtual_memory().total / 2**30
    cores = len(os.sched_getaffinity(0))
    machine = f"{platform.machine()}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}"
    # Nothing where it is no git checkout: what took an hour to measure is not lost for that.
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = {row.name for row in rows}
    kept = [row for row in before(name)["rows"] if beside and row["name"] not in names]
    given = [*kept, *(row.as_json() for row in rows)]
    found = {"machine": machine, "commit": commit.stdout.strip(), "rows": given, **more}
    path = path_of(f"{name}.json")
    write_text(str(path), json.dumps(found, indent=1))
    return path


def path_of(file: str) -> Path:
    """A file in HOME/bench."""
    return load_settings().home / "bench" / file
