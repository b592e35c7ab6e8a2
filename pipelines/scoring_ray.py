"""Photos scored by Ray Data: the function of one machine (`pipelines.scoring.PhotoScorer`) as actors on many.

Each actor works on one core and opens the model and the features for itself, so photos, data root, features and MLflow
must be addresses that every machine reaches. Answers come back in the order of the photos, a few blocks at a time.
https://docs.ray.io/en/latest/data/batch_inference.html
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pyarrow as pa

from pipelines.ray_here import connected
from pipelines.scoring import ANSWERS, BLOCK, PhotoScorer, Wanted

# Ray's parts come after what `ray_here` has set for them.
# isort: split
import ray
import ray.data

PIECE = 4 * BLOCK
"""Rows of one task. An actor goes through them BLOCK by BLOCK."""


class _Actor:
    """What Ray makes once on each core."""

    def __init__(self, wanted: Wanted) -> None:
        self._scorer = PhotoScorer(wanted)

    def __call__(self, asked: pa.Table) -> pa.Table:
        return self._scorer(asked)


def answers(wanted: Wanted, asked: pa.Table, *, address: str) -> Iterator[pa.Table]:
    """Tables of ANSWERS in the order of `asked`.

    Args:
        wanted: its `threads` are the actors of a Ray started here; a cluster gives as many as it has free cores.
        address: of a Ray cluster, or `local`: one is started here, and stopped at the end.
    """
    with connected(address, wanted.threads):
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False  # the step has one
        actors = max(1, int(ray.cluster_resources().get("CPU", 1)))
        pieces = [asked.slice(start, PIECE).combine_chunks() for start in range(0, len(asked), PIECE)]
        scored = ray.data.from_arrow(pieces).map_batches(
            _Actor,
            fn_constructor_args=(replace(wanted, threads=1),),
            batch_size=BLOCK,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
            num_cpus=1,
        )
        for table in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield cast(pa.Table, table).cast(ANSWERS)
