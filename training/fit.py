"""The training loop: seeded, checkpointed, ended in order by its budget.

What is promised of a training that is killed, anywhere, and run again: on a CPU, with as many threads, it ends with the
weights of one that was not killed, bit for bit, as long as the epochs that were asked for fit into the budget. All
randomness of an epoch is drawn from (seed, epoch), and a checkpoint within an epoch has the states it had come to.

Where the budget does not reach, the plan depends on the clock, and no two runs see the same clock. Then the promise is
that each change of plan is in the checkpoint before a step is made under it: what was decided stays decided, a resumed
training goes on under the same plan, and the time that was spent before counts.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch

from training import checkpoint
from training.batches import epoch_order, side_at
from training.bounds import BoundReport, count_work, probe, report
from training.data import Split
from training.distributed import ALONE, Workers
from training.evaluation import logits_of
from training.inputs import Batch, Input, make_input
from training.memory import check_rows, is_no_room, need_room, no_room
from training.metrics import accuracy, log_loss, softmax
from training.models import Classifier
from training.options import Epoch, FitError, FitOptions, StoppedBy
from training.progress import Place, Progress
from training.schedule import LOOKS, Schedule, rate
from training.stepper import Stepper
from training.watch import Watch

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_SECONDS = 300.0
"""Longest time between two checkpoints; each epoch ends with one anyway."""
CHECK_EVERY = 50
"""Steps of a GPU between two looks at their losses, each of which waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The outcome. The model that was given holds the best weights."""

    epochs: int
    best_epoch: int
    resumed_from: int | None
    stopped_by: StoppedBy
    seconds: float
    """Of all that ever worked on it."""
    work_seconds: float
    """The same times the workers there were."""
    planned: float
    """Epochs that the learning rate's way was fitted to in the end."""
    report: BoundReport | None
    """What this process's steps were bound by; None where it made none."""


class Fit:
    """One training: `run` it. Everything that changes from step to step is here and in its checkpoint.

    Of several workers each runs one, to the same end: what a step decides hangs on state, sums and a clock that are the
    same in all of them.
    """

    def __init__(
        self,
        model: Classifier,
        train: Split,
        val: Split,
        options: FitOptions,
        device: torch.device,
        *,
        source: Input | None = None,
        workers: Workers = ALONE,
        clock: Callable[[], float] = time.monotonic,
        free: int | None = None,
    ) -> None:
        """Check that it can be done at all.

        Args:
            source: where batches of `train` come from; None: its shards.
            workers: this one's place among those that share each batch.
            clock: seconds. Budgets are counted by it, the leader's.
            free: bytes of memory there are for this worker; None: what the system says.

        Raises:
            FitError: too few rows, one class, a batch larger than the data or than the memory.
        """
        share = workers.share
        check_rows(options, train, val, share.world)
        self.work = count_work(model, side=train.images.shape[1], precision=options.precision)
        self.weights = sum(weight.nbytes for weight in model.parameters())
        self.free = workers.room(device) if free is None else free
        need_room(options.name, options.batch, self.work, self.weights, self.free, share.world)
        self.train, self.val, self.options, self.device = train, val, options, device
        self.workers = workers
        self.val_share = val.take(np.arange(len(val))[share.of(len(val))])
        self.stepper = Stepper(model, options, device, workers)
        self.source = source or make_input("shards", train, device)
        self.recent = train.since(options.recent_since)
        self.progress = Progress(schedule=Schedule.of(options.epochs))
        self.watch = Watch(device)
        self.images = self.steps = 0
        self._clock = workers.clock(clock)
        self._since = 0.0

    def run(
        self,
        state: Path,
        *,
        budget_seconds: float,
        on_epoch: Callable[[Epoch], None],
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> Fitted:
        """Train to the end, from the checkpoint in `state` where there is one of the same training.

        Args:
            state: folder of the checkpoint, which the leader alone reads and writes.
            budget_seconds: the schedule is fitted to it where the epochs would take longer.
            on_epoch: told, by the leader, of each epoch after its checkpoint is written; of the last one again on
                resuming.
            checkpoint_seconds: longest time between two checkpoints.

        Raises:
            FitError: the loss is not finite, or there is no memory.
        """
        self._path, self._budget, self._every = state / CHECKPOINT, budget_seconds, checkpoint_seconds
        resumed = self._resume()
        self._since = self._clock()
        if resumed is not None:
            log.info("%s: resumed after epoch %d", self.options.name, resumed)
            if self.progress.history:
                self.workers.told(lambda: on_epoch(self.progress.history[-1]))
        stopped = self._over()
        while stopped is None:
            finished = self._epoch(len(self.progress.history) + 1)
            self._save()
            self.workers.told(partial(on_epoch, finished))
            stopped = self._over()
        self.stepper.model.load_state_dict(self.progress.best)
        return Fitted(
            epochs=len(self.progress.history),
            best_epoch=self.progress.best_epoch,
            resumed_from=resumed,
            stopped_by=stopped,
            seconds=self.progress.seconds,
            work_seconds=self.progress.work,
            planned=self.progress.schedule.until,
            report=self._report(),
        )

    def _over(self) -> StoppedBy | None:
        progress, done = self.progress, len(self.progress.history)
        if progress.position >= self.options.epochs:
            return "epochs"
        if self.options.patience and done - progress.best_epoch >= self.options.patience:
            return "patience"
        if done and (progress.position >= progress.schedule.until or progress.seconds >= self._budget):
            return "budget"
        return None

    # ---------------------------------------------------------------------------------------------- epochs

    def _epoch(self, number: int) -> Epoch:
        """Steps to the end of the epoch, or to where the plan or the budget ends, then a validation."""
        options, progress = self.options, self.progress
        order = epoch_order(options, self.recent, number)
        steps = math.ceil(len(order) / options.batch)
        place = progress.place or Place.at_start(options, number, self._spent(), self.workers.share.rank)
        progress.place = place
        self.stepper.model.train()
        position, lr = number - 1 + place.step / steps, 0.0
        self.watch.begin()
        for take in self.source.batches(order, options.batch, first=place.step, share=self.workers.share):
            self.watch.lap("wait")
            share = progress.schedule.share(position)
            lr = rate(options.lr, share)
            self._step(take, place, share, lr)
            position = number - 1 + place.step / steps
            if self.device.type == "cpu" or place.step % CHECK_EVERY == 0:
                self._check(place, order, number, lr)
            spent = self._spent()
            self._look(spent, position, place, order, number, lr)
            if position >= progress.schedule.until or spent + progress.evaluation >= self._budget:
                break
            self.watch.begin()
        else:
            position = float(number)
        self._check(place, order, number, lr)
        return self._validated(number, position, place, lr)

    def _step(self, take: Callable[[], Batch], place: Place, share: float, lr: float) -> None:
        try:
            batch = take()
            self.watch.lap("copy")
            side = side_at(share, batch.images.shape[1], self.options)
            loss = self.stepper.step(batch, lr=lr, side=side, rng=place.rng, watch=self.watch)
        except (RuntimeError, MemoryError) as error:
            if not is_no_room(error):
                raise
            world = self.workers.share.world
            fits = no_room(self.options.name, self.options.batch, self.work, self.weights, self.free or 0, world)
            raise FitError(fits) from error
        place.losses.append(loss * len(batch.rows))
        place.seen += batch.count
        place.step += 1
        self.images += len(batch.rows)
        self.steps += 1

    def _validated(self, number: int, position: float, place: Place, lr: float) -> Epoch:
        progress, started = self.progress, self._clock()
        self.watch.begin()
        logits, _ = logits_of(self.stepper.judged, self.val_share, self.device, self.options.precision, embedded=False)
        probabilities = softmax(self.workers.gathered(logits, len(self.val)))
        self.watch.lap("evaluation")
        progress.evaluation = self._clock() - started
        self.progress.aside += progress.evaluation
        finished = Epoch(
            epoch=number,
            position=position,
            planned=progress.schedule.until,
            train_loss=float(torch.stack(place.losses).sum()) / place.seen,
            val_loss=log_loss(probabilities, self.val.labels),
            val_accuracy=accuracy(probabilities, self.val.labels),
            lr=lr,
            seconds=self._spent() - place.spent,
        )
        if not math.isfinite(finished.val_loss):
            raise FitError(self._not_finite("validation loss", finished.val_loss, number, lr, ""))
        self._note(finished)
        return finished

    def _note(self, finished: Epoch) -> None:
        progress = self.progress
        progress.place = None
        progress.history.append(finished)
        if finished.val_loss < progress.best_loss:
            progress.best_loss, progress.best_epoch = finished.val_loss, finished.epoch
            progress.best = checkpoint.weights_of(self.stepper.judged)
        log.info(
            "%s: epoch %d/%.4g, loss %.4f, val accuracy %.4f, %.1f s",
            self.options.name,
            finished.epoch,
            finished.planned,
            finished.train_loss,
            finished.val_accuracy,
            finished.seconds,
        )

    def _check(self, place: Place, order: np.ndarray, number: int, lr: float) -> None:
        """Stop at the first batch that was not looked at yet and whose loss, all workers' together, is not finite."""
        if place.checked == len(place.losses):
            return
        losses = self.workers.summed(torch.stack(place.losses[place.checked :]))
        place.losses[place.checked :] = losses.unbind()
        if not torch.isfinite(losses).all():
            bad = place.checked + int(torch.isfinite(losses).logical_not().nonzero()[0])
            rows = order[bad * self.options.batch : (bad + 1) * self.options.batch]
            photos = ", ".join(str(name) for name in self.train.image_ids[rows[:3]])
            where = f", in batch {bad + 1} (photos {photos}{', …' if len(rows) > 3 else ''})"
            raise FitError(self._not_finite("loss", float(place.losses[bad]), number, lr, where))
        place.checked = len(place.losses)

    def _not_finite(self, what: str, value: float, number: int, lr: float, where: str) -> str:
        kept = f"; the checkpoint of epoch {len(self.progress.history)} is kept" if self.progress.history else ""
        return (
            f"candidate {self.options.name}: the {what} is {value} in epoch {number} at lr={lr:.3g}{where}; "
            f'lower its lr ({self.options.lr:g}) or use precision = "float32"{kept}'
        )

    # ---------------------------------------------------------------------------------------------- the clock

    def _spent(self) -> float:
        """Seconds of the training until now."""
        return self.progress.seconds + self._clock() - self._since

    def _look(self, spent: float, position: float, place: Place, order: np.ndarray, number: int, lr: float) -> None:
        """Plan anew each time a part of the budget is spent, save when the last save is long ago."""
        progress = self.progress
        steps_spent = spent - progress.aside
        if progress.mark is None:
            # The first step of a process is slower than others: kernels are chosen, or compiled.
            progress.mark = (steps_spent, position)
        changed = False
        if steps_spent - progress.mark[0] >= self._budget / LOOKS and position > progress.mark[1]:
            progress.pace = (steps_spent - progress.mark[0]) / (position - progress.mark[1])
            progress.mark = (steps_spent, position)
            changed = self._plan(position, spent)
        if changed or spent - progress.seconds >= self._every:
            self._check(place, order, number, lr)
            self._save()

    def _plan(self, position: float, spent: float) -> bool:
        left = self._budget - spent
        return self.progress.schedule.replan(
            position, left=left, pace=self.progress.pace, evaluation=self.progress.evaluation
        )

    # ---------------------------------------------------------------------------------------- checkpoints

    def _save(self) -> None:
        self.watch.begin()
        progress, now = self.progress, self._clock()
        progress.work += (now - self._since) * self.workers.share.world
        progress.seconds, self._since = progress.seconds + now - self._since, now
        progress.budget, progress.updates = self._budget, self.stepper.updates
        self.workers.told(self._write)
        self.progress.aside += self._clock() - now
        self.watch.lap("checkpoint")

    def _write(self) -> None:
        progress = self.progress
        tensors = {**self.stepper.tensors(), **checkpoint.prefixed("best", progress.best)}
        if progress.place is not None:
            tensors |= checkpoint.prefixed("place", progress.place.tensors(self.device))
        checkpoint.write_tensors(self._path, tensors, {**progress.to_json(), "options": self.options.digest()})

    def _resume(self) -> int | None:
        """Take up the checkpoint, if it is of this very training; gives the last finished epoch."""
        found = self.workers.state(self._read)
        if found is None:
            return None
        tensors, meta = found
        self.stepper.restore(tensors, meta["updates"])
        self.progress = Progress.restored(meta, tensors, self.device, self.workers.share.rank)
        if meta["budget"] != self._budget and self.progress.pace:
            # Somebody gave it more time, or less.
            self._plan(self.progress.position, self.progress.seconds)
        return len(self.progress.history)

    def _read(self) -> tuple[checkpoint.State, dict[str, Any]] | None:
        try:
            tensors, meta = checkpoint.read_tensors(self._path)
        except FileNotFoundError:
            return None
        except safetensors.SafetensorError as error:
            log.warning("%s: %s is not whole (%s); training starts over", self.options.name, self._path, error)
            return None
        if meta["options"] != self.options.digest():
            log.warning("%s: %s is of another training; training starts over", self.options.name, self._path)
            return None
        return tensors, meta

    def _report(self) -> BoundReport | None:
        self.watch.settle()
        if not self.images:
            return None
        peak = probe(self.device, self.options.precision)
        return report(
            self.watch.seconds,
            self.images,
            work=self.work,
            peak=peak,
            device=self.device,
            input_name=self.source.name,
            workers=self.workers.share.world,
            exchange=self.workers.exchange_seconds(self.weights, self.device) * self.steps,
        )
