"""What runs a graph."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.runtime import Answer


class Engine(Protocol):
    """An opened graph. Several threads may call `predict` at once, and it gives other threads the interpreter."""

    name: str
    """For people and metadata: `openvino`, `onnxruntime`, `onnxruntime-cuda`."""
    precision: str
    """In which the graph is computed: `float32` or `bfloat16`."""
    on_cores: bool
    """It works on this machine's cores; a GPU's engine waits for the GPU."""

    def predict(self, images: NDArray[np.uint8], context: NDArray[np.float32]) -> Answer:
        """Classes of canonical images.

        Args:
            images: uint8 [N, S, S, 3], contiguous.
            context: float32 [N, F], contiguous, raw.
        """
