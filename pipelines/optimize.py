"""Export a trained candidate to ONNX, check it against torch, log the package.

classy optimize --run-id 0123456789abcdef0123456789abcdef
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from pipelines.data.images import spec_of
from pipelines.data.snapshots import read_snapshot
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.models.packages import log_package, version, write_reference
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.runtime import load_model
from training.card import make_card
from training.checkpoint import load_model as load_module
from training.data import SnapshotData
from training.export import Checked, write_package
from training.models import Classifier
from training.place import use_threads


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimized:
    """A model package, on its run."""

    run_id: str
    model_uri: str
    """What `mlflow.pyfunc.load_model` takes."""
    package_sha256: str
    """Of the package's manifest, which lists every file's own."""
    max_difference: float
    """Largest difference of a probability between torch and the exported graph."""
    rows_checked: int
    bytes: int
    """Of all files of the package."""


def run(settings: Settings, recipe: Recipe, *, run_id: str) -> Optimized:
    """Package what `classy train` left on the run. A run that has its package gives the same receipt again.

    Raises:
        ClassyError: no such run, it is not trained yet, the recipe's image is another one, or MLflow not reachable.
        ExportError: the graph cannot be made, or does not say what the module says.
    """
    with tracking.answering(settings):
        return _optimize(settings, recipe, run_id)


def _optimize(settings: Settings, recipe: Recipe, run_id: str) -> Optimized:
    client = tracking.connect(settings)
    known = tracking.need_run(client, run_id)
    if tracking.OPTIMIZED in known.data.tags:
        return Optimized(**json.loads(known.data.tags[tracking.OPTIMIZED]))
    if tracking.TRAINED not in known.data.tags:
        raise ClassyError(
            f"MLflow run {run_id}: training is not finished (it is {known.info.status}); `classy train` it"
        )
    use_threads(settings.threads)
    data = read_snapshot(settings, known.data.tags[tracking.SNAPSHOT_URI])
    if data.meta["spec_hash"] != spec_of(recipe).digest():
        raise ClassyError(
            f"MLflow run {run_id}: was trained on images {data.meta['spec_hash']}, recipe {recipe.name} makes "
            f"{spec_of(recipe).digest()}; use the recipe it was trained with"
        )
    scratch_root = settings.home / "cache"
    scratch_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch_root, prefix=".optimize-") as scratch:
        model, trained = load_module(tracking.fetch_weights(run_id, Path(scratch)))
        folder = Path(scratch) / tracking.PACKAGE
        folder.mkdir()
        checked = _write(folder, recipe, known, data, model, trained)
        return _log(settings, recipe, client, known, data, folder, checked)


def _write(folder: Path, recipe: Recipe, known: Run, data: SnapshotData, model: Classifier, trained: dict) -> Checked:
    tags = known.data.tags
    image = spec_of(recipe)
    card = make_card(
        model,
        name=recipe.name,
        candidate=tags[tracking.CANDIDATE],
        run_id=known.info.run_id,
        recipe={"name": recipe.name, "hash": known.data.params["recipe_hash"]},
        snapshot={**data.meta, "snapshot_uri": tags[tracking.SNAPSHOT_URI]},
        image=asdict(image),
        image_spec_hash=image.digest(),
        temperature=trained["temperature"],
        val=trained["val"],
        created_by=version(),
    )
    return write_package(folder, model, trained["temperature"], card, data.split("val"))


def _log(
    settings: Settings,
    recipe: Recipe,
    client: MlflowClient,
    known: Run,
    data: SnapshotData,
    folder: Path,
    checked: Checked,
) -> Optimized:
    run_id = known.info.run_id
    model = load_model(folder, threads=settings.threads)
    reference = folder.parent / Path(tracking.REFERENCE).name
    write_reference(reference, model, data, recipe.monitoring)
    client.log_artifact(run_id, str(reference), str(Path(tracking.REFERENCE).parent))
    receipt = Optimized(
        run_id=run_id,
        model_uri=log_package(run_id, folder),
        package_sha256=model.sha256,
        max_difference=checked.max_difference,
        rows_checked=checked.rows,
        bytes=sum(file.stat().st_size for file in folder.iterdir()),
    )
    tracking.keep_package(settings, folder, model.sha256)
    client.log_metric(run_id, "package_bytes", receipt.bytes)
    client.log_metric(run_id, "export_difference", receipt.max_difference)
    for key, value in (
        (tracking.MODEL_URI, receipt.model_uri),
        (tracking.PACKAGE_SHA256, receipt.package_sha256),
        (tracking.OPTIMIZED, json.dumps(asdict(receipt))),
    ):
        client.set_tag(run_id, key, value)
    return receipt
