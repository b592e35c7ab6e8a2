"""The train step: one run a candidate, whole or taken up again, and refused with the reason."""

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from pipelines import train
from pipelines.data.snapshots import read_snapshot
from pipelines.errors import ClassyError
from pipelines.models import fitting, tracking
from pipelines.models.runs import RunBook
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from pipelines.training_sections import TorchvisionCandidate
from tests.digits import COUNTS, digits_snapshot, put_mlflow
from training.checkpoint import read_tensors
from training.fit import CHECKPOINT
from training.models import BuildError
from training.options import Epoch, FitError

KEY = "2026-03-07"


@pytest.fixture(autouse=True)
def _mlflow(settings: Settings) -> None:
    put_mlflow(settings)


@pytest.fixture
def snapshot(settings: Settings, recipe: Recipe) -> str:
    return digits_snapshot(settings, recipe)


def fit_step(settings: Settings, recipe: Recipe, snapshot: str, candidate: str = "resnet", key: str = KEY,
             **more: float) -> train.Trained:  # fmt: skip
    return train.run(settings, recipe, snapshot_uri=snapshot, candidate=candidate, run_key=key, **more)  # type: ignore[arg-type]


def with_candidate(recipe: Recipe, **fields: object) -> Recipe:
    """The recipe, whose network has other fields."""
    changed = recipe.candidate("resnet").model_copy(update=fields)
    return recipe.model_copy(update={"candidates": (recipe.candidate("baseline"), changed)})


def weights(settings: Settings, run_id: str, folder: Path) -> dict[str, torch.Tensor]:
    tracking.connect(settings)
    folder.mkdir(parents=True, exist_ok=True)
    return read_tensors(tracking.fetch_weights(run_id, folder))[0]


def test_a_run_says_what_it_is_and_how_it_went(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    receipt = fit_step(settings, recipe, snapshot)
    assert (receipt.candidate, receipt.epochs, receipt.stopped_by, receipt.resumed_from) == (
        "resnet",
        2,
        "epochs",
        None,
    )
    assert set(receipt.val) == {"accuracy", "macro_f1", "log_loss", "ece"}
    client = tracking.connect(settings)
    run = client.get_run(receipt.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags[tracking.RUN_KEY] == KEY
    assert run.data.tags[tracking.SNAPSHOT_ID] == "digits"
    assert run.data.tags["mlflow.user"] == "tester"
    given = run.data.params
    assert (given["width"], given["blocks"], given["epochs"], given["seed"]) == ("8", "[1, 1]", "2", "7")
    assert (given["device"], given["rows_train"]) == ("cpu", str(COUNTS["train"]))
    assert given["precision"] in ("float32", "bfloat16")
    assert run.data.metrics["val_accuracy"] == pytest.approx(receipt.val["accuracy"])
    steps = client.get_metric_history(receipt.run_id, "epoch_val_accuracy")
    assert [entry.step for entry in steps] == [1, 2]
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest, json.loads(dataset.source)) == ("snapshot", "digits", {"uri": snapshot})


def test_a_further_seed_is_a_run_of_its_own(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    recipe = with_candidate(recipe, seeds=2)
    runs = [fit_step(settings, recipe, snapshot, name) for name in ("resnet", "resnet-seed2")]
    client = tracking.connect(settings)
    assert [client.get_run(run.run_id).data.params["seed"] for run in runs] == ["7", "8"]
    assert runs[0].val != runs[1].val


def test_what_a_training_cost_is_on_its_run(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    dear = recipe.model_copy(update={"budget": recipe.budget.model_copy(update={"price_per_hour": 36.0})})
    run = tracking.connect(settings).get_run(fit_step(settings, dear, snapshot).run_id)
    assert run.data.metrics["train_seconds"] > 0
    assert run.data.metrics["train_cost"] == pytest.approx(run.data.metrics["train_seconds"] / 100)
    assert (run.data.params["price_per_hour"], run.data.params["currency"]) == ("36.0", "EUR")
    saved = float(run.data.params["budget_seconds"]) - run.data.metrics["train_seconds"]
    assert run.data.metrics["budget_saved_seconds"] == pytest.approx(saved)
    assert run.data.metrics["budget_saved_cost"] == pytest.approx(saved / 100)


def test_a_budget_in_money_ends_a_training(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    recipe = with_candidate(recipe, epochs=5000)
    limits = recipe.budget.model_copy(update={"price_per_hour": 3600.0, "money": 1.5, "gpu_hours": 1e-9})
    receipt = fit_step(settings, recipe.model_copy(update={"budget": limits}), snapshot)
    assert receipt.stopped_by == "budget"
    run = tracking.connect(settings).get_run(receipt.run_id)
    assert (run.data.params["budget_named"], run.data.params["budget_seconds"]) == ("money", "1.5")
    assert 1 <= run.data.metrics["planned_epochs"] < 5000


def test_what_bounds_a_training_is_on_its_run(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    receipt = fit_step(settings, recipe, snapshot)
    client = tracking.connect(settings)
    run = client.get_run(receipt.run_id)
    assert run.data.tags["classy.bound.bound"] in ("input", "compute", "memory")
    assert run.data.tags["classy.bound.remedy"]
    assert "images/s: " in run.data.tags["classy.bound.why"]
    assert run.data.metrics["bound_images_per_s"] > 0
    assert {file.path for file in client.list_artifacts(receipt.run_id, "bound")} == {
        "bound/bound.json",
        "bound/bound.png",
    }


def test_a_snapshot_of_another_image_is_refused(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    other = recipe.model_copy(update={"image": recipe.image.model_copy(update={"fit": "pad"})})
    with pytest.raises(ClassyError, match=r"its images are \w+, the recipe's \[image\] makes \w+"):
        fit_step(settings, other, snapshot)


def test_a_gpu_that_is_not_there_is_said(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(FitError, match="CLASSY_DEVICE=cuda"):
        fit_step(load_settings(home=settings.home, device="cuda", threads=1), recipe, snapshot)


def test_the_baseline_is_a_run_like_any_other(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    receipt = fit_step(settings, recipe, snapshot, "baseline")
    assert receipt.val["accuracy"] > 0.8
    assert (receipt.epochs, receipt.stopped_by) == (1, "epochs")


@pytest.mark.parametrize("name", ["baseline", "resnet"])
def test_rows_since_the_drift_that_asked_count_more(
    settings: Settings, recipe: Recipe, snapshot: str, tmp_path: Path, name: str
) -> None:
    """Without a drift the weight changes nothing."""
    data = read_snapshot(settings, snapshot)
    day = str(np.sort(data.split("train").captured_at)[len(data.split("train")) // 2].astype("datetime64[D]"))
    weighted = recipe.candidate(name).model_copy(update={"drift_weight": 3.0})
    found = {}
    for drift_from in (None, day):
        for candidate in (recipe.candidate(name), weighted):
            asked = replace(data, meta={**data.meta, "drift_from": drift_from})
            planned = fitting.plan(settings, recipe, candidate, asked)
            assert planned.parameters()["drift_from"] == (drift_from or "")
            key = (drift_from, candidate.drift_weight)
            fitted = fitting.fit(planned, asked, tmp_path / f"{key}", on_epoch=lambda epoch: None)
            found[key] = fitted.model.head.classes.weight
    assert torch.equal(found[None, 1.0], found[None, 3.0])
    assert torch.equal(found[None, 1.0], found[day, 1.0])
    assert not torch.allclose(found[day, 1.0], found[day, 3.0], atol=1e-4)


def test_twice_trains_once(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    first = fit_step(settings, recipe, snapshot)
    assert fit_step(settings, recipe, snapshot) == first
    assert fit_step(settings, recipe, snapshot, key="another").run_id != first.run_id
    client = tracking.connect(settings)
    assert len(client.search_runs([tracking.experiment_id(client)])) == 2


def test_two_runs_of_one_training_have_the_same_weights(
    settings: Settings, recipe: Recipe, snapshot: str, tmp_path: Path
) -> None:
    one, other = (fit_step(settings, recipe, snapshot, key=key).run_id for key in ("one", "other"))
    mine, theirs = weights(settings, one, tmp_path / "one"), weights(settings, other, tmp_path / "other")
    assert all(torch.equal(value, theirs[key]) for key, value in mine.items())


def fit_and_die(settings: Settings, recipe: Recipe, snapshot: str, when: str) -> None:
    """The step, in a process that is killed at its second epoch, before or after that was told."""
    log_epoch = RunBook.log_epoch

    def die(book: RunBook, epoch: Epoch) -> None:
        if when == "told" or epoch.epoch != 2:
            log_epoch(book, epoch)
        if epoch.epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    RunBook.log_epoch = die
    fit_step(settings, recipe, snapshot)


@pytest.mark.parametrize("when", ["told", "untold"])
def test_a_killed_run_is_taken_up_and_ends_as_if_it_had_not_been(
    settings: Settings, recipe: Recipe, snapshot: str, tmp_path: Path, when: str
) -> None:
    recipe = with_candidate(recipe, epochs=4)
    whole = fit_step(settings, recipe, snapshot, key="whole")
    # Spawned, not forked: autograd refuses to work in the fork of a process where it has worked.
    child = multiprocessing.get_context("spawn").Process(target=fit_and_die, args=(settings, recipe, snapshot, when))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    client = tracking.connect(settings)
    found = tracking.find_run(client, KEY, "resnet")
    assert found is not None
    assert found.info.status == "RUNNING"
    progress = json.loads((settings.home / "runs" / KEY / "resnet" / "progress.json").read_text())
    assert (progress["run_id"], progress["pid"]) == (found.info.run_id, child.pid)
    assert progress["epoch"] == (2 if when == "told" else 1)

    receipt = fit_step(settings, recipe, snapshot)
    assert (receipt.run_id, receipt.resumed_from, receipt.epochs) == (found.info.run_id, 2, 4)
    assert receipt.val == whole.val
    mine = weights(settings, receipt.run_id, tmp_path / "mine")
    theirs = weights(settings, whole.run_id, tmp_path / "theirs")
    assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
    steps = [entry.step for entry in client.get_metric_history(receipt.run_id, "epoch_train_loss")]
    assert steps == [1, 2, 3, 4], "each epoch is on the run once, the one that was not told included"
    assert not (settings.home / "runs" / KEY / "resnet" / CHECKPOINT).exists()


def test_a_snapshot_that_is_not_fit_is_refused_with_its_reasons(settings: Settings, recipe: Recipe) -> None:
    uri = digits_snapshot(settings, recipe, ok=False, reasons=["too few training rows: Blouse has 1"])
    with pytest.raises(ClassyError, match=r"digits: is not fit to train on: .*Blouse has 1"):
        fit_step(settings, recipe, uri)
    assert not (settings.home / "runs").exists(), "nothing was begun"


def test_what_is_not_there_is_named(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    with pytest.raises(ClassyError, match="no candidate 'resnext'"):
        fit_step(settings, recipe, snapshot, "resnext")
    with pytest.raises(ClassyError, match=r"nowhere.*classy snapshot"):
        fit_step(settings, recipe, "/nowhere")
    with pytest.raises(ClassyError, match=r"budget_minutes=0"):
        fit_step(settings, recipe, snapshot, budget_minutes=0)
    with pytest.raises(ClassyError, match=r"epochs=0"):
        fit_step(settings, recipe, snapshot, epochs=0)
    with pytest.raises(ClassyError, match=r"run_key='\.\.'"):
        fit_step(settings, recipe, snapshot, key="..")


def test_a_run_key_of_airflow_is_a_folder_below_home(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    key = "manual__2026-03-07T00:00:00+00:00/../../x"
    fit_step(settings, recipe, snapshot, "baseline", key)
    (folder,) = (settings.home / "runs").iterdir()
    assert (folder / "baseline" / "progress.json").is_file()


def test_a_run_key_names_one_training(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    fit_step(settings, recipe, snapshot, "baseline")
    other = digits_snapshot(settings, recipe, name="other")
    with pytest.raises(
        ClassyError, match=f"run key {KEY}: baseline was trained under it on snapshot digits, not other"
    ):
        fit_step(settings, recipe, other, "baseline")


def test_a_loss_that_is_not_finite_fails_the_run_and_a_mended_recipe_begins_another(
    settings: Settings, recipe: Recipe, snapshot: str
) -> None:
    with pytest.raises(FitError, match="candidate resnet: the loss is"):
        fit_step(settings, with_candidate(recipe, lr=1e38), snapshot)
    client = tracking.connect(settings)
    failed = tracking.find_run(client, KEY, "resnet")
    assert failed is not None
    assert failed.info.status == "FAILED"
    assert "the loss is" in failed.data.tags["classy.error"]
    mended = fit_step(settings, recipe, snapshot)
    assert mended.run_id != failed.info.run_id
    aside = client.get_run(failed.info.run_id)
    assert aside.info.status == "KILLED"
    assert aside.data.tags[tracking.RUN_KEY] != KEY


def test_the_budget_is_the_recipes_or_the_callers(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    recipe = with_candidate(recipe, epochs=5000)
    receipt = fit_step(settings, recipe, snapshot, budget_minutes=0.01)
    assert receipt.stopped_by == "budget"
    assert 1 <= receipt.epochs < 5000


def test_another_process_at_it_is_said(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    state = train.state_folder(settings, KEY, "resnet")
    with FileLock(state / "lock"), pytest.raises(ClassyError, match=r"another process is training it.*progress\.json"):
        fit_step(settings, recipe, snapshot)


def test_a_full_disk_leaves_the_run_to_be_taken_up(
    settings: Settings, recipe: Recipe, snapshot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("training.checkpoint.os.fsync", full)
        with pytest.raises(ClassyError, match="the disk is full"):
            fit_step(settings, recipe, snapshot)
    assert not list((settings.home / "runs" / KEY / "resnet").glob("*.tmp"))
    assert fit_step(settings, recipe, snapshot).epochs == 2
    client = tracking.connect(settings)
    assert len(client.search_runs([tracking.experiment_id(client)], run_view_type=ViewType.ALL)) == 1


def test_no_server_is_said_before_anything_is_trained(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    away = load_settings(home=settings.home, mlflow_uri="http://127.0.0.1:9")
    with pytest.raises(ClassyError, match="CLASSY_MLFLOW_URI"):
        fit_step(away, recipe, snapshot)


def test_a_server_that_goes_away_in_the_middle_is_said_and_the_run_is_taken_up(
    settings: Settings, recipe: Recipe, snapshot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        # What MLflow's client raises when its retries are used up.
        raise MlflowException("API request to http://x/api failed with exception HTTPConnectionPool(...)")

    with monkeypatch.context() as patch:
        patch.setattr(RunBook, "log_epoch", gone)
        with pytest.raises(
            ClassyError, match=r"CLASSY_MLFLOW_URI=.*stopped answering; when it is back, run this again"
        ):
            fit_step(settings, recipe, snapshot)
    assert fit_step(settings, recipe, snapshot).resumed_from == 1


def test_torchvision_by_name(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    candidate = TorchvisionCandidate(name="mobile", kind="torchvision", architecture="mobilenet_v3_small", epochs=1)
    recipe = recipe.model_copy(update={"candidates": (candidate,)})
    assert fit_step(settings, recipe, snapshot, "mobile").epochs == 1
    wrong = candidate.model_copy(update={"architecture": "mobilenet_v9"})
    with pytest.raises(BuildError, match="mobilenet_v9"):
        fit_step(settings, recipe.model_copy(update={"candidates": (wrong,)}), snapshot, "mobile", "wrong")


def test_epochs_can_be_asked_for(recipe: Recipe) -> None:
    assert fitting.choose(recipe, "resnet", 5).epochs == 5  # type: ignore[union-attr]
    assert fitting.choose(recipe, "baseline", 5) == recipe.candidate("baseline")
