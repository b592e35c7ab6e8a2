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

from training.data import Split
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


class Input(Protocol):
    """Where batches come from."""

    name: Name

    def batches(self, order: NDArray[np.int64], size: int, *, first: int = 0) -> Iterator[Callable[[], Batch]]:
        """The rows of `order`, `size` at a time, from batch number `first` on.

        What is yielded was read already; calling it gives it on the device. A last batch of one row is left out: batch
        normalisation has nothing to say about it.
        """
        ...


def make_input(
    name: Name, train: Split, device: torch.device, *, decode: Decode | None = None, workers: int = 0
) -> Input:
    """The input called `name`.

    Args:
        decode: what `decode` calls.
        workers: threads that decode; 0 is one for each core.

    Raises:
        FitError: `decode` without photos, or `memory` that is not there.
    """
    if name == "memory":
        return InMemory(train, device)
    if name == "shards":
        return ReadAhead("shards", train, device, lambda rows: train.images[rows])
    if decode is None:
        raise FitError('input.pipeline = "decode": the photos as they came are not here; use "shards" or "memory"')
    pool = ThreadPoolExecutor(workers or cores(), thread_name_prefix="decode")
    wanted = decode

    def read(rows: NDArray[np.int64]) -> Images:
        return np.stack(list(pool.map(wanted, rows.tolist())))

    return ReadAhead("decode", train, device, read)


def _chunks(order: NDArray[np.int64], size: int, first: int) -> Iterator[NDArray[np.int64]]:
    for start in range(first * size, len(order), size):
        rows = order[start : start + size]
        if len(rows) > 1:
            yield rows


class InMemory:
    """All of it, once, where the device can reach it."""

    name: Name = "memory"

    def __init__(self, train: Split, device: torch.device) -> None:
        wanted, free = _bytes(train), free_memory(device)
        if free is not None and wanted > free:
            raise FitError(
                f'input.pipeline = "memory": the training pictures take {wanted / 1e9:.1f} GB, {free / 1e9:.1f} GB are '
                'free; use "shards"'
            )
        images = torch.empty(train.images.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(train), 1024):
            part = slice(start, start + 1024)
            images[part] = torch.from_numpy(train.images[part])
        self._flat = images.view(len(train), -1)
        self._shape = train.images.shape[1:]
        self._context = torch.tensor(train.context, device=device)
        self._labels = torch.tensor(train.labels, device=device)

    def batches(self, order: NDArray[np.int64], size: int, *, first: int = 0) -> Iterator[Callable[[], Batch]]:
        for rows in _chunks(order, size, first):
            yield lambda rows=rows: self._take(rows)  # type: ignore[misc]

    def _take(self, rows: NDArray[np.int64]) -> Batch:
        where = torch.from_numpy(rows).to(self._flat.device, non_blocking=True)
        return Batch(
            images=self._flat.index_select(0, where).view(len(rows), *self._shape),
            context=self._context.index_select(0, where),
            labels=self._labels.index_select(0, where),
            rows=rows,
        )


class ReadAhead:
    """Batches that a thread reads while the device works. On a GPU they are sent ahead as well."""

    def __init__(
        self, name: Name, train: Split, device: torch.device, read: Callable[[NDArray[np.int64]], Images]
    ) -> None:
        self.name: Name = name
        self._train, self._device, self._read = train, device, read
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def batches(self, order: NDArray[np.int64], size: int, *, first: int = 0) -> Iterator[Callable[[], Batch]]:
        chunks = _chunks(order, size, first)
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
            waiting = deque(pool.submit(self._fetch, rows) for rows in islice(chunks, AHEAD))
            try:
                while waiting:
                    ready = waiting.popleft().result()
                    waiting.extend(pool.submit(self._fetch, rows) for rows in islice(chunks, 1))
                    yield ready
            finally:
                for read in waiting:
                    read.cancel()

    def _fetch(self, rows: NDArray[np.int64]) -> Callable[[], Batch]:
        parts = [
            torch.from_numpy(part) for part in (self._read(rows), self._train.context[rows], self._train.labels[rows])
        ]
        if self._stream is None:
            return lambda: Batch(images=parts[0], context=parts[1], labels=parts[2], rows=rows)
        with torch.cuda.stream(self._stream):
            there = [part.pin_memory().to(self._device, non_blocking=True) for part in parts]
            sent = self._stream.record_event()

        def take() -> Batch:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(sent)
            for part in there:
                # The allocator must not give it to somebody else while this queue reads it.
                part.record_stream(current)
            return Batch(images=there[0], context=there[1], labels=there[2], rows=rows)

        return take


# ----------------------------------------------------------------------------------------------------- auto


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """An input, and why it is this one."""

    input: Input
    why: str


def pick_input(
    wanted: Literal["auto"] | Name, train: Split, device: torch.device, *, batch: int, decode: Decode | None = None,
    workers: int = 0,
) -> Picked:  # fmt: skip
    """The input that was asked for, or for `auto` the fastest of those there is room for, measured on this machine.

    Raises:
        FitError: as `make_input`.
    """
    if wanted != "auto":
        return Picked(input=make_input(wanted, train, device, decode=decode, workers=workers), why="asked for")
    free, need = free_memory(device), _bytes(train)
    fits = free is not None and need <= free * MEMORY_SHARE
    size = min(batch, len(train))
    sample = _sample(train, size)
    names: list[Name] = ["shards", *(["memory"] if fits else []), *(["decode"] if decode else [])]  # type: ignore[list-item]
    speeds = {
        name: _speed(make_input(name, sample, device, decode=decode, workers=workers), size, len(sample))
        for name in names
    }
    best = max(speeds, key=lambda name: speeds[name])
    told = ", ".join(f"{name} {speed:,.0f}" for name, speed in sorted(speeds.items(), key=lambda item: -item[1]))
    room = "" if fits else f"; memory is left out: the pictures take {need / 1e9:.1f} GB"
    if not fits and free is not None:
        room += f" of {free / 1e9:.1f} GB free"
    why = f"images/s: {told}{room}"
    log.info("input %s (%s)", best, why)
    return Picked(input=make_input(best, train, device, decode=decode, workers=workers), why=why)


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
