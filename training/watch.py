"""Where the time of a training goes: one look at the clock a part of a step."""

import time
from collections.abc import Callable

import torch

PARTS = ("wait", "copy", "augment", "forward", "backward", "optimiser")
"""Of a step. `wait`: for rows that the input has not read yet. `copy`: of them to the device."""
OUTSIDE = ("evaluation", "checkpoint")
"""What is not a step."""
SETTLE = 512
"""Events of a GPU that are kept before they are read: reading waits for the GPU."""


class Watch:
    """Seconds a part. `lap(part)` says that what was done since the last lap was of that part.

    On a GPU, which works behind the program, laps are events in its own queue: what is counted as `wait` is time in
    which it had nothing to do.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = dict.fromkeys((*PARTS, *OUTSIDE), 0.0)
        self.rows = 0
        self._clock, self._last = clock, clock()
        self._cuda = device.type == "cuda"
        self._events: list[tuple[str, torch.cuda.Event]] = []

    def begin(self) -> None:
        """What was done until now is of no part."""
        self._last = self._clock()
        if self._cuda:
            self._record("")

    def lap(self, part: str) -> None:
        if self._cuda:
            self._record(part)
            return
        now = self._clock()
        self.seconds[part] += now - self._last
        self._last = now

    def _record(self, part: str) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append((part, event))
        if len(self._events) >= SETTLE:
            self.settle()

    def settle(self) -> None:
        """Read the GPU's events; nothing to do on a CPU."""
        if len(self._events) < 2:
            return
        self._events[-1][1].synchronize()
        for (_, before), (part, event) in zip(self._events, self._events[1:], strict=False):
            if part:
                self.seconds[part] += before.elapsed_time(event) / 1000
        self._events = self._events[-1:]
