"""How often unchanged windows are called drift: ours, as recipes decide, and Evidently's defaults on the same windows.

    python -m benchmarks.bench_alarms [--recipe digits-month] [--worlds 100] [--windows 4] [--processes 2]

Worlds are the scorecard's quiet ones: a first champion is fitted, and windows are drawn from the days after. The
nominal rate is set to 5% a window and no least effect is asked for, so that the test's own rate shows; beside it stands
what the recipe's own rate and least effect leave. Three ways to draw:

    photos   reference and window at random from the same days: nothing differs but chance
    senders  the window from a random half of the senders, as in bursts
    world    photos that follow each other, against the champion's own reference, as `classy monitor` does it

In `world` the features keep growing (a sender's profile knows more each day), which is a change of its own. Written to
HOME/bench/alarms.json.
"""

import argparse
import multiprocessing
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from benchmarks.record import Row, record
from monitoring import drift
from monitoring.columns import CLASS_MIX
from monitoring.days import end_of
from monitoring.performance import share
from pipelines.commands.shared import show
from pipelines.models.watching import watching_of
from pipelines.recipe import Recipe, load_recipe
from pipelines.scorecard.album import make_album, open_album
from pipelines.scorecard.running import candidate_of
from pipelines.scorecard.training import Trainer
from pipelines.scorecard.worlds import Change, make_world
from pipelines.settings import load_settings
from serving.pictures import STATS

NOMINAL = 0.05
SIZES = (50, 200, 1000)
DRAWS = ("photos", "senders", "world")
QUIET = Change(kind="quiet", name="nothing")
Told = dict[str, Any]


def measure(recipe: Recipe, *, seeds: range, windows: int, processes: int, peers: int) -> list[Told]:
    """The alarms of each way to draw and size; the first windows of `peers` worlds are shown to Evidently too."""
    with TemporaryDirectory(prefix="classy-alarms-") as name:
        make_album(load_settings(), recipe, (), Path(name))
        work = partial(_world, recipe=recipe, folder=Path(name), windows=windows, shown=seeds[:peers])
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            worlds = tqdm(pool.map(work, seeds), total=len(seeds), desc="worlds", unit="world", disable=None)
            found = [one for several in worlds for one in several]
    return found


def _world(seed: int, *, recipe: Recipe, folder: Path, windows: int, shown: range) -> list[Told]:
    torch.set_num_threads(1)
    world = make_world(recipe, open_album(folder, ()), QUIET, seed)
    trainer, as_of = Trainer(world=world, candidate=candidate_of(recipe)), end_of(world.days[world.first_live - 1])
    fitted = trainer.fit(as_of)
    reference = trainer.reference(fitted, as_of, None)
    trained = trainer.trained(as_of, reference["captured_at"].min())
    live = trainer.answers(fitted, np.flatnonzero(world.photos["day"].to_numpy() >= world.first_live))
    found = []
    for draw, size, number in product(DRAWS, SIZES, range(windows)):
        random = np.random.default_rng((seed, size, DRAWS.index(draw), number))
        sides = _drawn(draw, size, live, reference, trained, random)
        told = _told(recipe, *sides, seed, evidently=seed in shown and number == 0 and draw != "senders")
        if draw == "world":
            told["blind"] = _detect(recipe, *sides[:2], None, seed).verdict
        found.append({"draw": draw, "size": size, **told})
    return found


def _drawn(
    draw: str,
    size: int,
    live: pd.DataFrame,
    reference: pd.DataFrame,
    trained: pd.DataFrame,
    random: np.random.Generator,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Reference, window, and what the champion was trained on."""
    if draw == "world":
        first = random.integers(0, max(1, len(live) - size + 1))
        return reference, live.iloc[first : first + size], trained
    known = live["source_id"].isin(set(trained["source_id"])).to_numpy()
    order = random.permutation(len(live))
    held = order[~known[order]][: min(len(reference), (~known).sum() // 2)]
    seen = order[known[order]][: known.sum() // 3]
    left = np.setdiff1d(order, np.concatenate([held, seen]))
    if draw == "senders":
        senders = live["source_id"].unique()
        half = random.choice(senders, len(senders) // 2, replace=False)
        left = left[live["source_id"].iloc[left].isin(set(half)).to_numpy()]
    window = random.permutation(left)[:size]
    pictures = pd.concat([live.iloc[seen][["source_id", *STATS]], trained[["source_id"]].drop_duplicates()])
    return live.iloc[held], live.iloc[window], pictures.reset_index(drop=True)


def _told(
    recipe: Recipe, reference: pd.DataFrame, window: pd.DataFrame, trained: pd.DataFrame, seed: int, *, evidently: bool
) -> Told:
    ours = _detect(recipe, reference, window, trained, seed)
    told: Told = {"ours": ours.verdict, "own": ours.verdict}
    if ours.verdict == "DRIFT":  # a window that is quiet at 5% is quiet at less
        told["own"] = _detect(recipe, reference, window, trained, seed, own=True).verdict
    if evidently:
        pair = drift.compared(reference, window, stats=STATS, min_rows=recipe.monitoring.min_rows, seed=seed)
        told |= _evidently(*pair)
    return told


def _detect(
    recipe: Recipe,
    reference: pd.DataFrame,
    window: pd.DataFrame,
    trained: pd.DataFrame | None,
    seed: int,
    *,
    own: bool = False,
) -> drift.Drift:
    """At the nominal rate of the benchmark, or at the recipe's `own` rate and least effect."""
    rules = watching_of(recipe)
    return drift.detect(
        reference,
        window.drop(columns="label"),
        stats=STATS,
        min_rows=rules.min_rows,
        alpha=rules.alpha if own else NOMINAL,
        min_effect=rules.min_effect if own else 0,
        seed=seed,
        trained=trained,
    )


def _evidently(reference: pd.DataFrame, window: pd.DataFrame) -> Told:
    """What its DataDriftPreset says with nothing set: the dataset, and any column."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        names = list(window.columns)
        definition = DataDefinition(
            numerical_columns=[name for name in names if name != CLASS_MIX],
            categorical_columns=[name for name in names if name == CLASS_MIX],
        )
        sides = [Dataset.from_pandas(side[names], data_definition=definition) for side in (window, reference)]
        metrics = Report([DataDriftPreset()]).run(*sides).dict()["metrics"]
    drifted = next(m["value"] for m in metrics if isinstance(m["value"], dict) and "share" in m["value"])
    return {"any": drifted["count"] > 0, "dataset": drifted["share"] >= 0.5}


# ------------------------------------------------------------------------------------------------- telling


def table(found: list[Told]) -> Iterator[Told]:
    """A line a way to draw and size, with 95% intervals of the counts (Wilson)."""
    for draw in DRAWS:
        for size in SIZES:
            here = [one for one in found if (one["draw"], one["size"]) == (draw, size)]
            shown = [one for one in here if "any" in one]
            yield {
                "drawn by": draw,
                "rows": size,
                "ours at 5%": _rate([one["ours"] == "DRIFT" for one in here if one["ours"] != "UNKNOWN"]),
                "ours at the recipe's own": _rate([one["own"] == "DRIFT" for one in here if one["own"] != "UNKNOWN"]),
                "not told who was trained on": _rate([one["blind"] == "DRIFT" for one in here if "blind" in one]),
                "UNKNOWN": sum(one["ours"] == "UNKNOWN" for one in here),
                "Evidently, any column": _rate([one["any"] for one in shown]),
                "Evidently, dataset": _rate([one["dataset"] for one in shown]),
            }


def _rate(alarms: list[bool]) -> str:
    if not alarms:
        return ""
    seen = share(sum(alarms), len(alarms))
    return f"{sum(alarms)} of {len(alarms)}: {seen.value:.1%} ({seen.low:.1%} to {seen.high:.1%})"


def rows_of(recipe: str, found: list[Told]) -> Iterator[Row]:
    """`aa_alarm_rate` of each size: how far it is from nominal, of the 50% that are allowed either way."""
    for draw in DRAWS:
        for size in SIZES:
            here = [
                one["ours"] == "DRIFT"
                for one in found
                if (one["draw"], one["size"]) == (draw, size) and one["ours"] != "UNKNOWN"
            ]
            if not here:
                continue
            off = abs(sum(here) / len(here) / NOMINAL - 1)
            yield Row(
                name=f"aa_alarm_rate, {recipe}, {draw}, {size} rows",
                ours=max(off, 0.01),
                other=0.5,
                other_name="limit",
                unit="distance from the nominal rate, of it",
                better="less",
                spread=_rate(here),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits-month")
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--windows", type=int, default=4, help="of each way to draw and size, a world")
    parser.add_argument("--first", type=int, default=0, help="seed of the first world")
    parser.add_argument("--peers", type=int, default=30, help="worlds of which Evidently is shown a window a size")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    recipe = load_recipe(asked.recipe)
    seeds = range(asked.first, asked.first + asked.worlds)
    found = measure(recipe, seeds=seeds, windows=asked.windows, processes=asked.processes, peers=asked.peers)
    record("alarms", list(rows_of(recipe.name, found)), beside=True)
    show(list(table(found)), False)


if __name__ == "__main__":
    main()
