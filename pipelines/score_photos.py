"""The champion over photos that are no day's: an archive, a folder, a bucket, into one Parquet table.

    classy score-photos archive/ --day 2026-03-07 --to scores/archive

They are fetched, decoded and classified on every core at once, a few in memory at a time; a photo that cannot be
answered has its problem in its row. Nothing goes into `predictions`: the monitor watches the days, and these are none.
The same photos for the same champion and day are scored once.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from monitoring.days import end_of
from monitoring.stores import open_store
from pipelines import files
from pipelines.data import features
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.scoring import ANSWERS, ASKED, PhotoScorer, Wanted, blocks_of, gathered
from pipelines.settings import Settings
from pipelines.sources.base import identify, number_repeats
from serving.batch import Processes, in_order

ANSWERED = "answers.parquet"
MANY = 20_000
"""Photos from which on processes pay: each takes some seconds to start, and saves a fifth of the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotosScored:
    """What was answered. `problems` counts the photos that were not by the word of their problem."""

    scores_uri: str | None
    generation: int | None
    version: str | None
    photos: int
    answered: int
    problems: dict[str, int]
    reason: str


def run(
    settings: Settings,
    recipe: Recipe,
    *,
    photos: Sequence[str],
    to: str,
    day: date,
    senders: Sequence[str] = (),
    processes: int = 0,
    ray: str = "",
) -> PhotosScored:
    """Write the partition `to`: `answers.parquet` (`pipelines.scoring.ANSWERS`), and its manifest.

    Args:
        photos: paths or fsspec URIs.
        to: a folder or fsspec URI; what is there is replaced if it was made of other photos or by another model.
        day: senders are told about as the store knows them now, and a profile too old by this day's end is none.
        senders: one a photo; empty: nobody knows them.
        processes: of this machine that score, in place of threads; 0: one a core from MANY photos on, else threads.
        ray: address of a Ray cluster that scores, or `local` for one that is started here. Empty: this process does.

    Raises:
        ClassyError: the champion was made for other images or features than the recipe's, there are no features, or a
            process was killed.
    """
    champion = open_store(settings.database_url).current()
    if champion is None:
        nobody = "no champion yet; `classy evaluate` and `classy promote` make one"
        return PhotosScored(
            scores_uri=None, generation=None, version=None, photos=len(photos), answered=0, problems={}, reason=nobody
        )
    asked = asked_of(photos, senders)
    made_of = {
        "asked_hash": _hash_of(asked),
        "run_id": champion["champion_run_id"],
        "service_hash": features.service_hash(recipe),
        "day": str(day),
    }
    manifest = files.read_manifest(to)
    if manifest is None or any(manifest.get(name) != value for name, value in made_of.items()):
        wanted = Wanted(
            settings=settings,
            recipe=recipe,
            run_id=champion["champion_run_id"],
            at=end_of(day),
            threads=settings.cores,
        )
        with files.new_partition(to) as draft:
            counted = write_answers(draft.folder / ANSWERED, _answers(wanted, asked, processes, ray), len(asked))
            draft.meta = {
                **made_of,
                **counted,
                "generation": champion["generation"],
                "version": champion["champion_version"],
            }
        manifest = files.need_manifest(to, "score-photos")
    return PhotosScored(
        scores_uri=to,
        generation=manifest["generation"],
        version=manifest["version"],
        photos=len(asked),
        answered=manifest["answered"],
        problems=manifest["problems"],
        reason="",
    )


def asked_of(photos: Sequence[str], senders: Sequence[str] = ()) -> pa.Table:
    """Rows of ASKED. A photo's name is its place, or a hash of it; one that comes again is told apart by its number.

    Raises:
        ClassyError: there is not one sender a photo.
    """
    if senders and len(senders) != len(photos):
        raise ClassyError(f"senders: are {len(senders)}, photos are {len(photos)}; give one a photo, or none at all")
    names = number_repeats(pd.Series([identify(place) for place in photos], dtype=object))
    return pa.Table.from_pydict(
        {"image_id": names.tolist(), "source_id": list(senders) or [""] * len(photos), "place": list(photos)}, ASKED
    )


def write_answers(path: Path, answers: Iterable[pa.Table], count: int) -> dict[str, object]:
    """Write the answers as they come, with a bar on standard error; gives what a manifest says of them."""
    problems: Counter[str] = Counter()
    with (
        pq.ParquetWriter(path, ANSWERS) as writer,
        tqdm(total=count, desc="score", unit="photo", disable=None) as bar,
    ):

        def counted() -> Iterator[pa.Table]:
            for table in answers:
                problems.update(text.partition(":")[0] for text in table["problem"].to_pylist() if text)
                bar.update(len(table))
                yield table

        for table in gathered(counted()):
            writer.write_table(table)
    return {"rows": count, "answered": count - problems.total(), "problems": dict(sorted(problems.items()))}


def _answers(wanted: Wanted, asked: pa.Table, processes: int, ray: str) -> Iterator[pa.Table]:
    if ray:
        try:
            from pipelines.scoring_ray import answers
        except ModuleNotFoundError as error:
            raise ClassyError(f"--ray {ray}: Ray is not installed here ({error}); `uv sync --extra ray`") from error
        yield from answers(wanted, asked, address=ray)
    elif (count := processes or (wanted.threads if len(asked) >= MANY else 1)) > 1:
        try:
            with Processes(partial(PhotoScorer, replace(wanted, threads=1)), count) as workers:
                yield from workers.map(blocks_of(asked))
        except BrokenProcessPool as error:
            raise ClassyError(
                f"one of {count} scoring processes was killed, most likely for want of memory; nothing was kept. Give "
                f"it fewer (--processes, CLASSY_THREADS)"
            ) from error
    else:
        yield from in_order(PhotoScorer(wanted), blocks_of(asked), threads=wanted.threads)


def _hash_of(asked: pa.Table) -> str:
    """Of what was asked, and how large and old each local file is; the bytes would have to be read for theirs."""
    digest = hashlib.sha256()
    for row in asked.to_pylist():
        place = row["place"]
        try:
            stat = None if "://" in place else os.stat(place)
        except OSError:  # a photo that is not there is a problem of its row
            stat = None
        known = [stat.st_size, stat.st_mtime_ns] if stat else []
        digest.update(json.dumps([place, row["source_id"], *known]).encode() + b"\n")
    return digest.hexdigest()
