"""A lane: a bounded queue in front of a few threads that work on several items at once.

The event loop admits, the threads work; nothing else passes between them. With `wait_ms=0` a thread takes what waits
when it comes free ("natural batching"): alone an item is worked on at once, under load batches grow by themselves.
Crankshaw et al., *Clipper* (2017) and *Triton's* dynamic batcher describe the deadline that `wait_ms` adds.
"""

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

from serving.problems import Problem

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

LEAST_RETRY, MOST_RETRY = 0.05, 30.0
"""Bounds of what a full lane tells callers to wait, in seconds."""
SMOOTHING = 0.2
"""Weight of the newest batch in the measured rate."""


class _Asked(Generic[T, R]):
    """What one caller waits for: one item or several."""

    __slots__ = ("answers", "deadline", "future", "left", "since")

    def __init__(self, future: "asyncio.Future[None]", count: int, deadline: float | None) -> None:
        self.future = future
        self.left = count
        self.deadline = deadline
        self.since = time.monotonic()
        self.answers: list[R | Problem] = [cast(R, None)] * count


_Ticket = tuple[_Asked[T, R], int, T]
"""Who asked, which of its items this is, and the item."""


class Lane(Generic[T, R]):
    """A queue and its threads. Callers are on one event loop.

    Args:
        work: gives one answer an item, in order; a Problem is an item's own refusal. Called in a thread, and by
            several at once if there are several. What it raises is every item's problem.
        name: for people: it is in messages, logs and thread names.
        batch: items of one call of `work`, at most.
        wait_ms: a batch that is not full waits so long for more, counted from its oldest item.
        queue: items that may wait; those being worked on do not count.
        threads: calls of `work` at the same time.
    """

    def __init__(
        self,
        work: Callable[[list[T]], Sequence[R | Problem]],
        *,
        name: str,
        batch: int,
        wait_ms: float = 0,
        queue: int = 256,
        threads: int = 1,
    ) -> None:
        if batch < 1 or queue < 1 or threads < 1 or wait_ms < 0:
            raise ValueError(f"batch={batch}, queue={queue}, threads={threads} must be 1 or more, wait_ms={wait_ms} 0")
        self.name = name
        self.sizes: Counter[int] = Counter()
        """Calls of `work` so far, by their number of items."""
        self.done = 0
        """Items worked on so far."""
        self.refused = 0
        """Items that found the lane full."""
        self.batch = batch
        self._work, self._batch, self._wait, self._queue, self._threads = work, batch, wait_ms / 1000, queue, threads
        self._line: deque[_Ticket[T, R]] = deque()
        self._change = threading.Condition()
        self._workers: list[threading.Thread] = []
        self._stopping = False
        self._seconds_each = 0.0

    # ------------------------------------------------------------------------------------- on the event loop

    @property
    def waiting(self) -> int:
        """Items that nobody has begun."""
        return len(self._line)

    @property
    def capacity(self) -> int:
        """Items that may wait."""
        return self._queue

    @property
    def batches(self) -> int:
        """Calls of `work` so far."""
        return sum(self.sizes.copy().values())

    def start(self) -> None:
        """Start the threads. A lane that was stopped does not start again."""
        if self._workers or self._stopping:
            raise RuntimeError(f"lane {self.name}: was started before")
        self._workers = [
            threading.Thread(target=self._serve, name=f"{self.name}-{number}", daemon=True)
            for number in range(self._threads)
        ]
        for worker in self._workers:
            worker.start()

    async def stop(self) -> None:
        """Take nothing more, answer everything that was admitted, end the threads."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        workers, self._workers = self._workers, []
        if workers:
            # In a thread of its own: the loop must go on to hand out the last answers.
            await asyncio.to_thread(_join, workers)

    async def submit(self, item: T, *, deadline: float | None = None) -> R:
        """The answer to one item.

        Args:
            deadline: `time.monotonic()` after which it need not be begun.

        Raises:
            Problem: the item's own; 429 if the lane is full; 503 if it is stopping; 504 after the deadline.
        """
        answer = (await self.submit_many((item,), deadline=deadline))[0]
        if isinstance(answer, Problem):
            raise answer
        return answer

    async def submit_many(self, items: Sequence[T], *, deadline: float | None = None) -> list[R | Problem]:
        """The answers to several items, or their problems, in order. All of them are admitted, or none.

        An item that was not begun when its caller is cancelled is never worked on.

        Raises:
            Problem: the lane is full (429), stopping (503), or could never hold so many (413).
        """
        if not items:
            return []
        asked: _Asked[T, R] = _Asked(asyncio.get_running_loop().create_future(), len(items), deadline)
        with self._change:
            self._admit(len(items))
            self._line.extend((asked, i, item) for i, item in enumerate(items))
            self._change.notify(-(-len(items) // self._batch))
        try:
            await asked.future
        except asyncio.CancelledError:
            with self._change:
                # Room for others at once, not only when a thread comes to it.
                self._line = deque(ticket for ticket in self._line if ticket[0] is not asked)
            raise
        return asked.answers

    def _admit(self, count: int) -> None:
        if self._stopping or not self._workers:
            raise Problem("unavailable", f"{self.name}: is not running; ask again", retry_after=LEAST_RETRY)
        if count > self._queue:
            raise Problem("too_large", f"{self.name}: {count} at once; send {self._queue} or fewer")
        if len(self._line) + count > self._queue:
            self.refused += count
            after = self.seconds_to_clear()
            raise Problem(
                "busy",
                f"{self.name}: {len(self._line)} are waiting, of {self._queue} that may; ask again in {after:.2g} s",
                retry_after=after,
            )

    def seconds_to_clear(self) -> float:
        """When what waits now will have been worked on, at the rate of late."""
        seconds = len(self._line) * self._seconds_each / self._threads
        return round(min(max(seconds, LEAST_RETRY), MOST_RETRY), 3)

    @staticmethod
    def _hand_out(tickets: Sequence[_Ticket[T, R]], answers: Sequence[R | Problem]) -> None:
        for (asked, index, _), answer in zip(tickets, answers, strict=True):
            asked.answers[index] = answer
            asked.left -= 1
            if not asked.left and not asked.future.done():
                asked.future.set_result(None)

    # ----------------------------------------------------------------------------------------- in the threads

    def _serve(self) -> None:
        while tickets := self._take():
            now = time.monotonic()
            late = [ticket for ticket in tickets if ticket[0].deadline is not None and ticket[0].deadline < now]
            if late:
                problem = Problem("too_late", f"{self.name}: its deadline passed while it waited; the server is busy")
                self._tell(late, [problem] * len(late))
                tickets = [ticket for ticket in tickets if ticket not in late]
            if tickets:
                answers = self._answers([item for _, _, item in tickets])
                self._measure(len(tickets), time.monotonic() - now)
                self._tell(tickets, answers)

    def _take(self) -> list[_Ticket[T, R]]:
        """The next batch; empty when the lane has stopped and nothing waits."""
        with self._change:
            while True:
                while not self._line:
                    if self._stopping:
                        return []
                    self._change.wait()
                left = self._line[0][0].since + self._wait - time.monotonic() if self._wait else 0.0
                if left <= 0 or len(self._line) >= self._batch or self._stopping:
                    break
                self._change.wait(left)
            count = min(self._batch, len(self._line))
            return [self._line.popleft() for _ in range(count)]

    def _answers(self, items: list[T]) -> Sequence[R | Problem]:
        try:
            answers = self._work(items)
            if len(answers) != len(items):
                raise ValueError(f"{len(answers)} answers to {len(items)} items")
        except Problem as problem:
            return [problem] * len(items)
        except Exception:  # whatever it is, the thread must live on, and its callers must hear of it
            log.exception("lane %s: %d items failed", self.name, len(items))
            return [Problem("internal", f"{self.name}: failed; the server's log says why")] * len(items)
        return answers

    def _measure(self, count: int, seconds: float) -> None:
        self.sizes[count] += 1
        self.done += count
        each = seconds / count
        self._seconds_each += (SMOOTHING if self._seconds_each else 1.0) * (each - self._seconds_each)

    def _tell(self, tickets: Sequence[_Ticket[T, R]], answers: Sequence[R | Problem]) -> None:
        loop = tickets[0][0].future.get_loop()
        try:
            # One wake-up of the loop for the whole batch.
            loop.call_soon_threadsafe(self._hand_out, tickets, answers)
        except RuntimeError:
            log.warning("lane %s: the event loop is closed; %d answers reach nobody", self.name, len(tickets))


def _join(workers: Sequence[threading.Thread]) -> None:
    for worker in workers:
        worker.join()
