"""Pictures of shards on another machine, read row by row when they are wanted.

What is read first is kept on this disk while there is room, and the rest is read again whenever it is wanted. Each
epoch wants each row once, in another order: what would be put out for something newer is as likely to be wanted next,
so nothing is.
"""

import io
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock

import fsspec
import numpy as np
from numpy.typing import NDArray

from pipelines.errors import ClassyError
from training.shards import IMAGES, Images, ShardError, read_header

log = logging.getLogger(__name__)

HEAD = 256
"""Bytes of a shard's file that its header is within."""


class Streamed:
    """A `training.shards.Store` of files on one fsspec filesystem. Threads may read from it at once."""

    def __init__(self, shards: Sequence[str], size: int, *, folder: Path, keep: int) -> None:
        """Read the header of each shard.

        Args:
            shards: URIs of shards of `size` pixels, on one filesystem.
            folder: where rows are kept, in a file without a name that goes when the process does.
            keep: bytes of it at most.

        Raises:
            ShardError, ClassyError: a file is no such shard, or cannot be read.
        """
        self.size, self._shape = size, (size, size, 3)
        self._bytes = size * size * 3
        self._fs = fsspec.url_to_fs(shards[0])[0]
        others = [uri for uri in shards if fsspec.url_to_fs(uri)[0] is not self._fs]
        if others:
            raise ClassyError(f"{others[0]}: is in another store than {shards[0]}; a snapshot's shards must be in one")
        self._paths = [f"{fsspec.url_to_fs(uri)[1]}/{IMAGES}" for uri in shards]
        heads = self._read([(number, 0, HEAD) for number in range(len(shards))])
        found = [self._header(path, head) for path, head in zip(self._paths, heads, strict=True)]
        self.counts = [count for count, _ in found]
        self._starts = [start for _, start in found]
        self._first = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)
        """Each shard's first row, counted over all of them."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder, prefix=".stream-")  # noqa: SIM115  (as long as this lives)
        self._slots = min(int(self._first[-1]), keep // self._bytes)
        self._slot = np.full(int(self._first[-1]), -1, np.int64)
        """Where in the file a row is kept; -1: nowhere."""
        self.kept = 0
        """Rows in the file."""
        self._lock = Lock()

    def gather(self, shard: NDArray[np.int64], row: NDArray[np.int64]) -> Images:
        wanted, back = np.unique(self._first[shard] + row, return_inverse=True)
        batch = np.empty((len(wanted), *self._shape), np.uint8)
        slots = self._slot[wanted]
        for at in np.flatnonzero(slots >= 0):
            os.preadv(self._file.fileno(), [batch[at].data], slots[at] * self._bytes)
        missing = np.flatnonzero(slots < 0)
        done = 0
        for part in self._read(list(self._spans(wanted[missing]))):
            rows = np.frombuffer(part, np.uint8).reshape(-1, *self._shape)
            batch[missing[done : done + len(rows)]] = rows
            done += len(rows)
        self._keep(wanted[missing], batch[missing])
        return batch[back]

    def _spans(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
        """Shard, first and last byte + 1 of each run of rows, which are sorted, that lie side by side."""
        if not len(rows):
            return
        shard = np.searchsorted(self._first, rows, side="right") - 1
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(shard) != 0)) + 1
        for run in np.split(np.arange(len(rows)), breaks):
            number = int(shard[run[0]])
            inside = int(rows[run[0]] - self._first[number])
            start = self._starts[number] + inside * self._bytes
            yield number, start, start + len(run) * self._bytes

    def _read(self, spans: list[tuple[int, int, int]]) -> list[bytes]:
        """The bytes of each span: side by side where the filesystem can do that."""
        if not spans:
            return []
        numbers, starts, ends = zip(*spans, strict=True)
        paths = [self._paths[number] for number in numbers]
        try:
            parts = self._fs.cat_ranges(paths, list(starts), list(ends), on_error="raise")
        except FileNotFoundError as error:
            raise ShardError(f"{error}: no such shard any more; make it again with `classy prepare`") from error
        except OSError as error:
            raise ClassyError(f"{paths[0]}: cannot be read: {error}") from error
        for path, start, end, part in zip(paths, starts, ends, parts, strict=True):
            if len(part) != end - start and start:
                raise ShardError(f"{path}: ends before byte {end}; make it again with `classy prepare`")
        return parts

    def _header(self, path: str, head: bytes) -> tuple[int, int]:
        """Rows of a shard, and its first picture's first byte."""
        file = io.BytesIO(head)
        try:
            shape, fortran, dtype = read_header(file)
        except ValueError as error:
            raise ShardError(f"{path}: not a shard ({error}); make it again with `classy prepare`") from error
        if dtype != np.uint8 or fortran or shape[1:] != self._shape:
            raise ShardError(f"{path}: holds {dtype} {shape}, expected uint8 {('N', *self._shape)}")
        return shape[0], file.tell()

    def _keep(self, rows: NDArray[np.int64], images: Images) -> None:
        with self._lock:
            new = np.flatnonzero(self._slot[rows] < 0)[: self._slots - self.kept]
            if not len(new):
                return
            data = np.ascontiguousarray(images[new])
            try:
                whole = os.pwrite(self._file.fileno(), data.data, self.kept * self._bytes) // self._bytes
            except OSError as error:
                whole = 0
                log.warning("%s: pictures that are not kept on this disk are read again when they are wanted", error)
            # A row is found there only once it is there.
            self._slot[rows[new[:whole]]] = self.kept + np.arange(whole)
            self.kept += whole
            if whole < len(new):
                self._slots = self.kept
