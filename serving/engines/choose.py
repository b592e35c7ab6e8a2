"""Which runtime runs a package here, and whether it says what torch said."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from serving.engines import with_onnxruntime, with_openvino
from serving.engines.base import Engine
from serving.runtime import PROBE, ModelError, Package

log = logging.getLogger(__name__)

RUNTIMES = ("auto", "openvino", "onnxruntime")
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.03}
"""Largest difference of a probability from torch's. float32 is that of `training.export`; bfloat16 keeps 8 bits of each
number."""

Opener = Callable[[], Engine]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """An engine that agrees with torch."""

    engine: Engine
    agreement: float | None
    """Largest difference of a probability from torch's on the package's probe; None: the package has none."""
    refused: tuple[str, ...]
    """What was tried before it, and why it does not serve."""


def choose_engine(folder: Path, package: Package, *, runtime: str = "auto", threads: int = 1) -> Chosen:
    """Open the first runtime that this machine has, that the card allows and that agrees with torch.

    Args:
        runtime: `openvino` or `onnxruntime` to have that one first; `auto`: as the card says, or the quickest.
        threads: calls of `predict` that are expected at the same time.

    Raises:
        ModelError: none can open it, or none agrees.
    """
    probe = _read_probe(folder, package)
    refused: list[str] = []
    for label, opener in _candidates(folder, package, runtime, threads):
        try:
            engine = opener()
            agreement = None if probe is None else check(engine, probe)
        except ModelError as error:
            log.warning("%s: %s", label, error)
            refused.append(f"{label}: {error}")
            continue
        return Chosen(engine=engine, agreement=agreement, refused=tuple(refused))
    raise ModelError(f"{folder}: no runtime can serve it. " + "; ".join(refused))


def _candidates(folder: Path, package: Package, runtime: str, threads: int) -> Iterator[tuple[str, Opener]]:
    if runtime not in RUNTIMES:
        raise ModelError(f"runtime {runtime!r}: is not known; there are {', '.join(RUNTIMES)}")
    wanted = runtime if runtime != "auto" else str(package.card.get("runtime", "auto"))
    if wanted == "openvino" and not with_openvino.has_openvino():
        raise ModelError("runtime openvino: is not installed; `pip install openvino`, or take onnxruntime")
    if wanted == "auto" and with_onnxruntime.has_cuda():
        yield "onnxruntime-cuda", lambda: with_onnxruntime.OnnxRuntime(folder, package, cuda=True)
    if wanted in ("auto", "openvino") and with_openvino.has_openvino():
        if package.card.get("precision", "bfloat16") == "bfloat16" and with_openvino.has_bfloat16():
            yield (
                "openvino bfloat16",
                lambda: with_openvino.OpenVino(folder, package, precision="bfloat16", threads=threads),
            )
        yield (
            "openvino float32",
            lambda: with_openvino.OpenVino(folder, package, precision="float32", threads=threads),
        )
    if wanted == "onnxruntime" and with_onnxruntime.has_cuda():
        yield "onnxruntime-cuda", lambda: with_onnxruntime.OnnxRuntime(folder, package, cuda=True)
    yield "onnxruntime", lambda: with_onnxruntime.OnnxRuntime(folder, package)


# ---------------------------------------------------------------------------------------------- agreement


@dataclass(frozen=True, slots=True)
class Probe:
    """A few real rows, and torch's answers."""

    image: NDArray[np.uint8]
    context: NDArray[np.float32]
    probabilities: NDArray[np.float32]


def _read_probe(folder: Path, package: Package) -> Probe | None:
    if package.probe is None:
        return None
    try:
        found = safetensors.numpy.load(package.probe)
        probe = Probe(found["image"], found["context"], found["probabilities"])
        card, rows, size = package.card, len(probe.image), int(package.card["image"]["size"])
        wanted = ((rows, size, size, 3), (rows, len(card["context_names"])), (rows, len(card["classes"])))
        if not rows or (probe.image.shape, probe.context.shape, probe.probabilities.shape) != wanted:
            raise ValueError("its tensors are not of the card's shapes")
        return probe
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"{folder / PROBE}: is no probe of a model package ({error!r})") from error


def check(engine: Engine, probe: Probe) -> float:
    """Largest difference between an engine's and torch's probabilities.

    Raises:
        ModelError: it is above the precision's tolerance, or the class differs where torch is sure of it.
    """
    found = engine.predict(probe.image, probe.context).probabilities
    allowed = TOLERANCE[engine.precision]
    difference = float(np.abs(found - probe.probabilities).max())
    best = np.sort(probe.probabilities, axis=1)
    sure = best[:, -1] - best[:, -2] > allowed
    others = int((found.argmax(1) != probe.probabilities.argmax(1))[sure].sum())
    if not difference <= allowed or others:
        raise ModelError(
            f"differs from torch by {difference:.2g} in probability (allowed: {allowed:g}), in the class of {others} "
            f"of {len(found)} photos"
        )
    return difference
