"""The train step with many workers: torch's launcher, torchrun, Ray; one run, one receipt, and the killed come back."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from pipelines import train
from pipelines.models import crowd, tracking
from pipelines.recipe import ROOT, Recipe
from pipelines.settings import Settings, load_settings
from tests.conftest import TINY
from tests.digits import digits_snapshot, put_mlflow
from tests.test_train import with_candidate
from training.distributed import Seat
from training.options import Epoch, FitError

KEY = "2026-03-07"


@pytest.fixture
def home(settings: Settings) -> Settings:
    put_mlflow(settings)
    return settings


def asking(settings: Settings, **more: object) -> Settings:
    return load_settings(home=settings.home, actor="tester", threads=1, **more)


def killed_once(place: str, settings: Settings, recipe: Recipe, uri: str) -> train.Trained:
    """The step, in a worker; the second is killed at the end of its second epoch, before that is in a checkpoint."""
    from training.fit import Fit

    note = Fit._note

    def die(fit: Fit, finished: Epoch) -> None:
        note(fit, finished)
        if Seat.here().rank == 1 and finished.epoch == 2 and not Path(place).exists():
            Path(place).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    Fit._note = die  # type: ignore[method-assign]
    return train.run(settings, recipe, snapshot_uri=uri, candidate="resnet", run_key=KEY)


@pytest.mark.parametrize("ray", ["", "local"])
def test_a_killed_worker_comes_back_and_the_run_says_so(
    home: Settings, recipe: Recipe, tmp_path: Path, ray: str
) -> None:
    settings = asking(home, train_workers=2, train_restarts=2, train_ray=ray)
    uri = digits_snapshot(settings, recipe)
    recipe = with_candidate(recipe, epochs=3)
    alone = train.run(home, recipe, snapshot_uri=uri, candidate="resnet", run_key="alone")
    place = tmp_path / "killed"
    state = train.state_folder(settings, KEY, "resnet")
    receipt = crowd.run(settings, partial(killed_once, str(place), settings, recipe, uri), state)
    assert place.exists()
    assert receipt.epochs == 3
    assert receipt.resumed_from in (1, 2)  # the first may write its checkpoint before it notices
    for name in ("accuracy", "log_loss"):  # bfloat16 where the chip has it: tests/test_distributed.py is exact
        assert receipt.val[name] == pytest.approx(alone.val[name], rel=0.1)
    client = tracking.connect(settings)
    run = client.get_run(receipt.run_id)
    assert (run.info.status, run.data.metrics["restarts"]) == ("FINISHED", 1)
    workers = {entry.step: entry.value for entry in client.get_metric_history(receipt.run_id, "workers")}
    assert workers[0] == 2
    assert workers[1] in (1, 2)  # Ray goes on with whom it has at once
    assert [entry.step for entry in client.get_metric_history(receipt.run_id, "epoch_train_loss")] == [1, 2, 3]
    # What is trained is not trained again, whoever asks.
    assert train.run(home, recipe, snapshot_uri=uri, candidate="resnet", run_key=KEY) == receipt


def test_a_refusal_fails_the_run_at_once(home: Settings, recipe: Recipe) -> None:
    settings = asking(home, train_workers=2)
    uri = digits_snapshot(settings, recipe)
    with pytest.raises(FitError, match="candidate resnet: the loss is"):
        train.run(settings, with_candidate(recipe, lr=1e38), snapshot_uri=uri, candidate="resnet", run_key=KEY)
    run = tracking.find_run(tracking.connect(settings), KEY, "resnet")
    assert run is not None
    assert (run.info.status, run.data.metrics["restarts"]) == ("FAILED", 0)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(entry)}" for name, entry in value.items()) + "}"
    return "[" + ", ".join(toml(entry) for entry in value) + "]" if isinstance(value, list) else json.dumps(value)


def test_torchrun_trains_too_and_one_of_them_speaks(home: Settings, recipe: Recipe, tmp_path: Path) -> None:
    uri = digits_snapshot(home, recipe)
    path = tmp_path / "tiny.toml"
    path.write_text("".join(f"{name} = {toml(value)}\n" for name, value in TINY.items()))
    environment = {**os.environ, "CLASSY_HOME": str(home.home), "CLASSY_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "pipelines.cli", "train"]
    command += ["--recipe", str(path), "--snapshot-uri", uri, "--candidate", "resnet", "--run-key", KEY, "--json"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    receipt = json.loads(done.stdout)
    run = tracking.connect(home).get_run(receipt["run_id"])
    assert (run.info.status, run.data.metrics["workers"]) == ("FINISHED", 2)


def test_one_worker_needs_neither_ray_nor_a_process_group(home: Settings, recipe: Recipe, tmp_path: Path) -> None:
    uri = digits_snapshot(home, recipe)
    program = (
        "import sys; from pipelines import train; from pipelines.settings import load_settings\n"
        "from pipelines.recipe import Recipe; from tests.conftest import TINY; import torch.distributed as dist\n"
        "train.run(load_settings(threads=1), Recipe.model_validate(TINY), snapshot_uri=sys.argv[1],\n"
        "          candidate='resnet', run_key='alone')\n"
        "assert 'ray' not in sys.modules and not dist.is_initialized(), 'more than one worker needs'\n"
    )
    environment = {**os.environ, "CLASSY_HOME": str(home.home), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program, uri], env=environment, cwd=ROOT, check=True, timeout=120)
