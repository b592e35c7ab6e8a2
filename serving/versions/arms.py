"""Which model answers whom: champion, canary by weight, shadow, and versions that somebody loaded beside them.

Who meets the canary is decided by a hash of the experiment and the sender, never by a table: every worker and
every restart decides alike, and a sender stays with one model. A larger weight only adds senders: whoever met the
canary at 10% still does at 20%. Kohavi, Tang & Xu, *Trustworthy Online Controlled Experiments* (2020), chapter 14.

Everything here runs on the event loop: there is no await between choosing an arm and leasing it, so a model that
was chosen is not stopped before it has answered.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from serving.canonical import ImageSpec
from serving.problems import Problem

if TYPE_CHECKING:
    from serving.engines.loaded import Loaded

CHAMPION, CANARY, SHADOW = "champion", "canary", "shadow"


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One model in one role. `name` is what predictions and metrics call it."""

    name: str
    version: str
    run_id: str
    generation: int
    loaded: "Loaded"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineup:
    """Everything that answers in one generation."""

    champion: Arm
    canary: Arm | None = None
    weight: float = 0.0
    """Share of senders that the canary answers, 0 to 1."""
    shadow: Arm | None = None
    others: tuple[Arm, ...] = ()
    """Versions that were loaded by hand; they answer whoever names them, and nobody else."""

    def arms(self) -> list[Arm]:
        """All of them, the champion first."""
        return [arm for arm in (self.champion, self.canary, self.shadow, *self.others) if arm is not None]

    @property
    def experiment(self) -> str:
        """Names what the senders are divided for. A change of weight is the same experiment."""
        if self.canary is None:
            return ""
        return f"{self.champion.run_id} {self.canary.run_id} {self.canary.name}"


class Counts(Protocol):
    """Where answers are counted."""

    def add(self, arm: Arm, seconds: float, ok: bool) -> None: ...


def share(experiment: str, sender: str) -> float:
    """Where a sender stands in an experiment, in [0, 1): the canary answers those below its weight.

    Uniform over senders, and independent between experiments: the same people are not always the first.
    """
    digest = hashlib.blake2b(f"{experiment}\0{sender}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


class Arms:
    """What answers now. `swap` changes it as a whole.

    Args:
        counts: told of every answer; None counts nothing.
    """

    def __init__(self, counts: Counts | None = None) -> None:
        self._counts = counts
        self._now: Lineup | None = None
        self._before: Lineup | None = None
        self._experiment = ""
        self._spec = ""
        self._leases: Counter[int] = Counter()
        self._free: dict[int, asyncio.Event] = {}
        self.refused: str = ""
        """Why what the ledger says last is not what serves; empty while it is."""

    # --------------------------------------------------------------------------------------- who answers

    def choose(self, sender: str, wanted: str = "", *, key: str = "", image_spec: str = "") -> Arm:
        """The arm that answers this sender.

        Args:
            sender: empty if unknown; then each photo is assigned by itself, by `key`.
            wanted: an arm's name (`champion`, `canary`, the canary's own name) or a version; empty: as assigned.
            key: names the photo: its content hash or image id.
            image_spec: digest of the spec that made the photo's image. While the newest model wants other images,
                photos that were prepared for the one before are still answered by it.

        Raises:
            Problem: no such arm (404), or nothing is loaded (503).
        """
        now = self._lineup()
        if image_spec and image_spec != self._spec and self._before is not None:
            now = self._before
        if wanted:
            return _named(now, wanted)
        canary = now.canary
        if canary is not None and share(self._experiment, sender or key) < now.weight:
            return canary
        return now.champion

    def shadow(self) -> Arm | None:
        """The arm that answers too and whose answers nobody gets."""
        return None if self._now is None else self._now.shadow

    def by_version(self, version: str) -> Arm:
        """The arm of a loaded version.

        Raises:
            Problem: it is not loaded (404), or nothing is (503).
        """
        now = self._lineup()
        found = next((arm for arm in now.arms() if arm.version == version), None)
        if found is None:
            there = ", ".join(self.versions())
            raise Problem("not_found", f"version {version!r}: not loaded here; versions are {there}")
        return found

    def all(self) -> list[Arm]:
        """What answers now, the champion first; empty while nothing is loaded."""
        return [] if self._now is None else self._now.arms()

    def versions(self) -> tuple[str, ...]:
        """Versions that answer, each once, the champion's first."""
        return tuple(dict.fromkeys(arm.version for arm in self.all()))

    @property
    def lineup(self) -> Lineup | None:
        return self._now

    def image_spec(self) -> ImageSpec:
        """What images the models take.

        Raises:
            Problem: nothing is loaded (503).
        """
        return self._lineup().champion.loaded.image_spec

    def _lineup(self) -> Lineup:
        if self._now is None:
            raise Problem("unavailable", self.ready() or "no model is loaded", retry_after=1.0)
        return self._now

    # -------------------------------------------------------------------------------------------- health

    def ready(self) -> str | None:
        """None while something answers: an old model that serves on is better than none."""
        if self._now is not None:
            return None
        return self.refused or "no model is loaded yet"

    def about(self) -> dict[str, Any]:
        """For people, as the metadata shows it."""
        now = self._now
        arms = [
            {"arm": arm.name, "version": arm.version, "run_id": arm.run_id, "generation": arm.generation}
            for arm in self.all()
        ]
        found: dict[str, Any] = {"generation": now.champion.generation if now else 0, "arms": arms}
        if now is not None and now.canary is not None:
            found["canary_weight"] = now.weight
        if self.refused:
            found["refused"] = self.refused
        return found

    # -------------------------------------------------------------------------------------------- leases

    @contextmanager
    def lease(self, arm: Arm) -> Iterator[Arm]:
        """Hold an arm while its model is asked: it is not stopped before."""
        key = id(arm.loaded)
        self._leases[key] += 1
        try:
            yield arm
        finally:
            self._leases[key] -= 1
            if not self._leases[key]:
                del self._leases[key]
                if key in self._free:
                    self._free.pop(key).set()

    async def drained(self, loaded: "Loaded") -> None:
        """Wait until nobody holds this model. It must be out of the line-up: nobody new may take it."""
        key = id(loaded)
        while self._leases[key]:
            await self._free.setdefault(key, asyncio.Event()).wait()

    def holds(self, loaded: "Loaded") -> bool:
        """Whether this model is in the line-up."""
        lineups = [lineup for lineup in (self._now, self._before) if lineup is not None]
        return any(arm.loaded is loaded for lineup in lineups for arm in lineup.arms())

    # ----------------------------------------------------------------------------------------- exchanges

    def swap(self, lineup: Lineup) -> None:
        """From the next photo on, this answers. What was before answers photos that were prepared for it until
        `forget`, where the two want different images."""
        before, self._now = self._now, lineup
        self._experiment = lineup.experiment
        self._spec = lineup.champion.loaded.image_spec.digest()
        changed = before is not None and before.champion.loaded.image_spec.digest() != self._spec
        self._before = before if changed else None

    @property
    def lingers(self) -> bool:
        """Whether a line-up with other images still answers the photos that were prepared for it."""
        return self._before is not None

    def forget(self) -> None:
        """Photos that were prepared for the line-up before are refused from now on."""
        self._before = None

    def clear(self) -> None:
        """Nothing answers any more: the server ends."""
        self._now = self._before = None

    # -------------------------------------------------------------------------------------------- counts

    def tally(self, arm: Arm, seconds: float, ok: bool) -> None:
        """Count a photo that this arm answered, or failed by the server's fault."""
        if self._counts is not None:
            self._counts.add(arm, seconds, ok)


def _named(lineup: Lineup, wanted: str) -> Arm:
    canary = lineup.canary
    if wanted == CHAMPION:
        return lineup.champion
    if canary is not None and wanted in (CANARY, canary.name):
        return canary
    answering = [lineup.champion, *([canary] if canary is not None else []), *lineup.others]
    found = next((arm for arm in answering if wanted in (arm.name, arm.version)), None)
    if found is None:
        names = ", ".join(dict.fromkeys(name for arm in answering for name in (arm.name, arm.version)))
        raise Problem("not_found", f"arm {wanted!r}: there is none; there are {names}")
    return found
