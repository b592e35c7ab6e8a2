"""MLflow's aliases and tags follow the tables, and are put right whatever was done to them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from monitoring.stores import open_store
from pipelines import promote, rollback
from pipelines.errors import ClassyError
from pipelines.models import registry, tracking
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from tests.judged import aliases, ready_mlflow, versions
from tests.promotions import at_every_write, plant, rule, shown, told

NAMES = ("first", "second", "third")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shop:
    """Three runs; `promote` judges one and makes it the champion."""

    settings: Settings
    recipe: Recipe
    runs: dict[str, str]
    client: MlflowClient

    def promote(self, name: str, run_key: str) -> None:
        self.judge(name, run_key)
        promote.run(self.settings, self.recipe, run_key=run_key)

    def judge(self, name: str, run_key: str, verdict: str = "PROMOTE") -> None:
        rule(self.settings, self.recipe, self.runs[name], run_key, verdict=verdict)

    def project(self) -> dict[str, str]:
        return registry.project(self.client, self.settings, open_store(self.settings.database_url))


@pytest.fixture
def shop(settings: Settings, recipe: Recipe) -> Shop:
    ready_mlflow(settings)
    runs = {name: plant(settings, recipe, name) for name in NAMES}
    return Shop(settings=settings, recipe=recipe, runs=runs, client=tracking.connect(settings))


@pytest.fixture
def busy(shop: Shop) -> Shop:
    """Versions 1, 2, then 1 again were in production; version 3 was judged and held."""
    shop.promote("first", "key-1")
    shop.promote("second", "key-2")
    rollback.run(shop.settings, shop.recipe, reason="worse in the shop", run_key="oops")
    shop.judge("third", "key-3", "HOLD")
    return shop


def test_a_run_has_one_version(shop: Shop) -> None:
    run_id = shop.runs["first"]
    assert registry.version_of(shop.client, shop.settings, run_id) is None
    assert registry.register(shop.client, shop.settings, run_id) == "1"
    assert registry.register(shop.client, shop.settings, run_id) == "1"
    assert registry.version_of(shop.client, shop.settings, run_id) == "1"
    assert registry.register(shop.client, shop.settings, shop.runs["second"]) == "2"
    assert versions(shop.settings) == ["1", "2"]


def test_a_run_without_a_package_cannot_be_registered(shop: Shop) -> None:
    bare = shop.client.create_run(tracking.experiment_id(shop.client)).info.run_id
    with pytest.raises(ClassyError, match=f"classy optimize --run-id {bare}"):
        registry.register(shop.client, shop.settings, bare)


def test_before_anything_was_judged_there_is_nothing_to_project(shop: Shop) -> None:
    assert shop.project() == {}


def test_aliases_and_tags_tell_what_serves_what_did_and_what_was_judged_last(busy: Shop) -> None:
    assert shown(busy.settings) == {
        "aliases": {"champion": "1", "previous": "2", "contender": "3"},
        "tags": {"1": 3, "2": 2},
    }


# -------------------------------------------------------------------------------------------------- repair


def _moved(client: MlflowClient, name: str) -> None:
    client.set_registered_model_alias(name, "champion", "3")
    client.set_registered_model_alias(name, "contender", "1")


def _taken(client: MlflowClient, name: str) -> None:
    for alias in ("champion", "previous", "contender"):
        client.delete_registered_model_alias(name, alias)
    for version in ("1", "2"):
        client.delete_model_version_tag(name, version, registry.GENERATION)


def _mistagged(client: MlflowClient, name: str) -> None:
    for version in ("1", "2", "3"):
        client.set_model_version_tag(name, version, registry.GENERATION, "77")


@pytest.mark.parametrize("harm", [_moved, _taken, _mistagged], ids=lambda harm: harm.__name__.strip("_"))
def test_what_somebody_changed_is_put_right_and_then_left_alone(
    busy: Shop, harm: Callable[[MlflowClient, str], None]
) -> None:
    right = shown(busy.settings)
    harm(busy.client, busy.settings.model_name)
    assert shown(busy.settings) != right
    assert busy.project() == right["aliases"]
    assert shown(busy.settings) == right
    assert at_every_write(busy.project, None) == []


def test_an_alias_and_a_tag_of_somebody_elses_stay(busy: Shop) -> None:
    name = busy.settings.model_name
    busy.client.set_registered_model_alias(name, "mine", "2")
    busy.client.set_model_version_tag(name, "2", "mine", "yes")
    busy.project()
    assert aliases(busy.settings)["mine"] == "2"
    assert busy.client.get_model_version(name, "2").tags["mine"] == "yes"


# ---------------------------------------------------------------------------------------- what MLflow lost


@pytest.mark.parametrize(("lost", "alias"), [("2", "previous"), ("3", "contender")])
def test_a_lost_version_that_does_not_serve_costs_its_alias_alone(busy: Shop, lost: str, alias: str) -> None:
    busy.client.delete_model_version(busy.settings.model_name, lost)
    busy.client.delete_registered_model_alias(busy.settings.model_name, "champion")
    kept = {name: version for name, version in told(busy.settings)["aliases"].items() if name != alias}
    assert busy.project() == kept
    assert shown(busy.settings)["aliases"] == kept
    assert at_every_write(busy.project, None) == []


def test_a_lost_champion_is_named_and_everything_else_is_put_right_first(busy: Shop) -> None:
    name = busy.settings.model_name
    busy.client.delete_model_version(name, "1")
    busy.client.delete_registered_model_alias(name, "previous")
    with pytest.raises(ClassyError, match="model classy version 1: not in the registry"):
        busy.project()
    assert shown(busy.settings) == {"aliases": {"previous": "2", "contender": "3"}, "tags": {"2": 2}}


def test_a_model_that_is_gone_as_a_whole_is_named(busy: Shop) -> None:
    busy.client.delete_registered_model(busy.settings.model_name)
    with pytest.raises(ClassyError, match=r"model classy: not in the registry at sqlite:.*CLASSY_MODEL_NAME"):
        busy.project()


# -------------------------------------------------------------------------------------------- beside others


def test_a_repair_that_was_overtaken_ends_with_what_is_true_now(busy: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A promotion comes and goes between this repair's look at the table and its first write."""
    busy.judge("third", "key-4")
    write, overtaken = MlflowClient.set_registered_model_alias, []

    def slow(self: MlflowClient, name: str, alias: str, version: str) -> Any:
        if not overtaken:
            overtaken.append(version)
            promote.run(busy.settings, busy.recipe, run_key="key-4")
        return write(self, name, alias, version)

    busy.client.delete_registered_model_alias(busy.settings.model_name, "champion")
    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", slow)
    assert busy.project()["champion"] == "3"
    assert overtaken == ["1"]
    assert shown(busy.settings) == told(busy.settings)


def test_many_repairs_at_once_agree(busy: Shop) -> None:
    right = shown(busy.settings)
    _taken(busy.client, busy.settings.model_name)
    barrier = threading.Barrier(4)

    def repair(_: int) -> dict[str, str]:
        barrier.wait(timeout=30)
        return busy.project()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(repair, range(4))) == [right["aliases"]] * 4
    assert shown(busy.settings) == right
