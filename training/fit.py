"""The training loop: seeded, checkpointed each epoch, ended in order by its budget.

All randomness of an epoch is drawn from (seed, epoch), so a run that was killed and resumed at the last finished
epoch gives exactly what an unkilled one gives. On a CPU two runs with as many threads give the same weights.
"""

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW

from training import checkpoint
from training.data import Split
from training.metrics import accuracy, log_loss, softmax
from training.models import Classifier

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
EVALUATION_BATCH = 256
CONTEXT_DROP = 0.2
"""Share of training rows whose context is hidden, so that the picture alone is enough for a new sender."""
WARM_UP = 0.15
"""Share of the steps in which the learning rate rises."""
CLIP = 5.0


class FitError(Exception):
    """A training cannot go on; the message says where it was and what to change."""

    for_people = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """How to train. `recent_since`: rows captured at or after it are drawn `recent_weight` times as often."""

    name: str
    seed: int
    epochs: int
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
    data: str = ""
    """Identity of the training rows: a checkpoint of other rows is not resumed."""

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One finished epoch; validation numbers are uncalibrated."""

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The outcome. The model that was given holds the best weights."""

    epochs: int
    best_epoch: int
    resumed_from: int | None
    stopped_by: Literal["epochs", "budget", "patience"]
    seconds: float
    """Of all processes that worked on it."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """What a checkpoint remembers besides tensors."""

    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    best: checkpoint.State = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "history": [asdict(epoch) for epoch in self.history],
            "best_epoch": self.best_epoch,
            "best_loss": self.best_loss,
            "seconds": self.seconds,
        }


# --------------------------------------------------------------------------------------------- where and how


def pick_device(wanted: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        FitError: CUDA was asked for and there is none.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise FitError("CLASSY_DEVICE=cuda: torch finds no CUDA device here; set it to cpu or auto")
    return torch.device(wanted)


def pick_precision(wanted: str, device: torch.device) -> Literal["float32", "bfloat16"]:
    """`auto` is bfloat16 where the chip multiplies it natively: measured 1.3 to 5 times as fast on such CPUs."""
    if wanted in ("float32", "bfloat16"):
        return wanted  # type: ignore[return-value]
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


def use_threads(threads: int) -> int:
    """Let torch use so many threads; 0 is one for each core this process may run on. Gives the number."""
    if threads == 0:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads)
    return threads


# --------------------------------------------------------------------------------------------------- batches


def epoch_order(options: FitOptions, recent: NDArray[np.bool_], epoch: int) -> NDArray[np.int64]:
    """Row numbers of one epoch, shuffled: every row once, recent ones `recent_weight` times on average."""
    rng = np.random.default_rng([options.seed, epoch])
    rows = np.arange(len(recent))
    extra = options.recent_weight - 1.0
    if extra > 0 and recent.any():
        again = np.flatnonzero(recent)
        part = rng.random(len(again)) < extra - int(extra)
        rows = np.concatenate([rows, np.repeat(again, int(extra)), again[part]])
    return rng.permutation(rows)


def augment(images: Tensor, options: FitOptions, rng: np.random.Generator) -> Tensor:
    """Shift each of uint8 [N, S, S, 3] at random, repeating its edge, and mirror half of them where it is allowed."""
    count, side = images.shape[0], images.shape[1]
    most = round(options.shift * side)
    if not most and not options.flip:
        return images
    line = np.arange(side)
    down, right = rng.integers(-most, most + 1, (2, count, 1))
    rows = np.clip(line + down, 0, side - 1)
    columns = np.clip(line + right, 0, side - 1)
    if options.flip:
        columns = np.where(rng.random((count, 1)) < 0.5, columns[:, ::-1], columns)
    which = torch.arange(count, device=images.device)[:, None, None]
    there = (
        torch.from_numpy(rows)[:, :, None].to(images.device),
        torch.from_numpy(columns)[:, None, :].to(images.device),
    )
    return images[which, there[0], there[1]]


def _batches(train: Split, order: NDArray[np.int64], size: int, device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        if len(rows) < 2:
            # Batch normalisation has nothing to say about one row.
            continue
        yield (
            torch.from_numpy(train.images[rows]).to(device, non_blocking=True),
            torch.from_numpy(train.context[rows]).to(device, non_blocking=True),
            torch.from_numpy(train.labels[rows]).to(device, non_blocking=True),
        )


def logits_of(
    model: Classifier, rows: Split, device: torch.device, precision: str = "float32"
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits [N, C] and embeddings [N, E] of all rows, in order, without gradients. Leaves the model in eval mode."""
    model.eval()
    logits, embeddings = [], []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        for images, context, _ in rows.batches(EVALUATION_BATCH):
            answer = model(torch.tensor(images, device=device), torch.tensor(context, device=device))
            logits.append(answer[0].float().cpu().numpy())
            embeddings.append(answer[1].float().cpu().numpy())
    return np.concatenate(logits), np.concatenate(embeddings)


# ------------------------------------------------------------------------------------------------------- fit


class Fit:
    """One training: `run` it. Everything that changes from epoch to epoch is here and in its checkpoint."""

    def __init__(self, model: Classifier, train: Split, val: Split, options: FitOptions, device: torch.device) -> None:
        if len(train) < 2 or not len(val):
            raise FitError(f"{options.name}: {len(train)} training and {len(val)} validation rows are too few to train")
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.train, self.val, self.options, self.device = train, val, options, device
        decayed = [weight for weight in model.parameters() if weight.ndim > 1]
        others = [weight for weight in model.parameters() if weight.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = AdamW(groups, lr=options.lr, fused=True)
        since = np.datetime64(options.recent_since) if options.recent_since else None
        self.recent = np.zeros(len(train), bool) if since is None else train.captured_at >= since
        self.progress = Progress()

    def run(self, state: Path, *, budget_seconds: float, on_epoch: Callable[[Epoch], None]) -> Fitted:
        """Train to the end, from the checkpoint in `state` where there is one of the same training.

        Args:
            state: folder of the checkpoint.
            budget_seconds: ends the training in order, with the best weights, even within an epoch.
            on_epoch: told of each epoch after its checkpoint is written; of the last one again on resuming.

        Raises:
            FitError: the loss is not finite.
        """
        resumed = self._resume(state / CHECKPOINT)
        if resumed is not None:
            log.info("%s: resumed after epoch %d", self.options.name, resumed)
            on_epoch(self.progress.history[-1])
        stopped = self._over(budget_seconds)
        while stopped is None:
            number = len(self.progress.history) + 1
            finished = self._epoch(number, budget_seconds)
            if finished is None:
                stopped = "budget"
                break
            checkpoint_meta = {**self.progress.to_json(), "options": self.options.digest()}
            checkpoint.write_tensors(state / CHECKPOINT, self._tensors(), checkpoint_meta)
            on_epoch(finished)
            stopped = self._over(budget_seconds)
        self.model.load_state_dict(self.progress.best)
        return Fitted(
            epochs=len(self.progress.history),
            best_epoch=self.progress.best_epoch,
            resumed_from=resumed,
            stopped_by=stopped,
            seconds=self.progress.seconds,
        )

    def _over(self, budget_seconds: float) -> Literal["epochs", "budget", "patience"] | None:
        done = len(self.progress.history)
        if done >= self.options.epochs:
            return "epochs"
        if self.options.patience and done - self.progress.best_epoch >= self.options.patience:
            return "patience"
        return "budget" if done and self.progress.seconds >= budget_seconds else None

    def _epoch(self, number: int, budget_seconds: float) -> Epoch | None:
        """One epoch; None when the budget ended within it (but the first always ends with an evaluation)."""
        options, started = self.options, time.monotonic()
        order = epoch_order(options, self.recent, number)
        rng = np.random.default_rng([options.seed, number, 1])
        steps = math.ceil(len(order) / options.batch)
        total, seen, rate = 0.0, 0, 0.0
        self.model.train()
        # Dropout inside torchvision's networks draws from torch's own state.
        torch.manual_seed(int(np.random.default_rng([options.seed, number, 2]).integers(2**62)))
        losses = []
        for step, (images, context, labels) in enumerate(_batches(self.train, order, options.batch, self.device)):
            rate = self._rate(number - 1 + step / steps)
            losses.append(self._step(augment(images, options, rng), context, labels, rate, rng).detach() * len(labels))
            seen += len(labels)
            if self.progress.seconds + time.monotonic() - started >= budget_seconds:
                if self.progress.history:
                    return None
                break
        total = float(torch.stack(losses).sum())
        self._check(total, number, rate)
        logits, _ = logits_of(self.model, self.val, self.device, options.precision)
        probabilities = softmax(logits)
        finished = Epoch(
            epoch=number,
            train_loss=total / seen,
            val_loss=log_loss(probabilities, self.val.labels),
            val_accuracy=accuracy(probabilities, self.val.labels),
            lr=rate,
            seconds=time.monotonic() - started,
        )
        self._check(finished.val_loss, number, rate)
        self._note(finished)
        return finished

    def _step(self, images: Tensor, context: Tensor, labels: Tensor, rate: float, rng: np.random.Generator) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        keep = torch.from_numpy((rng.random((len(labels), 1)) >= CONTEXT_DROP).astype(np.float32)).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bfloat16"):
            logits, _ = self.model.decide(self.model.pixels(images), self.model.known(context) * keep)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self.options.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        return loss

    def _rate(self, position: float) -> float:
        """One cycle: up in a straight line, down along a cosine. `position` counts epochs from 0."""
        share = position / self.options.epochs
        if share < WARM_UP:
            return self.options.lr * (0.05 + 0.95 * share / WARM_UP)
        return self.options.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP))))

    def _check(self, loss: float, number: int, rate: float) -> None:
        if not math.isfinite(loss):
            raise FitError(
                f"candidate {self.options.name}: the loss is {loss} in epoch {number} at lr={rate:.3g}; "
                f'lower its lr ({self.options.lr:g}) or use precision = "float32"'
            )

    def _note(self, finished: Epoch) -> None:
        progress = self.progress
        progress.history.append(finished)
        progress.seconds += finished.seconds
        if finished.val_loss < progress.best_loss:
            progress.best_loss, progress.best_epoch = finished.val_loss, finished.epoch
            progress.best = checkpoint.weights_of(self.model)
        log.info(
            "%s: epoch %d/%d, loss %.4f, val accuracy %.4f, %.1f s",
            self.options.name,
            finished.epoch,
            self.options.epochs,
            finished.train_loss,
            finished.val_accuracy,
            finished.seconds,
        )

    # ---------------------------------------------------------------------------------------- checkpoints

    def _tensors(self) -> checkpoint.State:
        return {
            **checkpoint.prefixed("model", checkpoint.weights_of(self.model)),
            **checkpoint.prefixed("best", self.progress.best),
            **checkpoint.prefixed("optimizer", checkpoint.optimizer_tensors(self.optimizer)),
        }

    def _resume(self, path: Path) -> int | None:
        """Take up the checkpoint, if it is of this very training; gives the last finished epoch."""
        try:
            tensors, meta = checkpoint.read_tensors(path)
        except FileNotFoundError:
            return None
        except safetensors.SafetensorError as error:
            log.warning("%s: %s is not whole (%s); training starts over", self.options.name, path, error)
            return None
        if meta["options"] != self.options.digest():
            log.warning("%s: %s is of another training; training starts over", self.options.name, path)
            return None
        self.model.load_state_dict(checkpoint.without("model", tensors))
        checkpoint.restore_optimizer(self.optimizer, checkpoint.without("optimizer", tensors))
        self.progress = Progress(
            history=[Epoch(**entry) for entry in meta["history"]],
            best_epoch=meta["best_epoch"],
            best_loss=meta["best_loss"],
            best=checkpoint.without("best", tensors),
            seconds=meta["seconds"],
        )
        return len(self.progress.history)
