"""How often a key may ask, counted by the library `limits`: in this process, or in a Redis that processes share."""

import logging
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import limits.aio
import limits.errors
import limits.storage
from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import Storage
from limits.storage.base import SlidingWindowCounterSupport
from limits.strategies import SlidingWindowCounterRateLimiter

LOG = logging.getLogger(__name__)
SHARED_S = 0.25
"""How long a shared store may take to answer."""
FORM = re.compile(r"0*[1-9]\d{0,8}\s*(/|per)\s*(0*[1-9]\d{0,3}\s*)?(second|minute|hour|day)s?")
"""What is taken of the library's notation: it reads `-1/second` as one and `1/0 second` as well."""
AWAY_S = 5.0
"""A shared store that did not answer is not asked for so long."""
NAMES = 100_000
"""How many names are counted at once in one process; the ones that were idle longest are forgotten."""


def parse_rate(text: str) -> RateLimitItem:
    """A rate such as `100/second` or `5000 per 10 minutes`.

    Raises:
        ValueError: none of that form, or below one.
    """
    if FORM.fullmatch(text.strip().lower()) is None:
        raise ValueError(f"{text!r} is no rate; write it as 100/second, 5000/hour or 100/10 minutes")
    return parse(text)


def share(item: RateLimitItem, workers: int) -> RateLimitItem:
    """One process's part of a rate, at least one photo a window."""
    return type(item)(max(1, math.ceil(item.amount / workers)), item.multiples)


class Memory(Storage, SlidingWindowCounterSupport):
    """Counts of one process, of at most `NAMES` names; for one event loop.

    The library's own memory store starts a thread for each look at its clock and forgets nobody who is still in his
    window, so that strangers with many addresses could fill it.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.clock = clock
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def get(self, key: str) -> int:
        found = self._counts.get(key)
        return 0 if found is None or found[1] <= self.clock() else found[0]

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now = self.clock()
        count, until = self._counts.get(key, (0, 0.0))
        if until <= now:
            count, until = 0, now + expiry
        self._counts[key] = (count + amount, until)
        self._counts.move_to_end(key)
        if len(self._counts) > NAMES:
            self._counts.popitem(last=False)
        return count + amount

    def get_expiry(self, key: str) -> float:
        return self._counts.get(key, (0, self.clock()))[1]

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        count = len(self._counts)
        self._counts.clear()
        return count

    def clear(self, key: str) -> None:
        self._counts.pop(key, None)

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        before, left, count, _ = self.get_sliding_window(key, expiry)
        if before * left / expiry + count + amount > limit:
            return False
        self.incr(f"{key}/{int(self.clock() // expiry)}", 2 * expiry, amount)
        return True

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        window, into = divmod(self.clock(), expiry)
        before = self.get(f"{key}/{int(window) - 1}")
        return before, expiry - into, self.get(f"{key}/{int(window)}"), 2 * expiry - into

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        window = int(self.clock() // expiry)
        self.clear(f"{key}/{window}")
        self.clear(f"{key}/{window - 1}")


@dataclass(frozen=True, slots=True)
class Rate:
    """A bound on photos: over all processes, and the part of it that this one may give by itself."""

    whole: RateLimitItem
    part: RateLimitItem

    def __str__(self) -> str:
        if self.part == self.whole:
            return str(self.whole)
        return f"{self.whole} ({self.part.amount} in this one of several servers)"


class Rates:
    """Rates of names, counted in a store that processes share, or here: then each has its part of every rate.

    Args:
        url: `memory://`, or an address that the library `limits` knows, such as `redis://host:6379`.
        workers: processes that answer beside each other.

    Raises:
        ValueError: no such store, or its driver is not installed.
    """

    def __init__(self, url: str = "memory://", *, workers: int = 1, clock: Callable[[], float] = time.time) -> None:
        self.memory = Memory(clock)
        self.workers = workers
        self._here = SlidingWindowCounterRateLimiter(self.memory)
        self._shared = None if url == "memory://" else _shared(url)
        self._away_until = 0.0
        self.away = 0
        """Times that the shared store did not answer, and the rate was counted here."""

    def rate(self, text: str) -> Rate:
        """Read a rate.

        Raises:
            ValueError: it is none.
        """
        whole = parse_rate(text)
        return Rate(whole, share(whole, self.workers))

    async def take(self, rate: Rate, name: str, photos: int = 1) -> float | None:
        """Take from a rate. None: taken; else seconds after which another try may succeed, and nothing was taken."""
        if self._shared is not None and time.monotonic() >= self._away_until:
            try:
                return await self._take_shared(self._shared, rate.whole, name, photos)
            except StorageError as error:
                LOG.warning("rates: the shared store does not answer, this process counts its part: %s", error)
                self.away += 1
                self._away_until = time.monotonic() + AWAY_S
        if self._here.hit(rate.part, name, cost=photos):
            return None
        before, left, count, _ = self.memory.get_sliding_window(rate.part.key_for(name), rate.part.get_expiry())
        return wait_s(rate.part, photos, before, left, count)

    @staticmethod
    async def _take_shared(
        limiter: limits.aio.strategies.SlidingWindowCounterRateLimiter, item: RateLimitItem, name: str, photos: int
    ) -> float | None:
        if await limiter.hit(item, name, cost=photos):
            return None
        stored = cast(limits.aio.storage.SlidingWindowCounterSupport, limiter.storage)
        before, left, count, _ = await stored.get_sliding_window(item.key_for(name), item.get_expiry())
        return wait_s(item, photos, before, left or item.get_expiry(), count)

    async def close(self) -> None:
        """Give back the connections to a shared store."""
        if self._shared is not None:
            await cast(Any, self._shared.storage).bridge.get_connection().aclose()

    def fits(self, rate: Rate, photos: int) -> bool:
        """Whether so many photos can ever come at once."""
        return photos <= (rate.part if self._shared is None else rate.whole).amount


def _shared(url: str) -> limits.aio.strategies.SlidingWindowCounterRateLimiter:
    try:
        storage = limits.storage.storage_from_string(
            f"async+{url}", implementation="redispy", wrap_exceptions=True, socket_timeout=SHARED_S,
            socket_connect_timeout=SHARED_S,
        )  # fmt: skip
    except limits.errors.ConfigurationError as error:
        raise ValueError(f"{url.partition('@')[2] or url!r}: {error}; memory:// and redis:// are known, and redis:// "
                         "needs the package `redis`") from error  # fmt: skip
    return limits.aio.strategies.SlidingWindowCounterRateLimiter(cast(Any, storage))


def wait_s(item: RateLimitItem, photos: int, before: int, left: float, count: int) -> float:
    """Seconds until `photos` fit, if nobody else takes any.

    Args:
        before: photos of the last window; they fade out in this one.
        left: seconds of this window.
        count: photos of this window; they fade out in the next one.
    """
    length = item.get_expiry()
    room = item.amount - photos
    if count <= room and before:
        return max(0.001, left - (room - count) * length / before + 0.001)
    return left + max(0.0, length * (1 - room / count) if count else 0.0) + 0.001
