"""A trained module as a package that is no code: ONNX graph, safetensors, card, and a manifest of SHA-256s.

The graph takes `image` uint8 [N, H, W, 3] and `context` float32 [N, F], both raw, and gives calibrated
`probabilities` [N, C] and `embedding` [N, E]: normalisation, softmax and temperature are inside. Where the card tells
which columns of the context are about the picture (`stats_names`), there is `picture_probabilities` [N, C] too: the
answer by the picture alone.
"""

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.card import CARD, write_card
from training.checkpoint import save_model
from training.data import Split
from training.models import Classifier

MANIFEST, GRAPH, WEIGHTS, PROBE = "manifest.json", "model.onnx", "model.safetensors", "probe.safetensors"
TOLERANCE = 1e-3
"""Largest difference of a probability between torch and the exported graph."""
PROBE_ROWS = 16
"""Real rows that travel with a package, with torch's answers: whoever opens it compares its runtime with them."""


class ExportError(Exception):
    """A model cannot be exported, or the exported graph does not say what the module says."""

    for_people = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """How far the graph is from the module on real rows."""

    rows: int
    max_difference: float


class Answering(nn.Module):
    """What is exported: a classifier whose answers are calibrated probabilities.

    Args:
        about_picture: bool [F], which columns of the context are about the picture; None: nobody says.
    """

    def __init__(self, model: Classifier, temperature: float, about_picture: NDArray[np.bool_] | None = None) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.outputs = ["probabilities", "embedding"] + ([] if about_picture is None else ["picture_probabilities"])
        self.about_picture: Tensor | None
        told = None if about_picture is None else torch.tensor(about_picture, dtype=torch.float32)
        self.register_buffer("about_picture", told)

    def forward(self, image: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        logits, embedding = self.model(image, context)
        answer = torch.softmax(logits / self.temperature, dim=1)
        if self.about_picture is None:
            return answer, embedding
        alone = self.model.by_picture(embedding, context, self.about_picture)
        return answer, embedding, torch.softmax(alone / self.temperature, dim=1)


def write_graph(
    path: Path, model: Classifier, temperature: float, about_picture: NDArray[np.bool_] | None = None
) -> None:
    """Export `Answering` to ONNX with a free batch axis.

    Raises:
        ExportError: the architecture cannot be exported.
    """
    spec = model.spec
    example = torch.zeros(4, spec.size, spec.size, 3, dtype=torch.uint8), torch.zeros(4, spec.context)
    rows = torch.export.Dim("N", min=1, max=1 << 20)
    module = Answering(model.cpu().eval(), temperature, about_picture).eval()
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                input_names=["image", "context"],
                output_names=module.outputs,
                dynamic_shapes=({0: rows}, {0: rows}),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"{spec.kind} {spec.options}: cannot be exported to ONNX: {error}") from error
    if program is None:
        raise ExportError(f"{spec.kind} {spec.options}: torch gave no ONNX program")
    proto = program.model_proto
    _strip(proto.graph)
    del proto.metadata_props[:]
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))


@contextmanager
def _quiet() -> Iterator[None]:
    # The exporter tells each of its passes.
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(graph: onnx.GraphProto) -> None:
    # The exporter notes stack traces, with the paths of this machine, on every node.
    for node in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.metadata_props[:]


def check_graph(
    path: Path,
    model: Classifier,
    temperature: float,
    rows: Split,
    *,
    about_picture: NDArray[np.bool_] | None = None,
    batch: int = 64,
) -> Checked:
    """Run graph and module over the same real rows.

    Raises:
        ExportError: a probability differs by more than TOLERANCE, or the class does (ties aside).
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    module = Answering(model.cpu().eval(), temperature, about_picture).eval()
    answers = [name for name in module.outputs if name != "embedding"]
    worst, seen = 0.0, 0
    for images, context, _ in rows.batches(batch):
        with torch.inference_mode():
            said = dict(zip(module.outputs, module(torch.tensor(images), torch.tensor(context)), strict=True))
        for name, found in zip(answers, session.run(answers, {"image": images, "context": context}), strict=True):
            expected = said[name].numpy()
            worst = max(worst, float(np.abs(expected - found).max()))
            if not worst <= TOLERANCE or (expected.argmax(1) != found.argmax(1))[_margin(expected) > TOLERANCE].any():
                raise ExportError(
                    f"{path}: the exported graph differs from the module by {worst:.2g} in {name} (allowed: "
                    f"{TOLERANCE:g}); this architecture cannot be served as ONNX"
                )
        seen += len(images)
    return Checked(rows=seen, max_difference=worst)


def _margin(probabilities: NDArray[np.floating]) -> NDArray[np.floating]:
    """How far the first class is ahead of the second."""
    best = np.sort(probabilities, axis=1)
    return best[:, -1] - best[:, -2]


def write_package(folder: Path, model: Classifier, temperature: float, card: dict[str, Any], rows: Split) -> Checked:
    """Write model.onnx (checked on `rows`), model.safetensors, probe.safetensors, card.json and, last, manifest.json.

    Raises:
        ExportError: the graph cannot be made, or differs from the module.
    """
    about_picture = np.isin(card["context_names"], card["stats_names"]) if "stats_names" in card else None
    write_graph(folder / GRAPH, model, temperature, about_picture)
    checked = check_graph(folder / GRAPH, model, temperature, rows, about_picture=about_picture)
    save_model(folder / WEIGHTS, model, {"temperature": temperature})
    write_probe(folder / PROBE, model, temperature, rows)
    write_card(folder / CARD, card)
    write_manifest(folder)
    return checked


def write_probe(path: Path, model: Classifier, temperature: float, rows: Split) -> None:
    """A few rows from all over the split, and torch's probabilities in float32."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(PROBE_ROWS, len(rows))).round().astype(np.int64))
    images, context = rows.images[chosen], np.ascontiguousarray(rows.context[chosen], np.float32)
    with torch.inference_mode():
        answer = Answering(model.cpu().eval(), temperature).eval()(torch.tensor(images), torch.tensor(context))[0]
    safetensors.numpy.save_file({"image": images, "context": context, "probabilities": answer.numpy()}, path)


def write_manifest(folder: Path) -> str:
    """List every file's size and SHA-256; gives the SHA-256 of the manifest itself."""
    entries = {}
    for file in sorted(folder.iterdir()):
        if file.name != MANIFEST:
            data = file.read_bytes()
            entries[file.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps({"files": entries}, indent=1, sort_keys=True) + "\n"
    (folder / MANIFEST).write_text(text)
    return hashlib.sha256(text.encode()).hexdigest()
