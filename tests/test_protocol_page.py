"""The manual's page of the protocol: its tables are the code's, its examples run."""

import contextlib
import io
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.recipe import ROOT
from serving.components.classifier import Classifier
from serving.components.downloader import Downloader
from serving.components.preprocessor import Preprocessor
from serving.photos import FIELDS
from serving.problems import KINDS
from serving.rest.app import create_app
from serving.rest.predict import TAKES
from serving.wire import protobuf
from tests.brightness import LIGHT, a_server
from tests.serving import Running, running

PAGE = (ROOT / "docs" / "protocol.md").read_text()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(a_server()) as found:
        yield found


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table whose head begins so."""
    table = PAGE.split(f"| {heading} |", 1)[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def here(text: str, server: Running) -> str:
    return text.replace("localhost:8000", f"127.0.0.1:{server.rest_port}").replace(
        "localhost:8001", f"127.0.0.1:{server.grpc_port}"
    )


def test_the_table_of_reasons_is_the_codes_own() -> None:
    told = {cells[0].strip("`"): (int(cells[1]), cells[2]) for cells in rows("reason")}
    assert told == {reason: (kind.status, kind.code) for reason, kind in KINDS.items()}


def test_the_table_of_tensors_is_the_codes_own() -> None:
    told = {cells[0].strip("`"): (cells[1], cells[2].count(",") + 1) for cells in rows("tensor")}
    assert told == {name: (field.datatype, len(field.shape) + 1) for name, field in FIELDS.items()}


def test_the_table_of_models_names_their_fields() -> None:
    told = {cells[0].strip("`"): [re.findall(r"`(\w+)`", cell) for cell in cells[1:3]] for cells in rows("model")}
    for name, part in (("downloader", Downloader), ("preprocessor", Preprocessor), ("classifier", Classifier)):
        assert set(told[name][0]) == set(part.takes), name
        if name != "classifier":
            assert set(told[name][1]) == set(part.gives), name
    assert set(Classifier.gives) <= set(told["classy"][1])


def test_the_table_of_the_query_is_the_codes_own() -> None:
    assert [cells[0].strip("`") for cells in rows("query")] == list(TAKES)


def test_every_method_and_route_is_there(server: Running) -> None:
    methods = {method.name for method in protobuf.pool().FindServiceByName(protobuf.SERVICE).methods}
    assert {cells[2].strip("`") for cells in rows("call")} == methods
    described = create_app(server.server).rest.openapi()["paths"]
    for cells in rows("call"):
        verb, path = cells[1].strip("`").split(" ", 1)
        for found in {path.replace("[/versions/V]", ""), re.sub(r"\[(.*)\]", r"\1", path)}:
            template = found.replace("NAME", "{model}").replace("/V/", "/{version}/")
            template = re.sub("/V$", "/{version}", template)
            assert verb.lower() in described[template], template


def test_the_curl_examples_answer(server: Running, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(LIGHT)
    found = []
    for block in blocks("sh"):
        done = subprocess.run(
            ["bash", "-c", here(block, server)], cwd=tmp_path, capture_output=True, text=True, check=True,
            env={"KEY": "classy_x", "PATH": "/usr/bin:/bin:/usr/local/bin", "NO_PROXY": "*"},
        )  # fmt: skip
        found.append(json.loads(done.stdout))
    assert len(found) == 2
    shown = json.loads(blocks("json")[0])
    assert set(found[0]) == set(shown)
    assert {name: found[0][name] for name in ("label", "image_id", "prediction_id", "arm", "model_version")} == {
        name: shown[name] for name in ("label", "image_id", "prediction_id", "arm", "model_version")
    }
    assert found[1]["id"] == "42"
    assert [output["name"] for output in found[1]["outputs"]] == ["label", "confidence"]
    assert found[1]["outputs"][0]["data"] == ["light"]


def test_the_python_examples_answer(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo.jpg").write_bytes(LIGHT)
    monkeypatch.chdir(tmp_path)
    printed = []
    for block in blocks("python"):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(here(block, server), "docs/protocol.md", "exec"), {"KEY": "classy_x"})
        printed.append(said.getvalue())
    assert len(printed) == 2
    assert "b'light' b''" in printed[0]
    assert "not_an_image" in printed[0]
    assert "b'light'" in printed[1]


def test_the_raw_example_adds_up() -> None:
    block = re.findall(r"^```\n(POST .*?)```", PAGE, re.DOTALL | re.MULTILINE)[0]
    text = next(line for line in block.splitlines() if line.startswith("{"))
    told = {name: int(size) for name, size in re.findall(r"([\w-]+-Length): (\d+)", block)}
    size = json.loads(text)["inputs"][0]["parameters"]["binary_data_size"]
    assert told["Inference-Header-Content-Length"] == len(text)
    assert told["Content-Length"] == len(text) + size
    assert f"<4 bytes: {size - 4}, little-endian><{size - 4} bytes" in block
