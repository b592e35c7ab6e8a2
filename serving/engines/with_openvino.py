"""OpenVINO on CPU, in bfloat16 where the chip multiplies it."""

import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.runtime import GRAPH, OUTPUTS, Answer, ModelError, Package, answer_of, check_card

STEPS = (8, 4, 2, 1)
"""Rows of the graphs that are compiled. A graph with a fixed number of rows is about a tenth quicker than one with a
free number; any N is done in a few runs of these. `benchmarks/runtimes.py` shows it."""
HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVino:
    """A graph in OpenVINO.

    Args:
        precision: `float32` or `bfloat16`.
        threads: calls of `predict` that are expected at the same time; each works on one core.

    Raises:
        ModelError: it cannot be opened, or card and graph are of two models.
    """

    name = "openvino"
    on_cores = True

    def __init__(self, folder: Path, package: Package, *, precision: str, threads: int = 1) -> None:
        self.precision = precision
        options = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            # A worker that pins its threads to the first core takes it from the next worker.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            # From the bytes that were hashed: nobody can change the file in between.
            graph = _core().read_model(package.graph)
            check_card(folder, package.card, {port.any_name: _shape(port) for port in (*graph.inputs, *graph.outputs)})
            self._widths = {port.any_name: _shape(port)[0] for port in graph.outputs if port.any_name in OUTPUTS}
            self._compiled = {rows: _compile(graph, rows, options) for rows in STEPS}
            # As many as may run at once, made and run now: the first run of each is slow, and is nobody's.
            self._free = [self._runs() for _ in range(threads)]
            for runs in self._free:
                for run in runs.values():
                    run.request.infer(share_outputs=True)
        except RuntimeError as error:
            raise ModelError(f"{folder / GRAPH}: OpenVINO cannot open it: {_brief(error)}") from error

    def predict(self, images: NDArray[np.uint8], context: NDArray[np.float32]) -> Answer:
        count = len(images)
        found = {name: np.empty((count, width), np.float32) for name, width in self._widths.items()}
        try:
            runs = self._free.pop()
        except IndexError:
            runs = self._runs()  # one more thread than was said
        start = 0
        for rows in STEPS:
            while count - start >= rows:
                part = slice(start, start + rows)
                run = runs[rows]
                run.image[:] = images[part]
                run.context[:] = context[part]
                run.request.infer(share_outputs=True)
                for name, values in run.outputs.items():
                    found[name][part] = values
                start += rows
        self._free.append(runs)
        return answer_of(found)

    def _runs(self) -> dict[int, "_Run"]:
        """What one thread runs at a time: one request holds one run's tensors."""
        return {rows: _Run(compiled, self._widths) for rows, compiled in self._compiled.items()}


class _Run:
    """An infer request and the memory it reads and writes. Giving it its inputs anew at each run would cost as much as
    a small network does."""

    __slots__ = ("context", "image", "outputs", "request")

    def __init__(self, compiled: Any, outputs: Iterable[str]) -> None:
        import openvino

        self.request = compiled.create_infer_request()
        self.image = np.zeros(list(compiled.input("image").shape), np.uint8)
        self.context = np.zeros(list(compiled.input("context").shape), np.float32)
        self.request.set_tensor("image", openvino.Tensor(self.image, shared_memory=True))
        self.request.set_tensor("context", openvino.Tensor(self.context, shared_memory=True))
        self.outputs = {name: self.request.get_tensor(name).data for name in outputs}


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


def has_bfloat16() -> bool:
    """Whether this chip multiplies bfloat16 (avx512_bf16, amx_bf16, or Arm's)."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _compile(graph: Any, rows: int, options: dict[str, Any]) -> Any:
    fixed = graph.clone()
    fixed.reshape({port.any_name: [rows, *_shape(port)] for port in fixed.inputs})
    return _core().compile_model(fixed, "CPU", options)


def _shape(port: Any) -> list[int]:
    """Of one row; -1 where the graph leaves a side open."""
    return [side.get_length() if side.is_static else -1 for side in list(port.partial_shape)[1:]]


def _brief(error: Exception) -> str:
    """OpenVINO's errors are pages of C++ places; the last line that says something is the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
