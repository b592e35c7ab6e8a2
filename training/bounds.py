"""What holds a training back: the way its time went, and what its device could do at best (Williams et al. 2009).

One step is counted on shapes alone, without a number computed: multiplications, bytes through memory, bytes that
are kept for the way back. Beside what the device does in a tenth of a second of nothing else, that says whether
multiplying or moving takes the longer.
"""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from training.models import Classifier
from training.watch import PARTS

Bound = Literal["input", "compute", "memory", "exchange"]

INPUT_SHARE = 0.1
"""A training that waits and copies for more of its steps' time than this is bound by its input."""
BUSY = 0.3
"""Below this share of what the device could do, neither multiplying nor moving explains the time: steps are small."""
PROBE_SIDE, PROBE_BYTES, PROBES = 768, 32 << 20, 3
COUNTED = 13
"""Rows that are counted. No width is 13: a tensor with so many rows has one an image, others are weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one image costs, there and back."""

    flops: float
    moved: float
    """Bytes that operations read and write, each by itself."""
    kept: float
    """Bytes that wait for the way back."""


class _Counter(TorchDispatchMode):
    """Counts multiplications, and the bytes that go in and out of operations that are no mere views."""

    def __init__(self) -> None:
        super().__init__()
        self.flops, self.moved = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=found)
        if not func.is_view:
            self.moved += sum(_image_bytes(leaf) for leaf in tree_leaves((args, found)))
        return found


def _image_bytes(leaf: object) -> int:
    return leaf.nbytes if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == COUNTED else 0


def count_work(model: Classifier, *, side: int, precision: str = "float32") -> Work:
    """The work of a training step on pictures of `side` pixels, an image. Nothing is computed, nothing is changed."""
    ghost = copy.deepcopy(model).to("meta").train()
    pixels = torch.empty((COUNTED, 3, side, side), device="meta")
    known = torch.empty((COUNTED, model.spec.context), device="meta")
    labels = torch.empty(COUNTED, dtype=torch.int64, device="meta")
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor)] = tensor
        return tensor

    with _Counter() as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits, _ = ghost.decide(pixels, known)
            loss = functional.cross_entropy(logits, labels)
        loss.backward()
    width = (0.5 if precision == "bfloat16" else 1.0) / COUNTED
    waiting = sum(_image_bytes(tensor) for tensor in kept.values())
    return Work(flops=counter.flops / COUNTED, moved=counter.moved * width, kept=waiting * width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What the device did when it did nothing else: multiplications and additions, and bytes moved, a second."""

    flops: float
    bytes: float


def probe(device: torch.device, precision: str = "float32") -> Peak:
    """Multiply two matrices and copy 32 MB, a few times each; some 50 ms on a CPU core."""
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    one = torch.ones((PROBE_SIDE, PROBE_SIDE), dtype=kind, device=device)
    out = torch.empty_like(one)
    here = torch.ones(PROBE_BYTES, dtype=torch.uint8, device=device)
    there = torch.empty_like(here)
    multiplied = _fastest(lambda: torch.mm(one, one, out=out), device)
    copied = _fastest(lambda: there.copy_(here), device)
    return Peak(flops=2 * PROBE_SIDE**3 / multiplied, bytes=2 * PROBE_BYTES / copied)


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    found = float("inf")
    for _ in range(PROBES + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found = min(found, time.perf_counter() - started)
    return found


# --------------------------------------------------------------------------------------------------- report


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundReport:
    """What a training's steps spent their time on, and what would make them faster."""

    bound: Bound
    remedy: str
    seconds: dict[str, float]
    """By part: PARTS of the steps, then what lies outside of them."""
    images_per_s: float
    """In the steps, of all workers."""
    waiting: float
    """Share of the steps' time that waits for data."""
    compute: float
    """Share of the steps' time that multiplying alone would take at the device's best."""
    memory: float
    """The same of moving; operations that find their bytes in a cache take less than that."""
    exchange: float
    """Share of the steps' time that workers would take to exchange gradients, if they did nothing else meanwhile."""
    input: str
    gpu_busy: float | None = None
    """Share of the time in which the GPU had work; None on a CPU."""
    gpu_memory: int | None = None
    """Bytes at the most."""

    def figures(self) -> dict[str, float]:
        """All numbers, flat."""
        found = {f"seconds_{part}": spent for part, spent in self.seconds.items()}
        found |= {name: getattr(self, name) for name in ("images_per_s", "waiting", "compute", "memory", "exchange")}
        more = {"gpu_busy": self.gpu_busy, "gpu_memory": self.gpu_memory}
        return found | {name: float(value) for name, value in more.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def report(
    seconds: Mapping[str, float], images: int, *, work: Work, peak: Peak, device: torch.device, input_name: str,
    workers: int = 1, exchange: float = 0.0,
) -> BoundReport:  # fmt: skip
    """Name the bound of steps that took `seconds` by part for so many images.

    Args:
        workers: that did as much each.
        exchange: seconds that they would take to exchange as many gradients and do nothing else.
    """
    steps = max(sum(seconds[part] for part in PARTS), 1e-9)
    waiting, copying = seconds["wait"] / steps, seconds["copy"] / steps
    compute, memory = images * work.flops / peak.flops / steps, images * work.moved / peak.bytes / steps
    shares: dict[Bound, float] = {"compute": compute, "memory": memory, "exchange": exchange / steps}
    bound = max(shares, key=lambda name: shares[name])
    if waiting + copying > INPUT_SHARE:
        bound = "input"
    on_gpu = device.type == "cuda"
    return BoundReport(
        bound=bound,
        remedy=_remedy(bound, input_name, max(shares.values()), on_gpu),
        seconds={part: round(spent, 4) for part, spent in seconds.items()},
        images_per_s=images * workers / steps,
        waiting=waiting,
        compute=compute,
        memory=memory,
        exchange=shares["exchange"],
        input=input_name,
        gpu_busy=1 - waiting if on_gpu else None,
        gpu_memory=torch.cuda.max_memory_allocated(device) if on_gpu else None,
    )


def _remedy(bound: Bound, input_name: str, explained: float, on_gpu: bool) -> str:
    if bound == "input":
        return {
            "decode": 'input.pipeline = "shards" decodes each photo once, not each epoch; or more input.workers',
            "shards": 'input.pipeline = "memory" where the pictures fit; else a faster disk, or a larger batch',
            "memory": "a larger batch: one gather for more pictures",
        }[input_name]
    if explained < BUSY:
        return "a larger batch: steps are too small, the device spends them on beginning and ending operations"
    if bound == "exchange":
        return "fewer exchanges: a larger batch, or fewer workers on a faster network"
    if bound == "compute":
        faster = "" if on_gpu else ", a GPU, more CLASSY_THREADS"
        return (
            f"fewer multiplications: a smaller image.size, width or progressive, bfloat16 where the chip has it{faster}"
        )
    return (
        "fewer bytes: bfloat16 where the chip has it, compile = true (what is fused is not written between), less width"
    )
