"""Follows the ledger: what it says is loaded beside what serves, then swapped in; what was before is drained.

No request fails in between (blue-green): the new models are open, checked and warm before the first photo goes to
them, and the old ones are stopped when the last photo that they hold is answered. A champion that cannot be loaded
is refused, and everything stays as it was; a canary or a shadow that cannot is left out. `Arms.refused` says why,
and it is tried again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from serving.problems import Problem
from serving.runtime import ModelError
from serving.versions.arms import CANARY, CHAMPION, SHADOW, Arm, Arms, Lineup
from serving.versions.shelf import Shelf

if TYPE_CHECKING:
    from serving.engines.loaded import Loaded

Row = Mapping[str, Any]


class Ledger(Protocol):
    """Where a follower reads what is in production."""

    def __call__(self) -> Row | None:
        """The ledger's newest row, or None before the first; may block. Raises Problem where it is away."""

    def last_known(self) -> Row | None:
        """The row that was read last, before a restart too; may block."""


LOG = logging.getLogger(__name__)
NOTHING = "nothing is in production yet; `classy promote` makes the first generation"
TRY_AGAIN_S = (2.0, 60.0)
"""How long a refused model waits for its next try: at first, and at most (each time twice as long)."""


class Follower:
    """Keeps `arms` at what the ledger says. One a process.

    Args:
        arms: told of each change.
        shelf: where models are loaded.
        deployments: the ledger. While it is away, what serves stays; a server that starts takes the last known row.
        wanted: versions to load beside what serves (version → run id); may block.
        every_s: between two looks.
        linger_s: how long a champion that took other images goes on to answer photos that were prepared for it.
    """

    def __init__(
        self,
        arms: Arms,
        shelf: Shelf,
        deployments: Ledger,
        *,
        wanted: Callable[[], Mapping[str, str]] = dict,
        every_s: float = 1.0,
        linger_s: float = 30.0,
    ) -> None:
        self.away: str = ""
        """Why the ledger cannot be read just now; what serves stays."""
        self.unavailable: dict[str, str] = {}
        """Versions that were asked for and cannot be loaded: version → why."""
        self._arms = arms
        self._shelf = shelf
        self._deployments = deployments
        self._wanted = wanted
        self._every_s = every_s
        self._linger_s = linger_s
        self._lock = asyncio.Lock()
        self._seen: tuple[int, dict[str, str]] | None = None
        self._row: Row | None = None
        self._wait_s = TRY_AGAIN_S[0]
        self._again: float | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Load what serves, then follow. Returns when the first try is over: `arms.ready()` says how it went."""
        await self._look_and_say()
        self._task = asyncio.create_task(self._follow(), name="follower")

    async def stop(self) -> None:
        """After the last request: stop every model."""
        self._stopping.set()
        if self._task is not None:
            await self._task
        self._arms.clear()
        await asyncio.gather(*self._retiring)
        for run_id in self._shelf.runs():
            await self._retire(run_id)

    async def _follow(self) -> None:
        while not self._stopping.is_set():
            try:
                await asyncio.wait_for(self._stopping.wait(), self._every_s)
            except TimeoutError:
                await self._look_and_say()

    async def _look_and_say(self) -> None:
        try:
            await self.look()
        except Exception as error:  # whatever it is: a server that stops following serves an old model for ever
            LOG.exception("following the ledger failed; it is tried again")
            self._arms.refused = f"following the ledger failed: {error!r}"
            self._plan_again()

    async def look(self) -> bool:
        """Read the ledger once and do what it says; True where something changed."""
        row, wanted = await asyncio.to_thread(self._read)
        if row is None:
            if not self._arms.all():
                self._arms.refused = self.away or NOTHING
            return False
        async with self._lock:
            due = self._again is not None and time.monotonic() >= self._again
            if self._seen == (row["generation"], wanted) and not due:
                return False
            if self._seen is None or self._seen[0] != row["generation"]:
                self._wait_s = TRY_AGAIN_S[0]
            self._row = row
            changed = await self._arrange(row, wanted)
            self._seen = (row["generation"], wanted)
            self._plan_again()
            return changed

    def _read(self) -> tuple[Row | None, dict[str, str]]:
        """In a thread. What serves is kept while the ledger is away: its row is taken for the newest."""
        try:
            row = self._deployments()
            self.away = ""
        except Problem as error:
            self.away = error.message
            row = self._row if self._row is not None else self._deployments.last_known()
        return row, dict(self._wanted())

    def _plan_again(self) -> None:
        if not self._arms.refused and not self.unavailable:
            self._again, self._wait_s = None, TRY_AGAIN_S[0]
            return
        self._again = time.monotonic() + self._wait_s
        self._wait_s = min(2 * self._wait_s, TRY_AGAIN_S[1])

    async def _arrange(self, row: Row, wanted: Mapping[str, str]) -> bool:
        """Load what a generation names, swap, and let go of what it does not name."""
        await self._make_room(row, wanted)
        refusals: list[str] = []
        champion = await self._arm(row, CHAMPION, CHAMPION, refusals)
        if champion is None:
            self._arms.refused = f"generation {row['generation']} is refused: {refusals[0]}"
            return False
        like = champion.loaded
        canary = await self._arm(row, CANARY, row["canary_name"] or CANARY, refusals, like)
        shadow = await self._arm(row, SHADOW, SHADOW, refusals, like)
        lineup = Lineup(
            champion=champion,
            canary=canary,
            weight=row["canary_weight"] if canary is not None else 0.0,
            shadow=shadow,
            others=await self._others(row["generation"], wanted, like),
        )
        before = self._arms.lineup
        self._arms.refused = f"generation {row['generation']}: {'; '.join(refusals)}" if refusals else ""
        if lineup != before:
            self._arms.swap(lineup)
        self._let_go_later()
        return lineup != before

    async def _arm(
        self, row: Row, role: str, name: str, refusals: list[str], like: "Loaded | None" = None
    ) -> Arm | None:
        """One role of a generation; None where it names none, or cannot be loaded."""
        run_id, version = row[f"{role}_run_id"], row[f"{role}_version"]
        if run_id is None:
            return None
        try:
            loaded = await self._shelf.take(run_id)
            need_alike(loaded, like)
        except (ModelError, Problem) as error:
            refusals.append(f"{role} version {version}: {error}")
            return None
        return Arm(name=name, version=version, run_id=run_id, generation=row["generation"], loaded=loaded)

    async def _others(self, generation: int, wanted: Mapping[str, str], like: "Loaded") -> tuple[Arm, ...]:
        found, unavailable = [], {}
        for version, run_id in wanted.items():
            try:
                loaded = await self._shelf.take(run_id)
                need_alike(loaded, like)
            except (ModelError, Problem) as error:
                unavailable[version] = str(error)
                continue
            found.append(
                Arm(name=f"v{version}"[:16], version=version, run_id=run_id, generation=generation, loaded=loaded)
            )
        self.unavailable = unavailable
        return tuple(found)

    # ---------------------------------------------------------------------------------------- letting go

    async def _make_room(self, row: Row, wanted: Mapping[str, str]) -> None:
        """Versions that were loaded by hand go when nobody wants them, or when what the ledger names would not fit."""
        lineup = self._arms.lineup
        if lineup is None or not lineup.others:
            return
        runs = self._shelf.runs()
        roles = {row[f"{role}_run_id"] for role in (CHAMPION, CANARY, SHADOW)} - {None}
        over = len(runs) + len(roles - set(runs)) - self._shelf.limit
        kept = [arm for arm in lineup.others if arm.run_id in wanted.values()]
        over -= len(lineup.others) - len(kept)
        while over > 0 and kept:
            kept.pop()
            over -= 1
        if len(kept) == len(lineup.others):
            return
        self._arms.swap(replace(lineup, others=tuple(kept)))
        for arm in lineup.others:
            if arm not in kept and arm.run_id not in roles:
                await self._arms.drained(arm.loaded)
                await self._let_go(arm.run_id)

    def _let_go_later(self) -> None:
        if self._arms.lingers:
            self._in_background(self._linger())
        for run_id in self._shelf.runs():
            loaded = self._shelf.get(run_id)
            if loaded is not None and not self._arms.holds(loaded):
                self._in_background(self._retire(run_id))

    async def _linger(self) -> None:
        """Photos that were prepared for the champion before are on their way: wait for them, then let it go."""
        before = self._arms.lineup
        try:
            await asyncio.wait_for(self._stopping.wait(), self._linger_s)
        except TimeoutError:
            if self._arms.lineup is not before and self._arms.lingers:
                return  # a newer exchange has begun, and waits for itself
        self._arms.forget()
        self._let_go_later()

    async def _retire(self, run_id: str) -> None:
        loaded = self._shelf.get(run_id)
        if loaded is None:
            return
        await self._arms.drained(loaded)
        async with self._lock:  # not while a generation is arranged that may take it again
            await self._let_go(run_id)

    async def _let_go(self, run_id: str) -> None:
        loaded = self._shelf.get(run_id)
        if loaded is not None and not self._arms.holds(loaded):
            await self._shelf.let_go(run_id)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


def need_alike(loaded: "Loaded", champion: "Loaded | None") -> None:
    """A model that serves beside a champion takes the same images and answers the same classes: photos are prepared
    once, before it is known who answers them, and a client sees one list of classes.

    Raises:
        ModelError: it does not; the message says in what.
    """
    if champion is None:
        return
    pairs = [
        ("takes images of spec", loaded.image_spec.digest()[:12], champion.image_spec.digest()[:12]),
        ("answers classes", ", ".join(loaded.classes), ", ".join(champion.classes)),
    ]
    for what, its, ours in pairs:
        if its != ours:
            raise ModelError(f"{what} {its}, the champion's are {ours}: the two cannot answer side by side; promote it")
