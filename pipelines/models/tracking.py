"""MLflow, by name: one experiment, runs found again by their tags, packages fetched once.

Classy never asks MLflow to load a model: it downloads files and checks their SHA-256.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import httpx
import mlflow
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import SQLAlchemyError

from pipelines.errors import ClassyError
from pipelines.settings import Settings

EXPERIMENT = "classy"
PACKAGE = "package"
"""Name of the package's folder among the artifacts of the logged model."""
REFERENCE = "reference/reference.parquet"
WEIGHTS = PurePosixPath("model/model.safetensors")
"""Run artifact of `classy train`: the best weights, what builds the module again, and the temperature."""

RUN_KEY = "classy.run_key"
CANDIDATE = "classy.candidate"
SNAPSHOT_ID = "classy.snapshot_id"
SNAPSHOT_URI = "classy.snapshot_uri"
RECIPE = "classy.recipe"
GIT_COMMIT = "classy.git_commit"
GIT_DIRTY = "classy.git_dirty"
"""true: the code had changes that no commit has."""
TRAINED = "classy.trained"
"""The receipt of training, as JSON: its presence says that training is over."""
SEARCH_KEY = "classy.search_key"
"""The run key of a search: its run and its trials are no training, and are not found by `classy.run_key`."""
SEARCHED = "classy.searched"
"""The receipt of a search, as JSON."""
OPTIMIZED = "classy.optimized"
"""The receipt of packaging, as JSON."""
PACKAGE_SHA256 = "classy.package_sha256"
"""SHA-256 of the package's manifest.json."""
MODEL_URI = "classy.model_uri"

PROBE_SECONDS = 5.0

# A server that went away is said so in seconds; Airflow's retries are the ones that wait.
QUICK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A logged model needs five packages, not this project's lock file.
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOG_UV_FILES": "false",
}


def connect(settings: Settings) -> MlflowClient:
    """A client of the server or database at `settings.mlflow_uri`; makes the experiment where it is missing.

    Raises:
        ClassyError: nothing that speaks MLflow answers there (said within seconds).
    """
    for name, value in QUICK.items():
        os.environ.setdefault(name, value)
    uri = settings.mlflow_uri
    if uri.startswith(("http://", "https://")):
        _probe(uri)
    elif uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    if mlflow.get_tracking_uri() != uri:
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
    try:
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        _ensure_experiment(client, settings)
    except (MlflowException, SQLAlchemyError) as error:
        raise ClassyError(f"CLASSY_MLFLOW_URI={uri}: cannot be used: {error}") from error
    return client


@contextmanager
def answering(settings: Settings) -> Iterator[None]:
    """Say in a sentence that the server went away in the middle of a step; what was done stays and is taken up."""
    try:
        yield
    except MlflowException as error:
        if "failed with exception" not in error.message:
            raise
        raise ClassyError(
            f"CLASSY_MLFLOW_URI={settings.mlflow_uri}: the server stopped answering; when it is back, run this again, "
            f"it goes on where it was ({error.message[:200]})"
        ) from error


def _probe(uri: str) -> None:
    try:
        answer = httpx.get(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ClassyError(
            f"CLASSY_MLFLOW_URI={uri}: no MLflow server answers there ({error}). "
            "Start one with `make up`, or unset it to keep runs in a SQLite file"
        ) from error
    if answer.status_code != 200 or answer.text.strip() != "OK":
        raise ClassyError(
            f"CLASSY_MLFLOW_URI={uri}: /health says {answer.status_code}, which is no MLflow server; "
            "check the host, the port and what else listens there"
        )


def _ensure_experiment(client: MlflowClient, settings: Settings) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        server = settings.mlflow_uri.startswith(("http://", "https://"))
        location = None if server else Path(settings.mlflow_artifacts).as_uri()
        try:
            return client.create_experiment(EXPERIMENT, artifact_location=location)
        except MlflowException:
            # Another process was first, or the store is broken: the second look tells which.
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def experiment_id(client: MlflowClient) -> str:
    """Id of the experiment that `connect` made."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        raise ClassyError(f"MLflow has no experiment {EXPERIMENT!r}; was it renamed in the UI? Name it so again")
    return found.experiment_id


def find_run(client: MlflowClient, run_key: str, candidate: str, tag: str = RUN_KEY) -> Run | None:
    """The run of this candidate under this run key, in whatever state; the oldest where there are two."""
    found = client.search_runs(
        [experiment_id(client)],
        filter_string=f"tags.`{tag}` = {_quoted(run_key)} AND tags.`{CANDIDATE}` = {_quoted(candidate)}",
        run_view_type=ViewType.ACTIVE_ONLY,
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    return found[0] if found else None


def spent(client: MlflowClient, run_key: str) -> float:
    """What was paid for under a run key, in the recipe's currency: each candidate's training, and what was searched."""
    costs = {RUN_KEY: "train_cost", SEARCH_KEY: "search_cost"}
    found = {
        tag: client.search_runs(
            [experiment_id(client)], filter_string=f"tags.`{tag}` = {_quoted(run_key)}", max_results=2000
        )
        for tag in costs
    }
    return float(sum(run.data.metrics.get(costs[tag], 0.0) for tag, runs in found.items() for run in runs))


def children(client: MlflowClient, run_id: str) -> list[Run]:
    """The runs under a run, oldest first."""
    return list(
        client.search_runs(
            [experiment_id(client)],
            filter_string=f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'",
            run_view_type=ViewType.ACTIVE_ONLY,
            order_by=["attributes.start_time ASC"],
            max_results=2000,
        )
    )


def _quoted(value: str) -> str:
    if "'" in value:
        raise ClassyError(f"{value!r}: a run key must not have a quote in it")
    return f"'{value}'"


def need_run(client: MlflowClient, run_id: str) -> Run:
    """The run with this id.

    Raises:
        ClassyError: there is none.
    """
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise ClassyError(f"MLflow run {run_id!r}: {error.message}. Run ids are what `classy train` prints") from error


def run_url(settings: Settings, run_id: str) -> str:
    """The run's page; without a server, the address that MLflow's own commands take."""
    if not settings.mlflow_uri.startswith(("http://", "https://")):
        return f"runs:/{run_id}"
    client = MlflowClient(tracking_uri=settings.mlflow_uri)
    return (
        f"{settings.mlflow_uri.rstrip('/')}/#/experiments/{need_run(client, run_id).info.experiment_id}/runs/{run_id}"
    )


def _cache(settings: Settings) -> Path:
    return settings.home / "cache" / "models"


def fetch_package(settings: Settings, run_id: str) -> Path:
    """A local folder with the run's model package, for `serving.runtime.load_model` to verify and open.

    Kept under HOME/cache/models by the manifest's hash; a package that was fetched once needs no server.

    Raises:
        ClassyError: no such run, it is not packaged yet, or what came is not what was packaged.
    """
    note = _cache(settings) / "runs" / run_id
    if note.is_file():
        folder = _cache(settings) / note.read_text().strip()
        if folder.is_dir():
            return folder
    client = connect(settings)
    run = need_run(client, run_id)
    sha256, model_uri = run.data.tags.get(PACKAGE_SHA256), run.data.tags.get(MODEL_URI)
    if not sha256 or not model_uri:
        raise ClassyError(
            f"MLflow run {run_id}: has no model package; make it with `classy optimize --run-id {run_id}`"
        )
    folder = _cache(settings) / sha256
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=_made(_cache(settings)), prefix=".fetch-") as scratch:
            root = _artifacts_of(client, model_uri)
            fetched = _download(f"{root}/artifacts/{PACKAGE}", scratch)
            keep_package(settings, fetched, sha256)
    _remember(note, sha256)
    return folder


def keep_package(settings: Settings, package: Path, sha256: str) -> Path:
    """Put a package into the cache under its manifest's hash, whole or not at all.

    Raises:
        ClassyError: the manifest's hash is another one.
    """
    found = hashlib.sha256((package / "manifest.json").read_bytes()).hexdigest()
    if found != sha256:
        raise ClassyError(f"{package}/manifest.json: SHA-256 is {found}, the run says {sha256}; was the store changed?")
    target = _made(_cache(settings)) / sha256
    if target.is_dir():
        return target
    with tempfile.TemporaryDirectory(dir=_cache(settings), prefix=".keep-") as scratch:
        copy = shutil.copytree(package, Path(scratch) / sha256)
        try:
            os.rename(copy, target)
        except OSError:
            # Another process kept the same bytes in the meantime.
            if not target.is_dir():
                raise
    return target


def fetch_reference(settings: Settings, run_id: str) -> Path:
    """A local `reference.parquet`: the champion's own out-of-sample rows, written by `classy optimize`.

    Raises:
        ClassyError: no such run, or it has none yet.
    """
    target = _cache(settings) / "references" / f"{run_id}.parquet"
    if target.is_file():
        return target
    run = need_run(connect(settings), run_id)
    if not run.data.tags.get(OPTIMIZED):
        raise ClassyError(f"MLflow run {run_id}: has no {REFERENCE}; make it with `classy optimize --run-id {run_id}`")
    with tempfile.TemporaryDirectory(dir=_made(target.parent), prefix=".fetch-") as scratch:
        os.replace(_download(f"runs:/{run_id}/{REFERENCE}", scratch), target)
    return target


def fetch_weights(run_id: str, folder: Path) -> Path:
    """What `classy train` left on the run, downloaded into `folder`. Needs `connect` before.

    Raises:
        ClassyError: it is not there.
    """
    return _download(f"runs:/{run_id}/{WEIGHTS}", str(folder))


def _artifacts_of(client: MlflowClient, model_uri: str) -> str:
    model_id = model_uri.removeprefix("models:/")
    try:
        return client.get_logged_model(model_id).artifact_location.rstrip("/")
    except MlflowException as error:
        raise ClassyError(f"MLflow model {model_id}: {error.message}; was it deleted in the UI?") from error


def _download(artifact_uri: str, scratch: str) -> Path:
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=artifact_uri, dst_path=scratch))
    except (MlflowException, OSError) as error:
        raise ClassyError(
            f"{artifact_uri}: cannot be fetched: {error}. Is CLASSY_MLFLOW_URI's artifact store reachable?"
        ) from error


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _remember(note: Path, sha256: str) -> None:
    part = _made(note.parent) / f".{note.name}.{os.getpid()}"
    part.write_text(sha256)
    os.replace(part, note)
