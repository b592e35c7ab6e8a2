"""MLflow: found again by tags, fetched once, and gone in a sentence."""

import os
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import mlflow
import pytest

from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.settings import Settings, load_settings
from tests.digits import put_mlflow


@pytest.fixture(autouse=True)
def _mlflow(request: pytest.FixtureRequest) -> None:
    if "settings" in request.fixturenames:
        put_mlflow(request.getfixturevalue("settings"))


def test_a_new_database_is_made(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "deep" / "var")
    assert tracking.experiment_id(tracking.connect(settings))
    assert (settings.home / "mlflow" / "mlflow.db").is_file()


def test_runs_are_found_by_their_tags(settings: Settings) -> None:
    client = tracking.connect(settings)
    experiment = tracking.experiment_id(client)
    assert tracking.find_run(client, "2026-03-01", "resnet") is None
    tags = {tracking.RUN_KEY: "2026-03-01", tracking.CANDIDATE: "resnet"}
    first = client.create_run(experiment, tags=tags, start_time=1000)
    client.create_run(experiment, tags=tags, start_time=2000)
    found = tracking.find_run(client, "2026-03-01", "resnet")
    assert found is not None
    assert found.info.run_id == first.info.run_id
    assert tracking.find_run(client, "2026-03-01", "baseline") is None
    client.delete_run(first.info.run_id)
    other = tracking.find_run(client, "2026-03-01", "resnet")
    assert other is not None
    assert other.info.run_id != first.info.run_id


def test_artifacts_of_a_serverless_store_lie_at_home(settings: Settings) -> None:
    client = tracking.connect(settings)
    run = client.create_run(tracking.experiment_id(client))
    assert run.info.artifact_uri.startswith(Path(settings.mlflow_artifacts).as_uri())
    assert tracking.run_url(settings, run.info.run_id) == f"runs:/{run.info.run_id}"


def test_connecting_again_is_the_same_experiment_even_after_it_was_deleted(settings: Settings) -> None:
    client = tracking.connect(settings)
    first = tracking.experiment_id(client)
    client.delete_experiment(first)
    assert tracking.experiment_id(tracking.connect(settings)) == first
    assert mlflow.get_tracking_uri() == settings.mlflow_uri


def test_a_server_that_is_not_there_is_said_within_seconds(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, mlflow_uri="http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(ClassyError, match=r"CLASSY_MLFLOW_URI=http://127\.0\.0\.1:9.*make up"):
        tracking.connect(settings)
    assert time.monotonic() - started < 10


def test_a_server_of_something_else_is_said_too(tmp_path: Path) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Other)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        settings = load_settings(home=tmp_path, mlflow_uri=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(ClassyError, match="which is no MLflow server"):
            tracking.connect(settings)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_database_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, it only has its name " * 50)
    with pytest.raises(ClassyError, match=r"CLASSY_MLFLOW_URI=sqlite:///.*cannot be used"):
        tracking.connect(load_settings(home=tmp_path, mlflow_uri=f"sqlite:///{tmp_path / 'mlflow.db'}"))


def test_a_run_that_is_not_there_or_not_packaged_says_what_to_run(settings: Settings) -> None:
    client = tracking.connect(settings)
    with pytest.raises(ClassyError, match="MLflow run 'nothing'"):
        tracking.need_run(client, "nothing")
    run_id = client.create_run(tracking.experiment_id(client)).info.run_id
    with pytest.raises(ClassyError, match=f"classy optimize --run-id {run_id}"):
        tracking.fetch_package(settings, run_id)
    with pytest.raises(ClassyError, match=f"classy optimize --run-id {run_id}"):
        tracking.fetch_reference(settings, run_id)


def test_a_run_key_with_a_quote_is_refused(settings: Settings) -> None:
    with pytest.raises(ClassyError, match="must not have a quote"):
        tracking.find_run(tracking.connect(settings), "it's", "resnet")


def test_a_package_is_kept_only_under_its_own_hash(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "manifest.json").write_text("{}")
    with pytest.raises(ClassyError, match="SHA-256 is 44136fa"):
        tracking.keep_package(settings, tmp_path / "package", "0" * 64)
    sha256 = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    kept = tracking.keep_package(settings, tmp_path / "package", sha256)
    assert kept == tracking.keep_package(settings, tmp_path / "package", sha256)
    assert [entry for entry in os.listdir(kept.parent) if entry != sha256] == []
