"""A real but tiny champion: an ONNX package in the cache, its MLflow run with a reference, its generation.

For tests of the steps that use a champion. The model is fitted in closed form on a few days of
`tests.worlds`: it sees where along the picture the bright block is.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper

from monitoring.stores import open_store
from pipelines import files, materialize, prepare
from pipelines.data import features
from pipelines.data.images import spec_of
from pipelines.models import tracking
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.pictures import STATS
from serving.runtime import load_model
from tests.worlds import end_of
from training.shards import open_shard


def prepare_days(settings: Settings, recipe: Recipe, clean_uris: Sequence[str]) -> None:
    """Shards and features of a made world."""
    for clean_uri in clean_uris:
        shard = prepare.run(settings, recipe, clean_uri=clean_uri)
        materialize.run(settings, recipe, shard_uri=shard.shard_uri)


def install_champion(
    settings: Settings, recipe: Recipe, days: Sequence[date], *, generation: int = 1, **card: Any
) -> str:
    """Fit on `days`, and put it into production as of the end of the last; gives the run id.

    Its reference are the same days, which it half remembers: enough for a test that does not judge the model.
    `card` changes fields of the card.
    """
    shards = [files.join(settings.data_root, "shards", f"date={day}") for day in days]
    index = pd.concat([pd.read_parquet(f"{uri}/index.parquet") for uri in shards], ignore_index=True)
    images = np.concatenate([open_shard(Path(uri)) for uri in shards])
    truth = open_store(settings.database_url).truth(as_of=datetime(2100, 1, 1, tzinfo=UTC))
    labels = index["image_id"].map(truth.set_index("image_id")["label"])
    client = tracking.connect(settings)
    run = client.create_run(tracking.experiment_id(client))
    run_id = run.info.run_id
    package = settings.home / "packages" / run_id
    given = {"run_id": run_id, "as_of": end_of(days[-1]).isoformat(), **card}
    sha256 = write_package(package, settings, recipe, images, list(labels), given)
    tracking.keep_package(settings, package, sha256)
    reference = package.parent / "reference.parquet"
    _reference(settings, recipe, package, index, images, labels).to_parquet(reference)
    client.log_artifact(run_id, str(reference), "reference")
    for tag, value in {
        tracking.PACKAGE_SHA256: sha256,
        tracking.MODEL_URI: f"runs:/{run_id}/model",
        tracking.OPTIMIZED: "{}",
    }.items():
        client.set_tag(run_id, tag, value)
    open_store(settings.database_url).add_generation(
        {
            "generation": generation,
            "champion_version": str(generation),
            "champion_run_id": run_id,
            "previous_version": str(generation - 1) if generation > 1 else None,
            "canary_version": None,
            "canary_weight": 0.0,
            "shadow_version": None,
            "canary_run_id": None,
            "canary_name": None,
            "shadow_run_id": None,
            "kind": "promote",
            "actor": "tester",
            "reason": "for a test",
            "evidence_uri": None,
            "evidence_hash": None,
            "run_key": f"test-{generation}",
            "as_of": end_of(days[-1]),
            "created_at": datetime.now(UTC),
        }
    )
    return run_id


def write_package(
    folder: Path, settings: Settings, recipe: Recipe, images: np.ndarray, labels: list[str], card: dict[str, Any]
) -> str:
    """Write model.onnx, card.json and manifest.json; gives the manifest's SHA-256."""
    folder.mkdir(parents=True)
    classes = recipe.taxonomy.classes
    names = features.context_names(recipe)
    onnx.save(
        _graph(images, [classes.index(label) for label in labels], len(classes), len(names)), folder / "model.onnx"
    )
    spec = spec_of(recipe)
    full = {
        "name": "tiny",
        "candidate": "tiny",
        "kind": "sklearn",
        "classes": list(classes),
        "image": {"size": spec.size, "fit": spec.fit},
        "image_spec_hash": spec.digest(),
        "service": features.SERVICE,
        "service_hash": features.service_hash(recipe),
        "context_names": list(names),
        "precision": "float32",  # it has no probe, by which somebody could tell whether less will do
        **card,
    }
    (folder / "card.json").write_text(json.dumps(full))
    listed = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name in ("model.onnx", "card.json")
        if (data := (folder / name).read_bytes())
    }
    (folder / "manifest.json").write_text(json.dumps({"files": listed}))
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def _graph(images: np.ndarray, labels: list[int], classes: int, width: int) -> onnx.ModelProto:
    size = images.shape[1]
    seen = (images.astype(np.float32) / 255).mean(axis=1).reshape(len(images), -1)
    design = np.c_[seen, np.ones(len(seen))]
    goal = np.eye(classes)[labels]
    weights = np.linalg.solve(design.T @ design + 0.1 * np.eye(design.shape[1]), design.T @ goal) * 6
    constants = {
        "scale": np.float32(255),
        "axes": np.array([1], np.int64),
        "shape": np.array([-1, 3 * size], np.int64),
        "w": weights[:-1].astype(np.float32),
        "b": weights[-1].astype(np.float32),
        "zero": np.zeros((width, classes), np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["as_float", "scale"], ["unit"]),
        helper.make_node("ReduceMean", ["unit", "axes"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "w"], ["seen"]),
        helper.make_node("MatMul", ["context", "zero"], ["nothing"]),
        helper.make_node("Add", ["seen", "b"], ["biased"]),
        helper.make_node("Add", ["biased", "nothing"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3]),
            helper.make_tensor_value_info("context", TensorProto.FLOAT, ["N", width]),
        ],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3 * size]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _reference(
    settings: Settings, recipe: Recipe, package: Path, index: pd.DataFrame, images: np.ndarray, labels: pd.Series
) -> pd.DataFrame:
    model = load_model(package, threads=1)
    context, _ = features.context_rows(features.open_features(settings, recipe), index)
    answer = model.predict(images, context)
    return index[["image_id", "source_id", "captured_at", *STATS]].assign(
        split="fresh",
        label=labels,
        predicted=[model.classes[i] for i in answer.probabilities.argmax(axis=1)],
        confidence=answer.probabilities.max(axis=1),
        probabilities=list(answer.probabilities),
        embedding=list(answer.embedding),
    )
