"""The learning rate's way from start to end, fitted to the time that is left.

How far a training is, is its *share*: 0 before the first step, 1 after the last. While the epochs that were asked for
fit into the budget, the share is epochs done / epochs asked, and the clock has no say. When they do not, the rest of
the way is fitted to the epochs that there is time for: the rate still ends at its end, and goes on from where it is.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

LOOKS = 20
"""How often a training looks at the clock to plan anew: each time another such part of the budget is spent. The first
part is never judged by fewer seconds than that, so that a machine's hiccup is no pace."""
RESERVE = 1.02
"""Paces are taken for so much slower than they were."""
TAIL = 0.1
"""A smaller part of an epoch at the end is not worth a validation of its own."""
WARM_UP = 0.15
"""Share of the steps in which the learning rate rises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The time a training may take, and which of its limits that is."""

    seconds: float
    named: str
    """`train_minutes`, `gpu_hours` or `money`."""


def tightest(
    *, minutes: float, gpu_hours: float = 0.0, money: float = 0.0, price_per_hour: float = 0.0, gpus: int = 0
) -> Budget:
    """The limit that is reached first. 0 hours or 0 money is no limit; GPU-hours are spent by GPUs alone.

    Raises:
        ValueError: money without a price.
    """
    found = [Budget(seconds=minutes * 60, named="train_minutes")]
    if gpu_hours and gpus:
        found.append(Budget(seconds=gpu_hours * 3600 / gpus, named="gpu_hours"))
    if money:
        if not price_per_hour:
            raise ValueError("money: needs a price_per_hour to be counted in hours")
        found.append(Budget(seconds=money / price_per_hour * 3600, named="money"))
    return min(found, key=lambda budget: budget.seconds)


@dataclass(slots=True)
class Schedule:
    """A plan: steps up to `until` epochs, along a share that is straight from (`at`, `share_there`) to (`until`, 1)."""

    epochs: int
    """Asked for."""
    until: float
    """Planned: at most `epochs`."""
    at: float = 0.0
    """Epochs done when the plan was made."""
    share_there: float = 0.0

    @classmethod
    def of(cls, epochs: int) -> "Schedule":
        return cls(epochs=epochs, until=float(epochs))

    def share(self, position: float) -> float:
        """How far the training is after `position` epochs, 0 to 1."""
        if self.until <= self.at:
            return 1.0
        return self.share_there + (1.0 - self.share_there) * (position - self.at) / (self.until - self.at)

    def replan(self, position: float, *, left: float, pace: float, evaluation: float) -> bool:
        """Fit what is left to the time that is left; gives whether that changed the plan.

        Args:
            position: epochs done.
            left: seconds.
            pace: seconds an epoch of steps.
            evaluation: seconds of a validation, which ends each epoch.
        """
        whole = (pace + evaluation) * RESERVE
        if (self.epochs - position) * whole <= left:
            until = float(self.epochs)
        else:
            until = position + max(0.0, left - evaluation * RESERVE) / whole
            if until - math.floor(until) < TAIL and math.floor(until) > position:
                until = float(math.floor(until))
        if until == self.until:
            return False
        self.at, self.share_there, self.until = position, self.share(position), until
        return True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rate(lr: float, share: float) -> float:
    """One cycle: up in a straight line, down along a cosine to a hundredth of `lr`."""
    share = min(share, 1.0)
    if share < WARM_UP:
        return lr * (0.05 + 0.95 * share / WARM_UP)
    return lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP))))
