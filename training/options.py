"""What a training is told, and what it tells: plain values without a tensor."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

StoppedBy = Literal["epochs", "budget", "patience"]


class FitError(Exception):
    """A training cannot go on; the message says where it was and what to change."""

    for_people = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """How to train. `recent_since`: rows captured at or after it are drawn `recent_weight` times as often."""

    name: str
    seed: int
    epochs: int
    """At most; a budget may plan fewer."""
    batch: int
    lr: float
    weight_decay: float
    label_smoothing: float
    flip: bool
    shift: float
    recent_weight: float = 1.0
    recent_since: str | None = None
    patience: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    ema: float = 0.0
    """Decay a step of the averaged weights that are validated and kept; 0: the weights themselves are."""
    progressive: float = 1.0
    """Side of the pictures at the beginning, as a share of their own; it grows until PROGRESSIVE_UNTIL."""
    channels_last: bool = True
    fused: bool = True
    """The optimizer's update as one kernel a dtype, not some ten a weight."""
    compile: bool = False
    data: str = ""
    """Identity of the training rows: a checkpoint of other rows is not resumed."""

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One finished epoch, or the part of one that the budget had room for; validation numbers are uncalibrated."""

    epoch: int
    position: float
    """Epochs of steps that are done: less than `epoch` where the budget ended it within one."""
    planned: float
    """Epochs that the schedule was fitted to, when this one ended."""
    train_loss: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float
