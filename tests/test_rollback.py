"""Going back: to a model that still can serve, further back the second time, once a run key; who and why is kept."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from onnx import helper

from monitoring.ledger import LedgerError
from monitoring.stores import LostRace, Store, open_store
from pipelines import promote, rollback
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.recipe import Recipe
from pipelines.rollback import RolledBack
from pipelines.settings import Settings
from serving.runtime import ModelError
from tests import judged
from tests.judged import aliases, ready_mlflow
from tests.promotions import plant, rule, shown, told

pytestmark = pytest.mark.usefixtures("database_url")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shop:
    """Where `first`, then `second`, were promoted."""

    settings: Settings
    recipe: Recipe
    runs: dict[str, str]

    def back(self, run_key: str = "oops", to: int | None = None, reason: str = "only sees shoes") -> RolledBack:
        return rollback.run(self.settings, self.recipe, to=to, reason=reason, actor="ada", run_key=run_key)

    def generations(self) -> list[dict[str, Any]]:
        return open_store(self.settings.database_url).generations()


def make_shop(settings: Settings, recipe: Recipe, cards: Mapping[str, Mapping[str, Any]] | None = None) -> Shop:
    """`cards` changes fields of a model's card, by name."""
    ready_mlflow(settings)
    runs = {name: plant(settings, recipe, name, **(cards or {}).get(name, {})) for name in ("first", "second")}
    for number, run_id in enumerate(runs.values(), 1):
        rule(settings, recipe, run_id, f"key-{number}", day=number)
        promote.run(settings, recipe, run_key=f"key-{number}")
    return Shop(settings=settings, recipe=recipe, runs=runs)


@pytest.fixture
def shop(settings: Settings, recipe: Recipe) -> Shop:
    return make_shop(settings, recipe)


def test_a_rollback_is_a_new_generation_with_the_old_model_and_its_evidence(shop: Shop) -> None:
    found = shop.back()
    assert (found.generation, found.version, found.changed) == (3, "1", True)
    first, _, third = shop.generations()
    assert (third["kind"], third["actor"], third["previous_version"]) == ("rollback", "ada", "2")
    assert third["reason"] == "only sees shoes (back to generation 1's version 1)"
    assert (third["evidence_hash"], third["champion_run_id"]) == (first["evidence_hash"], first["champion_run_id"])
    assert aliases(shop.settings) == {"champion": "1", "previous": "2"}
    assert shown(shop.settings) == told(shop.settings)


def test_the_same_key_rolls_back_once(shop: Shop) -> None:
    shop.back()
    again = shop.back()
    assert (again.generation, again.changed) == (3, False)
    assert len(shop.generations()) == 3


def test_a_second_rollback_does_not_bring_the_bad_model_back(shop: Shop) -> None:
    shop.back()
    with pytest.raises(LedgerError, match=r"nothing to roll back to: generation 3 serves version 1.*--to"):
        shop.back("oops-again")
    assert shop.back("on-purpose", to=2).version == "2"


def test_what_serves_already_is_not_put_there_again(shop: Shop) -> None:
    found = shop.back(to=2)
    assert (found.generation, found.changed, found.reason) == (2, False, "version 2 serves already, since generation 2")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"to": 7}, LedgerError, r"generation 7: there is none; there are 1 \(version 1\), 2 \(version 2\)"),
        ({"reason": " "}, ClassyError, "needs a reason"),
        ({"run_key": "key-1"}, ClassyError, "run key key-1: names a training, not a rollback"),
    ],
)
def test_bad_arguments_are_named(shop: Shop, arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        shop.back(**arguments)
    assert len(shop.generations()) == 2


def test_a_training_cannot_be_promoted_under_the_run_key_of_a_rollback(shop: Shop) -> None:
    shop.back()
    rule(shop.settings, shop.recipe, shop.runs["second"], "oops", day=3)
    with pytest.raises(ClassyError, match="run key oops: a rollback made generation 3 under it"):
        promote.run(shop.settings, shop.recipe, run_key="oops")
    assert len(shop.generations()) == 3


def test_before_the_first_promotion_there_is_nothing_to_roll_back(settings: Settings, recipe: Recipe) -> None:
    ready_mlflow(settings)
    with pytest.raises(LedgerError, match="nothing is in production yet"):
        rollback.run(settings, recipe, reason="panic", run_key="oops")


# ------------------------------------------------------------------------------- the old model, before it serves


def refused(shop: Shop, error: type[Exception], words: str, **arguments: Any) -> str:
    """The rollback fails with these words, and neither the ledger nor the registry has changed."""
    before = shop.generations(), shown(shop.settings)
    with pytest.raises(error, match=words) as caught:
        shop.back(**arguments)
    assert (shop.generations(), shown(shop.settings)) == before
    return str(caught.value)


def test_a_model_that_is_on_this_machine_no_more_is_fetched_again(shop: Shop) -> None:
    shutil.rmtree(shop.settings.home / "cache" / "models")
    assert shop.back().version == "1"


@pytest.mark.parametrize("file", ["model.onnx", "card.json"])
def test_a_model_that_was_changed_is_refused_and_the_present_one_stays(shop: Shop, file: str) -> None:
    package = tracking.fetch_package(shop.settings, shop.runs["first"])
    (package / file).write_bytes((package / file).read_bytes() + b" ")
    refused(shop, ModelError, "was changed")


def test_a_package_whose_manifest_is_not_the_packaged_one_is_refused(shop: Shop) -> None:
    package = tracking.fetch_package(shop.settings, shop.runs["first"])
    (package / "manifest.json").write_text((package / "manifest.json").read_text() + " ")
    refused(shop, ClassyError, r"manifest has SHA-256 .*production stays as it is")


def test_a_package_that_is_gone_everywhere_is_refused(shop: Shop) -> None:
    shutil.rmtree(shop.settings.home / "cache" / "models")
    shutil.rmtree(shop.settings.mlflow_artifacts)
    refused(shop, ClassyError, "cannot be fetched")


def test_a_version_that_was_deleted_is_refused(shop: Shop) -> None:
    tracking.connect(shop.settings).delete_model_version(shop.settings.model_name, "1")
    with pytest.raises(ClassyError, match="model classy version 1: not in the registry"):
        shop.back()
    assert len(shop.generations()) == 2


def test_a_model_made_for_another_feature_service_is_refused_with_both_hashes(
    settings: Settings, recipe: Recipe
) -> None:
    card = {"service": "context_v0", "service_hash": "0ld", "recipe_hash": "abc123"}
    shop = make_shop(settings, recipe, {"first": card})
    said = refused(shop, ClassyError, r"generation 1 \(version 1, MLflow run \w+\): was made for feature service")
    mine = tracking.fetch_package(settings, shop.runs["second"]) / "card.json"
    assert "feature service context_v0 0ld (recipe tiny has context_v1 " in said
    assert json.loads(mine.read_text())["service_hash"] in said
    assert "production stays as it is. Roll back with the recipe it was trained with (hash abc123), or" in said


def test_a_recipe_that_asks_for_other_classes_and_images_cannot_take_the_old_model(shop: Shop) -> None:
    taxonomy = shop.recipe.taxonomy.model_copy(update={"classes": (*shop.recipe.taxonomy.classes, "ten")})
    image = shop.recipe.image.model_copy(update={"size": 32})
    changed = replace(shop, recipe=shop.recipe.model_copy(update={"taxonomy": taxonomy, "image": image}))
    said = refused(changed, ClassyError, "was made for feature service .* and image spec .* and classes 0, 1")
    assert "(recipe tiny has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ten)" in said


def test_a_model_that_answers_no_number_is_refused(
    settings: Settings, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = judged.graph

    def broken(size: int, classes: int, column: int) -> Any:
        model = made(size, classes, column)
        step = next(constant for constant in model.graph.initializer if constant.name == "step")
        step.CopyFrom(helper.make_tensor("step", step.data_type, [], [float(np.nan)]))
        return model

    monkeypatch.setattr(judged, "graph", broken)
    shop = make_shop(settings, recipe)
    refused(shop, ClassyError, r"answers \[\[nan.*to a black photo; production stays as it is")


# --------------------------------------------------------------------------------------- what comes in between


def test_a_promotion_in_between_stops_a_rollback_that_named_no_generation(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    overtake(monkeypatch)
    with pytest.raises(LostRace, match=r"generation 3 \(promote by grace\) came in between"):
        shop.back()
    assert len(shop.generations()) == 3


def test_a_rollback_to_a_named_generation_goes_on_top_of_what_came_in_between(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    overtake(monkeypatch)
    assert shop.back(to=1).generation == 4
    assert [row["champion_version"] for row in shop.generations()] == ["1", "2", "9", "1"]


def overtake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else makes generation 3 just before the next write."""
    write = Store.add_generation

    def overtaken(self: Store, row: dict[str, Any]) -> None:
        current = self.current()
        assert current is not None
        if current["generation"] == 2:
            write(self, {**current, "generation": 3, "champion_version": "9", "run_key": "key-9", "actor": "grace"})
        write(self, row)

    monkeypatch.setattr(Store, "add_generation", overtaken)
