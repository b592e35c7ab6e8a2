"""Where a training stands, in one safetensors file that is replaced whole; and a model's weights on disk.

No pickle: numbers are tensors, everything else is JSON in the file's own metadata.
"""

import json
import os
import uuid
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from training.models import Classifier, ModelSpec, build

State = dict[str, Tensor]


def write_tensors(path: Path, tensors: State, meta: dict[str, Any]) -> None:
    """Write tensors and JSON-plain `meta` as one file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        save_file(plain, part, metadata={"json": json.dumps(meta, sort_keys=True)})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[State, dict[str, Any]]:
    """What `write_tensors` wrote.

    Raises:
        FileNotFoundError, safetensors.SafetensorError: it is not there, or not whole.
    """
    with safetensors.safe_open(path, framework="pt") as file:
        meta = json.loads((file.metadata() or {})["json"])
    return load_file(path), meta


def prefixed(prefix: str, tensors: State) -> State:
    return {f"{prefix}/{key}": value for key, value in tensors.items()}


def without(prefix: str, tensors: State) -> State:
    """The tensors under a prefix, without it."""
    return {key.removeprefix(f"{prefix}/"): value for key, value in tensors.items() if key.startswith(f"{prefix}/")}


def weights_of(module: nn.Module) -> State:
    """A copy of parameters and buffers, on the CPU."""
    return {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}


def optimizer_tensors(optimizer: Optimizer) -> State:
    """The optimizer's moments and step counts, flat."""
    return {
        f"{number}/{name}": value
        for number, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: Optimizer, tensors: State) -> None:
    """Put back what `optimizer_tensors` gave, into an optimizer made the same way."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split("/", 1)
        weight = weights[int(number)]
        if value.shape == weight.shape:
            # The fused kernel walks memory: moments must lie as their weights do (channels-last), or it mixes them up.
            value = torch.empty_like(weight, dtype=value.dtype).copy_(value)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_model(path: Path, model: Classifier, meta: dict[str, Any]) -> None:
    """The weights, with `meta` and the spec that builds the module again."""
    write_tensors(path, weights_of(model), {**meta, "spec": model.spec.to_json()})


def load_model(path: Path) -> tuple[Classifier, dict[str, Any]]:
    """What `save_model` wrote: the module in eval mode on the CPU, and its `meta`."""
    tensors, meta = read_tensors(path)
    with torch.device("cpu"):
        model = build(ModelSpec(**meta["spec"]))
    model.load_state_dict(tensors)
    return model.eval(), meta
