"""A made-up judgement: a snapshot and packaged models whose accuracy a test chooses, photo by photo.

Pixel (0, K) of each image holds what model K will say. The models are real ONNX packages, logged to a real
MLflow and opened by the real runtime; nothing is trained, so that a world takes a moment.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient
from onnx import TensorProto, helper, numpy_helper

from monitoring import figures
from pipelines import evaluate, files
from pipelines.evaluate import Evaluated
from pipelines.models import tracking
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from training.shards import write_shard

CONTEXT = ("one", "two")
STATS = ("brightness", "contrast", "sharpness", "colourfulness", "entropy", "edge_density", "aspect")
AS_OF = datetime(2026, 3, 5, tzinfo=UTC)
SURE = 0.85
"""The confidence of every answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How right a model is: on golden, and on fresh rows."""

    golden: float
    fresh: float
    kind: str = "resnet"
    val_log_loss: float = 0.5
    old_phones: float | None = None
    """How right it is on photos of old phones, golden and fresh alike, if that is another matter."""
    bytes: int = 1000
    """Size of its package, as its run says."""
    seconds: float = 10.0
    """What its training took, as its run says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A snapshot and the runs of some models on it."""

    settings: Settings
    recipe: Recipe
    snapshot_uri: str
    runs: dict[str, str]
    """Candidate name → MLflow run id."""

    def evaluate(self, *names: str, run_key: str = "key-1") -> Evaluated:
        run_ids = [self.runs[name] for name in names]
        return evaluate.run(
            self.settings, self.recipe, run_ids=run_ids, snapshot_uri=self.snapshot_uri, run_key=run_key
        )

    def gated(self, **gates: Any) -> "Case":
        """The same with other gates in the recipe."""
        changed = self.recipe.gates.model_copy(update=gates)
        return replace(self, recipe=self.recipe.model_copy(update={"gates": changed}))


def make_case(
    settings: Settings,
    recipe: Recipe,
    plans: Mapping[str, Plan],
    *,
    golden: int = 400,
    fresh: int = 120,
    senders: int = 24,
    drift_from: str | None = None,
    card: Mapping[str, Mapping[str, Any]] | None = None,
) -> Case:
    """Rows and models. `card` changes single fields of a candidate's card, by candidate."""
    ready_mlflow(settings)
    columns = {name: position for position, name in enumerate(plans)}
    uri = _snapshot(
        settings, recipe, plans, columns, golden=golden, fresh=fresh, senders=senders, drift_from=drift_from
    )
    runs = {
        name: log_model(settings, recipe, name, plan, columns[name], **(card or {}).get(name, {}))
        for name, plan in plans.items()
    }
    # Made-up models boast, and answer in microseconds: what they are about is accuracy.
    return Case(settings=settings, recipe=recipe, snapshot_uri=uri, runs=runs).gated(
        calibration_margin=0.5, latency_factor=100
    )


@cache
def _empty_mlflow() -> Path:
    path = Path(tempfile.mkdtemp(prefix="classy-tests-")) / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


def ready_mlflow(settings: Settings) -> None:
    """Put a migrated, empty MLflow database in place: making one takes longer than most tests."""
    target = Path(settings.mlflow_uri.removeprefix("sqlite:///"))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_empty_mlflow(), target)


def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge without drawing, in tests that are not about the pictures."""
    for name in ("draw_confusion", "draw_reliability", "draw_slices", "draw_disagreements"):
        monkeypatch.setattr(figures, name, lambda *_: None)


# ------------------------------------------------------------------------------------------------ snapshot


def _snapshot(
    settings: Settings,
    recipe: Recipe,
    plans: Mapping[str, Plan],
    columns: Mapping[str, int],
    *,
    golden: int,
    fresh: int,
    senders: int,
    drift_from: str | None,
) -> str:
    rng, phones_rng = np.random.default_rng(11), np.random.default_rng(12)
    counts = {"train": 30, "val": 10, "golden": golden, "fresh": fresh}
    split = np.repeat(list(counts), list(counts.values()))
    classes, rows = recipe.taxonomy.classes, len(split)
    labels = rng.integers(0, len(classes), rows)
    phones = phones_rng.choice(["old", "new", "newest"], rows, p=[0.2, 0.4, 0.4])
    images = rng.integers(0, 255, (rows, recipe.image.size, recipe.image.size, 3), dtype=np.uint8)
    for name, plan in plans.items():
        for part in ("golden", "fresh"):
            where = np.flatnonzero(split == part)
            wrong = rng.permutation(where)[: round(len(where) * (1 - getattr(plan, part)))]
            if plan.old_phones is not None:
                old = where[phones[where] == "old"]
                unlucky = phones_rng.permutation(old)[: round(len(old) * (1 - plan.old_phones))]
                wrong = np.concatenate([np.setdiff1d(wrong, old), unlucky])
            said = labels.copy()
            said[wrong] = (said[wrong] + 1) % len(classes)
            images[where, 0, columns[name], 0] = said[where]
    shard_uri = files.join(settings.data_root, "shards", "date=2026-03-04")
    with files.new_partition(shard_uri) as draft:
        write_shard(draft.folder, images, rows, recipe.image.size)
    table = {
        "image_id": [f"image-{number:05d}" for number in range(rows)],
        "source_id": [f"sender-{number}" for number in rng.integers(0, senders, rows)],
        "captured_at": pa.array([AS_OF - timedelta(minutes=rows - i) for i in range(rows)], pa.timestamp("us", "UTC")),
        "group_id": [f"image-{number:05d}" for number in range(rows)],
        "label": [classes[label] for label in labels],
        "label_index": labels,
        "split": split.tolist(),
        "shard_uri": [shard_uri] * rows,
        "row": np.arange(rows),
        "context": pa.array(rng.random((rows, len(CONTEXT))).tolist(), pa.list_(pa.float32())),
        "defaulted": rng.random(rows) < 0.2,
        "pixels": rng.integers(100, 1000, rows) * 1000,
        "attributes": [json.dumps({"phone": phone}) for phone in phones],
        **{name: rng.random(rows) for name in STATS},
    }
    uri = files.join(settings.data_root, "snapshots", "made-up")
    with files.new_partition(uri) as draft:
        pq.write_table(pa.table(table), draft.folder / "rows.parquet")
        draft.meta = {
            "snapshot_id": "made-up",
            "as_of": AS_OF.isoformat(),
            "drift_from": drift_from,
            "classes": list(classes),
            "counts": counts,
            "partitions": [shard_uri],
            "spec_hash": "spec",
            "size": recipe.image.size,
            "service": "context_v1",
            "service_hash": "service",
            "context_names": list(CONTEXT),
            "stats_names": list(STATS),
        }
    return uri


# -------------------------------------------------------------------------------------------------- models


def graph(size: int, classes: int, column: int) -> onnx.ModelProto:
    """Says the class that pixel (0, column) names, with confidence `SURE`."""
    step = float(np.log(SURE * (classes - 1) / (1 - SURE)))
    constants = {
        "row": np.array(0),
        "column": np.array(column),
        "channel": np.array(0),
        "classes": np.arange(classes, dtype=np.float32)[None],
        "step": np.array(step, np.float32),
        "axis": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["image", "row"], ["line"], axis=1),
        helper.make_node("Gather", ["line", "column"], ["pixel"], axis=1),
        helper.make_node("Gather", ["pixel", "channel"], ["value"], axis=1),
        helper.make_node("Cast", ["value"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["number", "axis"], ["embedding"]),
        helper.make_node("Equal", ["embedding", "classes"], ["said"]),
        helper.make_node("Cast", ["said"], ["hot"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["hot", "step"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    made = helper.make_graph(
        nodes,
        "planted",
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3]),
            helper.make_tensor_value_info("context", TensorProto.FLOAT, ["N", len(CONTEXT)]),
        ],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 1]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_package(folder: Path, model: onnx.ModelProto, card: Mapping[str, Any]) -> str:
    """model.onnx, card.json, manifest.json; gives the manifest's SHA-256."""
    folder.mkdir(parents=True)
    contents = {"model.onnx": model.SerializeToString(), "card.json": json.dumps(card).encode()}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    listed = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()}
    manifest = json.dumps({"files": listed}).encode()
    (folder / "manifest.json").write_bytes(manifest)
    return hashlib.sha256(manifest).hexdigest()


def log_model(
    settings: Settings, recipe: Recipe, name: str, plan: Plan, column: int, *, run_key: str = "key-1", **changed: Any
) -> str:
    """A run with a packaged model, as `optimize` leaves it; `changed` are fields of its card."""
    client = tracking.connect(settings)
    experiment = tracking.experiment_id(client)
    tags = {tracking.RUN_KEY: run_key, tracking.CANDIDATE: name, tracking.SNAPSHOT_ID: "made-up"}
    run_id = client.create_run(experiment, tags=tags, run_name=name).info.run_id
    card = {
        "name": settings.model_name,
        "candidate": name,
        "kind": plan.kind,
        "classes": list(recipe.taxonomy.classes),
        "image": {"size": recipe.image.size, "fit": recipe.image.fit},
        "image_spec_hash": "spec",
        "service": "context_v1",
        "service_hash": "service",
        "context_names": list(CONTEXT),
        "snapshot_id": "made-up",
        "run_id": run_id,
        "val": {"log_loss": plan.val_log_loss, "accuracy": plan.golden},
        **changed,
    }
    folder = settings.home / "made" / run_id / "artifacts" / "package"
    sha256 = write_package(folder, graph(recipe.image.size, len(card["classes"]), column), card)
    logged = client.create_logged_model(experiment, name="model", source_run_id=run_id)
    client.log_model_artifacts(logged.model_id, str(settings.home / "made" / run_id))
    client.finalize_logged_model(logged.model_id, "READY")
    tracking.keep_package(settings, folder, sha256)
    client.log_metric(run_id, "package_bytes", plan.bytes)
    client.log_metric(run_id, "train_seconds", plan.seconds)
    client.set_tag(run_id, tracking.PACKAGE_SHA256, sha256)
    client.set_tag(run_id, tracking.MODEL_URI, f"models:/{logged.model_id}")
    client.set_terminated(run_id)
    return run_id


def aliases(settings: Settings) -> dict[str, str]:
    """The registry's aliases as MLflow has them."""
    model = tracking.connect(settings).get_registered_model(settings.model_name)
    return {alias: str(version) for alias, version in model.aliases.items()}


def versions(settings: Settings) -> Sequence[str]:
    found = tracking.connect(settings).search_model_versions(f"name = '{settings.model_name}'")
    return sorted(str(version.version) for version in found)
