"""What the model is told beside a live photo: its sender's newest profile, from Feast, in process.

The context is made by the transform that made the training rows (`feature_repo.definitions.context`). What Feast does
not do is done here: a profile that is too old counts as none, and profiles are kept in memory for a few seconds.
"""

import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from feature_repo.definitions import PARAMETERS
from pipelines.data import features
from pipelines.data.features import Features
from pipelines.data.senders import NOTHING, Profile, ProfileReader
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.photos import Photo
from serving.pictures import STATS
from serving.problems import Problem
from serving.recall import fingerprint_of

SENDERS = 50_000
"""Profiles in memory, those of unknown senders included: about 1 KB each. Who was not asked for longest goes first."""
LOOK_S = 0.25
"""How often it is looked whether the store was made anew."""
AGAIN_S = 1.0
"""How long a store that cannot be opened is left alone before it is tried again."""


@dataclass(frozen=True, slots=True)
class _Open:
    """The store as it was when it was opened."""

    handle: Features
    reader: ProfileReader
    state: tuple[int, ...]


@dataclass(slots=True)
class _Known:
    """What the store said of a sender."""

    profile: Profile | None
    until: float
    """When it is asked again, by the clock."""
    names: dict[bool, str] = field(default_factory=dict)
    """Fingerprints, by whether the profile is young enough."""


class OnlineFeatures:
    """A `serving.seams.FeatureSource` on Feast's online store. May be asked by several threads.

    Args:
        clock: seconds that only grow; for tests.
    """

    def __init__(self, settings: Settings, recipe: Recipe, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.service_hash = features.service_hash(recipe)
        self.reads = 0
        """How often the store was asked."""
        self._settings = settings
        self._recipe = recipe
        self._keep_s = recipe.serving.feature_cache_s
        self._clock = clock
        self._root = Path(settings.features_root)
        self._parameters = str(self._root / PARAMETERS)
        self._file = str(self._root / "online.db")
        self._opened: _Open | None = None
        self._opening = threading.Lock()
        self._looked = -LOOK_S
        self._refused: tuple[float, str] | None = None
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._nobody = _Known(None, math.inf)
        self._lock = threading.Lock()

    def start(self) -> None:
        """Open the store.

        Raises:
            Problem: (503) nothing was materialized yet, or for other definitions than the recipe's.
        """
        self._store()

    def ready(self) -> str | None:
        """None when contexts can be made, else why not and what to do."""
        try:
            self._store()
        except Problem as problem:
            return problem.message
        return None

    def fill(self, photos: Sequence[Photo], at: datetime) -> None:
        """Give each photo its `context` and `defaulted`.

        Args:
            photos: those with a problem or a context are passed over; the others need `stats`.
            at: the time of the question, aware.

        Raises:
            Problem: (503) the store cannot be read.
        """
        asked = []
        for photo in photos:
            if photo.problem is not None or photo.context is not None:
                continue
            if photo.stats is None:
                photo.problem = Problem("bad_request", "stats: missing; send them, or a context of your own")
                continue
            asked.append(photo)
        if not asked:
            return
        store = self._store()
        profiles = self._profiles(store, {photo.sender for photo in asked}, at)
        columns = zip(*(photo.stats.tolist() for photo in asked if photo.stats is not None), strict=True)
        picture = {name: list(values) for name, values in zip(STATS, columns, strict=True)}
        try:
            rows, defaulted = features.contexts(store.handle, picture, [profiles[photo.sender] for photo in asked])
        except ClassyError as error:
            raise Problem("unavailable", str(error), detail="features") from error
        for photo, row, unknown in zip(asked, rows, defaulted.tolist(), strict=True):
            photo.context, photo.defaulted = row, unknown

    def fingerprint(self, sender: str, at: datetime) -> str:
        """Names what is known about a sender now; reads the store where memory does not know.

        Raises:
            Problem: (503) the store cannot be read.
        """
        store = self._store()
        found = self.remembered(sender, at)
        return found or _name(store.handle, self._profiles(store, {sender}, at)[sender])

    def remembered(self, sender: str, at: datetime) -> str | None:
        """`fingerprint`, or None where the store would have to be read: for an event loop, which must not wait."""
        store = self._opened
        known = self._known.get(sender) if sender else self._nobody
        if store is None or known is None or known.until <= self._clock():
            return None
        profile = known.profile.at(at, store.handle.max_age) if known.profile else NOTHING
        young = profile is not NOTHING
        if young not in known.names:
            known.names[young] = _name(store.handle, profile)
        return known.names[young]

    # ------------------------------------------------------------------------------------------- profiles

    def _profiles(self, store: _Open, senders: Iterable[str], at: datetime) -> dict[str, dict[str, object]]:
        """The values of each sender's profile at `at`; those of nobody where there is none, or it is too old."""
        max_age = store.handle.max_age
        now = self._clock()
        found: dict[str, dict[str, object]] = {}
        lacking = []
        with self._lock:
            for sender in senders:
                known = self._known.get(sender)
                if not sender:
                    found[sender] = NOTHING
                elif known is not None and known.until > now:
                    self._known.move_to_end(sender)
                    found[sender] = known.profile.at(at, max_age) if known.profile else NOTHING
                else:
                    lacking.append(sender)
        if lacking:
            for sender, profile in self._read(store, lacking, now).items():
                found[sender] = profile.at(at, max_age) if profile else NOTHING
        return found

    def _read(self, store: _Open, senders: list[str], now: float) -> dict[str, Profile | None]:
        self.reads += 1
        try:
            read = store.reader.read(senders)
        except Exception as error:  # each online store of Feast's raises its own kinds
            why = str(error).strip() or type(error).__name__
            raise Problem(
                "unavailable",
                f"features: the online store at {self._root} cannot be read: {why}; try again in a moment",
                detail="features",
                retry_after=AGAIN_S,
            ) from error
        found = {sender: read.get(sender) for sender in senders}
        if self._keep_s > 0:
            with self._lock:
                for sender, profile in found.items():
                    self._known[sender] = _Known(profile, now + self._keep_s)
                    self._known.move_to_end(sender)
                while len(self._known) > SENDERS:
                    self._known.popitem(last=False)
        return found

    # -------------------------------------------------------------------------------------------- opening

    def _store(self) -> _Open:
        """The store; opened again where it was made anew since, for another recipe or in another file."""
        opened = self._opened
        if opened is not None:
            now = self._clock()
            if now < self._looked + LOOK_S:
                return opened
            self._looked = now
            if opened.state == self._state():
                return opened
        with self._opening:
            opened, state = self._opened, self._state()
            if opened is not None and opened.state == state:
                return opened
            if self._refused is not None and self._clock() - self._refused[0] < AGAIN_S:
                raise self._unavailable(self._refused[1])
            self._opened = None
            self._looked = self._clock()
            try:
                handle = features.open_features(self._settings, self._recipe)
                reader = ProfileReader(handle.store)
            except Exception as error:  # Feast's kinds beside our own: a registry that is no registry, and so on
                why = str(error) if isinstance(error, ClassyError) else f"{self._root}: cannot be opened: {error}"
                self._refused = (self._clock(), why)
                raise self._unavailable(why) from error
            with self._lock:
                self._known.clear()
                self._nobody = _Known(None, math.inf)
            self._refused = None
            self._opened = _Open(handle, reader, state)
            return self._opened

    def _state(self) -> tuple[int, ...]:
        return (*_stamp(self._parameters), _stamp(self._file)[0])

    def _unavailable(self, why: str) -> Problem:
        return Problem("unavailable", f"features: {why}", detail="features", retry_after=AGAIN_S)


def _name(handle: Features, profile: dict[str, object]) -> str:
    rows, _ = features.contexts(handle, {name: [0.0] for name in STATS}, [profile])
    return fingerprint_of(rows[0])


def _stamp(path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except FileNotFoundError:  # as with another online store than SQLite, which has no file here
        return (0, 0)
    return (stat.st_ino, stat.st_mtime_ns)
