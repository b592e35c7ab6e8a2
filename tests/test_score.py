"""Scoring: the champion's answers, the same however often and in whatever pieces they are written."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from monitoring.stores import Store, open_store
from pipelines import files, score
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from serving.runtime import ModelError, load_model
from tests.champions import install_champion, prepare_days
from tests.conftest import TINY
from tests.worlds import World, end_of, make_world
from training.shards import open_shard


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Recipe, World]:
    """Four days, no champion."""
    settings = load_settings(home=tmp_path_factory.mktemp("home") / "var", actor="tester", threads=1)
    recipe = Recipe.model_validate(TINY)
    world = make_world(settings, recipe, days=5, per_day=30, senders=10)
    prepare_days(settings, recipe, world.clean_uris)
    return settings, recipe, world


@pytest.fixture(scope="module")
def served(prepared: tuple[Settings, Recipe, World]) -> tuple[Settings, Recipe, World, str]:
    """The same with a champion fitted on two days."""
    settings, recipe, world = prepared
    before = score.run(settings, recipe, day=world.days[2])
    assert (before.generation, before.rows, before.scores_uri) == (None, 0, None)
    assert before.reason.startswith("no champion yet")
    return settings, recipe, world, install_champion(settings, recipe, world.days[:2])


def rows_of(store: Store, world: World, offset: int) -> pd.DataFrame:
    until = end_of(world.days[offset])
    return store.predictions(since=until - timedelta(days=1), until=until)


def test_every_photo_gets_the_champions_answer(served: tuple[Settings, Recipe, World, str]) -> None:
    settings, recipe, world, run_id = served
    scored = score.run(settings, recipe, day=world.days[2])
    assert (scored.day, scored.generation, scored.version, scored.rows) == (str(world.days[2]), 1, "1", 30)
    stored = rows_of(open_store(settings.database_url), world, 2)
    photos = world.photos[world.photos["captured_at"].dt.date == world.days[2]].set_index("image_id")
    assert set(stored["image_id"]) == set(photos.index)
    assert (stored["label"].to_numpy() == photos.loc[stored["image_id"], "label"].to_numpy()).mean() > 0.9
    assert (stored["source_id"].to_numpy() == photos.loc[stored["image_id"], "source_id"].to_numpy()).all()
    assert set(stored["predicted_at"]) == {pd.Timestamp(end_of(world.days[2]))}
    assert set(stored["run_id"]) == {run_id}
    assert set(stored["arm"]) == {"champion"}
    assert set(stored["channel"]) == {"batch"}
    assert stored["probabilities"].map(sum).to_numpy() == pytest.approx(np.ones(30), abs=1e-5)


def test_rows_meet_their_own_images_across_batches(
    served: tuple[Settings, Recipe, World, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pieces of 7 and 11 rows the answers are those of one big batch, row by row."""
    settings, recipe, world, run_id = served
    monkeypatch.setattr(score, "BATCH", 7)
    monkeypatch.setattr(score, "CONTEXT_ROWS", 11)
    scored = score.run(settings, recipe, day=world.days[3])
    assert scored.scores_uri is not None
    table = pd.read_parquet(Path(scored.scores_uri) / score.PREDICTIONS)
    shard = Path(files.join(settings.data_root, "shards", f"date={world.days[3]}"))
    index = pd.read_parquet(shard / "index.parquet").set_index("image_id").loc[table["image_id"]]
    model = load_model(tracking.fetch_package(settings, run_id), threads=1)
    whole = model.predict(open_shard(shard)[index["row"].to_numpy()], np.zeros((30, model.width), np.float32))
    assert np.stack(table["probabilities"]) == pytest.approx(whole.probabilities, abs=1e-5)
    assert np.stack(table["embedding"]) == pytest.approx(whole.embedding, abs=1e-5)
    assert (table["brightness"].to_numpy() == index["brightness"].to_numpy()).all()
    assert pq.read_schema(Path(scored.scores_uri) / score.PREDICTIONS).equals(score.SCHEMA)


def test_a_second_run_changes_nothing_even_under_a_new_champion(served: tuple[Settings, Recipe, World, str]) -> None:
    settings, recipe, world, _ = served
    first = score.run(settings, recipe, day=world.days[2])
    assert first.scores_uri is not None
    manifest = Path(first.scores_uri) / files.MANIFEST
    written, stored = manifest.stat().st_mtime_ns, rows_of(open_store(settings.database_url), world, 2)
    assert score.run(settings, recipe, day=world.days[2]) == first
    if open_store(settings.database_url).generation(2) is None:
        install_champion(settings, recipe, world.days[:4], generation=2)
    assert score.run(settings, recipe, day=world.days[2]) == first
    assert manifest.stat().st_mtime_ns == written
    pd.testing.assert_frame_equal(rows_of(open_store(settings.database_url), world, 2), stored)
    assert score.run(settings, recipe, day=world.days[4]).generation == 2, "a new day gets the new champion"


def test_a_run_that_died_before_the_tables_is_finished(served: tuple[Settings, Recipe, World, str]) -> None:
    settings, recipe, world, _ = served
    scored = score.run(settings, recipe, day=world.days[2])
    store = open_store(settings.database_url)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("delete from predictions where image_id like 'p002-%'")
    assert rows_of(store, world, 2).empty
    assert score.run(settings, recipe, day=world.days[2]) == scored
    assert len(rows_of(store, world, 2)) == 30


def test_a_run_that_dies_midway_leaves_nothing(
    served: tuple[Settings, Recipe, World, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, recipe, world, _ = served
    root = Path(files.join(settings.data_root, "scores", f"date={world.days[1]}"))

    def die(*_: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(score, "_as_batch", die)
    with pytest.raises(RuntimeError, match="killed"):
        score.run(settings, recipe, day=world.days[1])
    assert list(root.iterdir()) == []
    assert rows_of(open_store(settings.database_url), world, 1).empty


def test_a_day_without_a_shard_names_the_step(served: tuple[Settings, Recipe, World, str]) -> None:
    settings, recipe, world, _ = served
    with pytest.raises(ClassyError, match="classy prepare"):
        score.run(settings, recipe, day=world.days[-1] + timedelta(days=9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": {"size": 24, "fit": "stretch"}}, "was trained on images"),
        ({"features": {"profile_days": 7}}, "was trained with features"),
    ],
)
def test_a_champion_of_other_images_or_features_is_refused(
    served: tuple[Settings, Recipe, World, str], change: dict, message: str
) -> None:
    settings, _, world, _ = served
    other = Recipe.model_validate({**TINY, **change})
    with pytest.raises(ClassyError, match=message):
        score.run(settings, other, day=world.days[0])


def test_a_package_that_was_changed_is_refused(served: tuple[Settings, Recipe, World, str]) -> None:
    settings, recipe, world, _ = served
    current = open_store(settings.database_url).current()
    assert current is not None
    graph = tracking.fetch_package(settings, current["champion_run_id"]) / "model.onnx"
    kept = graph.read_bytes()
    try:
        graph.write_bytes(kept[:-1] + b"x")
        with pytest.raises(ModelError, match="changed"):
            score.run(settings, recipe, day=world.days[0])
    finally:
        graph.write_bytes(kept)
