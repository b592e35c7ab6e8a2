"""Several workers for one training: torch's launcher on this machine, or Ray Train on as many as there are.

Each worker runs the step that it was given; the first of them gives its receipt.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipelines.errors import ClassyError
from pipelines.settings import Settings
from training.fit import CHECKPOINT
from training.place import cores

log = logging.getLogger(__name__)

T = TypeVar("T")


def run(settings: Settings, work: Callable[[], T], state: Path) -> T:
    """What `work` gives to the first of `settings.train_workers` processes that run it together.

    Args:
        work: finds its place in its environment, as under torchrun.
        state: folder of the training's checkpoint.

    Raises:
        ClassyError: Ray was asked for and is not installed, or no cluster answers.
        FitError: workers died more often than `settings.train_restarts`, or what they all refused.
    """
    if settings.train_ray:
        try:
            from pipelines.training_ray import launch as launch_by_ray
        except ModuleNotFoundError as error:
            raise ClassyError(
                f"CLASSY_TRAIN_RAY={settings.train_ray}: Ray is not installed here ({error}); `uv sync --extra ray`"
            ) from error
        return launch_by_ray(settings, work, state)
    from training.launch import launch

    if settings.train_workers > cores() and settings.device != "cuda":
        log.warning("%d workers on %d cores: they will wait for each other", settings.train_workers, cores())
    return launch(
        work,
        workers=settings.train_workers,
        restarts=settings.train_restarts,
        logs=state / "workers",
        mark=lambda: checkpoint_of(state),
    )


def checkpoint_of(state: Path) -> int:
    """When the checkpoint was written last, in nanoseconds; 0: there is none."""
    try:
        return (state / CHECKPOINT).stat().st_mtime_ns
    except FileNotFoundError:
        return 0
