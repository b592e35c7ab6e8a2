"""The judge: who is compared, what is kept, and that what is kept is what was found."""

import json
from pathlib import Path

import fsspec
import pytest

from monitoring.stores import Store, open_store
from pipelines import files, promote
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.runtime import ModelError
from tests.judged import Case, Plan, aliases, log_model, make_case, no_pictures, versions

GOOD, BETTER = Plan(golden=0.90, fresh=0.60), Plan(golden=0.93, fresh=0.95)
FORGETFUL = Plan(golden=0.60, fresh=0.95)
BASELINE = Plan(golden=0.70, fresh=0.70, kind="sklearn", val_log_loss=0.1)


def evidence(uri: str) -> dict:
    with fsspec.open(uri) as file:
        return json.load(file)


@pytest.fixture(autouse=True)
def _pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "reviewer" not in request.node.name:
        no_pictures(monkeypatch)


@pytest.fixture
def case(settings: Settings, recipe: Recipe) -> Case:
    return make_case(settings, recipe, {"baseline": BASELINE, "good": GOOD, "better": BETTER, "forgetful": FORGETFUL})


@pytest.fixture
def championed(case: Case) -> Case:
    """`good` is in production."""
    assert case.evaluate("baseline", "good").verdict == "PROMOTE"
    promote.run(case.settings, case.recipe, run_key="key-1")
    return case


def test_before_there_is_a_champion_a_network_is_judged_against_the_baseline(case: Case) -> None:
    found = case.evaluate("baseline", "good")
    assert (found.verdict, found.run_id, found.champion_version) == ("PROMOTE", case.runs["good"], None)
    assert evidence(found.evidence_uri)["opponent"]["run_id"] == case.runs["baseline"]
    assert found.metrics["golden_accuracy"] == pytest.approx(0.90)
    assert found.metrics["fresh_opponent_accuracy"] == pytest.approx(0.70)
    assert found.reasons[0].startswith("Not worse than the baseline on golden and fresh rows: accuracy 0.831 against")


def test_everything_a_reviewer_needs_is_on_the_run_and_on_the_version(case: Case) -> None:
    found = case.evaluate("baseline", "good")
    client = tracking.connect(case.settings)
    kept = {file.path for file in client.list_artifacts(found.run_id, "judge")}
    wanted = {"evidence.json", "confusion.png", "reliability.png", "slices.png", "slices.csv"}
    assert {f"judge/{name}" for name in wanted} <= kept
    assert client.get_run(found.run_id).data.metrics["judge_golden_accuracy"] == pytest.approx(0.90)
    version = client.get_model_version(case.settings.model_name, found.version)
    assert version.description.startswith("## PROMOTE: good against baseline")
    assert "| golden (400) | accuracy | 0.900 | 0.700 | +0.200" in version.description
    assert version.tags["classy.verdict"] == "PROMOTE"
    assert version.tags["classy.snapshot_id"] == "made-up"
    assert (version.run_id, aliases(case.settings)) == (found.run_id, {"contender": found.version})
    decided = open_store(case.settings.database_url).decision("judge-key-1")
    assert decided is not None
    assert (decided["action"], decided["run_key"], decided["actor"]) == ("PROMOTE", "key-1", "tester")
    path = Path(found.evidence_uri)
    assert (decided["evidence_uri"], decided["evidence_hash"]) == (found.evidence_uri, files.sha256_file(path))


def test_the_evidence_says_which_slices_were_won(case: Case) -> None:
    slices = {
        (row["column"], row["value"]): row for row in evidence(case.evaluate("good", "baseline").evidence_uri)["slices"]
    }
    assert {column for column, _ in slices} == {"rows", "class", "sender", "brightness"}
    assert slices["rows", "golden"]["difference"] == pytest.approx(0.2)
    assert sum(row["rows"] for key, row in slices.items() if key[0] == "class") == 520


def test_judging_twice_is_judging_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    first = case.evaluate("baseline", "good")
    monkeypatch.setattr("pipelines.models.contest.predict", lambda *_: pytest.fail("judged again"))
    assert case.evaluate("baseline", "good") == first
    assert versions(case.settings) == ["1"]
    logged = tracking.connect(case.settings).get_metric_history(first.run_id, "judge_golden_accuracy")
    assert len(logged) == 1


def test_killed_after_the_evidence_the_same_verdict_is_recorded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> bool:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Store, "record_decision", kill)
        with pytest.raises(Killed):
            case.evaluate("baseline", "good")
    uri = f"{case.settings.data_root}/judge/key-1/evidence.json"
    before = evidence(uri)
    assert case.evaluate("baseline", "good").verdict == "PROMOTE"
    assert evidence(uri) == before
    assert versions(case.settings) == ["1"]


def test_the_champion_is_the_opponent_once_there_is_one(championed: Case) -> None:
    found = championed.evaluate("baseline", "better", run_key="key-2")
    assert (found.verdict, found.version, found.champion_version) == ("PROMOTE", "2", "1")
    assert any(reason.startswith("Better on fresh rows: accuracy 0.950 against 0.600") for reason in found.reasons)
    assert found.metrics["latency_ms_opponent"] > 0
    assert aliases(championed.settings) == {"champion": "1", "contender": "2"}


def test_a_planted_regression_on_golden_rows_is_held_however_good_the_fresh_ones_are(championed: Case) -> None:
    found = championed.evaluate("forgetful", run_key="key-2")
    assert found.verdict == "HOLD"
    assert found.reasons[0].startswith("Worse than the champion on golden rows: accuracy 0.600 against 0.900")
    assert found.metrics["fresh_difference_low"] > 0


def test_the_champion_trained_again_is_held(championed: Case) -> None:
    found = championed.evaluate("good", run_key="key-2")
    assert found.verdict == "HOLD"
    assert "Not shown to be better on fresh rows" in found.reasons[0]
    assert versions(championed.settings) == ["1"]


def test_too_few_fresh_rows_are_insufficient_data(settings: Settings, recipe: Recipe) -> None:
    case = make_case(settings, recipe, {"good": GOOD, "better": BETTER}, fresh=9)
    assert case.evaluate("good").verdict == "PROMOTE"
    promote.run(settings, recipe, run_key="key-1")
    found = case.evaluate("better", run_key="key-2")
    assert found.verdict == "INSUFFICIENT DATA"
    assert "9 labelled fresh rows, gates.min_rows asks for 10; 1 more are needed" in found.reasons[0]


def test_a_lone_baseline_is_judged_against_guessing(case: Case) -> None:
    found = case.evaluate("baseline")
    assert (found.verdict, found.run_id) == ("PROMOTE", case.runs["baseline"])
    assert evidence(found.evidence_uri)["opponent"] == {
        "kind": "guess",
        "run_id": None,
        "version": None,
        "candidate": None,
        "model": None,
        "trained_on": None,
        "val": None,
    }
    assert "latency_ms_opponent" not in found.metrics


def test_the_network_with_the_lowest_validation_loss_is_the_contender(settings: Settings, recipe: Recipe) -> None:
    plans = {
        "baseline": BASELINE,
        "lucky": Plan(golden=0.99, fresh=0.99, val_log_loss=0.4),
        "sound": Plan(golden=0.9, fresh=0.9, val_log_loss=0.3),
    }
    case = make_case(settings, recipe, plans)
    assert case.evaluate("baseline", "lucky", "sound").run_id == case.runs["sound"]


def test_a_champion_that_cannot_read_these_rows_is_not_beaten_unseen(championed: Case) -> None:
    settings, recipe = championed.settings, championed.recipe
    current = open_store(settings.database_url).current()
    assert current is not None
    other = log_model(settings, recipe, "old", GOOD, 0, image_spec_hash="another-spec")
    store = open_store(settings.database_url)
    store.add_generation({**current, "generation": 2, "champion_run_id": other, "run_key": "elsewhere"})
    found = championed.evaluate("baseline", "better", run_key="key-2")
    assert found.verdict == "HOLD"
    assert "image (another-spec) differ from the snapshot's (spec); cannot be compared" in found.reasons[0]
    assert evidence(found.evidence_uri)["opponent"]["kind"] == "baseline"


def test_a_contender_of_another_recipe_is_refused(settings: Settings, recipe: Recipe) -> None:
    case = make_case(settings, recipe, {"good": GOOD}, card={"good": {"classes": ["yes", "no"]}})
    with pytest.raises(ClassyError, match=r"classes \(yes, no\) differ from the snapshot's \(0, 1, 2"):
        case.evaluate("good")
    assert open_store(settings.database_url).decisions() == []


def test_a_package_that_was_changed_is_not_judged(case: Case) -> None:
    package = tracking.fetch_package(case.settings, case.runs["good"])
    (package / "model.onnx").write_bytes((package / "model.onnx").read_bytes() + b"x")
    with pytest.raises(ModelError, match=r"model\.onnx: was changed"):
        case.evaluate("good")


@pytest.mark.parametrize(
    ("names", "run_key", "words"), [((), "key", "run_ids is empty"), (("good",), "a/b", "run key")]
)
def test_bad_arguments_are_named(case: Case, names: tuple[str, ...], run_key: str, words: str) -> None:
    with pytest.raises(ClassyError, match=words):
        case.evaluate(*names, run_key=run_key)
