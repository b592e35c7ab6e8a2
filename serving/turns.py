"""The cores of a process, taken in turns by the stages of its lanes.

A stage that decodes and one that runs a model would share a core by time slices: every photo in both is late, as with
processor sharing in a queue (Kleinrock, *Queueing Systems* II, 4.4). In turns each is done before the next begins, and
a photo that has come furthest goes first.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """So many pieces of heavy work at once. For threads; nothing that waits for others belongs into a turn.

    Args:
        cores: pieces at once.
    """

    def __init__(self, cores: int = 1) -> None:
        if cores < 1:
            raise ValueError(f"cores={cores}: must be 1 or more")
        self._free = cores
        self._last = 0
        """Threads of the last stage that wait."""
        self._change = threading.Condition()

    @contextmanager
    def take(self, *, last: bool = False) -> Iterator[None]:
        """Wait for a core and have it for the block. `last`: of the last stage, which goes before the others."""
        with self._change:
            if last:
                self._last += 1
                while not self._free:
                    self._change.wait()
                self._last -= 1
            else:
                while self._free <= self._last:  # what is free is for those of the last stage that wait
                    self._change.wait()
            self._free -= 1
        try:
            yield
        finally:
            with self._change:
                self._free += 1
                self._change.notify_all()
