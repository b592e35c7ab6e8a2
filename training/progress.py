"""What a training remembers besides tensors that torch keeps: its history, its plan, its place in an epoch."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training import checkpoint
from training.options import Epoch, FitOptions
from training.schedule import Schedule

PLAIN = ("best_epoch", "best_loss", "seconds", "work", "aside", "pace", "evaluation", "budget", "updates")
"""Fields of a progress that are numbers."""


@dataclass(slots=True, kw_only=True)
class Place:
    """Where within an epoch a training is: the next step, and the random states it is made with."""

    step: int
    losses: list[Tensor]
    """Of the steps before, [] each, times their rows."""
    seen: int
    """Rows of those steps."""
    spent: float
    """Seconds of the training when the epoch began."""
    rng: np.random.Generator
    """Of augmentation, the same in all workers. Torch's own state, which dropout draws from, is each process's."""
    checked: int = 0
    """How many of the losses are known to be finite, and are those of all workers."""

    @classmethod
    def at_start(cls, options: FitOptions, number: int, spent: float, rank: int = 0) -> "Place":
        """The first step of epoch `number`. All its randomness is drawn from (seed, epoch), dropout's from rank too."""
        # Dropout inside torchvision's networks draws from torch's own state.
        torch.manual_seed(int(np.random.default_rng([options.seed, number, 2, rank]).integers(2**62)))
        rng = np.random.default_rng([options.seed, number, 1])
        return cls(step=0, losses=[], seen=0, spent=spent, rng=rng)

    def tensors(self, device: torch.device) -> checkpoint.State:
        found = {"losses": torch.stack(self.losses) if self.losses else torch.empty(0), "cpu": torch.get_rng_state()}
        return found | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})

    def to_json(self) -> dict[str, Any]:
        state = self.rng.bit_generator.state
        return {"step": self.step, "seen": self.seen, "spent": self.spent, "rng": state}

    @classmethod
    def restored(cls, meta: dict[str, Any], tensors: checkpoint.State, device: torch.device, rank: int = 0) -> "Place":
        torch.set_rng_state(tensors["cpu"])
        if device.type == "cuda" and "cuda" in tensors:
            torch.cuda.set_rng_state(tensors["cuda"], device)
        if rank:
            # The states are the leader's: the others must not drop what it drops.
            torch.manual_seed(int(torch.randint(2**62, ())) + rank)
        rng = np.random.default_rng()
        rng.bit_generator.state = meta["rng"]
        losses = list(tensors["losses"].to(device).unbind())
        return cls(
            step=meta["step"], losses=losses, seen=meta["seen"], spent=meta["spent"], rng=rng, checked=len(losses)
        )


@dataclass(slots=True, kw_only=True)
class Progress:
    """All of it."""

    schedule: Schedule
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    best: checkpoint.State = field(default_factory=dict)
    seconds: float = 0.0
    """Of the training, whoever worked on it, up to the last checkpoint of each."""
    work: float = 0.0
    """The same times the workers there were."""
    aside: float = 0.0
    """Of them, what was no step: validations and checkpoints."""
    mark: tuple[float, float] | None = None
    """Seconds of steps, and epochs done, when the clock was last looked at."""
    pace: float = 0.0
    """Seconds an epoch of steps, when it was last looked at."""
    evaluation: float = 0.0
    """Seconds of the last validation."""
    budget: float = math.inf
    """Seconds that the plan was made for."""
    updates: int = 0
    place: Place | None = None
    """None between epochs."""

    @property
    def position(self) -> float:
        """Epochs done, whole ones and the last one's part."""
        return self.history[-1].position if self.history else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in PLAIN},
            "mark": self.mark,
            "history": [asdict(epoch) for epoch in self.history],
            "schedule": self.schedule.to_json(),
            "place": None if self.place is None else self.place.to_json(),
        }

    @classmethod
    def restored(
        cls, meta: dict[str, Any], tensors: checkpoint.State, device: torch.device, rank: int = 0
    ) -> "Progress":
        """What `to_json` gave, and the tensors beside it; torch's random state is put back."""
        place = meta["place"]
        return cls(
            **{name: meta[name] for name in PLAIN},
            mark=None if meta["mark"] is None else tuple(meta["mark"]),
            history=[Epoch(**entry) for entry in meta["history"]],
            schedule=Schedule(**meta["schedule"]),
            best=checkpoint.without("best", tensors),
            place=None if place is None else Place.restored(place, checkpoint.without("place", tensors), device, rank),
        )
