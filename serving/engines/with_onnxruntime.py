"""ONNX Runtime: on any CPU, and on CUDA where `onnxruntime-gpu` is installed."""

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from serving.runtime import GRAPH, Answer, Model, Package, check_card, open_session, ports

CUDA = "CUDAExecutionProvider"
ROWS = {"onnxruntime": 8, "onnxruntime-cuda": 256}
"""Rows of one run. On a CPU larger ones leave the cache; a GPU wants all there are."""


class OnnxRuntime:
    """A graph in ONNX Runtime.

    Raises:
        ModelError: it cannot be opened, or card and graph are of two models.
    """

    precision = "float32"

    def __init__(self, folder: Path, package: Package, *, cuda: bool = False) -> None:
        self.name = "onnxruntime-cuda" if cuda else "onnxruntime"
        self.on_cores = not cuda
        # TF32 would answer within 1e-3 of torch only by luck.
        providers = ((CUDA, {"use_tf32": "0"}), "CPUExecutionProvider") if cuda else ("CPUExecutionProvider",)
        # Lanes work in parallel, each on one core: a photo's work is too small to divide.
        session = open_session(package.graph, threads=1, source=str(folder / GRAPH), providers=providers)
        check_card(folder, package.card, ports(session))
        self._model = Model(session, package.card, package.sha256)

    def predict(self, images: NDArray[np.uint8], context: NDArray[np.float32]) -> Answer:
        return self._model.predict(images, context, batch=ROWS[self.name])


def has_cuda() -> bool:
    """Whether ONNX Runtime was built for CUDA and finds a device's driver."""
    return CUDA in onnxruntime.get_available_providers()
