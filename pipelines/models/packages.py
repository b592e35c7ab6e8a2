"""A model package on its MLflow run: logged so that people can load it, and its reference beside it."""

import importlib.metadata
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from mlflow.models.signature import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array
from numpy.typing import NDArray

from pipelines.models import tracking
from pipelines.models.reference import reference_rows, trained_rows
from pipelines.recipe import ROOT
from pipelines.sections import Monitoring
from serving.runtime import Model
from training.data import SnapshotData

OUT_OF_SAMPLE = ("val", "golden", "fresh")
SIGNATURE = ModelSignature(
    inputs=Schema(
        [ColSpec(DataType.binary, "image"), ColSpec(Array(DataType.double), "context", required=False)],
    ),
    outputs=Schema(
        [
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.double, "confidence"),
            ColSpec(Array(DataType.double), "probabilities"),
        ]
    ),
)
NEEDS = ("mlflow", "numpy", "onnxruntime", "pandas", "pillow")


def version() -> str:
    return f"classy {importlib.metadata.version('classy')}"


def log_package(run_id: str, folder: Path) -> str:
    """Log a package to its run as a model that `mlflow.pyfunc.load_model` can load; gives its URI.

    The code that people run (`pipelines/models/pyfunc_model.py`, the canonicaliser, the runtime) goes with it as files:
    nothing is pickled.
    """
    with _quiet(), mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(ROOT / "pipelines" / "models" / "pyfunc_model.py"),
            artifacts={
                tracking.PACKAGE: str(folder),
                "canonical": str(ROOT / "serving" / "canonical.py"),
                "runtime": str(ROOT / "serving" / "runtime.py"),
            },
            signature=SIGNATURE,
            # Given, so that MLflow does not load the model in another process to find out.
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in NEEDS],
        )
    return logged.model_uri


@contextmanager
def _quiet() -> Iterator[None]:
    # MLflow advises type hints and an example, and looks for pip: the signature and the requirements are given.
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def write_reference(path: Path, model: Model, data: SnapshotData, spec: Monitoring) -> int:
    """The model's answers on its reference rows (`reference_rows`), oldest first. Gives their number.

    After them come rows that it was fitted on (`trained_rows`), split "train", without answers.
    """
    parts = [_answers(model, data, name) for name in OUT_OF_SAMPLE]
    joined = pa.concat_tables(parts, promote_options="default")  # a split without rows has fewer columns
    table = joined.sort_by([("captured_at", "ascending"), ("image_id", "ascending")])
    since = data.meta.get("drift_from")
    kept = table.filter(
        reference_rows(
            table["captured_at"].to_numpy().astype("datetime64[us]"),
            as_of=datetime.fromisoformat(data.meta["as_of"]),
            drift_from=date.fromisoformat(since) if since else None,
            spec=spec,
        )
    )
    pq.write_table(pa.concat_tables([kept, _trained(data, kept)], promote_options="default"), path)
    return kept.num_rows


def _trained(data: SnapshotData, reference: pa.Table) -> pa.Table:
    rows = data.split("train")
    frame = pd.DataFrame({"image_id": rows.image_ids, "source_id": rows.source_ids, "split": "train"})
    frame["captured_at"] = pd.Series(rows.captured_at).dt.tz_localize("UTC")
    frame[list(data.stats_names)] = rows.stats
    since = pc.min(reference["captured_at"]).as_py() if len(reference) else frame["captured_at"].max()
    kept = trained_rows(frame, since=since, stats=data.stats_names)
    schema = pa.schema([reference.schema.field(name) for name in kept.columns])
    return pa.Table.from_pandas(kept, schema, preserve_index=False)


def _answers(model: Model, data: SnapshotData, name: str) -> pa.Table:
    rows = data.split(name)
    answers = [model.predict(images, context) for images, context, _ in rows.batches(512)]
    probabilities = np.concatenate([np.empty((0, len(model.classes)), np.float32), *(a.probabilities for a in answers)])
    width = answers[0].embedding.shape[1] if answers else 0
    embedding = np.concatenate([np.empty((0, width), np.float32), *(answer.embedding for answer in answers)])
    alone = [answer.picture_probabilities for answer in answers if answer.picture_probabilities is not None]
    classes = np.asarray(model.classes)
    columns: dict[str, Any] = {
        "image_id": pa.array(rows.image_ids.tolist(), pa.string()),
        "source_id": pa.array(rows.source_ids.tolist(), pa.string()),
        "captured_at": pa.array(rows.captured_at, pa.timestamp("us")).cast(pa.timestamp("us", "UTC")),
        "split": pa.array([name] * len(rows), pa.string()),
        "label": pa.array(classes[rows.labels].tolist(), pa.string()),
        "predicted": pa.array(classes[probabilities.argmax(axis=1)].tolist(), pa.string()),
        "confidence": pa.array(probabilities.max(axis=1, initial=0), pa.float32()),
        "probabilities": pa.array(list(probabilities), pa.list_(pa.float32())),
        "embedding": pa.array(list(embedding), pa.list_(pa.float32())),
        **(_by_picture(classes, np.concatenate(alone)) if alone else {}),
        **{stat: pa.array(rows.stats[:, i], pa.float32()) for i, stat in enumerate(data.stats_names)},
    }
    return pa.table(columns)


def _by_picture(classes: NDArray[np.str_], probabilities: NDArray[np.float32]) -> dict[str, pa.Array]:
    return {
        "picture_label": pa.array(classes[probabilities.argmax(axis=1)].tolist(), pa.string()),
        "picture_probabilities": pa.array(list(probabilities), pa.list_(pa.float32())),
    }
