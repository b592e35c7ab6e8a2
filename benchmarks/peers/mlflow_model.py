"""The model as MLflow serves it: a pyfunc from code, photos in a binary column.

python -m benchmarks.peers.mlflow_model FOLDER     saves it; then `mlflow models serve -m FOLDER --workers 2`
"""

import sys
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel
from mlflow.types import ColSpec, DataType, Schema

from benchmarks.peers.classifying import load


class Photos(PythonModel):
    def load_context(self, context: Any) -> None:
        self.classify = load()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        return self.classify([bytes(photo) for photo in model_input["photo"]])


def save(folder: Path) -> None:
    mlflow.pyfunc.save_model(
        folder,
        python_model=__file__,
        signature=ModelSignature(
            inputs=Schema([ColSpec(DataType.binary, "photo")]), outputs=Schema([ColSpec(DataType.string)])
        ),
        pip_requirements=["mlflow"],
    )


if __name__ == "__main__":
    save(Path(sys.argv[1]))
else:
    set_model(Photos())
