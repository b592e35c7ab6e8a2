"""MLflow and Classy in one database: each has a schema version of its own, and neither minds who came first."""

from collections.abc import Callable

import pytest
from mlflow.tracking import MlflowClient
from sqlalchemy import inspect, text

from monitoring.migrations import VERSION_TABLE, head, upgrade, version_of
from monitoring.stores import make_engine, open_store
from monitoring.tables import METADATA
from pipelines import promote, rollback
from pipelines.models import tracking
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from tests.postgres import Server
from tests.promotions import plant, rule, shown, told


def _classy(settings: Settings) -> None:
    open_store(settings.database_url)


def _mlflow(settings: Settings) -> None:
    tracking.connect(settings)


@pytest.fixture(scope="module")
def mlflows_own(postgres: Server) -> set[str]:
    """The names of MLflow's tables."""
    url = postgres.new_database()
    MlflowClient(tracking_uri=_for_mlflow(url)).search_experiments()
    return set(inspect(make_engine(url)).get_table_names())


def _for_mlflow(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg2:")


def test_no_table_of_mlflows_has_the_name_of_one_of_classys(mlflows_own: set[str]) -> None:
    assert "alembic_version" in mlflows_own
    assert mlflows_own & {*METADATA.tables, VERSION_TABLE} == set()


@pytest.mark.parametrize("order", [(_classy, _mlflow), (_mlflow, _classy)], ids=["classy first", "mlflow first"])
def test_both_live_in_one_postgresql_database(
    order: tuple[Callable[[Settings], None], ...],
    postgres: Server,
    settings: Settings,
    recipe: Recipe,
    mlflows_own: set[str],
) -> None:
    url = postgres.new_database()
    both = settings.model_copy(update={"database_url": url, "mlflow_uri": _for_mlflow(url)})
    for first in order:
        first(both)
    for number, name in enumerate(("first", "second"), 1):
        rule(both, recipe, plant(both, recipe, name), f"key-{number}")
        promote.run(both, recipe, run_key=f"key-{number}")
    rollback.run(both, recipe, reason="worse in the shop", run_key="oops")
    assert shown(both) == told(both)
    engine = make_engine(url)
    assert upgrade(engine) == (head(), head())
    assert version_of(engine) == head()
    assert set(inspect(engine).get_table_names()) == mlflows_own | {*METADATA.tables, VERSION_TABLE}
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1
