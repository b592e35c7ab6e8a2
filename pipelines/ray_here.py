"""A Ray to work with: a cluster's, or one of this machine for as long as it is needed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Under `uv run` Ray would start each worker by `uv run` from a copy of the folder, without this environment.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray

LOCAL = "local"
STORE_BYTES = 200_000_000
"""Shared memory of a Ray that is started here: places, answers, receipts; never photos."""


@contextmanager
def connected(address: str, cores: int) -> Iterator[None]:
    """Within it `ray` works.

    Args:
        address: of a Ray cluster, or `local`: one is started here, and stopped at the end.
        cores: of a Ray that is started here.
    """
    ours = not ray.is_initialized()
    if ours and address == LOCAL:
        ray.init(num_cpus=cores, include_dashboard=False, object_store_memory=STORE_BYTES, log_to_driver=False)
    elif ours:
        ray.init(address, log_to_driver=False)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()
