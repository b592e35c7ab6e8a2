"""What `mlflow.pyfunc.load_model("models:/classy@champion")` runs. For people: Classy itself never loads it so.

This file is logged as it is (models from code, no pickle) beside the package, the canonicaliser and the runtime,
and needs numpy, pandas, Pillow, onnxruntime and MLflow. Nothing in Classy imports it.

    predict(frame)   image: encoded bytes (JPEG, PNG, …); context: F numbers, optional
                     → label, confidence, probabilities
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


def _module(name: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class ClassyModel(PythonModel):
    def load_context(self, context):  # type: ignore[no-untyped-def]
        self._canonical = _module("classy_logged_canonical", context.artifacts["canonical"])
        runtime = _module("classy_logged_runtime", context.artifacts["runtime"])
        self._model = runtime.load_model(Path(context.artifacts["package"]))
        card = self._model.card
        self._image = self._canonical.ImageSpec(**card["image"])
        if self._image.digest() != card["image_spec_hash"]:
            raise ValueError("the canonicaliser beside this model is not the one it was trained with")

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:  # type: ignore[no-untyped-def]
        images = [self._canonical.canonicalise(bytes(data), self._image) for data in model_input["image"]]
        default = self._model.card["context_default"]
        given = model_input["context"] if "context" in model_input else [None] * len(images)
        rows = [default if row is None or np.ndim(row) == 0 else row for row in given]
        size = self._model.size
        answer = self._model.predict(
            np.stack(images) if images else np.empty((0, size, size, 3), np.uint8),
            np.asarray(rows, np.float32).reshape(len(images), len(default)),
        )
        best = answer.probabilities.argmax(axis=1)
        return pd.DataFrame(
            {
                "label": [self._model.classes[index] for index in best],
                "confidence": answer.probabilities.max(axis=1).astype(float),
                "probabilities": answer.probabilities.astype(float).tolist(),
            }
        )


set_model(ClassyModel())
