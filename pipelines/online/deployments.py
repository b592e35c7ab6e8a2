"""The ledger as a live server reads it: the newest row, and the last known one while the database is away."""

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from monitoring.stores import Store, StoreError, open_store
from pipelines.settings import Settings
from serving.problems import Problem

TIMES = ("as_of", "created_at")


def reader(settings: Settings) -> "Deployments":
    """As `serving.versions.follower.Follower` takes it."""
    return Deployments(settings)


class Deployments:
    """Calling it gives the newest row of `deployments`, and keeps that row on disk for a start without a database."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.home / "serving" / "deployment.json"
        self._url = settings.database_url
        self._store: Store | None = None
        self._kept: int | None = None

    def __call__(self) -> dict[str, Any] | None:
        """The newest generation, or None before the first.

        Raises:
            Problem: the database does not answer.
        """
        try:
            if self._store is None:
                self._store = open_store(self._url)
            row = self._store.current()
        except (StoreError, SQLAlchemyError, OSError) as error:
            raise Problem("unavailable", f"the ledger cannot be read: {str(error).splitlines()[0]}") from error
        if row is not None and row["generation"] != self._kept:
            self._keep(row)
            self._kept = row["generation"]
        return row

    def last_known(self) -> dict[str, Any] | None:
        """The row that was read last, by whatever process of this home; None where there is none."""
        try:
            row = json.loads(self.path.read_text())
            return {**row, **{name: datetime.fromisoformat(row[name]) for name in TIMES}}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None  # never read, or not whole: the database will say

    def _keep(self, row: Mapping[str, Any]) -> None:
        plain = {**row, **{name: row[name].isoformat() for name in TIMES}}
        replace_file(self.path, json.dumps(plain, indent=1))


def replace_file(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{path.name}.{os.getpid()}"
    part.write_text(text)
    os.replace(part, path)
