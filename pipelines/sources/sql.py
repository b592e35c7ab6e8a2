"""A SQLAlchemy query that gives the manifest's columns. Its database URL is a secret and comes from the environment."""

import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, ResourceClosedError, SQLAlchemyError

from pipelines.errors import ClassyError
from pipelines.sections import SqlSource
from pipelines.sources.base import Fetched, expand, fetch
from pipelines.sources.manifest import rows_from_table


class Sql:
    """Connector of `kind = "sql"`. The query runs in a transaction that is rolled back: nothing is changed."""

    def __init__(self, source: SqlSource, home: Path, max_bytes: int) -> None:
        self._source = source
        self._url = os.environ.get(source.url_env, "")
        if not self._url:
            raise ClassyError(
                f"source.url_env = {source.url_env!r}: environment variable {source.url_env} is not set; "
                f"export {source.url_env}=postgresql+psycopg2://user:password@host/database"
            )
        self._base = expand(source.base, "source.base", home) if source.base else ""
        self._max_bytes = max_bytes
        self.timed = bool(source.captured_at)

    def fingerprint(self) -> str | None:
        return None  # a database changes without a sign

    def rows(self) -> pd.DataFrame:
        frame = self._query()
        return rows_from_table(frame, self._source, base=self._base, suffix="", table="source.query")

    def read(self, rows: pd.DataFrame) -> Iterator[Fetched]:
        places = zip(rows["image_id"], rows["place"], strict=True)
        return fetch(places, max_bytes=self._max_bytes, field=f"source.{self._source.image}")

    def _query(self) -> pd.DataFrame:
        name = self._source.url_env
        try:
            url = make_url(self._url)
            engine = create_engine(url)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            detail = f"cannot be used: {error}" if not isinstance(error, ArgumentError) else "is no SQLAlchemy URL"
            raise ClassyError(f"{name} {detail}; such as postgresql+psycopg2://user:password@host/database") from None
        where = url.render_as_string(hide_password=True)
        try:
            with engine.connect() as connection:
                result = connection.execute(text(self._source.query))
                return pd.DataFrame(result.fetchall(), columns=list(result.keys()))
        except ResourceClosedError as error:
            raise ClassyError(f"source.query = {self._source.query!r}: gives no rows; write a SELECT") from error
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise ClassyError(f"source.query on {where} ({name}): {cause}") from error
        finally:
            engine.dispose()
