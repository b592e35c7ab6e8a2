"""MLflow's aliases follow the table, and are put right whatever was done to them."""

import pytest

from monitoring.stores import open_store
from pipelines import promote
from pipelines.errors import ClassyError
from pipelines.models import registry, tracking
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from tests.judged import Case, Plan, aliases, make_case, no_pictures, versions

PLANS = {"first": Plan(golden=0.8, fresh=0.5), "second": Plan(golden=0.9, fresh=0.9)}


@pytest.fixture
def case(settings: Settings, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Case:
    no_pictures(monkeypatch)
    return make_case(settings, recipe, PLANS)


def project(case: Case) -> dict[str, str]:
    return registry.project(tracking.connect(case.settings), case.settings, open_store(case.settings.database_url))


def test_a_run_has_one_version(case: Case) -> None:
    client, run_id = tracking.connect(case.settings), case.runs["first"]
    assert registry.version_of(client, case.settings, run_id) is None
    assert registry.register(client, case.settings, run_id) == "1"
    assert registry.register(client, case.settings, run_id) == "1"
    assert registry.version_of(client, case.settings, run_id) == "1"
    assert registry.register(client, case.settings, case.runs["second"]) == "2"
    assert versions(case.settings) == ["1", "2"]


def test_a_run_without_a_package_cannot_be_registered(case: Case) -> None:
    client = tracking.connect(case.settings)
    bare = client.create_run(tracking.experiment_id(client)).info.run_id
    with pytest.raises(ClassyError, match=f"classy optimize --run-id {bare}"):
        registry.register(client, case.settings, bare)


def test_before_anything_was_judged_there_is_nothing_to_project(case: Case) -> None:
    assert project(case) == {}


def test_aliases_that_somebody_moved_are_moved_back(case: Case) -> None:
    for number, name in enumerate(PLANS, 1):
        assert case.evaluate(name, run_key=f"key-{number}").verdict == "PROMOTE"
        promote.run(case.settings, case.recipe, run_key=f"key-{number}")
    case.evaluate("first", run_key="key-3")
    wanted = {"champion": "2", "previous": "1", "contender": "1"}
    assert aliases(case.settings) == wanted
    client, name = tracking.connect(case.settings), case.settings.model_name
    client.set_registered_model_alias(name, "champion", "1")
    client.delete_registered_model_alias(name, "previous")
    client.set_registered_model_alias(name, "mine", "1")
    assert project(case) == wanted
    assert aliases(case.settings) == {**wanted, "mine": "1"}


def test_a_version_that_was_deleted_is_named(case: Case) -> None:
    case.evaluate("first")
    promote.run(case.settings, case.recipe, run_key="key-1")
    tracking.connect(case.settings).delete_model_version(case.settings.model_name, "1")
    with pytest.raises(ClassyError, match="model classy version 1: not in the registry"):
        project(case)
