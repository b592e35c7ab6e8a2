"""What several workers counted, as one: each writes its figures to a file every second; whoever is scraped adds up.

prometheus_client's own way for several processes keeps every counter in a mapped file: it was measured at 2.5 times
the cost of a count, and shows nothing that is asked only when somebody scrapes (queues, arms, the log).
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
from prometheus_client.metrics_core import Metric

LOG = logging.getLogger(__name__)
EACH_S = 1.0
OF_ONE = ("process_",)
"""Names of what is a process's own: shown for each worker, under a label `worker`."""
LARGEST = ("classy_build_info", "classy_arm_info", "classy_arm_weight_ratio", "classy_generation_number",
           "classy_deployment_refused", "classy_api_keys", "classy_api_keys_age_seconds")  # fmt: skip
"""Gauges that say the same in every worker: the largest is shown. Other gauges and all counters are added up."""
SMALLEST = ("classy_ready",)


def plain(families: Iterable[Metric]) -> list[Metric]:
    """Families without the times at which counters were made: after a merge they would mean nothing."""
    found = []
    for family in families:
        family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        found.append(family)
    return found


class Files:
    """The files of all workers in one folder, this worker's among them."""

    def __init__(self, folder: Path, worker: str, collect: Callable[[], list[Metric]]) -> None:
        self.folder, self.worker, self._collect = folder, worker, collect
        self._mine = folder / f"{worker}.{os.getpid()}.json"
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._over.clear()
        self.write()
        self._thread = threading.Thread(target=self._follow, name="classy-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write for the last time; the counts stay, so that sums do not fall when a worker is replaced."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self.write()

    def _follow(self) -> None:
        while not self._over.wait(EACH_S):
            try:
                self.write()
            except OSError as error:
                LOG.warning("metrics: %s cannot be written: %s", self._mine, error)

    def write(self) -> list[Metric]:
        """Put this worker's figures into its file; gives them. One at a time: a file never goes back."""
        with self._lock:
            families = self._collect()
            rows = [
                [family.name, family.documentation, family.type, family.unit,
                 [[sample.name, sample.labels, sample.value] for sample in family.samples]]
                for family in families
            ]  # fmt: skip
            part = self._mine.with_suffix(".part")
            part.write_bytes(orjson.dumps(rows))
            part.replace(self._mine)
        return families

    def merged(self) -> list[Metric]:
        """All workers' figures, this one's as they are now."""
        sums = _Sums()
        # Written first: the next scrape may meet another worker, which must not know less than this one told.
        sums.add(self.write(), self.worker, alive=True)
        for file in sorted(self.folder.glob("*.json")):
            if file != self._mine:
                worker, pid, _ = file.name.rsplit(".", 2)
                sums.add(_read(file), worker, alive=_runs(int(pid)))
        return sums.families()


class _Sums:
    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}
        self._samples: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}

    def add(self, families: Iterable[Metric], worker: str, *, alive: bool) -> None:
        for family in families:
            own = family.name.startswith(OF_ONE)
            if not alive and (own or family.type == "gauge"):
                continue
            self._families.setdefault(family.name, family)
            samples = self._samples.setdefault(family.name, {})
            how: Callable[..., float] = max if family.name in LARGEST else min if family.name in SMALLEST else _add
            for sample in family.samples:
                labels = {**sample.labels, "worker": worker} if own else sample.labels
                key = (sample.name, tuple(labels.items()))
                samples[key] = how(samples[key], sample.value) if key in samples else sample.value

    def families(self) -> list[Metric]:
        found = []
        for name, family in self._families.items():
            merged = Metric(name, family.documentation, family.type, family.unit)
            for (sample, labels), value in self._samples[name].items():
                merged.add_sample(sample, dict(labels), value)
            found.append(merged)
        return found


def _add(one: float, other: float) -> float:
    return one + other


def _read(file: Path) -> list[Metric]:
    try:
        rows: list[Any] = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        LOG.warning("metrics: %s cannot be read: %s", file, error)
        return []
    found = []
    for name, documentation, kind, unit, samples in rows:
        family = Metric(name, documentation, kind, unit)
        for sample, labels, value in samples:
            family.add_sample(sample, labels, float("inf") if value is None else value)
        found.append(family)
    return found


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def clean(folder: Path) -> None:
    """Before the first worker starts: forget what earlier ones counted."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.json"):
        file.unlink(missing_ok=True)
