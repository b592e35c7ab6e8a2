"""This process's place among those that train one network, and what they say to each other.

One process is `Workers()`: it is asked the same questions and answers them by itself. Of several each is a `Group`, one
after the other started by torchrun, by Ray or by `classy train`, which all leave the place in RANK, WORLD_SIZE and the
like. Whatever a training decides hangs on what all of them know (the same state, the same readings of one clock, sums
over all), so that they decide the same and none waits for another that has gone another way.
"""

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.batches import Share
from training.checkpoint import State
from training.models import Classifier
from training.options import FitError
from training.place import free_memory

T = TypeVar("T")
Decide = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""`Classifier.decide`, or what stands for it."""

PATIENCE = timedelta(seconds=10)
"""How long one that stops for a reason waits for the others to stop for it too."""
MOURNING = timedelta(seconds=3)
GONE = "/gloo/"
"""In what torch says of an exchange whose other side is gone."""
PROBES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where a process sits, as its environment says."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Among the workers of its machine, of which there are `local_world`."""
    local_world: int = 1

    @classmethod
    def here(cls) -> "Seat":
        """Of this process; of one that nobody started among others, the only one there is."""
        if not is_worker():
            return cls()
        said = os.environ
        return cls(
            rank=int(said["RANK"]),
            world=int(said["WORLD_SIZE"]),
            local_rank=int(said.get("LOCAL_RANK", said["RANK"])),
            local_world=int(said.get("LOCAL_WORLD_SIZE", said["WORLD_SIZE"])),
        )


def is_worker() -> bool:
    """Whether this process was started as one of a number, be it as the only one."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


class Workers:
    """One process that trains alone."""

    def __init__(self, seat: Seat | None = None) -> None:
        self.seat = seat or Seat()
        self.share = Share(rank=self.seat.rank, world=self.seat.world)
        """Its part of whatever is divided."""
        self.leads = self.seat.rank == 0
        """Whether it is the one that writes checkpoints and speaks to the world."""

    def copies(self, device: torch.device) -> int:
        """How many workers share this one's memory: those of a machine do, but not their GPUs'."""
        return 1 if device.type == "cuda" else self.seat.local_world

    def room(self, device: torch.device) -> int | None:
        """Bytes of memory there are for this worker; None: the system does not say."""
        free = free_memory(device)
        return None if free is None else free // self.copies(device)

    def told(self, work: Callable[[], T]) -> T:
        """What `work` gives to the leader, who alone does it; JSON-plain. What it raises there, it raises in all."""
        return work()

    def clock(self, read: Callable[[], float]) -> Callable[[], float]:
        """The leader's clock, for all: who decides by it decides as the others do."""
        return read

    def state(self, read: Callable[[], tuple[State, dict[str, Any]] | None]) -> tuple[State, dict[str, Any]] | None:
        """What the leader reads, tensors and all: nobody else needs to reach the file."""
        return read()

    def summed(self, numbers: Tensor) -> Tensor:
        """Element by element over all workers."""
        return numbers

    def gathered(self, rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """All `count` rows, of which this worker brings its share."""
        return rows

    def prepared(self, model: Classifier) -> Classifier:
        """The model, whose statistics of a batch are of all workers' rows."""
        return model

    def spread(self, model: Classifier, decide: Decide) -> Decide:
        """`decide` such that a way back through it leaves in each worker the mean of all workers' gradients.

        The weights become the leader's.
        """
        return decide

    def exchange_seconds(self, size: int, device: torch.device) -> float:
        """What one exchange of so many bytes of gradients takes, when nothing else is done."""
        return 0.0


ALONE = Workers()


class Group(Workers):
    """One of several, in torch's default process group."""

    def told(self, work: Callable[[], T]) -> T:
        failed: Exception | None = None
        said: dict[str, Any] = {}
        if self.leads:
            try:
                said = {"gave": work()}
            except Exception as error:  # noqa: BLE001 - raised again, in all
                failed, said = error, {"failed": str(error)}
        said = self._sent(said)
        if failed is not None:
            raise failed
        if "failed" in said:
            raise FitError(said["failed"])
        return said["gave"]

    def _sent(self, said: dict[str, Any]) -> dict[str, Any]:
        """The leader's words."""
        text = json.dumps(said).encode() if self.leads else b""
        size = torch.tensor([len(text)])
        dist.broadcast(size, 0)
        packed = torch.frombuffer(bytearray(text), dtype=torch.uint8) if self.leads else _bytes(int(size))
        dist.broadcast(packed, 0)
        return json.loads(packed.numpy().tobytes())

    def clock(self, read: Callable[[], float]) -> Callable[[], float]:
        def reading() -> float:
            now = torch.tensor([read()], dtype=torch.float64)
            dist.broadcast(now, 0)
            return float(now)

        return reading

    def state(self, read: Callable[[], tuple[State, dict[str, Any]] | None]) -> tuple[State, dict[str, Any]] | None:
        tensors: State = {}

        def look() -> dict[str, Any] | None:
            found = read()
            if found is None:
                return None
            tensors.update(found[0])
            kinds = {
                key: (str(value.dtype).removeprefix("torch."), list(value.shape)) for key, value in tensors.items()
            }
            return {"meta": found[1], "kinds": kinds}

        said = self.told(look)
        if said is None:
            return None
        for key, (kind, shape) in said["kinds"].items():
            value = tensors.setdefault(key, torch.empty(shape, dtype=getattr(torch, kind)))
            dist.broadcast(value, 0)
        return tensors, said["meta"]

    def summed(self, numbers: Tensor) -> Tensor:
        total = numbers.clone()
        dist.all_reduce(total)
        return total

    def gathered(self, rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        whole = torch.zeros((count, *rows.shape[1:]))
        whole[self.share.of(count)] = torch.from_numpy(rows)
        dist.all_reduce(whole)
        return whole.numpy()

    def prepared(self, model: Classifier) -> Classifier:
        from training.norm import share_norms

        share_norms(model)
        return model

    def spread(self, model: Classifier, decide: Decide) -> Decide:
        device = next(model.parameters()).device
        # Shared statistics are the same in all: there is nothing to send before a step.
        with warnings.catch_warnings():
            # `broadcast_buffers` is called `forward_sync_buffers` from torch 2.15 on.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                _Decider(model, decide),
                device_ids=[device] if device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )

    def exchange_seconds(self, size: int, device: torch.device) -> float:
        gradients = torch.zeros(max(1, size // 4), device=device)
        return min(_exchange(gradients) for _ in range(PROBES))


class _Decider(nn.Module):
    """`decide` as the forward of a module, which is what torch's DDP takes."""

    def __init__(self, model: Classifier, decide: Decide) -> None:
        super().__init__()
        self.model, self._decide = model, decide

    def forward(self, pixels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        return self._decide(pixels, known)


def _bytes(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8)


def _exchange(gradients: Tensor) -> float:
    dist.barrier()
    started = time.perf_counter()
    dist.all_reduce(gradients)
    if gradients.device.type == "cuda":
        torch.cuda.synchronize(gradients.device)
    return time.perf_counter() - started


class WorkerFailed(RuntimeError):
    """What one worker alone cannot do: perhaps another in its place can."""


@contextmanager
def joined() -> Iterator[Workers]:
    """This process's place, for as long as it works with the others: alone, or in the group that was started with it.

    Raises:
        FitError: torch has no way for workers to speak to each other here.
        WorkerFailed: an error that is meant for people, and the others have none. What all of them raise is raised.
    """
    seat = Seat.here()
    if seat.world == 1:
        yield ALONE
        return
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group(_backend())
    store = dist.distributed_c10d._get_default_group().get_group_store()
    try:
        yield Group(seat)
    except Exception as error:
        if getattr(error, "for_people", False) and not _all_stop(store, seat):
            raise WorkerFailed(f"worker {seat.rank} alone: {error}") from error
        if GONE in str(error):
            _be_stopped(store)
        raise
    finally:
        if ours:
            dist.destroy_process_group()


def _all_stop(store: dist.Store, seat: Seat) -> bool:
    """Whether the others stop as well; asked through the store, for one that works on waits for other words."""
    others = [rank for rank in range(seat.world) if rank != seat.rank]
    with suppress(dist.DistError):
        store.set(f"stops/{seat.rank}", "")
        store.wait([f"stops/{rank}" for rank in others], PATIENCE)
        store.set(f"knows/{seat.rank}", "")
        if seat.rank == 0:
            # The store may be in this process.
            store.wait([f"knows/{rank}" for rank in others], PATIENCE)
        return True
    return False


def _be_stopped(store: dist.Store) -> None:
    """Whoever started the workers takes the first that ends for the cause: one that was left alone lets it go first."""
    with suppress(dist.DistError):
        store.wait(["what nobody sets"], MOURNING)


def _backend() -> str:
    if not (dist.is_available() and dist.is_gloo_available()):
        raise FitError("several workers: this torch was built without gloo; set CLASSY_TRAIN_WORKERS=1")
    if not torch.cuda.is_available():
        return "gloo"
    if not dist.is_nccl_available():
        raise FitError("several workers: this torch was built without NCCL; set CLASSY_DEVICE=cpu")
    return "cpu:gloo,cuda:nccl"
