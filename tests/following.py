"""A ledger in memory, for tests of what follows one."""

from typing import Any

from monitoring.ledger import EMPTY
from serving.problems import Problem


def row(generation: int, version: str, **more: Any) -> dict[str, Any]:
    """What a follower reads of a generation; version N is of run-N."""
    found = {
        **EMPTY,
        "generation": generation,
        "champion_version": version,
        "champion_run_id": f"run-{version}",
        **more,
    }
    for role in ("canary", "shadow"):
        if found[f"{role}_version"] is not None:
            found.setdefault(f"{role}_run_id", None)
            found[f"{role}_run_id"] = found[f"{role}_run_id"] or f"run-{found[f'{role}_version']}"
    return found


class Desk:
    """The newest row, which a test changes; `away` is why it cannot be read."""

    def __init__(self, now: dict[str, Any] | None = None, *, known: dict[str, Any] | None = None) -> None:
        self.now = now
        self.known = known
        self.away = ""

    def __call__(self) -> dict[str, Any] | None:
        if self.away:
            raise Problem("unavailable", self.away)
        return self.now

    def last_known(self) -> dict[str, Any] | None:
        return self.known
