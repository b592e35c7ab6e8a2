"""Schema versions: an empty database gets its tables, another version is refused with the remedy."""

import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pandas import Timestamp
from sqlalchemy import inspect, text

from monitoring import migrations
from monitoring.migrations import VERSION_TABLE, head, upgrade, version_of
from monitoring.stores import StoreError, make_engine, open_store
from monitoring.tables import METADATA
from pipelines import status
from pipelines.settings import load_settings

LATER = '''"""A later step."""
import sqlalchemy as sa
from alembic import op
revision = "0099"
down_revision = {down!r}
branch_labels = None
depends_on = None

def upgrade() -> None:
    with op.batch_alter_table("decisions") as table:
        table.add_column(sa.Column("mood", sa.String(8), nullable=True))
{more}
'''


@pytest.fixture
def url(database_url: str) -> str:
    """An empty database, once of each kind."""
    return database_url


@pytest.fixture
def tomorrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Pretend to be a later Classy that has one more schema step, whose body ends with the given lines."""

    def become(more: str = "") -> None:
        folder = tmp_path / "migrations"
        shutil.copytree(migrations.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "versions" / "0099_later.py").write_text(LATER.format(down=head(), more=more))
        monkeypatch.setattr(migrations, "FOLDER", folder)

    return become


def test_an_empty_database_gets_the_tables_that_the_code_describes(url: str) -> None:
    engine = open_store(url).engine
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, METADATA) == []
    assert version_of(engine) == head()


def test_the_steps_are_one_line_and_the_last_is_the_head() -> None:
    steps = ScriptDirectory(str(migrations.FOLDER))
    assert steps.get_heads() == [head()]
    for step in steps.walk_revisions():
        assert Path(step.path).name.startswith(f"{step.revision}_")


def test_a_database_at_the_head_is_opened_without_alembic(url: str) -> None:
    open_store(url)
    code = f"import sys; from monitoring.stores import open_store; open_store({url!r}); print('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_an_older_database_is_refused_until_it_is_upgraded(url: str, tomorrow: Callable[[str], None]) -> None:
    store = open_store(url)
    store.upsert_truth([])
    was = head()
    tomorrow("")
    with pytest.raises(StoreError, match=rf"version {was}, this Classy needs 0099.*classy db upgrade"):
        open_store(url)
    assert upgrade(make_engine(url)) == (was, "0099")
    assert version_of(open_store(url).engine) == "0099"
    assert upgrade(make_engine(url)) == ("0099", "0099")


def test_rows_of_the_first_version_are_kept_through_every_step(url: str) -> None:
    engine = make_engine(url)
    script = Config()
    script.set_main_option("script_location", str(migrations.FOLDER))
    with engine.connect() as connection:
        script.attributes["connection"] = connection
        command.upgrade(script, "0001")
        connection.execute(
            text("INSERT INTO ground_truth VALUES ('image-1', 'shoe', '2026-03-01 12:00:00.5', 'grace', NULL)")
        )
        connection.commit()
    assert version_of(engine) == "0001"
    assert upgrade(engine) == ("0001", head())
    assert open_store(url).truth(as_of=datetime(2026, 3, 2, tzinfo=UTC)).values.tolist() == [
        ["image-1", "shoe", Timestamp("2026-03-01 12:00:00.5", tz="UTC"), "grace"]
    ]
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_a_newer_database_is_refused(
    url: str, tomorrow: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    today = migrations.FOLDER
    tomorrow("")
    open_store(url)
    monkeypatch.setattr(migrations, "FOLDER", today)
    with pytest.raises(StoreError, match="0099, newer than this Classy"):
        open_store(url)
    with pytest.raises(StoreError, match="newer"):
        upgrade(make_engine(url))


def test_an_upgrade_that_fails_leaves_the_old_schema_whole(url: str, tomorrow: Callable[[str], None]) -> None:
    engine = open_store(url).engine
    was = head()
    tomorrow("    raise RuntimeError('half way')")
    with pytest.raises(RuntimeError, match="half way"):
        upgrade(engine)
    assert version_of(engine) == was
    assert "mood" not in {column["name"] for column in inspect(engine).get_columns("decisions")}


def test_tables_that_classy_did_not_make_are_left_alone(url: str) -> None:
    with make_engine(url).begin() as connection:
        connection.execute(text("CREATE TABLE decisions (id INTEGER)"))
    with pytest.raises(StoreError, match="has decisions but no schema version"):
        open_store(url)


def test_another_alembic_user_in_the_same_database_is_not_disturbed(url: str) -> None:
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('mlflows-own')"))
    open_store(url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["mlflows-own"]


def _open(url: str) -> str | None:
    return version_of(open_store(url).engine)


def test_processes_that_start_at_once_make_the_tables_once(url: str) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(_open, [url] * 8, chunksize=1) == [head()] * 8


def test_threads_that_start_at_once_make_the_tables_once(url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(_open, [url] * 8)) == [head()] * 8


def test_the_command_brings_whichever_database_it_is_given_up_to_date(url: str, tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, database_url=url)
    first = status.upgrade(settings)
    assert (first["before"], first["after"], first["changed"]) == (None, head(), True)
    assert status.upgrade(settings) == {**first, "before": head(), "changed": False}
