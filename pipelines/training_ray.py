"""A training by Ray Train: the step of one machine, in workers that Ray places on many and brings back when they die.

Ray forms the group, and forms it anew of those there are where one cannot come back. The checkpoint is the training's
own, in its state folder; CLASSY_HOME must then be a disk that every machine reaches.
https://docs.ray.io/en/latest/train/user-guides/fault-tolerance.html
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from pipelines.errors import ClassyError
from pipelines.ray_here import connected
from pipelines.settings import Settings
from training.launch import Refusal, answer
from training.options import FitError

# Ray's parts come after what `ray_here` has set for them.
# isort: split
import ray
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

T = TypeVar("T")


def launch(settings: Settings, work: Callable[[], T], state: Path) -> T:
    """What `work` gives to the first of `settings.train_workers` workers of the Ray at `settings.train_ray`.

    Raises:
        ClassyError: no Ray answers there.
        FitError: workers died more often than `settings.train_restarts`.
        Exception: what `work` refused.
    """
    try:
        with connected(settings.train_ray, settings.train_workers):
            found: Any = _trainer(settings, work, state).fit().return_value  # type: ignore[attr-defined]
    except ConnectionError as error:
        raise ClassyError(f"CLASSY_TRAIN_RAY={settings.train_ray}: no Ray answers there ({error})") from error
    except TrainingFailedError as error:
        raise FitError(
            f"workers died more often than CLASSY_TRAIN_RESTARTS={settings.train_restarts}; the last time: {error}; "
            "their logs are in Ray's session folder"
        ) from error
    if isinstance(found, Refusal):
        raise found.error
    return cast(T, found)


def _trainer(settings: Settings, work: Callable[[], Any], state: Path) -> TorchTrainer:
    gpus = settings.device == "cuda" or (settings.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
    return TorchTrainer(
        lambda: answer(work),
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=(1, settings.train_workers), use_gpu=gpus),  # type: ignore[arg-type]
        run_config=RunConfig(  # type: ignore[call-arg]
            name="ray",
            storage_path=str(state),
            failure_config=FailureConfig(max_failures=settings.train_restarts),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
