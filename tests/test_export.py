"""Packages: the graph says what the module says, whatever the architecture and the batch; nothing in it is code."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.test_models import CONTEXT, split, torchvision_spec
from training import metrics
from training.baseline import fit_baseline, standardise
from training.card import make_card
from training.checkpoint import load_model as load_module
from training.export import ExportError, check_graph, write_graph, write_package
from training.models import Classifier, ModelSpec, build

SNAPSHOT = {
    "classes": [str(digit) for digit in range(10)],
    "service": "context_v1",
    "service_hash": "0" * 12,
    "context_names": [f"c{number}" for number in range(CONTEXT)],
    "stats_names": ["c0", "c1"],
    "snapshot_id": "made-up",
    "snapshot_uri": "/nowhere/made-up",
    "as_of": "2026-03-07T00:00:00+00:00",
}


def baseline() -> Classifier:
    spec = ModelSpec(kind="sklearn", classes=10, context=CONTEXT, size=16, options={"pixels": 8})
    return fit_baseline(spec, split(300), c=0.1, seed=7)


def card_of(model: Classifier) -> dict:
    return make_card(
        model,
        name="tiny",
        candidate="baseline",
        run_id="f" * 32,
        recipe={"name": "tiny", "hash": "1" * 12},
        snapshot=SNAPSHOT,
        image={"size": 16, "fit": "stretch"},
        image_spec_hash="2" * 12,
        temperature=1.5,
        val={"accuracy": 0.9},
        created_by="classy test",
    )


def package(folder: Path) -> Classifier:
    model = baseline()
    folder.mkdir(parents=True)
    write_package(folder, model, 1.5, card_of(model), split(70, 600))
    return model


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec(kind="sklearn", classes=3, context=CONTEXT, size=16, options={"pixels": 5}),
        ModelSpec(kind="resnet", classes=3, context=CONTEXT, size=16, options={"width": 4, "blocks": [1, 1]}),
        # Odd sides on the way down: 28, 14, 7, 4.
        ModelSpec(kind="resnet", classes=3, context=CONTEXT, size=28, options={"width": 4, "blocks": [1, 1, 1, 1]}),
        torchvision_spec("mobilenet_v3_small"),
        torchvision_spec("resnet18"),
    ],
    ids=["linear", "resnet-16", "resnet-28", "mobilenet_v3_small", "resnet18"],
)
def test_graph_and_module_agree_on_any_batch(spec: ModelSpec, tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(3)
    model = build(spec).eval()
    model.set_context(np.full(CONTEXT, 3.0), np.array([2.0, 2.0, 2.0, 2.0, 0.0]))
    write_graph(tmp_path / "model.onnx", model, 0.7)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for count in (1, 2, 9):
        image = rng.integers(0, 256, (count, spec.size, spec.size, 3), dtype=np.uint8)
        context = rng.normal(3, 2, (count, CONTEXT)).astype(np.float32)
        probabilities, embedding = session.run(None, {"image": image, "context": context})
        with torch.inference_mode():
            logits, seen = model(torch.from_numpy(image), torch.from_numpy(context))
        np.testing.assert_allclose(probabilities, metrics.softmax(logits.numpy(), 0.7), atol=1e-4)
        np.testing.assert_allclose(embedding, seen.numpy(), atol=1e-3)
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["sklearn", "resnet"])
def test_the_answer_by_the_picture_alone_does_not_depend_on_the_sender(kind: str, tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(3)
    options = {"pixels": 5} if kind == "sklearn" else {"width": 4, "blocks": [1, 1]}
    model = build(ModelSpec(kind=kind, classes=3, context=CONTEXT, size=16, options=options)).eval()  # type: ignore[arg-type]
    model.set_context(np.full(CONTEXT, 3.0), np.full(CONTEXT, 2.0))
    about_picture = np.arange(CONTEXT) < 2
    write_graph(tmp_path / "model.onnx", model, 0.7, about_picture)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    context = rng.normal(3, 2, (9, CONTEXT)).astype(np.float32)
    average, stranger, brighter = context.copy(), context.copy(), context.copy()
    average[:, ~about_picture], stranger[:, ~about_picture] = 3.0, 0.0
    brighter[:, about_picture] += 2.0

    def said(context: np.ndarray) -> dict[str, np.ndarray]:
        names = ["probabilities", "picture_probabilities"]
        return dict(zip(names, session.run(names, {"image": image, "context": context}), strict=True))

    alone = said(context)["picture_probabilities"]
    np.testing.assert_allclose(alone, said(stranger)["picture_probabilities"], atol=1e-6)
    np.testing.assert_allclose(alone, said(average)["probabilities"], atol=1e-5)
    assert np.abs(alone - said(context)["probabilities"]).max() > 0.01
    assert np.abs(alone - said(brighter)["picture_probabilities"]).max() > 0.01


def test_a_graph_of_another_model_is_refused(tmp_path: Path) -> None:
    model = baseline()
    write_graph(tmp_path / "model.onnx", model, 1.0)
    rows = split(70, 600)
    checked = check_graph(tmp_path / "model.onnx", model, 1.0, rows)
    assert (checked.rows, checked.max_difference) == (70, pytest.approx(0, abs=1e-4))
    with pytest.raises(ExportError, match=r"model\.onnx.*differs from the module by"):
        check_graph(tmp_path / "model.onnx", model, 3.0, rows)


def test_a_package_lists_its_files_and_gives_the_module_back(tmp_path: Path) -> None:
    model = package(tmp_path / "package")
    names = {file.name for file in (tmp_path / "package").iterdir()}
    assert names == {"model.onnx", "model.safetensors", "probe.safetensors", "card.json", "manifest.json"}
    manifest = json.loads((tmp_path / "package" / "manifest.json").read_text())
    assert set(manifest["files"]) == names - {"manifest.json"}
    again, meta = load_module(tmp_path / "package" / "model.safetensors")
    assert meta["temperature"] == 1.5
    assert again.spec == model.spec
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())


def test_the_graph_does_not_tell_where_it_was_made(tmp_path: Path) -> None:
    write_graph(tmp_path / "model.onnx", baseline(), 1.0)
    assert b".py" not in (tmp_path / "model.onnx").read_bytes()
    assert str(Path.cwd()).encode() not in (tmp_path / "model.onnx").read_bytes()
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [port.name for port in graph.input] == ["image", "context"]
    assert [port.name for port in graph.output] == ["probabilities", "embedding"]


def test_the_card_says_what_a_server_must_know() -> None:
    card = json.loads(json.dumps(card_of(baseline()), allow_nan=False))
    assert card["classes"] == SNAPSHOT["classes"]
    assert card["parameters"] == (8 * 8 * 3 + CONTEXT) * 10 + 10
    assert len(card["context_default"]) == CONTEXT
    for name in ("image_spec_hash", "service_hash", "snapshot_uri", "recipe_hash", "run_id", "as_of", "created_by"):
        assert card[name]


def test_published_statistics_are_kept_when_asked() -> None:
    model = build(torchvision_spec("mobilenet_v3_small"))
    model.set_pixels((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    standardise(model, split(50), pixels=False)
    assert model.pixel_mean.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert model.context_mean.mean() == pytest.approx(3, abs=0.5)
