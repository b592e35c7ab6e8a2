"""Many worlds in processes."""

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Never

import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.scorecard.album import Album, Look, make_album, open_album
from pipelines.scorecard.play import Played, play
from pipelines.scorecard.worlds import Change, changes_of, make_world
from pipelines.settings import Settings
from pipelines.training_sections import SklearnCandidate


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A scorecard of one recipe."""

    recipe: Recipe
    candidate: SklearnCandidate
    changes: tuple[Change, ...]
    worlds: int
    """Of each kind; those of one kind take turns through its changes."""
    seed: int


def candidate_of(recipe: Recipe) -> SklearnCandidate:
    """The recipe's baseline: what a world is played with.

    Raises:
        ClassyError: the recipe has none.
    """
    found = [candidate for candidate in recipe.candidates if isinstance(candidate, SklearnCandidate)]
    if not found:
        raise ClassyError(
            f"recipe {recipe.name}: has no candidate of kind sklearn, which a scorecard's worlds are played with: "
            "hundreds of trainings of a network take days. Add one to [[candidates]]"
        )
    return found[0]


def ask(recipe: Recipe, *, worlds: int, kinds: Sequence[str], seed: int) -> Asked:
    """All worlds of these kinds.

    Raises:
        ClassyError: the recipe cannot be played.
    """
    if not recipe.is_replayed:
        raise ClassyError(
            f"recipe {recipe.name}: its photos have times of their own; worlds are dealt from photos without"
        )
    changes = tuple(change for change in changes_of(recipe) if change.kind in kinds)
    return Asked(recipe=recipe, candidate=candidate_of(recipe), changes=changes, worlds=worlds, seed=seed)


def run(settings: Settings, asked: Asked, *, processes: int) -> list[Played]:
    """Play them all. The same seed gives the same worlds, however many processes."""
    looks = tuple(dict.fromkeys(look for change in asked.changes for look in change.looks))
    jobs = list(_jobs(asked))
    with TemporaryDirectory(prefix="classy-scorecard-") as name:
        folder = Path(name)
        make_album(settings, asked.recipe, looks, folder)
        given = (folder, looks, asked.recipe, asked.candidate)
        with tqdm(total=len(jobs), desc=f"{asked.recipe.name}: worlds", unit="world", disable=None) as bar:
            return list(_told(_played(jobs, given, processes), bar))


def _told(played: Iterable[Played], bar: "tqdm[Never]") -> Iterator[Played]:
    for one in played:
        bar.update()
        yield one


def _played(
    jobs: Sequence[tuple[Change, int]], given: tuple[Path, Sequence[Look], Recipe, SklearnCandidate], processes: int
) -> Iterator[Played]:
    if processes == 1:
        _begin(*given)
        yield from map(_play, jobs)
        return
    # Spawned, so that no thread of numpy or torch is forked in the middle of its work.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=given)
    try:
        yield from pool.map(_play, jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def _jobs(asked: Asked) -> Iterator[tuple[Change, int]]:
    for kind in dict.fromkeys(change.kind for change in asked.changes):
        own = [change for change in asked.changes if change.kind == kind]
        for number in range(asked.worlds):
            yield own[number % len(own)], asked.seed + number


@dataclass(frozen=True, slots=True)
class _Table:
    album: Album
    recipe: Recipe
    candidate: SklearnCandidate


_HERE: list[_Table] = []
"""A worker's own: what all its worlds share."""


def _begin(folder: Path, looks: Sequence[Look], recipe: Recipe, candidate: SklearnCandidate) -> None:
    # Worlds keep the cores busy; threads of one world would only wait for each other.
    torch.set_num_threads(1)
    threadpool_limits(1)
    _HERE[:] = [_Table(open_album(folder, looks), recipe, candidate)]


def _play(job: tuple[Change, int]) -> Played:
    (change, seed), table = job, _HERE[0]
    return play(make_world(table.recipe, table.album, change, seed), change, seed, table.candidate)
