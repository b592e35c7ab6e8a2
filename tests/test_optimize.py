"""The optimize step: a package on the run that Classy verifies and that people load by name."""

import io
import json
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines import optimize, train
from pipelines.data.images import spec_of
from pipelines.data.snapshots import read_snapshot
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.models.packages import write_reference
from pipelines.models.reference import read_reference
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from serving.canonical import canonicalise
from serving.pictures import STATS
from serving.runtime import load_model
from tests.conftest import TINY
from tests.digits import AS_OF, COUNTS, digit_images, digits_snapshot

PICKLES = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".cloudpickle"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Recipe, str, optimize.Optimized]:
    """A trained and packaged baseline; tests only read it."""
    settings = load_settings(home=tmp_path_factory.mktemp("optimize") / "var", actor="tester", threads=1)
    recipe = Recipe.model_validate(TINY)
    snapshot = digits_snapshot(settings, recipe)
    trained = train.run(settings, recipe, snapshot_uri=snapshot, candidate="baseline", run_key="first")
    return settings, recipe, snapshot, optimize.run(settings, recipe, run_id=trained.run_id)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_receipt_is_of_a_checked_package(world: tuple) -> None:
    settings, _, snapshot, receipt = world
    assert receipt.max_difference < 1e-3
    assert receipt.rows_checked == COUNTS["val"]
    folder = tracking.fetch_package(settings, receipt.run_id)
    assert receipt.bytes == sum(file.stat().st_size for file in folder.iterdir())
    model = load_model(folder, threads=1)
    assert model.sha256 == receipt.package_sha256
    card = model.card
    assert (card["run_id"], card["candidate"], card["snapshot_uri"]) == (receipt.run_id, "baseline", snapshot)
    run = tracking.connect(settings).get_run(receipt.run_id)
    assert card["val"]["accuracy"] == pytest.approx(run.data.metrics["val_accuracy"])
    golden = read_snapshot(settings, snapshot).split("golden")
    said = model.predict(golden.images[:], golden.context).probabilities.argmax(1)
    assert (said == golden.labels).mean() > 0.75


def test_twice_packages_once(world: tuple) -> None:
    settings, recipe, _, receipt = world
    assert optimize.run(settings, recipe, run_id=receipt.run_id) == receipt
    client = tracking.connect(settings)
    logged = client.search_logged_models([tracking.experiment_id(client)])
    assert [model.model_uri for model in logged] == [receipt.model_uri]


def test_a_lost_cache_is_fetched_again_and_then_needs_no_server(world: tuple, tmp_path: Path) -> None:
    settings, _, _, receipt = world
    elsewhere = load_settings(home=tmp_path / "var", mlflow_uri=settings.mlflow_uri)
    fetched = tracking.fetch_package(elsewhere, receipt.run_id)
    assert load_model(fetched, threads=1).sha256 == receipt.package_sha256
    away = load_settings(home=tmp_path / "var", mlflow_uri="http://127.0.0.1:9")
    assert tracking.fetch_package(away, receipt.run_id) == fetched


def test_the_reference_is_the_models_own_answers_on_rows_it_did_not_learn(world: tuple) -> None:
    settings, recipe, snapshot, receipt = world
    frame, trained = read_reference(tracking.fetch_reference(settings, receipt.run_id))
    assert list(frame.columns) == [
        "image_id", "source_id", "captured_at", "split", "label", "predicted", "confidence", "probabilities",
        "embedding", "picture_label", "picture_probabilities", *STATS,
    ]  # fmt: skip
    assert set(frame["split"]) == {"val", "golden", "fresh"}
    assert frame["captured_at"].min() >= AS_OF - pd.Timedelta(days=recipe.monitoring.reference_days)
    assert frame["captured_at"].is_monotonic_increasing
    assert frame["confidence"].to_numpy() == pytest.approx([max(row) for row in frame["probabilities"]])
    data = read_snapshot(settings, snapshot).split("fresh")
    fresh = frame[frame["split"] == "fresh"].set_index("image_id").loc[data.image_ids]
    model = load_model(tracking.fetch_package(settings, receipt.run_id), threads=1)
    answer = model.predict(data.images[:], data.context)
    assert np.stack(fresh["probabilities"]) == pytest.approx(answer.probabilities, abs=1e-5)
    assert np.stack(fresh["embedding"]) == pytest.approx(answer.embedding, abs=1e-4)
    assert answer.picture_probabilities is not None
    assert np.stack(fresh["picture_probabilities"]) == pytest.approx(answer.picture_probabilities, abs=1e-5)
    best = answer.picture_probabilities.argmax(axis=1)
    assert fresh["picture_label"].tolist() == [recipe.taxonomy.classes[number] for number in best]
    assert fresh["label"].tolist() == [recipe.taxonomy.classes[label] for label in data.labels]
    assert fresh[list(STATS)].to_numpy() == pytest.approx(data.stats)
    assert trained is not None
    assert trained["predicted"].isna().all(), "answers about what it learned prove nothing"
    learned = read_snapshot(settings, snapshot).split("train")
    assert set(trained["source_id"]) == set(learned.source_ids), "every sender that it learned from is known as one"
    told = trained.dropna(subset=list(STATS))
    lately = learned.captured_at >= frame["captured_at"].min().to_datetime64()
    assert set(told["image_id"]) == set(learned.image_ids[lately])


def test_a_reference_of_too_few_rows_takes_all_of_them(world: tuple, tmp_path: Path) -> None:
    settings, recipe, snapshot, receipt = world
    model = load_model(tracking.fetch_package(settings, receipt.run_id), threads=1)
    data = read_snapshot(settings, snapshot)
    # Rows are a quarter of an hour apart: the last day has 96, 40 of them fresh and 56 golden.
    enough = recipe.monitoring.model_copy(update={"reference_days": 1, "min_rows": 96})
    short = enough.model_copy(update={"min_rows": 97})
    assert write_reference(tmp_path / "few.parquet", model, data, enough) == 96
    assert write_reference(tmp_path / "all.parquet", model, data, short) == sum(COUNTS.values()) - COUNTS["train"]


def test_a_champion_of_a_new_world_is_watched_against_that_world(world: tuple, tmp_path: Path) -> None:
    settings, recipe, snapshot, receipt = world
    model = load_model(tracking.fetch_package(settings, receipt.run_id), threads=1)
    data = read_snapshot(settings, snapshot)
    since = (AS_OF - pd.Timedelta(days=1)).date()
    drifted = replace(data, meta={**data.meta, "drift_from": str(since)})
    spec = recipe.monitoring.model_copy(update={"reference_days": 3, "min_rows": 96})
    assert write_reference(tmp_path / "new.parquet", model, drifted, spec) == 96
    assert read_reference(tmp_path / "new.parquet")[0]["captured_at"].min() >= pd.Timestamp(since, tz="UTC")
    few = spec.model_copy(update={"min_rows": 97})
    lately = write_reference(tmp_path / "lately.parquet", model, drifted, few)
    assert lately == write_reference(tmp_path / "same.parquet", model, data, few) > 96


def test_people_load_it_from_mlflow_without_a_pickle(world: tuple) -> None:
    settings, recipe, _, receipt = world
    client = tracking.connect(settings)
    client.create_registered_model(settings.model_name)
    version = client.create_model_version(settings.model_name, receipt.model_uri, run_id=receipt.run_id)
    client.set_registered_model_alias(settings.model_name, "champion", version.version)

    local = Path(mlflow.artifacts.download_artifacts("models:/classy@champion"))
    names = [file.name for file in local.rglob("*") if file.is_file()]
    assert not [name for name in names if Path(name).suffix in PICKLES]
    assert "uv.lock" not in names

    model = mlflow.pyfunc.load_model("models:/classy@champion")
    images, _ = digit_images(6, 1500)
    photos = [png(image) for image in images]
    answer = model.predict(pd.DataFrame({"image": photos}))
    assert answer["label"].isin(recipe.taxonomy.classes).all()
    mine = load_model(tracking.fetch_package(settings, receipt.run_id), threads=1)
    canonical = np.stack([canonicalise(photo, spec_of(recipe)) for photo in photos])
    default = np.tile(np.asarray(mine.card["context_default"], np.float32), (6, 1))
    expected = mine.predict(canonical, default).probabilities
    assert np.stack(answer["probabilities"]) == pytest.approx(expected, abs=1e-5)
    assert answer["confidence"].to_numpy() == pytest.approx(expected.max(1), abs=1e-5)

    context = np.random.default_rng(0).normal(size=default.shape).astype(np.float32)
    told = model.predict(pd.DataFrame({"image": photos, "context": [row.astype(float).tolist() for row in context]}))
    expected = mine.predict(canonical, context).probabilities
    assert np.stack(told["probabilities"]) == pytest.approx(expected, abs=1e-5)


def test_a_run_that_is_not_trained_is_refused(settings: Settings, recipe: Recipe) -> None:
    client = tracking.connect(settings)
    run_id = client.create_run(tracking.experiment_id(client)).info.run_id
    with pytest.raises(ClassyError, match=f"MLflow run {run_id}: training is not finished"):
        optimize.run(settings, recipe, run_id=run_id)
    with pytest.raises(ClassyError, match="MLflow run 'none'"):
        optimize.run(settings, recipe, run_id="none")


def test_a_recipe_of_another_image_is_refused(world: tuple) -> None:
    settings, recipe, snapshot, _ = world
    trained = train.run(settings, recipe, snapshot_uri=snapshot, candidate="baseline", run_key="second")
    other = recipe.model_copy(update={"image": recipe.image.model_copy(update={"size": 32})})
    with pytest.raises(ClassyError, match=r"was trained on images .*use the recipe it was trained with"):
        optimize.run(settings, other, run_id=trained.run_id)
    run = tracking.connect(settings).get_run(trained.run_id)
    assert tracking.PACKAGE_SHA256 not in run.data.tags


def test_the_receipt_on_the_run_is_the_receipt(world: tuple) -> None:
    settings, _, _, receipt = world
    run = tracking.connect(settings).get_run(receipt.run_id)
    assert json.loads(run.data.tags[tracking.OPTIMIZED])["package_sha256"] == receipt.package_sha256
    assert run.info.status == "FINISHED"
