"""How often a key may ask, counted by the library `limits`: in this process, or in a Redis that processes share."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from limits import RateLimitItem, parse
from limits.storage import Storage
from limits.storage.base import SlidingWindowCounterSupport
from limits.strategies import SlidingWindowCounterRateLimiter

NAMES = 100_000
"""How many names are counted at once in one process; the ones that were idle longest are forgotten."""


def parse_rate(text: str) -> RateLimitItem:
    """A rate such as `100/second` or `5000 per 10 minutes`.

    Raises:
        ValueError: none of that form, or below one.
    """
    try:
        item = parse(text)
    except ValueError:
        item = None
    if item is None or item.amount < 1 or item.multiples < 1:
        raise ValueError(f"{text!r} is no rate; write it as 100/second, 5000/hour or 100/10 minutes")
    return item


def share(item: RateLimitItem, workers: int) -> RateLimitItem:
    """One process's part of a rate, at least one photo a window."""
    return type(item)(max(1, math.ceil(item.amount / workers)), item.multiples)


class Memory(Storage, SlidingWindowCounterSupport):
    """Counts of one process, of at most `NAMES` names; for one event loop.

    The library's own memory store starts a thread for each look at its clock and forgets nobody who is still in his
    window, so that strangers with many addresses could fill it.
    """

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, **_: str) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self.clock: Callable[[], float] = time.time
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


class Rates:
    """Rates of names. `workers` processes that share no store have a share of each rate each."""

    def __init__(self, url: str = "memory://", *, workers: int = 1) -> None:
        self.memory = Memory()
        self._here = SlidingWindowCounterRateLimiter(self.memory)
        self.workers = workers

    def mine(self, rate: str) -> RateLimitItem:
        """What of a rate this process may give.

        Raises:
            ValueError: no rate.
        """
        return share(parse_rate(rate), self.workers)

    async def take(self, item: RateLimitItem, name: str, photos: int = 1) -> float | None:
        """Take from a rate. None: taken; else seconds after which another try may succeed, and nothing was taken."""
        if self._here.hit(item, name, cost=photos):
            return None
        window = self.memory.get_sliding_window(item.key_for(name), item.get_expiry())
        return wait_s(item, photos, *window[:3])


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
