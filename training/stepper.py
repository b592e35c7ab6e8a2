"""One step of a training: augment, forward, backward, update, average; each part on the watch."""

import copy

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW

from training import checkpoint
from training.batches import augment, draw
from training.distributed import ALONE, Workers
from training.inputs import Batch
from training.models import Classifier
from training.options import FitOptions
from training.watch import Watch

CLIP = 5.0


class Stepper:
    """The model on its device, its optimizer, and the average of its weights where that was asked for."""

    def __init__(self, model: Classifier, options: FitOptions, device: torch.device, workers: Workers = ALONE) -> None:
        self.options, self.device = options, device
        self._world = workers.share.world
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        self.model = workers.prepared(model).to(device, memory_format=layout)  # type: ignore[call-overload]
        decayed = [weight for weight in model.parameters() if weight.ndim > 1]
        others = [weight for weight in model.parameters() if weight.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = AdamW(groups, lr=options.lr, fused=options.fused, foreach=False if not options.fused else None)
        self.decide = workers.spread(model, torch.compile(model.decide) if options.compile else model.decide)
        self.average = copy.deepcopy(model).eval() if options.ema else None
        self._live = [] if self.average is None else _moving(self.model)
        self._kept = [] if self.average is None else _moving(self.average)
        self.updates = 0

    @property
    def judged(self) -> Classifier:
        """What is validated and kept: the average where there is one."""
        return self.model if self.average is None else self.average

    def step(self, batch: Batch, *, lr: float, side: int, rng: np.random.Generator, watch: Watch) -> Tensor:
        """Learn from this worker's rows of a batch, shown at `side` pixels; gives their mean loss, [] on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        moves = draw(batch.count, batch.images.shape[1], self.options, rng).of(batch.part)
        images = augment(batch.images, moves)
        keep = torch.from_numpy(moves.told).to(self.device)
        watch.lap("augment")
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bfloat16"):
            pixels = self.model.pixels(images)
            if not self.options.channels_last:
                pixels = pixels.contiguous()
            if side != images.shape[1]:
                pixels = functional.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)
            logits, _ = self.decide(pixels, self.model.known(batch.context) * keep)
        smoothing = self.options.label_smoothing
        loss = functional.cross_entropy(logits.float(), batch.labels, label_smoothing=smoothing)
        watch.lap("forward")
        self.optimizer.zero_grad()
        # The mean over workers of what each one's rows weigh is the mean over the batch, however it is divided.
        (loss * (self._world * len(batch.rows) / batch.count)).backward()
        watch.lap("backward")
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self._follow()
        watch.lap("optimiser")
        return loss.detach()

    @torch.no_grad()
    def _follow(self) -> None:
        self.updates += 1
        if self.average is None:
            return
        # The first weights know nothing: the average forgets them sooner than its decay says.
        decay = min(self.options.ema, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._kept, self._live, 1 - decay)

    # ---------------------------------------------------------------------------------------- checkpoints

    def tensors(self) -> checkpoint.State:
        found = {
            **checkpoint.prefixed("model", checkpoint.weights_of(self.model)),
            **checkpoint.prefixed("optimizer", checkpoint.optimizer_tensors(self.optimizer)),
        }
        if self.average is not None:
            found |= checkpoint.prefixed("average", checkpoint.weights_of(self.average))
        return found

    def restore(self, tensors: checkpoint.State, updates: int) -> None:
        """Put back what `tensors` gave."""
        self.model.load_state_dict(checkpoint.without("model", tensors))
        checkpoint.restore_optimizer(self.optimizer, checkpoint.without("optimizer", tensors))
        if self.average is not None:
            self.average.load_state_dict(checkpoint.without("average", tensors))
        self.updates = updates


def _moving(model: Classifier) -> list[Tensor]:
    """What training moves: weights, and the statistics of normalisation. Colours and context have theirs for good, and
    one of those may be infinite, which has no average."""
    statistics = [value for name, value in model.named_buffers() if name.endswith(("running_mean", "running_var"))]
    return [*model.parameters(), *statistics]
