"""Many photos at once: every core decodes and runs the model, results come in order, memory is bounded.

A block of photos goes through decoding and the model in one thread, which takes the next block when it is done. So no
stage waits for another, no core is left over where one stage is dearer, and the caller writes what comes meanwhile.
"""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving.canonical import ImageSpec
from serving.components.decoders import Room
from serving.components.preprocessor import prepare
from serving.engines.choose import choose_engine
from serving.photos import Photo, answer
from serving.problems import Problem
from serving.runtime import Answer, read_package

PIXELS = 50_000_000
"""Decoded at once in all threads together; a larger photo is decoded alone."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Scorer:
    """A model package in the quickest runtime of this machine that says what torch said.

    Several threads may call it at once; each call works on one core, and leaves the interpreter to others meanwhile.

    Args:
        folder: the package.
        runtime: auto, openvino or onnxruntime.
        threads: calls that are expected at the same time.

    Raises:
        ModelError: the package is not what it says, or nothing here runs it as torch did.
    """

    def __init__(self, folder: Path, *, runtime: str = "auto", threads: int = 1) -> None:
        package = read_package(folder)
        chosen = choose_engine(folder, package, runtime=runtime, threads=threads)
        self.card: dict[str, Any] = package.card
        self.classes: tuple[str, ...] = tuple(package.card["classes"])
        self.threads = threads
        self.runtime, self.precision = chosen.engine.name, chosen.engine.precision
        self.agreement = chosen.agreement
        """Largest difference of a probability from torch's on the package's probe; None: it has none."""
        self._engine = chosen.engine
        self._room = Room(PIXELS)

    def about(self) -> dict[str, Any]:
        """What ran, for manifests: runtime, precision, agreement."""
        return {"runtime": self.runtime, "precision": self.precision, "agreement": self.agreement}

    def predict(self, images: NDArray[np.uint8], context: NDArray[np.float32]) -> Answer:
        """Classes of canonical images, uint8 [N, S, S, 3], and their context, float32 [N, F]. N may be large."""
        return self._engine.predict(np.ascontiguousarray(images), np.ascontiguousarray(context, np.float32))

    def read(self, photos: Iterable[Photo], spec: ImageSpec) -> None:
        """Fill each photo's image, stats and content_hash, or its problem; those with a problem are passed over."""
        asked = []
        for photo in photos:
            if photo.problem is None and photo.photo is None:
                photo.problem = Problem("bad_request", "photo: is missing")
            if photo.problem is None:
                asked.append(photo)
        for photo, problem in zip(asked, prepare(asked, spec, self._room), strict=True):
            photo.problem = problem

    def classify(self, photos: Sequence[Photo]) -> None:
        """Fill probabilities, label and confidence of photos that have an image and a context."""
        asked = [photo for photo in photos if photo.problem is None]
        if not asked:
            return
        images = np.stack([photo.image for photo in asked])  # type: ignore[misc]
        context = np.stack([photo.context for photo in asked])  # type: ignore[misc]
        probabilities = self.predict(images, context).probabilities
        answer(asked, probabilities, self.classes)


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int | None = None
) -> Iterator[Result]:
    """`map` in threads, results in the order of the items.

    Items are taken as there is room for them: at most `threads` are worked on and `ahead` more wait or are done
    (default: as many again), so memory does not grow with their number. The caller works on a result while the threads
    make the next ones. An error in `work` is raised in its item's place, and what waits is dropped.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="batch") as pool:
        yield from _ordered(pool, work, items, threads + (threads if ahead is None else ahead))


class Processes(Generic[Item, Result]):
    """`in_order` in processes, each on one core with an interpreter of its own: quicker for long work, slow to start.

    Args:
        make: gives the function that each process calls; made there, at its first item. Both travel to the processes,
            as items and results do.
        count: of processes.
    """

    def __init__(self, make: Callable[[], Callable[[Item], Result]], count: int) -> None:
        # Not forked: a runtime's threads, and locks that they hold, would be missing in the child.
        context = multiprocessing.get_context("spawn")
        self._count = count
        self._pool = ProcessPoolExecutor(count, context, initializer=_begin, initargs=(make,))

    def __enter__(self) -> "Processes[Item, Result]":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def map(self, items: Iterable[Item]) -> Iterator[Result]:
        """As `in_order`. An error while the function is made is raised at the first item."""
        return _ordered(self._pool, _call, items, 2 * self._count)


def _ordered(pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], most: int) -> Iterator[Result]:
    under_way: deque[Future[Result]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) >= most:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


_made: dict[str, Any] = {}  # of this process, where it is one of `Processes`


def _begin(make: Callable[[], Any]) -> None:
    _made["make"] = make


def _call(item: Any) -> Any:
    if "work" not in _made:
        _made["work"] = _made["make"]()
    return _made["work"](item)
