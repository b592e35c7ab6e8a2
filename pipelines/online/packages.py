"""Model packages for a live server: verified, and kept where it finds them while the registry is down."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipelines.errors import ClassyError
from pipelines.settings import Settings
from serving.problems import Problem
from serving.runtime import ModelError, verify

KEPT = 10
"""Packages that stay on disk; of more, those that were not served for longest go."""


def fetcher(settings: Settings) -> Callable[[str], Path]:
    """`fetch` for these settings, as `serving.versions.shelf.Shelf` takes it."""
    return lambda run_id: fetch(settings, run_id)


def fetch(settings: Settings, run_id: str) -> Path:
    """A run's package on this disk, every file as it was packaged.

    A copy is kept under HOME/serving/packages with the SHA-256 that the run says its manifest has. While that copy
    is sound nobody else is asked; one that was changed is thrown away and fetched again.

    Raises:
        Problem: there is no sound copy, and the registry does not answer or has no such package.
        ModelError: what the registry gives is not what was packaged.
    """
    target = folder_of(settings) / run_id
    there = _sound(target)
    if there is not None:
        os.utime(target)
        return there
    shutil.rmtree(target, ignore_errors=True)
    try:
        source, sha256 = _from_registry(settings, run_id)
        kept = _keep(target, source, sha256)
    except ModelError:
        raise
    except (ClassyError, OSError) as error:
        raise Problem("unavailable", f"model of run {run_id}: cannot be fetched: {error}") from error
    _tidy(target.parent)
    return kept


def folder_of(settings: Settings) -> Path:
    """Where the copies are."""
    return settings.home / "serving" / "packages"


def _sound(target: Path) -> Path | None:
    """The kept package, which is named by its manifest's SHA-256, if every file is what it was."""
    found = next(iter(target.iterdir()), None) if target.is_dir() else None
    try:
        return found if found is not None and verify(found) == found.name else None
    except ModelError:
        return None


def _from_registry(settings: Settings, run_id: str) -> tuple[Path, str]:
    from mlflow.exceptions import MlflowException  # seconds to import; a server with a sound copy pays none

    from pipelines.models import tracking

    try:
        folder = tracking.fetch_package(settings, run_id)
        if (sha256 := _hash(folder)) != folder.name:
            # The machine's cache was changed: what the registry has counts.
            shutil.rmtree(folder)
            folder = tracking.fetch_package(settings, run_id)
            sha256 = verify(folder)
    except MlflowException as error:
        raise ClassyError(f"CLASSY_MLFLOW_URI={settings.mlflow_uri}: {error.message[:200]}") from error
    if sha256 != folder.name:
        raise ModelError(f"{folder}: manifest has SHA-256 {sha256}, MLflow run {run_id} says {folder.name}")
    return folder, sha256


def _hash(folder: Path) -> str:
    try:
        return verify(folder)
    except ModelError:
        return ""


def _keep(target: Path, source: Path, sha256: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        made = Path(scratch) / "made"
        shutil.copytree(source, made / sha256)
        try:
            made.rename(target)
        except OSError:
            # Another worker was first, with the same bytes: they are verified before they are opened.
            if not (target / sha256).is_dir():
                raise
    return target / sha256


def _tidy(folder: Path) -> None:
    runs = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    for old in sorted(runs, key=lambda entry: entry.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
