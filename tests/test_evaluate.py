"""The judge: who is compared, what is kept, and that what is kept is what was found."""

import json
import re
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from monitoring.stores import Store, open_store
from pipelines import files, promote
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.models.facts import Facts
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
    assert version.description.startswith(f"## PROMOTE: version {found.version} (good)")
    assert re.search(r"golden.*accuracy.*0\.900.*0\.700.*\+0\.200", version.description)
    assert version.tags["classy.verdict"] == "PROMOTE"
    assert version.tags["classy.snapshot_id"] == "made-up"
    assert (version.run_id, aliases(case.settings)) == (found.run_id, {"contender": found.version})
    decided = open_store(case.settings.database_url).decision("judge-key-1")
    assert decided is not None
    assert (decided["action"], decided["run_key"], decided["actor"]) == ("PROMOTE", "key-1", "tester")
    path = Path(found.evidence_uri)
    assert (decided["evidence_uri"], decided["evidence_hash"]) == (found.evidence_uri, files.sha256_file(path))


def test_what_the_training_cost_is_in_the_decision_whoever_won(case: Case) -> None:
    client = tracking.connect(case.settings)
    for name, money in (("baseline", 0.05), ("good", 0.25)):
        client.log_metric(case.runs[name], "train_cost", money)
    searched = client.create_run(tracking.experiment_id(client), tags={tracking.SEARCH_KEY: "key-1"}).info.run_id
    client.log_metric(searched, "search_cost", 1.5)
    found = case.evaluate("baseline", "good")
    decided = open_store(case.settings.database_url).decision("judge-key-1")
    assert decided is not None
    assert decided["evidence"] == {"spent": {"money": pytest.approx(1.8), "currency": "EUR"}}
    assert evidence(found.evidence_uri)["spent"] == decided["evidence"]["spent"]


def test_the_evidence_says_which_slices_were_won(case: Case) -> None:
    slices = {
        (row["column"], row["value"]): row for row in evidence(case.evaluate("good", "baseline").evidence_uri)["slices"]
    }
    assert {column for column, _ in slices} == {
        "rows", "class", "sender", "senders", "brightness", "resolution",
    }  # fmt: skip
    assert slices["rows", "golden"]["difference"] == pytest.approx(0.2)
    assert sum(row["rows"] for key, row in slices.items() if key[0] == "class") == 520


def test_an_answer_to_an_older_judgement_does_not_answer_a_new_one(case: Case) -> None:
    version = case.gated(min_rows=10_000).evaluate("baseline", "good").version
    client = tracking.connect(case.settings)
    for tag, value in (("approval_by", "ada"), ("approval", "rejected")):
        client.set_model_version_tag(case.settings.model_name, version, tag, value)
    assert case.evaluate("baseline", "good", run_key="key-2").verdict == "PROMOTE"
    assert "approval" not in client.get_model_version(case.settings.model_name, version).tags
    assert promote.run(case.settings, case.recipe, run_key="key-2").promoted


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


def test_the_champion_trained_again_is_not_promoted(championed: Case) -> None:
    found = championed.evaluate("good", run_key="key-2")
    assert found.verdict == "INSUFFICIENT DATA"
    assert "Not shown to be better on fresh rows" in found.reasons[0]
    assert "The rows do not rule out a gain of" in found.reasons[0]
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
        "facts": Facts().as_json(),
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


# --------------------------------------------------------------------------------------- what holds it back

CLOSE = Plan(golden=0.9, fresh=0.9)


def test_a_slice_that_is_lost_holds_back_a_contender_that_is_better_on_the_whole(
    settings: Settings, recipe: Recipe
) -> None:
    plans = {"good": Plan(golden=0.7, fresh=0.6), "better": Plan(golden=0.99, fresh=0.99, old_phones=0.3)}
    case = make_case(settings, recipe, plans, golden=600, fresh=300, senders=60)
    case.evaluate("good")
    promote.run(settings, recipe, run_key="key-1")
    unaware = case.evaluate("better", run_key="key-2")
    assert unaware.verdict == "PROMOTE", unaware.reasons
    found = case.gated(slice_columns=("phone",), slice_margin=0.1).evaluate("better", run_key="key-3")
    assert found.verdict == "HOLD"
    assert "phone" in found.reasons[0]
    assert "old" in found.reasons[0]
    rows = {(row["column"], row["value"]): row for row in evidence(found.evidence_uri)["slices"]}
    assert rows["phone", "old"]["p_harm_holm"] < 0.01
    assert case.gated(slice_columns=("phone",), slices=False).evaluate("better", run_key="key-4").verdict == "PROMOTE"


def test_a_column_that_is_not_there_is_named_with_those_that_are(case: Case) -> None:
    with pytest.raises(ClassyError, match=r"gates.slice_columns: telephone: .*it has brightness, .*one, two.*phone"):
        case.gated(slice_columns=("telephone", "contrast")).evaluate("good")
    assert open_store(case.settings.database_url).decisions() == []


@pytest.mark.parametrize(
    ("changed", "gate", "words"),
    [
        ({"bytes": 9000}, {"size_factor": 3.0}, "gates.size_factor"),
        ({"seconds": 500.0}, {"cost_factor": 10.0}, "gates.cost_factor"),
    ],
)
def test_a_contender_that_costs_too_much_is_held(
    settings: Settings, recipe: Recipe, changed: dict, gate: dict, words: str
) -> None:
    plans = {"good": GOOD, "better": replace(BETTER, **changed)}
    case = make_case(settings, recipe, plans)
    case.evaluate("good")
    promote.run(settings, recipe, run_key="key-1")
    found = case.gated(**gate).evaluate("better", run_key="key-2")
    assert found.verdict == "HOLD"
    assert words in found.reasons[0]
    generous = dict.fromkeys(gate, 100.0)
    assert case.gated(**generous).evaluate("better", run_key="key-3").verdict == "PROMOTE"


def test_a_baseline_is_no_measure_of_what_a_network_may_cost(settings: Settings, recipe: Recipe) -> None:
    plans = {"baseline": replace(BASELINE, bytes=10, seconds=0.01), "good": Plan(golden=0.9, fresh=0.95)}
    case = make_case(settings, recipe, plans)
    assert case.evaluate("baseline").verdict == "PROMOTE"
    promote.run(settings, recipe, run_key="key-1")
    found = case.gated(size_factor=3.0, cost_factor=3.0).evaluate("good", run_key="key-2")
    assert found.verdict == "PROMOTE"
    assert found.metrics["size_contender"] / found.metrics["size_opponent"] == 100


def test_behaviour_is_reported_and_holds_back_only_where_the_recipe_says_so(championed: Case) -> None:
    """These models read one pixel, so they change their minds when a photo moves."""
    found = championed.evaluate("better", run_key="key-2")
    shares = {row["test"]: row for row in evidence(found.evidence_uri)["behaviour"]}
    assert (shares["shift"]["passed"], found.verdict) == (False, "PROMOTE")
    behaviour = championed.recipe.behaviour.model_copy(update={"gating": True})
    recipe = championed.recipe.model_copy(update={"behaviour": behaviour})
    held = replace(championed, recipe=recipe).evaluate("better", run_key="key-3")
    assert held.verdict == "HOLD"
    assert held.reasons[0].startswith("Photos moved by 5% of their side lose their answer")


def test_not_worse_is_enough_where_the_recipe_says_so(championed: Case) -> None:
    assert championed.evaluate("good", run_key="key-2").verdict == "INSUFFICIENT DATA"
    assert championed.gated(require="not_worse", margin=0.2).evaluate("good", run_key="key-3").verdict == "PROMOTE"


# ----------------------------------------------------------------------------------- seeds, drift, golden


def test_the_middle_seed_is_judged_and_a_lucky_one_is_not_promoted(settings: Settings, recipe: Recipe) -> None:
    plans = {
        "old": Plan(golden=0.9, fresh=0.8),
        "new": Plan(golden=0.9, fresh=0.72, val_log_loss=0.30),
        "new-seed2": Plan(golden=0.9, fresh=0.97, val_log_loss=0.31),  # the middle one by validation, lucky on the test
        "new-seed3": Plan(golden=0.9, fresh=0.72, val_log_loss=0.32),
    }
    case = make_case(settings, recipe, plans, fresh=200).gated(margin=0.1, f1_margin=0.1)
    case.evaluate("old")
    promote.run(settings, recipe, run_key="key-1")
    found = case.evaluate("new", "new-seed2", "new-seed3", run_key="key-2")
    assert (found.run_id, found.verdict) == (case.runs["new-seed2"], "HOLD")
    assert "seed" in found.reasons[0]
    seeds = evidence(found.evidence_uri)["seeds"]
    assert [run["run_id"] for run in seeds["runs"]] == [case.runs[name] for name in ("new-seed2", "new", "new-seed3")]
    assert [run["gain"] for run in seeds["runs"]] == pytest.approx([0.17, -0.08, -0.08])
    assert seeds["gain"] == pytest.approx(0.01 / 3)
    alone = case.evaluate("new-seed2", run_key="key-3")
    assert alone.verdict == "PROMOTE", alone.reasons


def test_seeds_that_all_gain_are_promoted(settings: Settings, recipe: Recipe) -> None:
    plans = {"old": Plan(golden=0.9, fresh=0.6)} | {
        name: Plan(golden=0.9, fresh=0.9 + shift, val_log_loss=0.3 + shift)
        for name, shift in {"new": 0.0, "new-seed2": 0.02}.items()
    }
    case = make_case(settings, recipe, plans).gated(margin=0.1, f1_margin=0.1)
    case.evaluate("old")
    promote.run(settings, recipe, run_key="key-1")
    found = case.evaluate("new", "new-seed2", run_key="key-2")
    assert (found.verdict, found.run_id) == ("PROMOTE", case.runs["new-seed2"]), "of two the one that validated worse"


def test_after_a_drift_only_rows_since_it_began_decide(settings: Settings, recipe: Recipe) -> None:
    plans = {"good": GOOD, "better": BETTER}
    case = make_case(settings, recipe, plans, fresh=200, drift_from="2026-03-04T23:00")
    case.evaluate("good")
    promote.run(settings, recipe, run_key="key-1")
    found = case.evaluate("better", run_key="key-2")
    told = evidence(found.evidence_uri)
    assert (told["comparisons"]["fresh"]["rows"], told["comparisons"]["drifted"]["rows"]) == (200, 60)
    assert (found.verdict, told["snapshot"]["drift_from"]) == ("PROMOTE", "2026-03-04T23:00")
    assert any("60 rows" in reason and "since the drift began" in reason for reason in found.reasons)


def test_every_use_of_the_golden_rows_is_counted_once(championed: Case) -> None:
    uses = []
    for run_key in ("key-2", "key-3", "key-2"):
        uses.append(evidence(championed.evaluate("good", run_key=run_key).evidence_uri)["golden"])
    assert [use["uses"] for use in uses] == [2, 3, 2]
    assert {use["rows"] for use in uses} == {400}
    assert len({use["hash"] for use in uses}) == 1
