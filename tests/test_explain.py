"""The chain of a generation: whole, and with a part of it gone or changed."""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from monitoring import ledger
from monitoring.stores import open_store
from pipelines import explain, files
from pipelines.cli import app
from pipelines.errors import ClassyError
from pipelines.lineage import events as lineage
from pipelines.lineage import traces
from pipelines.lineage.chain import lineage_root
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from tests.chains import RUN_KEY, Made, learnable, make_chain
from tests.conftest import TINY
from tests.judged import no_pictures

LINKS = ("version", "run", "package", "snapshot", "features", "code", "recipe", "judged")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    settings = load_settings(home=tmp_path_factory.mktemp("chain") / "var", actor="tester", threads=1)
    with pytest.MonkeyPatch.context() as patch:
        no_pictures(patch)
        chain = make_chain(settings, learnable(Recipe.model_validate(TINY)))
    assert lineage.keep(settings, chain.recipe, 1) is not None
    return chain


@pytest.fixture
def chain(made: Made, tmp_path: Path) -> Iterator[Made]:
    """The chain, whose files a test may spoil: they are put back afterwards."""
    parts = ("data", "cache", "features")
    for part in parts:
        shutil.copytree(made.settings.home / part, tmp_path / "as-it-was" / part)
    yield made
    for part in parts:
        shutil.rmtree(made.settings.home / part, ignore_errors=True)
        shutil.copytree(tmp_path / "as-it-was" / part, made.settings.home / part)


def explained(chain: Made, settings: Settings | None = None, **given: Any) -> dict[str, Any]:
    return explain.run(settings or chain.settings, chain.recipe, **given)


def with_its_own_ledger(chain: Made, folder: Path) -> Settings:
    """The same world on a copy of the tables, which a test may write to."""
    copy = folder / "copy.db"
    with sqlite3.connect(chain.settings.home / "classy.db") as source, sqlite3.connect(copy) as target:
        source.backup(target)
    return chain.settings.model_copy(update={"database_url": f"sqlite:///{copy}"})


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(bytes(data))


def path_of(part: dict[str, Any]) -> Path:
    return Path(part["uri"])


# ------------------------------------------------------------------------------------------------- whole


def test_a_whole_chain_is_there_and_verified_from_the_version_to_the_raw_days(made: Made) -> None:
    found = explained(made)
    assert {name: found[name]["state"] for name in LINKS} == dict.fromkeys(LINKS, "there")
    assert [day["day"] for day in found["partitions"]] == made.days
    for day in found["partitions"]:
        for part in ("shard", "clean", "raw"):
            assert (day[part]["state"], day[part]["verified"], day[part]["rows"]) == ("there", True, 60)
    assert found["states"] == {"there": 8 + 3 * 4, "changed": 0, "gone": 0, "unknown": 0}
    assert found["notes"] == []


def test_it_says_what_was_trained_how_on_what_and_who_judged_it(made: Made) -> None:
    found = explained(made)
    assert (found["version"]["version"], found["version"]["aliases"]) == ("1", ["champion"])
    run = found["run"]
    assert (run["run_id"], run["candidate"], run["seed"], run["run_key"]) == (made.run_id, "baseline", 7, RUN_KEY)
    assert run["parameters"]["c"] == "0.1"
    assert run["started"] <= run["ended"]
    assert run["weights"] > 0
    assert run["made_by"].startswith("classy ")
    assert found["package"]["sha256"] == made.package_sha256
    assert found["package"]["here"]["verified"]
    assert found["package"]["in_mlflow"]["verified"]
    assert found["snapshot"]["uri"] == made.snapshot_uri
    assert sum(found["snapshot"]["counts"].values()) > 100
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert found["code"]["head"] == head
    assert found["recipe"]["hash"] == made.recipe.digest()
    assert (found["judged"]["verdict"], found["judged"]["verified"]) == ("PROMOTE", True)
    assert (found["approved"], found["asked"], found["prediction"]) == (None, None, None)


def test_the_chain_is_plain_json_with_the_same_fields_whatever_is_missing(made: Made) -> None:
    whole = explained(made, quick=True)
    assert json.loads(json.dumps(whole)) == whole
    down = made.settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    assert set(explained(made, down, quick=True)) == set(whole)


def test_quick_believes_the_manifests(chain: Made) -> None:
    spoil(path_of(explained(chain, quick=True)["partitions"][0]["shard"]) / "images.npy")
    assert explained(chain, quick=True)["partitions"][0]["shard"]["state"] == "there"
    assert not explained(chain, quick=True)["partitions"][0]["shard"]["verified"]
    assert explained(chain)["partitions"][0]["shard"]["state"] == "changed"


# -------------------------------------------------------------------------------------- gone and changed


def test_what_is_gone_is_said_in_its_place_and_the_rest_is_still_found(chain: Made) -> None:
    before = explained(chain, quick=True)
    shutil.rmtree(before["snapshot"]["uri"])
    shutil.rmtree(before["partitions"][0]["shard"]["uri"])
    shutil.rmtree(before["partitions"][1]["raw"]["uri"])
    found = explained(chain)
    assert (found["snapshot"]["state"], found["snapshot"]["id"]) == ("gone", before["snapshot"]["id"])
    states = [[day[part]["state"] for part in ("shard", "clean", "raw")] for day in found["partitions"]]
    assert states == [["gone", "there", "there"], ["there", "there", "gone"], ["there"] * 3, ["there"] * 3]
    assert found["partitions"][0]["clean"]["verified"], "what was kept at the promotion still names it, and its hash"
    assert found["states"]["gone"] == 3


def test_a_day_that_was_gathered_again_with_other_content_is_not_the_one_that_was_learned_from(chain: Made) -> None:
    raw = explained(chain, quick=True)["partitions"][2]["raw"]
    with files.new_partition(raw["uri"]) as draft:
        (draft.folder / "records.parquet").write_bytes(b"other photos")
        draft.meta = {"day": chain.days[2], "records": 1, "labels": 0}
    found = explained(chain)["partitions"][2]
    assert (found["raw"]["state"], found["raw"]["recorded_hash"]) == ("changed", raw["hash"])
    assert "made again" in found["raw"]["says"]
    assert found["shard"]["verified"]


def test_without_what_was_kept_it_says_what_nobody_recorded(chain: Made) -> None:
    shutil.rmtree(lineage_root(chain.settings, 1))
    found = explained(chain)
    assert "not kept" in found["notes"][0]
    assert found["states"]["gone"] == 0
    raw = found["partitions"][0]["raw"]
    assert (raw["state"], raw["verified"]) == ("there", False)
    assert "was not recorded" in raw["says"]
    assert found["partitions"][0]["clean"]["verified"], "the shard's manifest names the clean partition's hash"


def test_a_package_that_was_changed_here_is_told_from_the_one_in_mlflow(chain: Made) -> None:
    spoil(path_of(explained(chain, quick=True)["package"]["here"]) / "model.onnx")
    package = explained(chain)["package"]
    assert (package["state"], package["here"]["state"]) == ("changed", "changed")
    assert package["in_mlflow"]["verified"]
    assert "model.onnx" in package["says"]
    shutil.rmtree(path_of(package["here"]))
    package = explained(chain)["package"]
    assert (package["state"], package["verified"], package["here"]["state"]) == ("there", True, "gone")


def test_evidence_that_was_changed_after_the_verdict_is_not_believed(chain: Made) -> None:
    path = path_of(explained(chain, quick=True)["judged"])
    path.write_text(path.read_text().replace('"verdict": "PROMOTE"', '"verdict": "HOLD"'))
    judged = explained(chain)["judged"]
    assert (judged["state"], judged["verdict"]) == ("changed", "PROMOTE"), "the ledger says what was decided"
    assert "changed after the verdict" in judged["says"]
    path.unlink()
    found = explained(chain)
    assert found["judged"]["state"] == "gone"
    assert found["snapshot"]["state"] == "there", "the run and what was kept name it too"


def test_another_feature_service_in_force_is_said(chain: Made) -> None:
    mark = Path(chain.settings.features_root) / "applied"
    mark.write_text("0123456789ab")
    features = explained(chain, quick=True)["features"]
    assert (features["state"], features["in_force"]) == ("changed", "0123456789ab")
    assert features["hash"] != features["in_force"]


def test_another_recipe_is_told_from_a_changed_one(made: Made) -> None:
    renamed = made.recipe.model_copy(update={"name": "other"})
    changed = made.recipe.model_copy(update={"gates": made.recipe.gates.model_copy(update={"margin": 0.5})})
    assert explain.run(made.settings, renamed, quick=True)["recipe"]["state"] == "unknown"
    assert explain.run(made.settings, changed, quick=True)["recipe"]["state"] == "changed"


# ----------------------------------------------------------------------------------------- MLflow is down


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////nowhere/at/all/mlflow.db"])
def test_while_mlflow_is_down_the_ledger_the_evidence_and_the_package_still_tell(made: Made, uri: str) -> None:
    up = explained(made)
    found = explained(made, made.settings.model_copy(update={"mlflow_uri": uri}))
    assert "MLflow does not answer" in found["notes"][0]
    assert uri in found["notes"][0]
    assert {found[name]["state"] for name in ("version", "run")} == {"unknown"}
    assert found["run"]["candidate"] == "baseline"
    assert found["run"]["parameters"] == up["run"]["parameters"], "kept at the promotion"
    assert (found["package"]["state"], found["package"]["verified"]) == ("there", True)
    for name in ("snapshot", "partitions", "judged", "features", "recipe"):
        assert found[name] == up[name]
    assert found["code"]["commit"] == up["code"]["commit"]


def test_while_mlflow_is_down_and_nothing_was_kept_what_is_missing_is_named(chain: Made) -> None:
    shutil.rmtree(lineage_root(chain.settings, 1))
    shutil.rmtree(chain.settings.home / "cache")
    down = chain.settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    found = explained(chain, down)
    assert len(found["notes"]) == 2
    assert found["run"]["parameters"] is None
    assert found["package"]["state"] == "unknown"
    assert found["snapshot"]["state"] == "there"
    assert [day["shard"]["state"] for day in found["partitions"]] == ["there"] * 4


def test_a_version_that_was_deleted_in_the_registry_is_gone(made: Made, tmp_path: Path) -> None:
    settings = with_its_own_ledger(made, tmp_path)
    store = open_store(settings.database_url)
    first = store.generations()[0]
    store.add_generation({**first, "generation": 2, "champion_version": "77", "run_key": "by hand"})
    found = explained(made, settings, quick=True)
    assert (found["version"]["state"], found["run"]["state"]) == ("gone", "there")
    assert "not found" in found["version"]["says"]


# -------------------------------------------------------------------------------- generations, predictions


def test_a_generation_that_is_not_there_names_those_that_are(made: Made) -> None:
    with pytest.raises(ClassyError, match=r"generation 9: there is none; there are 1 \(`classy history`\)"):
        explained(made, generation=9)


def test_before_the_first_generation_it_says_what_makes_one(settings: Settings, recipe: Recipe) -> None:
    with pytest.raises(ClassyError, match="nothing is in production yet; `classy promote`"):
        explain.run(settings, recipe)


def test_a_rollback_is_explained_by_the_chain_of_the_model_that_it_put_back(made: Made, tmp_path: Path) -> None:
    settings = with_its_own_ledger(made, tmp_path)
    store = open_store(settings.database_url)
    first = store.generations()[0]
    store.add_generation({**first, "generation": 2, "champion_version": "2", "champion_run_id": "x", "run_key": "b"})
    change = ledger.Change(
        actor="ada", reason="worse in the shop", run_key="oops", as_of=first["as_of"], created_at=datetime.now(UTC)
    )
    store.add_generation(ledger.rollback(store.generations()[1], change, target=first))
    found = explained(made, settings, quick=True)
    assert (found["generation"], found["kind"], found["by"]) == (3, "rollback", "ada")
    assert found["first_promoted_as_generation"] == 1
    assert (found["run"]["run_id"], found["judged"]["run_key"]) == (made.run_id, RUN_KEY)
    assert explained(made, settings, generation=1, quick=True)["until_wall_clock"] == first["created_at"].isoformat()


def test_an_explanation_can_begin_at_a_prediction(made: Made, tmp_path: Path) -> None:
    settings = with_its_own_ledger(made, tmp_path)
    store = open_store(settings.database_url)
    as_of = store.generations()[0]["as_of"]
    base = {
        "source_id": "s1", "captured_at": as_of, "predicted_at": as_of + timedelta(days=1), "label": "3",
        "confidence": 0.75, "probabilities": [0.25, 0.75], "model_version": "1", "run_id": made.run_id, "generation": 1,
        "arm": "champion", "channel": "batch", "service_hash": "h", "defaulted": True,
    }  # fmt: skip
    later = as_of + timedelta(hours=5)
    store.upsert_predictions(
        [
            {**base, "prediction_id": "p-known", "image_id": "photo-1"},
            {**base, "prediction_id": "p-open", "image_id": "photo-2", "captured_at": later},
        ]
    )
    store.upsert_truth([{"image_id": "photo-1", "label": "4", "labelled_at": later, "said_by": "grace"}])
    found = explained(made, settings, prediction="p-known", quick=True)
    assert (found["prediction"]["label"], found["prediction"]["right"]) == ("3", False)
    assert found["prediction"]["truth"]["said_by"] == "grace"
    assert found["generation"] == 1
    assert found["predictions"] == {
        "count": 2, "first": as_of.isoformat(), "last": later.isoformat(), "arms": {"champion": 2},
    }  # fmt: skip
    unknown = explained(made, settings, prediction="p-open", quick=True)["prediction"]
    assert (unknown["truth"], unknown["right"]) == (None, None)
    with pytest.raises(ClassyError, match=r"photo-1 is a photo, not a prediction; .* are p-known \(generation 1\)"):
        explained(made, settings, prediction="photo-1")
    with pytest.raises(ClassyError, match="prediction nothing: there is none"):
        explained(made, settings, prediction="nothing")
    with pytest.raises(ClassyError, match="was made by generation 1, not 7"):
        explained(made, settings, prediction="p-known", generation=7)


# -------------------------------------------------------------------------------------------------- code


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    root.mkdir()
    for number in (1, 2):
        (root / "code.py").write_text(f"x = {number}\n")
        git(root, "init", "-q")
        git(root, "add", ".")
        git(root, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", str(number))
    return root


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def test_a_commit_is_looked_for_in_the_checkout(checkout: Path, tmp_path: Path) -> None:
    older, head = git(checkout, "rev-parse", "HEAD~1"), git(checkout, "rev-parse", "HEAD")
    assert traces.commit(head, "false", checkout)["says"] is None
    found = traces.commit(older, "true", checkout)
    assert (found["state"], found["dirty_then"], found["dirty_now"]) == ("there", True, False)
    assert found["says"] == "1 commit before this checkout's HEAD"
    (checkout / "code.py").write_text("x = 3\n")
    assert traces.commit(head, None, checkout)["dirty_now"]
    assert traces.commit("0" * 40, None, checkout)["state"] == "gone"
    assert traces.commit(None, None, checkout)["state"] == "unknown"
    assert traces.commit(head, None, tmp_path)["state"] == "unknown", "no git checkout"


@pytest.mark.parametrize(
    ("origin", "page"),
    [
        ("https://someone:secret@example.org/team/shop.git", "https://example.org/team/shop"),
        ("git@example.org:team/shop.git", "https://example.org/team/shop"),
        ("ssh://git@example.org:2222/team/shop", "https://example.org/team/shop"),
        ("/somewhere/on/disk", None),
    ],
)
def test_the_repository_is_named_without_its_secrets(checkout: Path, origin: str, page: str | None) -> None:
    git(checkout, "remote", "add", "origin", origin)
    assert traces.commit(git(checkout, "rev-parse", "HEAD"), None, checkout)["repository"] == page


# ---------------------------------------------------------------------------------------------- terminal


def classy(made: Made, *arguments: str) -> Any:
    env = {"CLASSY_HOME": str(made.settings.home), "CLASSY_RECIPE": "digits", "COLUMNS": "100"}
    return CliRunner().invoke(app, list(arguments), env=env, catch_exceptions=False)


def test_the_tree_names_every_link_also_when_some_are_gone(chain: Made) -> None:
    shutil.rmtree(chain.snapshot_uri)
    shown = classy(chain, "explain")
    assert shown.exit_code == 0
    text = " ".join(shown.output.replace("│", " ").split())
    for wanted in (
        "generation 1 (promote by tester)",
        "version 1 (champion): verified",
        "verdict PROMOTE against guessing the commonest class",
        f"package SHA-256 {made_short(chain)}: verified",
        "feature service context_v1",
        "commit ",
        "snapshot ",
        ": gone",
        "2026-03-01: shard ",
    ):
        assert wanted in text, wanted


def made_short(chain: Made) -> str:
    return chain.package_sha256[:12]


def test_the_same_as_json(made: Made) -> None:
    shown = classy(made, "explain", "1", "--quick", "--json")
    assert json.loads(shown.output)["generation"] == 1
