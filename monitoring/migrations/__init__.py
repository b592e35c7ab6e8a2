"""The schema of Classy's own tables, step by step: one file in `versions/` a step, named NNNN_what.py.

Alembic does the work and is imported only when there is work. Its version table has a name of its own,
so that MLflow and Classy can live in one database without overwriting each other's
(https://github.com/mlflow/mlflow/issues/3374).
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from monitoring.stores import StoreError
from monitoring.tables import METADATA

VERSION_TABLE = "classy_alembic_version"
FOLDER = Path(__file__).resolve().parent
LOCK = 0x434C4153  # PostgreSQL advisory lock: "CLAS"

# Alembic's `context` is one a process; two threads that open an empty store take turns.
_one_at_a_time = threading.Lock()


def head() -> str:
    """The newest schema version that this Classy knows, such as `0001`."""
    found = [name.group(1) for file in FOLDER.glob("versions/*.py") if (name := re.match(r"(\d{4})_", file.name))]
    return max(found)


def version_of(engine: Engine) -> str | None:
    """The database's schema version; None where Classy has no tables yet.

    Raises:
        StoreError: tables by Classy's names are there, without a version.
    """
    with engine.connect() as connection:
        there = set(inspect(connection).get_table_names())
        if VERSION_TABLE in there:
            found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
            if found is not None:
                return str(found)
        strangers = sorted(there & set(METADATA.tables))
        if strangers:
            shown = engine.url.render_as_string(hide_password=True)
            raise StoreError(
                f"database {shown}: has {', '.join(strangers)} but no schema version, so Classy did not make them; "
                "point CLASSY_DATABASE_URL at an empty database"
            )
        return None


def ensure_schema(engine: Engine, shown: str) -> None:
    """Give an empty database its tables; refuse one of another version.

    Args:
        engine: of SQLite or PostgreSQL.
        shown: the URL for messages, without its password.

    Raises:
        StoreError: the schema is older (remedy: `classy db upgrade`) or newer than this Classy.
    """
    found, wanted = version_of(engine), head()
    if found is None:
        upgrade(engine)
    elif found < wanted:
        raise StoreError(
            f"database {shown}: its schema is version {found}, this Classy needs {wanted}; "
            "make a copy of it, then run `classy db upgrade`"
        )
    elif found > wanted:
        raise StoreError(
            f"database {shown}: its schema is version {found}, newer than this Classy's {wanted}; install a newer one"
        )


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Bring the database to this Classy's version, whole or not at all. Safe when several start at once.

    Returns:
        The version before (None: empty) and after.

    Raises:
        StoreError: the database is newer than this Classy, or its tables are not Classy's.
    """
    from alembic import command
    from alembic.config import Config

    before, wanted = version_of(engine), head()
    if before is not None and before > wanted:
        raise StoreError(f"database schema {before} is newer than this Classy's {wanted}; install a newer Classy")
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    with _one_at_a_time, _exclusive(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, wanted


@contextmanager
def _exclusive(engine: Engine) -> Iterator[Connection]:
    """One transaction that no other upgrade runs beside. DDL rolls back in both databases."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # Python's sqlite3 would begin too late for DDL: begin by hand, and take the write lock at once.
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        try:
            yield connection
        except BaseException:
            connection.rollback()
            raise
        connection.commit()
