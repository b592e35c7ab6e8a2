"""How each arm does, minute by minute: answered, failed, and how long it took.

A count costs a microsecond and a minute a few hundred bytes, whatever the traffic: latencies are kept as a
histogram whose bounds grow by 2^(1/8), so that a quantile is known to within 9%.
"""

import bisect
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from serving.versions.arms import Arm

BOUNDS_MS = tuple(round(0.25 * 2 ** (step / 8), 4) for step in range(145))
"""Upper bounds of the histogram: 0.25 ms to 65 s."""


@dataclass(slots=True)
class _Minute:
    photos: int = 0
    errors: int = 0
    buckets: dict[int, int] = field(default_factory=dict)
    changed: bool = True


class Tally:
    """Counts by generation, arm and minute, of one worker.

    Args:
        worker: names this process among those that write the same table.
        clock: seconds since 1970.
        keep: minutes that are kept while nobody takes them; the oldest go first, and are counted in `lost`.
    """

    def __init__(self, worker: str, *, clock: Callable[[], float] = time.time, keep: int = 4_000) -> None:
        self.worker = worker
        self.lost = 0
        """Minutes that nobody took in time."""
        self._clock = clock
        self._keep = keep
        self._minutes: dict[tuple[int, str, int], _Minute] = {}

    def add(self, arm: Arm, seconds: float, ok: bool) -> None:
        """Count a photo. One that failed has no latency: a quick refusal is no quick answer."""
        key = (arm.generation, arm.name, int(self._clock() // 60))
        minute = self._minutes.get(key)
        if minute is None:
            minute = self._minutes[key] = _Minute()
            if len(self._minutes) > self._keep:
                del self._minutes[next(iter(self._minutes))]
                self.lost += 1
        minute.changed = True
        if not ok:
            minute.errors += 1
            return
        minute.photos += 1
        bucket = min(bisect.bisect_left(BOUNDS_MS, 1000 * seconds), len(BOUNDS_MS) - 1)
        minute.buckets[bucket] = minute.buckets.get(bucket, 0) + 1

    def rows(self) -> list[dict[str, Any]]:
        """Rows of `arm_minutes` that changed since they were last written; each replaces its own, so that writing
        one twice changes nothing."""
        return [
            {
                "generation": generation,
                "arm": arm,
                "minute": datetime.fromtimestamp(60 * number, UTC),
                "worker": self.worker,
                "photos": minute.photos,
                "errors": minute.errors,
                "latencies": {f"{BOUNDS_MS[bucket]:g}": count for bucket, count in sorted(minute.buckets.items())},
            }
            for (generation, arm, number), minute in self._minutes.items()
            if minute.changed
        ]

    def written(self, rows: list[dict[str, Any]]) -> None:
        """These rows are in the table: what is unchanged since, and whose minute is over, is let go."""
        now = int(self._clock() // 60)
        for row in rows:
            number = int(row["minute"].timestamp() // 60)
            key = (row["generation"], row["arm"], number)
            minute = self._minutes.get(key)
            if minute is None or (minute.photos, minute.errors) != (row["photos"], row["errors"]):
                continue
            minute.changed = False
            if number < now:
                del self._minutes[key]
