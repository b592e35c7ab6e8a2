"""The search step: it finds what is better, gives up what is worse, and goes on where it was killed."""

import json
import multiprocessing
import os
import signal
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from pipelines import search, train
from pipelines.cli import app
from pipelines.errors import ClassyError
from pipelines.models import fitting, tracking
from pipelines.models.runs import RunBook, state_folder
from pipelines.models.trials import Tried, read_trials
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from tests.conftest import TINY
from tests.digits import digits_snapshot, put_mlflow
from training.options import Epoch

KEY = "2026-03-07"
GOOD, BAD, MAD = 0.02, 1e-6, 1e38
"""Learning rates: that learns, that learns nothing within some epochs, and whose loss is not finite."""


@pytest.fixture(autouse=True)
def _mlflow(settings: Settings) -> None:
    put_mlflow(settings)


@pytest.fixture
def snapshot(settings: Settings, recipe: Recipe) -> str:
    return digits_snapshot(settings, recipe)


def searching(space: dict[str, Any], *, own: dict[str, Any] | None = None, **limits: Any) -> Recipe:
    """The tiny recipe, whose network has other fields and is searched."""
    baseline, resnet = TINY["candidates"]  # type: ignore[misc]
    given = {"trials": 4, "epochs": 4, "prune": False, **limits, "space": {"resnet": space}}
    return Recipe.model_validate({**TINY, "candidates": [baseline, {**resnet, **(own or {})}], "search": given})


def look(
    settings: Settings, recipe: Recipe, snapshot: str, key: str = KEY, candidate: str = "resnet"
) -> search.Searched:
    return search.run(settings, recipe, snapshot_uri=snapshot, run_key=key, candidate=candidate)


def trials(settings: Settings, receipt: search.Searched) -> list[Tried]:
    return read_trials(tracking.connect(settings), receipt.run_id)


def test_the_better_rate_is_found_and_the_recipe_s_own_is_tried_first(settings: Settings, snapshot: str) -> None:
    receipt = look(settings, searching({"lr": {"choices": [BAD, GOOD]}}, own={"lr": BAD}), snapshot)
    assert receipt.chosen == {"lr": GOOD}
    tried = trials(settings, receipt)
    assert tried[0].values == {"lr": BAD}
    assert receipt.log_loss == min(one.loss for one in tried)
    assert (receipt.trials, receipt.stopped_by) == ({"complete": 4, "pruned": 0, "failed": 0}, "trials")


def test_every_trial_is_a_run_under_the_search_s(settings: Settings, snapshot: str) -> None:
    space = {"lr": {"low": 1e-3, "high": 1e-1, "log": True}, "width": {"low": 4, "high": 8, "step": 4},
             "blocks": {"choices": [[1], [1, 1]]}, "flip": {"choices": [False, True]}}  # fmt: skip
    receipt = look(settings, searching(space, own={"blocks": [1]}, epochs=2), snapshot)
    client = tracking.connect(settings)
    for one in trials(settings, receipt):
        params, tags = one.run.data.params, one.run.data.tags
        assert tags["mlflow.parentRunId"] == receipt.run_id
        assert (one.state, one.run.info.status, tags["classy.trial_state"]) == ("complete", "FINISHED", "complete")
        assert float(params["lr"]) == one.values["lr"]
        assert (params["width"], params["epochs"], params["flip"]) == (
            str(one.values["width"]), "2", str(one.values["flip"]))  # fmt: skip
        assert json.loads(params["blocks"]) == one.values["blocks"]
        assert [entry.step for entry in client.get_metric_history(one.run.info.run_id, "epoch_val_loss")] == [1, 2]
        assert one.run.data.metrics["train_seconds"] > 0
    parent = client.get_run(receipt.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.params["best_lr"] == str(receipt.chosen["lr"])
    assert parent.data.metrics["best_val_log_loss"] == receipt.log_loss
    assert parent.data.metrics["search_seconds"] == pytest.approx(receipt.seconds)
    assert {name for name in parent.data.metrics if name.startswith("importance_")} == {
        f"importance_{field}" for field in space
    }
    files = {file.path for file in client.list_artifacts(receipt.run_id, "search")}
    assert files == {"search/history.png", "search/chosen.json"}
    assert tracking.find_run(client, KEY, "resnet") is None, "a search is no training"


def test_a_worse_trial_is_given_up_and_leaves_nothing(settings: Settings, snapshot: str) -> None:
    recipe = searching({"lr": {"choices": [GOOD, BAD]}}, own={"lr": GOOD}, prune=True, trials=6)
    receipt = look(settings, recipe, snapshot)
    assert receipt.chosen == {"lr": GOOD}
    pruned = [one for one in trials(settings, receipt) if one.state == "pruned"]
    assert len(pruned) == receipt.trials["pruned"] > 0
    for one in pruned:
        assert one.values == {"lr": BAD}
        assert one.run.info.status == "KILLED"
        assert (len(one.losses) < 4, one.loss) == (True, None)
    assert not list(state_folder(settings, KEY, "resnet.search").glob("trial-*"))


def test_a_trial_that_fails_is_no_failed_search(settings: Settings, snapshot: str) -> None:
    recipe = searching({"lr": {"choices": [MAD, GOOD]}}, own={"lr": MAD}, epochs=1)
    receipt = look(settings, recipe, snapshot)
    assert receipt.chosen == {"lr": GOOD}
    failed = trials(settings, receipt)[0]
    assert (failed.state, failed.run.info.status) == ("failed", "FAILED")
    assert "the loss is" in failed.error
    assert receipt.trials["failed"] >= 1


def test_where_every_trial_fails_it_says_so(settings: Settings, snapshot: str) -> None:
    recipe = searching({"lr": {"choices": [MAD, 2 * MAD]}}, trials=2, epochs=1)
    with pytest.raises(ClassyError, match=r"all 2 trials failed, the first with .*: the loss is .*Narrow"):
        look(settings, recipe, snapshot)
    client = tracking.connect(settings)
    run = tracking.find_run(client, KEY, "resnet", tracking.SEARCH_KEY)
    assert run is not None
    assert run.info.status == "FAILED"


def test_the_budget_ends_a_search_in_order(settings: Settings, snapshot: str) -> None:
    recipe = searching({"lr": {"choices": [GOOD, 0.01]}}, own={"lr": GOOD}, epochs=5000, minutes=0.01, trials=100)
    receipt = look(settings, recipe, snapshot)
    assert (receipt.stopped_by, receipt.chosen) == ("budget", {"lr": GOOD})
    assert sum(receipt.trials.values()) < 100
    assert len(trials(settings, receipt)[0].losses) < 5000
    dear = recipe.model_copy(update={"budget": recipe.budget.model_copy(update={"price_per_hour": 3600.0})})
    run = tracking.connect(settings).get_run(look(settings, dear, snapshot, "dear").run_id)
    assert run.data.metrics["search_cost"] == pytest.approx(run.data.metrics["search_seconds"])


def test_a_baseline_can_be_searched_as_well(settings: Settings, snapshot: str) -> None:
    recipe = Recipe.model_validate(
        {**TINY, "search": {"trials": 3, "space": {"baseline": {"c": {"low": 1e-6, "high": 1.0, "log": True}}}}}
    )
    receipt = look(settings, recipe, snapshot, candidate="baseline")
    assert receipt.trials["complete"] == 3
    assert 1e-6 <= receipt.chosen["c"] <= 1


def test_a_choice_may_be_written_as_another_kind_of_number(settings: Settings, snapshot: str) -> None:
    recipe = Recipe.model_validate(
        {**TINY, "candidates": [{"name": "baseline", "kind": "sklearn", "c": 1.0}],
         "search": {"trials": 2, "space": {"baseline": {"c": {"choices": [1, 0.5]}, "pixels": {"choices": [8.0]}}}}}
    )  # fmt: skip
    receipt = look(settings, recipe, snapshot, candidate="baseline")
    assert trials(settings, receipt)[0].values == {"c": 1, "pixels": 8}
    given = {"snapshot_uri": snapshot, "run_key": KEY, "candidate": "baseline"}
    assert train.run(settings, recipe, **given, chosen=receipt.chosen).epochs == 1


def test_an_architecture_that_is_not_there_is_a_failed_trial(settings: Settings, snapshot: str) -> None:
    space = {"architecture": {"choices": ["mobilenet_v3_small", "mobilenet_v9"]}}
    recipe = Recipe.model_validate(
        {**TINY, "candidates": [{"name": "tv", "kind": "torchvision", "architecture": "mobilenet_v9"}],
         "search": {"trials": 2, "epochs": 1, "seed": 1, "space": {"tv": space}}}
    )  # fmt: skip
    receipt = look(settings, recipe, snapshot, candidate="tv")
    assert receipt.chosen == {"architecture": "mobilenet_v3_small"}
    assert "mobilenet_v9" in trials(settings, receipt)[0].error


def test_another_recipe_elsewhere_is_the_same_search(settings: Settings, snapshot: str) -> None:
    recipe = searching({"lr": {"choices": [GOOD]}}, trials=1, epochs=1)
    first = look(settings, recipe, snapshot)
    gates = recipe.gates.model_copy(update={"margin": 0.2})
    assert look(settings, recipe.model_copy(update={"gates": gates}), snapshot) == first


def test_golden_and_fresh_rows_are_not_looked_at(
    settings: Settings, snapshot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.data import SnapshotData

    asked, split = [], SnapshotData.split
    monkeypatch.setattr(SnapshotData, "split", lambda self, name: asked.append(name) or split(self, name))
    look(settings, searching({"lr": {"choices": [GOOD]}}, trials=1, epochs=1), snapshot)
    assert set(asked) == {"train", "val"}


# --------------------------------------------------------------------------------------- killed, and again


def told(tried: list[Tried]) -> list[tuple[Any, ...]]:
    return [(one.number, one.values, one.state, one.loss, one.losses) for one in tried]


def search_and_die(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    """The step, in a process that is killed in its third trial, after an epoch that was not told."""
    log_epoch, seen = RunBook.log_epoch, []

    def die(book: RunBook, epoch: Epoch) -> None:
        seen.append(epoch.epoch)
        if seen.count(1) == 3 and epoch.epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        log_epoch(book, epoch)

    RunBook.log_epoch = die
    look(settings, recipe, snapshot)


def test_a_killed_search_goes_on_and_asks_what_an_unbroken_one_asks(settings: Settings, snapshot: str) -> None:
    recipe = searching({"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "batch": {"choices": [32, 64]}}, trials=5)
    whole = look(settings, recipe, snapshot, "whole")
    # Spawned, not forked: autograd refuses to work in the fork of a process where it has worked.
    child = multiprocessing.get_context("spawn").Process(target=search_and_die, args=(settings, recipe, snapshot))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    client = tracking.connect(settings)
    parent = tracking.find_run(client, KEY, "resnet", tracking.SEARCH_KEY)
    assert parent is not None
    before = read_trials(client, parent.info.run_id)
    assert [one.state for one in before] == ["complete", "complete", None]

    receipt = look(settings, recipe, snapshot)
    assert receipt.run_id == parent.info.run_id
    after = trials(settings, receipt)
    assert [one.run.info.run_id for one in after[:3]] == [one.run.info.run_id for one in before]
    assert [one.run.info.end_time for one in after[:2]] == [one.run.info.end_time for one in before[:2]]
    assert told(after) == told(trials(settings, whole))
    assert (receipt.chosen, receipt.log_loss) == (whole.chosen, whole.log_loss)
    # The trial that was under way went on from its checkpoint, and each epoch is on its run once.
    steps = [entry.step for entry in client.get_metric_history(after[2].run.info.run_id, "epoch_train_loss")]
    assert steps == [1, 2, 3, 4]


def test_twice_searches_once(settings: Settings, snapshot: str) -> None:
    recipe = searching({"lr": {"choices": [GOOD, BAD]}}, trials=2, epochs=1)
    first = look(settings, recipe, snapshot)
    assert look(settings, recipe, snapshot) == first
    assert len(trials(settings, first)) == 2
    client = tracking.connect(settings)
    assert len(client.search_runs([tracking.experiment_id(client)])) == 3
    other = searching({"lr": {"choices": [GOOD, 0.01]}}, trials=2, epochs=1)
    with pytest.raises(ClassyError, match="searched under it in another space or on another"):
        look(settings, other, snapshot)


def test_another_process_at_it_is_said(settings: Settings, snapshot: str) -> None:
    with (
        FileLock(state_folder(settings, KEY, "resnet.search") / "lock"),
        pytest.raises(ClassyError, match="search of resnet: another process"),
    ):
        look(settings, searching({"lr": {"choices": [GOOD]}}), snapshot)


def test_what_cannot_be_searched_is_said(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    with pytest.raises(ClassyError, match=r"no space to search resnet .*\[search\.space\.resnet\]"):
        look(settings, recipe, snapshot)
    with pytest.raises(ClassyError, match="no candidate 'resnext'"):
        look(settings, recipe, snapshot, candidate="resnext")
    unfit = digits_snapshot(settings, recipe, name="unfit", ok=False, reasons=["too few rows"])
    with pytest.raises(ClassyError, match="not fit to train on: too few rows"):
        look(settings, searching({"lr": {"choices": [GOOD]}}), unfit)


# ------------------------------------------------------------------------------------------ to the training


def test_what_was_chosen_is_trained_and_names_the_training(settings: Settings, recipe: Recipe, snapshot: str) -> None:
    chosen = {"lr": GOOD, "blocks": [1]}
    given: dict[str, Any] = {"snapshot_uri": snapshot, "run_key": KEY, "candidate": "resnet"}
    receipt = train.run(settings, recipe, **given, chosen=chosen)
    params = tracking.connect(settings).get_run(receipt.run_id).data.params
    assert (params["lr"], params["blocks"]) == (str(GOOD), "[1]")
    assert json.loads(params["chosen"]) == chosen
    assert train.run(settings, recipe, **given, chosen=chosen) == receipt
    with pytest.raises(ClassyError, match=r"was trained under it with chosen values .*, not {}"):
        train.run(settings, recipe, **given)


def test_a_chosen_value_that_cannot_be_is_refused(recipe: Recipe) -> None:
    with pytest.raises(
        ClassyError, match=r"chosen values of resnet: lr = -1: .*greater than 0; widht = 8: no such field"
    ):
        fitting.choose(recipe, "resnet", None, {"lr": -1, "widht": 8, "batch": 32})
    with pytest.raises(ClassyError, match="seed = 3: cannot be searched: a better seed is luck"):
        fitting.choose(recipe, "resnet", None, {"seed": 3})
    assert fitting.choose(recipe, "resnet", 5, {"lr": 0.5}).epochs == 5  # type: ignore[union-attr]


@pytest.mark.parametrize(("text", "says"), [("lr=1", "is no JSON"), ("[1]", "names no fields")])
def test_chosen_values_are_json_on_the_command_line(text: str, says: str) -> None:
    done = CliRunner().invoke(
        app, ["train", "--snapshot-uri", "x", "--run-key", "k", "--candidate", "resnet", "--chosen", text]
    )
    assert done.exit_code == 2
    assert says in done.output
