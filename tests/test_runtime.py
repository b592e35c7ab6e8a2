"""The runtime opens what was packaged and nothing else."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.runtime import Model, ModelError, load_model, verify
from tests.test_export import package
from tests.test_models import CONTEXT, split
from training import metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("runtime") / "package"
    package(target)
    return target


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    target = tmp_path / "package"
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder, threads=1)


def sign(folder: Path) -> None:
    """Make the manifest fit the files, as an attacker with access to both would."""
    files = {
        name: {
            "bytes": len((folder / name).read_bytes()),
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        }
        for name in ("model.onnx", "model.safetensors", "card.json")
    }
    (folder / "manifest.json").write_text(json.dumps({"files": files}))


def test_it_answers_as_trained(model: Model) -> None:
    rows = split(150, 900)
    answer = model.predict(rows.images[:], rows.context)
    assert answer.probabilities.shape == (150, 10)
    assert answer.embedding.shape == (150, 8 * 8 * 3)
    assert answer.picture_probabilities is not None
    assert answer.picture_probabilities.shape == answer.probabilities.shape
    assert metrics.accuracy(answer.probabilities, rows.labels) > 0.75
    assert model.classes == tuple("0123456789")


def test_batches_change_nothing(model: Model) -> None:
    rows = split(70, 600)
    whole = model.predict(rows.images[:], rows.context, batch=70)
    parts = model.predict(rows.images[:], rows.context, batch=9)
    np.testing.assert_allclose(whole.probabilities, parts.probabilities, atol=1e-5)
    np.testing.assert_allclose(whole.embedding, parts.embedding, atol=1e-4)


def test_no_rows_is_no_answer_and_no_error(model: Model) -> None:
    answer = model.predict(np.empty((0, 16, 16, 3), np.uint8), np.empty((0, CONTEXT), np.float32))
    assert answer.probabilities.shape == (0, 10)
    assert answer.embedding.shape[0] == 0


@pytest.mark.parametrize(
    ("images", "context"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, CONTEXT), np.float32)),
        (np.zeros((2, 16, 16, 3), np.float32), np.zeros((2, CONTEXT), np.float32)),
        (np.zeros((2, 16, 16, 3), np.uint8), np.zeros((2, CONTEXT + 1), np.float32)),
        (np.zeros((2, 16, 16, 3), np.uint8), np.zeros((1, CONTEXT), np.float32)),
    ],
    ids=["size", "type", "width", "rows"],
)
def test_wrong_inputs_are_refused_with_their_shape(model: Model, images: np.ndarray, context: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        model.predict(images, context)


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "card.json"])
def test_a_changed_byte_is_found_and_named(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(bytes(data))
    with pytest.raises(ModelError, match=rf"{name}: was changed after it was packaged"):
        load_model(copy)
    with pytest.raises(ModelError, match=name):
        verify(copy)


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "card.json", "manifest.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError, match=rf"{name}: is missing"):
        load_model(copy)


def _classes(card: dict) -> None:
    card["classes"] = card["classes"][:-1]


def _size(card: dict) -> None:
    card["image"]["size"] = 32


def _width(card: dict) -> None:
    card["context_names"].append("more")


@pytest.mark.parametrize("change", [_classes, _size, _width])
def test_a_card_of_another_model_is_refused_though_it_is_signed(copy: Path, change: Callable[[dict], None]) -> None:
    card = json.loads((copy / "card.json").read_text())
    change(card)
    (copy / "card.json").write_text(json.dumps(card))
    sign(copy)
    with pytest.raises(ModelError, match=r"card\.json: says that .*two models"):
        load_model(copy)


def test_a_card_that_leaves_something_out_is_refused(copy: Path) -> None:
    card = json.loads((copy / "card.json").read_text())
    del card["service_hash"]
    (copy / "card.json").write_text(json.dumps(card))
    sign(copy)
    with pytest.raises(ModelError, match=r"card\.json: has no service_hash"):
        load_model(copy)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("not JSON", "is no manifest"),
        ("[]", "is no manifest"),
        ('{"files": {}}', "does not list model.onnx"),
        ('{"files": {"../../secret": {"bytes": 1, "sha256": "0"}}}', "outside the package"),
        ('{"files": {"model.onnx": {"bytes": 1}}}', "is no manifest"),
    ],
)
def test_a_manifest_that_is_none_is_refused(copy: Path, manifest: str, message: str) -> None:
    (copy / "manifest.json").write_text(manifest)
    with pytest.raises(ModelError, match=message):
        load_model(copy)


def test_bytes_that_are_no_graph_are_refused(copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"no graph")
    sign(copy)
    with pytest.raises(ModelError, match=r"model\.onnx: onnxruntime cannot open it"):
        load_model(copy)


def test_identity_is_the_manifests(folder: Path, model: Model) -> None:
    assert model.sha256 == verify(folder) == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
