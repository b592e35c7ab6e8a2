"""Three ways for a batch to come to the device, with one interface. The pixels are the same in each.

- `memory`: every canonical image in memory (on a GPU: in its own), a batch is one gather;
- `shards`: canonical images memory-mapped on disk, a batch is a copy out of the page cache;
- `decode`: photos as they came, decoded by threads when they are wanted.

The last two read ahead while the device works.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.batches import WHOLE, Chunk, Share, chunks
from training.data import Split
from training.distributed import ALONE, Workers
from training.options import FitError
from training.place import cores, free_memory
from training.shards import Images

log = logging.getLogger(__name__)

Name = Literal["memory", "decode", "shards"]
Decode = Callable[[int], Images]
"""Row of the training split → its canonical image, uint8 [S, S, 3], decoded when it is asked for. Threads call it."""

AHEAD = 2
"""Batches that are read while the device works."""
MEMORY_SHARE = 0.25
"""`auto` takes at most so much of the free memory for pictures."""
TRIAL_SECONDS, TRIAL_BATCHES = 0.3, 20
"""What `auto` spends on each way, whichever is over first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """N rows on the device."""

    images: Tensor
    """uint8 [N, S, S, 3]."""
    context: Tensor
    labels: Tensor
    rows: NDArray[np.int64]
    """[N], their numbers in the training split."""
    part: slice
    """Where they are in the batch of all workers, which has `count` rows."""
    count: int


class Input(Protocol):
    """Where batches come from."""

    name: Name

    def batches(
        self, order: NDArray[np.int64], size: int, *, first: int = 0, share: Share = WHOLE
    ) -> Iterator[Callable[[], Batch]]:
        """A worker's share of each batch of `batches.chunks`.

        What is yielded was read already; calling it gives it on the device.
        """
        ...


def make_input(
    name: Name, train: Split, device: torch.device, *, decode: Decode | None = None, threads: int = 0, copies: int = 1
) -> Input:
    """The input called `name`.

    Args:
        decode: what `decode` calls.
        threads: that decode; 0 is one for each core.
        copies: processes that make one such input in the same memory, and share its cores.

    Raises:
        FitError: `decode` without photos, or `memory` that is not there.
    """
    if name == "memory":
        return InMemory(train, device, copies)
    if name == "shards":
        return ReadAhead("shards", train, device, lambda rows: train.images[rows])
    if decode is None:
        raise FitError('input.pipeline = "decode": the photos as they came are not here; use "shards" or "memory"')
    pool = ThreadPoolExecutor(threads or max(1, cores() // copies), thread_name_prefix="decode")
    wanted = decode

    def read(rows: NDArray[np.int64]) -> Images:
        return np.stack(list(pool.map(wanted, rows.tolist())))

    return ReadAhead("decode", train, device, read)


def _batch(chunk: Chunk, images: Tensor, context: Tensor, labels: Tensor) -> Batch:
    return Batch(images=images, context=context, labels=labels, rows=chunk.rows, part=chunk.part, count=chunk.count)


class InMemory:
    """All of it, once a process, where the device can reach it: any row may be wanted of any worker."""

    name: Name = "memory"

    def __init__(self, train: Split, device: torch.device, copies: int = 1) -> None:
        wanted, free = _bytes(train) * copies, free_memory(device)
        if free is not None and wanted > free:
            times = f" {copies} times" if copies > 1 else ""
            raise FitError(
                f'input.pipeline = "memory": the training pictures{times} take {wanted / 1e9:.1f} GB, '
                f'{free / 1e9:.1f} GB are free; use "shards"'
            )
        images = torch.empty(train.images.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(train), 1024):
            part = slice(start, start + 1024)
            images[part] = torch.from_numpy(train.images[part])
        self._flat = images.view(len(train), -1)
        self._shape = train.images.shape[1:]
        self._context = torch.tensor(train.context, device=device)
        self._labels = torch.tensor(train.labels, device=device)

    def batches(
        self, order: NDArray[np.int64], size: int, *, first: int = 0, share: Share = WHOLE
    ) -> Iterator[Callable[[], Batch]]:
        for chunk in chunks(order, size, share, first):
            yield lambda chunk=chunk: self._take(chunk)  # type: ignore[misc]

    def _take(self, chunk: Chunk) -> Batch:
        where = torch.from_numpy(chunk.rows).to(self._flat.device, non_blocking=True)
        images = self._flat.index_select(0, where).view(len(where), *self._shape)
        return _batch(chunk, images, self._context.index_select(0, where), self._labels.index_select(0, where))


class ReadAhead:
    """Batches that a thread reads while the device works. On a GPU they are sent ahead as well."""

    def __init__(
        self, name: Name, train: Split, device: torch.device, read: Callable[[NDArray[np.int64]], Images]
    ) -> None:
        self.name: Name = name
        self._train, self._device, self._read = train, device, read
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def batches(
        self, order: NDArray[np.int64], size: int, *, first: int = 0, share: Share = WHOLE
    ) -> Iterator[Callable[[], Batch]]:
        wanted = chunks(order, size, share, first)
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
            waiting = deque(pool.submit(self._fetch, chunk) for chunk in islice(wanted, AHEAD))
            try:
                while waiting:
                    ready = waiting.popleft().result()
                    waiting.extend(pool.submit(self._fetch, chunk) for chunk in islice(wanted, 1))
                    yield ready
            finally:
                for read in waiting:
                    read.cancel()

    def _fetch(self, chunk: Chunk) -> Callable[[], Batch]:
        rows = chunk.rows
        parts = [
            torch.from_numpy(part) for part in (self._read(rows), self._train.context[rows], self._train.labels[rows])
        ]
        if self._stream is None:
            return lambda: _batch(chunk, *parts)
        with torch.cuda.stream(self._stream):
            there = [part.pin_memory().to(self._device, non_blocking=True) for part in parts]
            sent = self._stream.record_event()

        def take() -> Batch:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(sent)
            for part in there:
                # The allocator must not give it to somebody else while this queue reads it.
                part.record_stream(current)
            return _batch(chunk, *there)

        return take


# ----------------------------------------------------------------------------------------------------- auto


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """An input, and why it is this one."""

    input: Input
    why: str


def pick_input(
    wanted: Literal["auto"] | Name, train: Split, device: torch.device, *, batch: int, decode: Decode | None = None,
    threads: int = 0, workers: Workers = ALONE,
) -> Picked:  # fmt: skip
    """The input that was asked for, or for `auto` the fastest of those there is room for, measured on this machine.

    Of several workers the leader measures, and all take what it found.

    Raises:
        FitError: as `make_input`.
    """
    copies = workers.copies(device)

    def make(name: Name, rows: Split) -> Input:
        return make_input(name, rows, device, decode=decode, threads=threads, copies=copies)

    if wanted != "auto":
        return Picked(input=make(wanted, train), why="asked for")
    best, why = workers.told(lambda: _fastest(train, device, min(batch, len(train)), decode is not None, copies, make))
    log.info("input %s (%s)", best, why)
    return Picked(input=make(best, train), why=why)


def _fastest(
    train: Split, device: torch.device, size: int, decoded: bool, copies: int, make: Callable[[Name, Split], Input]
) -> tuple[Name, str]:
    """The fastest input, and what was measured."""
    free, need = free_memory(device), _bytes(train) * copies
    fits = free is not None and need <= free * MEMORY_SHARE
    sample = _sample(train, size)
    names: list[Name] = ["shards", *(["memory"] if fits else []), *(["decode"] if decoded else [])]  # type: ignore[list-item]
    speeds = {name: _speed(make(name, sample), size, len(sample)) for name in names}
    best = max(speeds, key=lambda name: speeds[name])
    told = ", ".join(f"{name} {speed:,.0f}" for name, speed in sorted(speeds.items(), key=lambda item: -item[1]))
    room = "" if fits else f"; memory is left out: the pictures take {need / 1e9:.1f} GB"
    if not fits and free is not None:
        room += f" of {free / 1e9:.1f} GB free"
    return best, f"images/s: {told}{room}"


def _sample(train: Split, size: int) -> Split:
    """As many rows as a trial can use: the first, so that few days' photos are touched."""
    return train.take(np.arange(min(len(train), size * TRIAL_BATCHES)))


def _speed(source: Input, size: int, rows: int) -> float:
    """Images a second of an input of so many rows, once its first batch has come."""
    order = np.random.default_rng(0).permutation(rows)
    order = np.tile(order, -(-size * (TRIAL_BATCHES + 1) // rows))
    seen, started = 0, 0.0
    for number, take in enumerate(source.batches(order, size)):
        taken = len(take().rows)
        if not number:
            started = time.perf_counter()
            continue
        seen += taken
        if number >= TRIAL_BATCHES or time.perf_counter() - started > TRIAL_SECONDS:
            break
    return seen / max(time.perf_counter() - started, 1e-9)


def _bytes(train: Split) -> int:
    """Of all its pictures."""
    return int(np.prod(train.images.shape, dtype=np.int64))
