"""Many worlds in processes."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
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
        # Spawned, so that no thread of numpy or torch is forked in the middle of its work.
        context = multiprocessing.get_context("spawn")
        given = (folder, looks, asked.recipe.model_dump_json(by_alias=True), asked.candidate.name)
        with (
            tqdm(total=len(jobs), desc=f"{asked.recipe.name}: worlds", unit="world", disable=None) as bar,
            ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=given) as pool,
        ):
            try:
                played = []
                for one in pool.map(_play, jobs):
                    played.append(one)
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return played


def _jobs(asked: Asked) -> Iterator[tuple[Change, int]]:
    for kind in dict.fromkeys(change.kind for change in asked.changes):
        own = [change for change in asked.changes if change.kind == kind]
        for number in range(asked.worlds):
            yield own[number % len(own)], asked.seed + number


_HERE: dict[str, object] = {}
"""A worker's own: what all its worlds share."""


def _begin(folder: Path, looks: Sequence[Look], recipe: str, candidate: str) -> None:
    torch.set_num_threads(1)
    found = Recipe.model_validate_json(recipe)
    _HERE.update(album=open_album(folder, looks), recipe=found, candidate=found.candidate(candidate))


def _play(job: tuple[Change, int]) -> Played:
    change, seed = job
    recipe, album = _HERE["recipe"], _HERE["album"]
    if not isinstance(recipe, Recipe) or not isinstance(album, Album):
        raise TypeError("a worker was not begun")
    return play(make_world(recipe, album, change, seed), change, seed, _HERE["candidate"])
