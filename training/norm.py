"""Batch normalisation over the rows of all workers (Ioffe & Szegedy 2015), so that how many share a batch is no matter.

torch's own `SyncBatchNorm` is for GPUs alone. This one is for every device, so that what is tested on a CPU is what
runs on a GPU. It keeps its layer's weights and statistics under their names, and is that layer when it does not train.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm


class SharedNorm(_BatchNorm):
    """A batch normalisation of any number of dimensions, with weights and with statistics that move by `momentum`."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"a batch of shape {tuple(input.shape)}: expected [N, C, …]")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        normalised, mean, var, count = _Normalise.apply(input, self.weight, self.bias, self.eps)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        return normalised


class _Normalise(Function):
    """There with the mean and variance of all rows, back with the sums of all rows' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # The kernel that looks at rows where they lie; `var_mean` takes ten times as long on channels-last pictures.
        # What it would update says that sums are wanted in that precision.
        unused = torch.zeros_like(weight)
        own, spread = torch.batch_norm_update_stats(x, unused, torch.zeros_like(weight), 0.0)
        mean, var, count = _joined(own, spread, x.numel() // x.shape[1])
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        # With mean and variance given it is one kernel, as in a network that is not training.
        normalised = torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, torch.backends.cudnn.enabled)
        ctx.mark_non_differentiable(mean, var, count)
        return normalised, mean, var, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, var, count = ctx.saved_tensors
        back, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.cat([by_weight, by_bias])
        dist.all_reduce(sums)
        whole_weight, whole_bias = sums.chunk(2)
        # What a row's gradient owes to the mean and the variance having been made of all rows.
        scale = torch.rsqrt(var + ctx.eps)
        slope = -weight * scale * scale * whole_weight / count
        level = -weight * scale * whole_bias / count - slope * mean
        # The same kernel as x · slope + level: it keeps these in float32, and bfloat16 takes a quarter of the time.
        nought, one = torch.zeros_like(mean), torch.ones_like(var)
        back.add_(torch.batch_norm(x, slope, level, nought, one, False, 0.0, 0.0, False))
        return back, by_weight, by_bias, None


def _joined(mean: Tensor, var: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of all workers' rows from those of each (Chan et al. 1979): no difference of large sums."""
    own = torch.cat([mean, var, mean.new_full((1,), count)])
    flat = own.new_empty(dist.get_world_size() * len(own))
    dist.all_gather_into_tensor(flat, own)
    parts = flat.view(-1, len(own))
    means, variances, counts = parts[:, : len(mean)], parts[:, len(mean) : -1], parts[:, -1:]
    total = counts.sum()
    whole = (means * counts).sum(0) / total
    spread = ((variances + (means - whole).square()) * counts).sum(0) / total
    return whole, spread, total


def share_norms(module: nn.Module) -> None:
    """Put a `SharedNorm` in the place of each batch normalisation within `module`, with the same weights."""
    for name, layer in module.named_children():
        if not isinstance(layer, _BatchNorm):
            share_norms(layer)
            continue
        shared = SharedNorm(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        for key, value in [*layer.named_parameters(), *layer.named_buffers()]:
            setattr(shared, key, value)
        shared.train(layer.training)
        setattr(module, name, shared)
