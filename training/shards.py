"""Canonical images on disk: one fixed-size uint8 array a partition, memory-mapped, never decoded again.

A shard is a folder with `images.npy`, uint8 [N, S, S, 3]. `Rows` looks like one such array over rows of several shards,
wherever a `Store` has them, and reads only what is asked for, so a snapshot of a million photos opens at once.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

IMAGES = "images.npy"

Images = NDArray[np.uint8]


class ShardError(Exception):
    """A shard is missing, torn, or not what its snapshot says."""

    for_people = True


def write_shard(folder: Path, images: Iterable[Images], count: int, size: int) -> None:
    """Write `count` images of `size` pixels into `folder/images.npy`, one at a time.

    Memory stays at one image, whatever the count.

    Args:
        images: uint8 [size, size, 3] each, in row order.

    Raises:
        ShardError: not exactly `count` images came.
        ValueError: an image has another shape.
    """
    shape = (count, size, size, 3)
    if count == 0:
        # mmap cannot map an empty file.
        np.save(folder / IMAGES, np.empty(shape, np.uint8), allow_pickle=False)
        return
    target = open_memmap(folder / IMAGES, mode="w+", dtype=np.uint8, shape=shape)
    written = 0
    for image in images:
        if written == count:
            raise ShardError(f"{folder}: more images than the {count} that were announced")
        if image.shape != shape[1:] or image.dtype != np.uint8:
            raise ValueError(f"row {written}: {image.dtype} {image.shape}, a shard takes uint8 {shape[1:]}")
        target[written] = image
        written += 1
    if written != count:
        raise ShardError(f"{folder}: {written} images came, {count} were announced")
    target.flush()


def open_shard(folder: Path) -> Images:
    """The shard's images, uint8 [N, S, S, 3], memory-mapped and read-only.

    Raises:
        ShardError: there is no such file, or it is no array of images.
    """
    path = folder / IMAGES
    try:
        # An empty file's body cannot be mapped.
        images = np.load(path, mmap_mode=None if _is_empty(path) else "r", allow_pickle=False)
    except FileNotFoundError:
        raise ShardError(f"{path}: no such shard; make it again with `classy prepare`") from None
    except (ValueError, EOFError) as error:
        raise ShardError(f"{path}: not a shard ({error}); make it again with `classy prepare`") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ShardError(f"{path}: holds {images.dtype} {images.shape}, a shard is uint8 [N, S, S, 3]")
    return images


def _is_empty(path: Path) -> bool:
    with path.open("rb") as file:
        return 0 in read_header(file)[0]


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran's order, and type of the array that begins here; `file` is at its first number
    then.

    Raises:
        ValueError: no array begins here.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


class Store(Protocol):
    """Where the images of several shards are."""

    size: int
    """Side S of each, in pixels."""
    counts: list[int]
    """Images a shard."""

    def gather(self, shard: NDArray[np.int64], row: NDArray[np.int64]) -> Images:
        """Copies of the images at these rows of these shards, uint8 [N, S, S, 3]."""
        ...


class Mapped:
    """Shards on this machine, memory-mapped. The operating system's page cache is the cache; processes share it."""

    def __init__(self, shards: Sequence[Images], size: int) -> None:
        """Take opened shards.

        Raises:
            ShardError: one is of another size.
        """
        # As plain arrays over the same maps: numpy's memmap costs some microseconds each time a part of it is taken.
        self._shards = [np.asarray(images) for images in shards]
        self.size = size
        self.counts = [len(images) for images in self._shards]
        for number, images in enumerate(self._shards):
            if images.shape[1:] != (size, size, 3):
                raise ShardError(f"shard {number} holds images {images.shape[1:]}, expected {(size, size, 3)}")

    def gather(self, shard: NDArray[np.int64], row: NDArray[np.int64]) -> Images:
        batch = np.empty((len(row), self.size, self.size, 3), np.uint8)
        for number in np.unique(shard):
            mine = np.flatnonzero(shard == number)
            batch[mine] = self._shards[number][row[mine]]
        return batch


class Rows:
    """Rows of several shards, in any order, that index like one uint8 array [N, S, S, 3].

    `rows[3]` is one image; `rows[2:9]` and `rows[[5, 1, 1]]` (or an integer or boolean array) are batches, copied out
    of the store, so `torch.from_numpy(rows[index])` is safe to keep.
    """

    def __init__(self, store: Store, shard: NDArray[np.integer], row: NDArray[np.integer]) -> None:
        """Take a store, and for each of N rows the number of its shard and its row in there.

        Raises:
            ShardError: a shard has no such row.
        """
        self._store = store
        self._shard = np.asarray(shard, np.int64)
        self._row = np.asarray(row, np.int64)
        self.size = store.size
        for number, count in enumerate(store.counts):
            wanted = self._row[self._shard == number]
            if len(wanted) and not 0 <= wanted.min() <= wanted.max() < count:
                raise ShardError(f"shard {number} has {count} rows, row {wanted.max()} was asked for")

    def __len__(self) -> int:
        return len(self._row)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), self.size, self.size, 3)

    def __getitem__(self, index: int | np.integer | slice | Sequence[int] | NDArray[np.generic]) -> Images:
        if isinstance(index, int | np.integer):
            return self[[int(index)]][0]
        if isinstance(index, list | tuple) and not index:
            index = np.empty(0, np.int64)
        where = index if isinstance(index, slice) else np.asarray(index)
        return self._store.gather(self._shard[where], self._row[where])

    def take(self, where: NDArray[np.integer]) -> "Rows":
        """The rows at the positions `where`, still in the store."""
        return Rows(self._store, self._shard[where], self._row[where])

    def __array__(self, dtype: object = None, copy: bool | None = None) -> Images:
        if copy is False:
            raise ValueError("rows of several shards are always copied into one array")
        return self[:] if dtype is None else self[:].astype(dtype)  # type: ignore[call-overload]
