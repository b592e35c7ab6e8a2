"""The SQL store: predictions, truth, deployments, decisions. Every write is an upsert or a compare-and-swap.

SQLite or PostgreSQL, with one behaviour: a write waits at most `WAIT_S` for another, is whole or not at all, and
is on the disk when the call returns.
"""

import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

from monitoring.bulk import insert_lines, insert_rows
from monitoring.tables import arm_minutes, decisions, deployments, golden_uses, ground_truth, predictions

CHUNK = 500  # rows a statement: SQLite allows 32,766 bound values
WAIT_S = 30
"""How long a write waits for another one."""
IDLE_S = 60
"""How long PostgreSQL lets a client that stopped in the middle of a write keep others waiting."""
DRIVERS = ("psycopg2", "psycopg")


class StoreError(Exception):
    """The database cannot be used; the message says why and what to do."""

    for_people = True


class LostRace(StoreError):
    """Another writer took the generation first."""


@dataclass(frozen=True, slots=True)
class Store:
    """Open with `open_store`. Times are aware UTC."""

    engine: Engine

    # ------------------------------------------------------------------------------------------- writes

    def _upsert(self, table: Table, rows: Sequence[Mapping[str, Any]], *, overwrite: bool) -> int:
        insert = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert
        keys = [column.name for column in table.primary_key]
        rows = _once(rows, keys, last=overwrite)
        changed = 0
        with _spoken(self.engine), self.engine.begin() as connection:
            for start in range(0, len(rows), CHUNK):
                statement = insert(table).values([dict(row) for row in rows[start : start + CHUNK]])
                if overwrite:
                    values = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in keys}
                    statement = statement.on_conflict_do_update(index_elements=keys, set_=values)
                else:
                    statement = statement.on_conflict_do_nothing(index_elements=keys)
                changed += connection.execute(statement).rowcount
        return changed

    def upsert_truth(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Labels: image_id, label, labelled_at, said_by, rejected (a reason or None). The last word stays."""
        given = [{"rejected": None, **row} for row in rows]
        return self._upsert(ground_truth, given, overwrite=True)

    def upsert_predictions(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Answers, with every column of `predictions`."""
        return self._upsert(predictions, list(rows), overwrite=True)

    def replace_predictions(self, lines: Sequence[bytes]) -> int:
        """`upsert_predictions` of rows that `monitoring.bulk.line_of` wrote, many at once and cheaply; each id once."""
        with _spoken(self.engine), self.engine.begin() as connection:
            return insert_lines(connection, lines, overwrite=True)

    def add_predictions(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Live answers, many at once and cheaply; one that is there already stays as it is. Gives how many were new."""
        with _spoken(self.engine), self.engine.begin() as connection:
            return insert_rows(connection, rows)

    def record_decision(self, row: Mapping[str, Any]) -> bool:
        """Write a decision once. True when it is new; the first one under a key stays."""
        return self._upsert(decisions, [row], overwrite=False) == 1

    def use_golden(self, row: Mapping[str, Any]) -> int:
        """Note that a judgement used the golden rows; gives how often they were used, this time included."""
        self._upsert(golden_uses, [row], overwrite=False)
        statement = select(func.count().label("uses")).where(golden_uses.c.golden_hash == row["golden_hash"])
        return self._rows(statement)[0]["uses"]

    def write_arm_minutes(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """How arms did by the minute; a worker's later word about a minute replaces its earlier one."""
        return self._upsert(arm_minutes, list(rows), overwrite=True)

    def add_generation(self, row: Mapping[str, Any]) -> None:
        """Insert one row of `deployments`.

        Raises:
            LostRace: the generation is there already, or its run key made another one.
        """
        try:
            with _spoken(self.engine), self.engine.begin() as connection:
                connection.execute(deployments.insert().values(**row))
        except IntegrityError as error:
            # A row that is wrong in itself has lost to nobody: whoever tries again would try for ever.
            if self.generation(row["generation"]) is None and self.deployment_of(row["run_key"]) is None:
                raise
            raise LostRace(
                f"generation {row['generation']} was taken by another promotion; see `classy status` and run it again"
            ) from error

    # -------------------------------------------------------------------------------------------- reads

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to ask with; a database that does not answer is a StoreError."""
        with _spoken(self.engine), self.engine.connect() as connection:
            yield connection

    def _rows(self, statement: Any) -> list[dict[str, Any]]:
        with _spoken(self.engine), self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]

    def truth(self, *, as_of: datetime, image_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """Accepted labels known at `as_of`: image_id, label, labelled_at, said_by."""
        columns = [ground_truth.c[name] for name in ("image_id", "label", "labelled_at", "said_by")]
        statement = (
            select(*columns)
            .where(ground_truth.c.labelled_at <= as_of, ground_truth.c.rejected.is_(None))
            .order_by(ground_truth.c.image_id)
        )
        if image_ids is None:
            rows = self._rows(statement)
        else:
            ids = sorted(set(image_ids))
            parts = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
            rows = [row for part in parts for row in self._rows(statement.where(ground_truth.c.image_id.in_(part)))]
        return pd.DataFrame(rows, columns=[column.name for column in columns])

    def predictions(self, *, since: datetime, until: datetime, arm: str = "champion") -> pd.DataFrame:
        """Answers about photos captured in [since, until), oldest first, with every column."""
        statement = (
            select(predictions)
            .where(predictions.c.captured_at >= since, predictions.c.captured_at < until, predictions.c.arm == arm)
            .order_by(predictions.c.captured_at, predictions.c.prediction_id)
        )
        return pd.DataFrame(self._rows(statement), columns=[column.name for column in predictions.columns])

    def current(self) -> dict[str, Any] | None:
        """The newest generation, or None before the first promotion."""
        found = self._rows(select(deployments).order_by(deployments.c.generation.desc()).limit(1))
        return found[0] if found else None

    def generation(self, number: int) -> dict[str, Any] | None:
        found = self._rows(select(deployments).where(deployments.c.generation == number))
        return found[0] if found else None

    def deployment_of(self, run_key: str) -> dict[str, Any] | None:
        """The generation that a promotion or rollback with this run key made, if any."""
        found = self._rows(select(deployments).where(deployments.c.run_key == run_key))
        return found[0] if found else None

    def generations(self) -> list[dict[str, Any]]:
        """All generations, oldest first."""
        return self._rows(select(deployments).order_by(deployments.c.generation))

    def decision(self, key: str) -> dict[str, Any] | None:
        found = self._rows(select(decisions).where(decisions.c.decision_key == key))
        return found[0] if found else None

    def newest_decision(self, kind: str) -> dict[str, Any] | None:
        """The decision of a kind that is newest in data time, or None before the first."""
        newest = select(decisions).where(decisions.c.kind == kind).order_by(decisions.c.as_of.desc())
        found = self._rows(newest.limit(1))
        return found[0] if found else None

    def decisions(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Decisions in order of data time, all or of one kind."""
        statement = select(decisions).order_by(decisions.c.as_of, decisions.c.decision_key)
        return self._rows(statement if kind is None else statement.where(decisions.c.kind == kind))


def open_store(url: str) -> Store:
    """Open the store; an empty database gets its tables, an older one is refused.

    Raises:
        StoreError: no such database, not reachable, or its schema is not this version's.
    """
    from monitoring.migrations import ensure_schema

    engine = make_engine(url)
    with making_tables(engine):
        ensure_schema(engine, engine.url.render_as_string(hide_password=True))
    return Store(engine)


@contextmanager
def making_tables(engine: Engine) -> Iterator[None]:
    """Say in a sentence that the database does not answer, or that its user may make no tables."""
    try:
        with _spoken(engine):
            yield
    except ProgrammingError as error:
        shown = engine.url.render_as_string(hide_password=True)
        raise StoreError(
            f"database {shown}: cannot be given Classy's tables: {_first_line(error)}; its user must be allowed to "
            "make tables there (`ALTER DATABASE … OWNER TO …`, or `GRANT CREATE ON SCHEMA public TO …`)"
        ) from error


def make_engine(url: str) -> Engine:
    """SQLAlchemy's engine for `CLASSY_DATABASE_URL`, tuned; nothing is opened yet.

    Raises:
        StoreError: not a URL, another kind of database, or its driver is not installed.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(
            f"CLASSY_DATABASE_URL={url!r} is no SQLAlchemy URL, such as sqlite:////path/classy.db or "
            "postgresql://user:password@host/classy"
        ) from error
    shown = parsed.render_as_string(hide_password=True)
    try:
        if parsed.get_backend_name() == "sqlite":
            engine = create_engine(parsed)
            _tune_sqlite(engine, parsed.database)
            return engine
        if parsed.get_backend_name() == "postgresql":
            # No pool: steps are short, and a connection that lingers is one that somebody else does not get.
            return create_engine(_with_driver(parsed), poolclass=NullPool, connect_args=_postgres_options(parsed))
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise StoreError(
            f"database {shown}: its driver is not installed ({error}); `uv sync --extra postgres` brings psycopg2"
        ) from error
    raise StoreError(f"database {shown}: Classy keeps its tables in sqlite or postgresql")


def _with_driver(url: URL) -> URL:
    """A URL that names no driver takes one that is installed: SQLAlchemy's own choice changed between versions."""
    if url.drivername != "postgresql":
        return url
    installed = [name for name in DRIVERS if importlib.util.find_spec(name)]
    return url.set(drivername=f"postgresql+{(installed or DRIVERS)[0]}")


def _postgres_options(url: URL) -> dict[str, str]:
    if "options" in url.query:
        return {}
    return {"options": f"-c lock_timeout={WAIT_S}s -c idle_in_transaction_session_timeout={IDLE_S}s"}


def _tune_sqlite(engine: Engine, path: str | None) -> None:
    if path and path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        # Waiting first: the others may have to wait. FULL: a promotion that was reported outlives a power cut.
        for pragma in (f"busy_timeout={1000 * WAIT_S}", "journal_mode=WAL", "synchronous=FULL"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


@contextmanager
def _spoken(engine: Engine) -> Iterator[None]:
    """Say in a sentence that the database does not answer, or that a write waited too long for another."""
    try:
        yield
    except OperationalError as error:
        shown = engine.url.render_as_string(hide_password=True)
        raise StoreError(
            f"database {shown}: not reachable: {_first_line(error)}. What was written stays; when it answers, "
            "run the same command again"
        ) from error


def _first_line(error: OperationalError | ProgrammingError) -> str:
    return (str(error.orig).strip() or repr(error.orig)).splitlines()[0]


def _once(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], *, last: bool) -> list[Mapping[str, Any]]:
    """One row a key, the last or the first said: PostgreSQL refuses a statement that changes a row twice."""
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in keys)
        if last or key not in found:
            found[key] = row
    return list(found.values())
