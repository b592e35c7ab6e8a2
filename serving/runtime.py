"""A model package, verified and opened: canonical images and context in, classes out.

Nothing in a package is code, and nothing is opened before its SHA-256 is what the manifest says. This file needs
only numpy and onnxruntime, and imports nothing of Classy: it travels with every logged model.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

MANIFEST, CARD, GRAPH, PROBE = "manifest.json", "card.json", "model.onnx", "probe.safetensors"
NEEDED = ("classes", "context_names", "image", "image_spec_hash", "service", "service_hash", "run_id")
OUTPUTS = ("probabilities", "embedding", "picture_probabilities")
"""Of a graph; an older one lacks the last."""
BATCH = 8
"""Rows of one run of the graph. Larger ones leave the cache: a 1.5 M parameter network on 64 × 64 pixels took 1.5 ms an
image in batches of 1 or 2, 2.4 in batches of 8, 2.8 in batches of 64 (one core)."""


class ModelError(Exception):
    """A package is not what it says it is; the message names the file."""

    for_people = True


@dataclass(frozen=True, slots=True)
class Package:
    """The verified contents of a package, in memory: nobody can change a file between its check and its use."""

    graph: bytes
    """ONNX."""
    card: dict[str, Any]
    sha256: str
    """Of the manifest: the package's identity."""
    probe: bytes | None
    """A few real rows and torch's answers to them, as safetensors; older packages have none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Row i answers image i."""

    probabilities: NDArray[np.float32]
    """[N, C], calibrated, in the order of the card's classes."""
    embedding: NDArray[np.float32]
    """[N, E]: what the network saw in the picture, without the context."""
    picture_probabilities: NDArray[np.float32] | None
    """[N, C]: the answer by the picture alone, as if by the average sender; None: a package that does not say it."""


def answer_of(outputs: dict[str, NDArray[np.float32]]) -> Answer:
    """The answer that a graph's outputs make, by their names."""
    return Answer(outputs["probabilities"], outputs["embedding"], outputs.get("picture_probabilities"))


class Model:
    """An opened package. `predict` may be called by several threads at once."""

    def __init__(self, session: onnxruntime.InferenceSession, card: dict[str, Any], sha256: str) -> None:
        self.card = card
        self.sha256 = sha256
        """SHA-256 of the manifest: the package's identity."""
        self.classes: tuple[str, ...] = tuple(card["classes"])
        self.size = int(card["image"]["size"])
        self.width = len(card["context_names"])
        self._session = session
        shapes = ports(session)
        self._widths = {name: shapes[name][0] for name in OUTPUTS if name in shapes}

    def predict(self, images: NDArray[np.uint8], context: NDArray[np.float32], *, batch: int = BATCH) -> Answer:
        """Classes of canonical images.

        Args:
            images: uint8 [N, S, S, 3]. N may be 0, and may be large: at most `batch` rows are run at once.
            context: float32 [N, F], raw, in the order of the card's context_names.

        Raises:
            ValueError: wrong shapes or types.
        """
        count = len(images)
        if images.shape != (count, self.size, self.size, 3) or images.dtype != np.uint8:
            raise ValueError(f"images: {images.dtype} {images.shape}, expected uint8 (N, {self.size}, {self.size}, 3)")
        if context.shape != (count, self.width):
            raise ValueError(f"context: {context.shape}, expected ({count}, {self.width})")
        found = {name: np.empty((count, width), np.float32) for name, width in self._widths.items()}
        for start in range(0, count, batch):
            part = slice(start, start + batch)
            inputs = {
                "image": np.ascontiguousarray(images[part]),
                "context": np.ascontiguousarray(context[part], dtype=np.float32),
            }
            for name, values in zip(found, self._session.run(tuple(found), inputs), strict=True):
                found[name][part] = values
        return answer_of(found)


def load_model(folder: Path, *, threads: int = 0) -> Model:
    """Verify every file of a package, then open it.

    Args:
        folder: with manifest.json and the files it lists.
        threads: of one `predict`; 0 is one for each core.

    Raises:
        ModelError: a file is missing, has other bytes than the manifest says, or the card is not the graph's.
    """
    package = read_package(folder)
    session = open_session(package.graph, threads=threads, source=str(folder / GRAPH))
    check_card(folder, package.card, ports(session))
    return Model(session, package.card, package.sha256)


def open_session(
    graph: bytes, *, threads: int, source: str = GRAPH, providers: tuple[Any, ...] = ("CPUExecutionProvider",)
) -> onnxruntime.InferenceSession:
    """A session on a graph's bytes.

    Args:
        threads: of one run; 0 is one for each core.
        source: names the graph in errors.

    Raises:
        ModelError: onnxruntime cannot open it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that wait should sleep: spinning takes the cores from whoever has work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(graph, options, providers=list(providers))
    except Exception as error:  # onnxruntime's errors share no narrower base
        raise ModelError(f"{source}: onnxruntime cannot open it: {error}") from error


def ports(session: onnxruntime.InferenceSession) -> dict[str, list[Any]]:
    """Name of each input and output → its shape without the rows."""
    return {port.name: list(port.shape[1:]) for port in [*session.get_inputs(), *session.get_outputs()]}


def verify(folder: Path) -> str:
    """Check every file's size and SHA-256 against the manifest; gives the manifest's own SHA-256.

    Raises:
        ModelError: as `load_model`.
    """
    return read_package(folder).sha256


def read_package(folder: Path) -> Package:
    """Check every file's size and SHA-256 against the manifest; gives what a runtime opens.

    Raises:
        ModelError: a file is missing or has other bytes than the manifest says, or the card leaves something out.
    """
    listed = _read(folder / MANIFEST)
    try:
        entries = json.loads(listed)["files"]
        expected = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / MANIFEST}: is no manifest of a model package ({error!r})") from error
    kept: dict[str, bytes] = {}
    for name, (size, sha256) in expected.items():
        if Path(name).name != name:
            raise ModelError(f"{folder / MANIFEST}: lists {name!r}, which is outside the package")
        data = _read(folder / name)
        if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
            raise ModelError(f"{folder / name}: was changed after it was packaged (SHA-256 differs); fetch it again")
        if name in (GRAPH, CARD, PROBE):
            kept[name] = data
    for name in (GRAPH, CARD):
        if name not in kept:
            raise ModelError(f"{folder / MANIFEST}: does not list {name}, so this is no model package")
    try:
        card = json.loads(kept[CARD])
    except ValueError as error:
        raise ModelError(f"{folder / CARD}: is not JSON: {error}") from error
    missing = [field for field in NEEDED if field not in card] if isinstance(card, dict) else list(NEEDED)
    if missing:
        raise ModelError(f"{folder / CARD}: has no {', '.join(missing)}")
    return Package(kept[GRAPH], card, hashlib.sha256(listed).hexdigest(), kept.get(PROBE))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: is missing from the model package; fetch it again") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


def check_card(folder: Path, card: dict[str, Any], found: dict[str, list[Any]]) -> None:
    """The card must describe this very graph: a wrong class list would answer wrongly, and loudly is better.

    Args:
        found: the graph's `ports`.

    Raises:
        ModelError: card and graph are of two models.
    """
    size = card["image"]["size"]
    wanted = {
        "image": [size, size, 3],
        "context": [len(card["context_names"])],
        "probabilities": [len(card["classes"])],
    }
    for name, shape in wanted.items():
        if found.get(name) != shape:
            raise ModelError(
                f"{folder / CARD}: says that {name} is [N, {', '.join(map(str, shape))}], "
                f"{GRAPH} has {found.get(name)}; card and graph are of two models"
            )
    if "embedding" not in found:
        raise ModelError(f"{folder / GRAPH}: has no output named embedding")
