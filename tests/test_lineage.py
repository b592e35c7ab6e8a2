"""OpenLineage: the events of a chain are valid, joined, the same each time, and arrive."""

import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import attr
import jsonschema
import pytest
from openlineage.client import facet_v2
from openlineage.client.generated import base
from typer.testing import CliRunner

from monitoring import ledger
from monitoring.stores import open_store
from pipelines import files
from pipelines.cli import app
from pipelines.errors import ClassyError
from pipelines.lineage import events as lineage
from pipelines.lineage.chain import lineage_root
from pipelines.lineage.provenance import dataset_name
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from tests.chains import Made, learnable, make_chain
from tests.conftest import TINY
from tests.judged import no_pictures

FACETS = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "required": ["_producer", "_schemaURL"],
        "properties": {
            "_producer": {"type": "string", "format": "uri"},
            "_schemaURL": {"type": "string", "pattern": r"^https://openlineage\.io/spec/facets/\d+-\d+-\d+/\w+\.json#"},
        },
    },
}
NAMED = {"namespace": {"type": "string", "minLength": 1}, "name": {"type": "string", "minLength": 1}}
DATASETS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["namespace", "name"],
        "properties": {**NAMED, "facets": FACETS, "inputFacets": FACETS, "outputFacets": FACETS},
        "additionalProperties": False,
    },
}
RUN_EVENT = {
    "type": "object",
    "required": ["eventTime", "eventType", "producer", "schemaURL", "run", "job", "inputs", "outputs"],
    "additionalProperties": False,
    "properties": {
        "eventTime": {
            "type": "string",
            "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00$",
        },
        "eventType": {"enum": ["START", "COMPLETE"]},
        "producer": {"type": "string", "format": "uri"},
        "schemaURL": {"const": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"},
        "run": {
            "type": "object",
            "required": ["runId"],
            "properties": {"runId": {"type": "string", "format": "uuid"}, "facets": FACETS},
            "additionalProperties": False,
        },
        "job": {
            "type": "object",
            "required": ["namespace", "name"],
            "properties": {**NAMED, "facets": FACETS},
            "additionalProperties": False,
        },
        "inputs": DATASETS,
        "outputs": DATASETS,
    },
}
"""What https://openlineage.io/spec/2-0-2/OpenLineage.json asks of a run event, and what we promise beyond it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    settings = load_settings(home=tmp_path_factory.mktemp("lineage") / "var", actor="tester", threads=1)
    with pytest.MonkeyPatch.context() as patch:
        no_pictures(patch)
        return make_chain(settings, learnable(Recipe.model_validate(TINY)))


@pytest.fixture
def kept(made: Made) -> Iterator[str]:
    uri = lineage.keep(made.settings, made.recipe, 1)
    assert uri is not None
    yield uri
    shutil.rmtree(uri, ignore_errors=True)


def events(made: Made, settings: Settings | None = None) -> list[dict[str, Any]]:
    return lineage.events(settings or made.settings, made.recipe)


# ------------------------------------------------------------------------------------------------ events


def test_each_event_is_what_the_specification_asks_for(made: Made) -> None:
    found = events(made)
    for event in found:
        jsonschema.validate(event, RUN_EVENT, format_checker=jsonschema.FormatChecker())
    assert len(found) == 2 * (3 * len(made.days) + 5)


def all_facets(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from event["run"]["facets"].values()
    yield from event["job"]["facets"].values()
    for dataset in [*event["inputs"], *event["outputs"]]:
        for name in ("facets", "inputFacets", "outputFacets"):
            yield from dataset.get(name, {}).values()


def facet_types() -> dict[str, type]:
    modules = [module for module in vars(facet_v2).values() if isinstance(module, ModuleType)]
    kinds = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    return {kind._get_schema(): kind for kind in kinds if issubclass(kind, base.BaseFacet)}


def test_each_facet_is_one_of_the_specification_with_its_fields_and_no_other(made: Made) -> None:
    known, seen = facet_types(), set()
    for event in events(made):
        for facet in all_facets(event):
            kind = known[facet["_schemaURL"]]
            fields = {field.name for field in attr.fields(kind)}
            assert set(facet) <= fields, kind
            required = {field.name for field in attr.fields(kind) if field.default is attr.NOTHING}
            assert required <= set(facet), kind
            seen.add(kind.__name__)
    assert {"SchemaDatasetFacet", "DatasetVersionDatasetFacet", "NominalTimeRunFacet", "ParentRunFacet"} <= seen
    assert {"SourceCodeLocationJobFacet", "TestRunFacet", "OutputStatisticsOutputDatasetFacet"} <= seen


def test_each_run_starts_once_and_completes_once(made: Made) -> None:
    runs: dict[str, list[str]] = {}
    for event in events(made):
        runs.setdefault(event["run"]["runId"], []).append(event["eventType"])
    assert set(map(tuple, runs.values())) == {("START", "COMPLETE")}
    times = [event["eventTime"] for event in events(made) if event["job"]["name"] in ("train", "optimize", "evaluate")]
    assert times == sorted(times)


def test_the_steps_hang_together_from_the_raw_day_to_the_version(made: Made) -> None:
    done = [event for event in events(made) if event["eventType"] == "COMPLETE"]
    assert [event["job"]["name"] for event in done] == [
        *["gather", "validate", "prepare"] * len(made.days),
        "snapshot", "train", "optimize", "evaluate", "promote",
    ]  # fmt: skip
    written: set[tuple[str, str]] = set()
    for event in done:
        read = {(dataset["namespace"], dataset["name"]) for dataset in event["inputs"]}
        assert read <= written, f"{event['job']['name']} reads what no step before it wrote"
        written |= {(dataset["namespace"], dataset["name"]) for dataset in event["outputs"]}
    assert ("file", made.snapshot_uri) in written
    assert len(done[-5]["inputs"]) == len(made.days)


def test_the_facts_are_in_the_facets(made: Made) -> None:
    by_job = {event["job"]["name"]: event for event in events(made) if event["eventType"] == "COMPLETE"}
    tags = {tag["key"]: tag["value"] for tag in by_job["train"]["run"]["facets"]["tags"]["tags"]}
    assert (tags["mlflow_run"], tags["candidate"], tags["seed"]) == (made.run_id, "baseline", "7")
    (package,) = by_job["optimize"]["outputs"]
    assert package["facets"]["version"]["datasetVersion"] == made.package_sha256
    gates = by_job["evaluate"]["run"]["facets"]["test"]["tests"]
    assert {gate["status"] for gate in gates} <= {"pass", "fail", "skip"}
    assert gates
    (raw,) = by_job["gather"]["outputs"]
    assert raw["outputFacets"]["outputStatistics"]["rowCount"] == 60
    assert "image_id" in [field["name"] for field in raw["facets"]["schema"]["fields"]]
    assert by_job["gather"]["run"]["facets"]["nominalTime"]["nominalStartTime"] == "2026-03-04T00:00:00+00:00"
    assert len(by_job["train"]["job"]["facets"]["sourceCodeLocation"]["version"]) == 40


def test_made_twice_they_are_the_same_events(made: Made) -> None:
    assert events(made) == events(made)


def test_a_rollback_is_a_job_of_its_own(made: Made, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with sqlite3.connect(made.settings.home / "classy.db") as source, sqlite3.connect(copy) as target:
        source.backup(target)
    settings = made.settings.model_copy(update={"database_url": f"sqlite:///{copy}"})
    store = open_store(settings.database_url)
    (first,) = store.generations()
    store.add_generation({**first, "generation": 2, "champion_version": "2", "champion_run_id": "x", "run_key": "b"})
    change = ledger.Change(
        actor="ada", reason="worse", run_key="oops", as_of=first["as_of"], created_at=first["created_at"]
    )
    store.add_generation(ledger.rollback(store.generations()[1], change, target=first))
    before, after = events(made), events(made, settings)
    assert (before[-1]["job"]["name"], after[-1]["job"]["name"]) == ("promote", "rollback")
    assert after[:-2] == before[:-2], "what made the model is the same"
    assert after[-1]["run"]["runId"] != before[-1]["run"]["runId"]


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("/srv/classy/data/raw/date=2026-03-01", ("file", "/srv/classy/data/raw/date=2026-03-01")),
        ("file:///srv/data/raw", ("file", "/srv/data/raw")),
        ("s3://bucket/data/raw", ("s3://bucket", "data/raw")),
        ("s3a://bucket/data/raw", ("s3://bucket", "data/raw")),
        ("gcs://bucket/data/raw", ("gs://bucket", "data/raw")),
        ("hdfs://name:8020/data/raw", ("hdfs://name:8020", "/data/raw")),
        ("abfss://box@account.dfs.core.windows.net/raw", ("abfss://box@account.dfs.core.windows.net", "/raw")),
        ("sftp://someone:secret@example.org/raw", ("sftp://example.org", "/raw")),
    ],
)
def test_datasets_are_named_by_where_they_lie_and_never_with_a_password(uri: str, name: tuple[str, str]) -> None:
    assert dataset_name(uri) == name


def test_no_password_of_mlflow_is_in_an_event(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "_kept", lambda *_: None)  # made now, not when the generation was
    secret = made.settings.model_copy(update={"mlflow_uri": "http://someone:secret@127.0.0.1:9/mlflow"})
    text = lineage.as_lines(events(made, secret))
    assert "mlflow://127.0.0.1:9" in text
    assert "secret" not in text


# ------------------------------------------------------------------------------------------------ keeping


def test_what_is_kept_is_what_was_made_and_outlives_the_data(made: Made, kept: str) -> None:
    shutil.rmtree(kept)
    fresh = events(made)
    lineage.keep(made.settings, made.recipe, 1)
    assert events(made) == fresh
    moved = Path(made.snapshot_uri).with_name("elsewhere")
    Path(made.snapshot_uri).rename(moved)
    try:
        down = made.settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
        assert events(made, down) == fresh
    finally:
        moved.rename(made.snapshot_uri)


def test_kept_once_it_stays(made: Made, kept: str) -> None:
    first = (Path(kept) / lineage.EVENTS).read_bytes()
    other = made.recipe.model_copy(update={"name": "other"})
    assert lineage.keep(made.settings, other, 1) == kept
    assert (Path(kept) / lineage.EVENTS).read_bytes() == first


def test_a_record_that_cannot_be_kept_fails_nothing_and_is_said(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: str) -> Any:
        raise ClassyError("the disk is full")

    monkeypatch.setattr(files, "new_partition", full)
    assert lineage.keep(made.settings, made.recipe, 1) is None
    assert "the chain of generation 1 could not be kept" in caplog.text
    assert "the disk is full" in caplog.text
    assert files.read_manifest(lineage_root(made.settings, 1)) is None
    assert lineage.keep(made.settings, made.recipe, 99) is None, "nor does one that is not there"


# ------------------------------------------------------------------------------------------------ sending


class Receiver(BaseHTTPRequestHandler):
    got: list[dict[str, Any]]
    answer = 201

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).got.append({"path": self.path, "event": json.loads(body)})
        self.send_response(self.answer)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Receiver]]:
    """A server that takes OpenLineage events, and OPENLINEAGE_URL naming it."""
    handler = type("Handler", (Receiver,), {"got": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    unconfigured(monkeypatch, tmp_path)
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def unconfigured(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE")]:
        monkeypatch.delenv(name)
    # The client copies OPENLINEAGE_URL into variables of its own: what it leaves must not reach the next test.
    for name in ("TYPE", "URL"):
        monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__TRANSPORTS__DEFAULT_HTTP__{name}", "")
        monkeypatch.delenv(f"OPENLINEAGE__TRANSPORT__TRANSPORTS__DEFAULT_HTTP__{name}")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)


def test_sent_events_arrive_as_they_were_made(made: Made, receiver: type[Receiver]) -> None:
    found = lineage.send(made.settings, made.recipe)
    assert (found["generation"], found["events"]) == (1, len(receiver.got))
    assert {one["path"] for one in receiver.got} == {"/api/v1/lineage"}
    ours = events(made)
    for sent, event in zip(receiver.got, ours, strict=True):
        assert sent["event"]["run"]["runId"] == event["run"]["runId"]
        assert sent["event"]["inputs"] == event["inputs"]
        assert sent["event"]["outputs"] == event["outputs"]
        jsonschema.validate(sent["event"], RUN_EVENT, format_checker=jsonschema.FormatChecker())
    lineage.send(made.settings, made.recipe)
    assert {one["event"]["run"]["runId"] for one in receiver.got} == {event["run"]["runId"] for event in ours}


def test_a_receiver_that_says_no_is_named_with_the_event(
    made: Made, receiver: type[Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "answer", 400)
    with pytest.raises(
        ClassyError, match=r"OPENLINEAGE_URL=http://127.0.0.1:\d+: event 1 of 34 \(gather\) was not taken"
    ):
        lineage.send(made.settings, made.recipe)


def test_where_nothing_says_where_to_nothing_is_sent(
    made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unconfigured(monkeypatch, tmp_path)
    with pytest.raises(ClassyError, match="set OPENLINEAGE_URL=http://localhost:5000"):
        lineage.send(made.settings, made.recipe)
    monkeypatch.setenv("OPENLINEAGE_CONFIG", str(tmp_path / "nothing.yml"))
    with pytest.raises(ClassyError, match=r"nothing\.yml: no such file"):
        lineage.send(made.settings, made.recipe)
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    with pytest.raises(ClassyError, match="OPENLINEAGE_DISABLED=true"):
        lineage.send(made.settings, made.recipe)


def test_the_clients_own_file_says_where_too(made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unconfigured(monkeypatch, tmp_path)
    out = tmp_path / "out.jsonl"
    (tmp_path / "openlineage.yml").write_text(f"transport: {{type: file, log_file_path: {out}, append: true}}")
    assert lineage.send(made.settings, made.recipe)["transport"] == "file"
    assert len(out.read_text().splitlines()) == len(events(made))


def test_the_command_prints_one_event_a_line(made: Made) -> None:
    env = {"CLASSY_HOME": str(made.settings.home), "CLASSY_RECIPE": "digits"}
    shown = CliRunner().invoke(app, ["explain", "1", "--openlineage"], env=env, catch_exceptions=False)
    lines = shown.stdout.splitlines()
    assert [json.loads(line)["job"]["name"] for line in lines[-2:]] == ["promote", "promote"]
    assert shown.stdout == lineage.as_lines(lineage.events(made.settings, made.recipe))
