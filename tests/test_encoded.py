"""Photos as they came: decoded by row they are the shard's pictures, copied once, and missed where they are gone."""

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines import files, prepare, snapshot
from pipelines.data.encoded import decoder
from pipelines.data.snapshots import read_snapshot
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from tests.conftest import TINY
from tests.test_snapshot import make_ready
from tests.worlds import START, end_of, make_photos
from training.data import SnapshotData


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.model_validate({**TINY, "taxonomy": {"classes": ["a", "b", "c"]}})


@pytest.fixture
def photos(recipe: Recipe) -> pd.DataFrame:
    return make_photos(recipe, days=2, per_day=60, senders=20)


@pytest.fixture
def uri(settings: Settings, recipe: Recipe, photos: pd.DataFrame) -> str:
    make_ready(settings, recipe, photos)
    return snapshot.run(settings, recipe, as_of=end_of(START + timedelta(days=1))).snapshot_uri


@pytest.fixture
def data(settings: Settings, uri: str) -> SnapshotData:
    return read_snapshot(settings, uri)


def test_a_row_is_decoded_to_what_the_shard_has(settings: Settings, recipe: Recipe, data: SnapshotData) -> None:
    decode = decoder(settings, recipe, data, "train")
    assert decode is not None
    images = data.split("train").images
    for row in reversed(range(len(images))):
        np.testing.assert_array_equal(decode(row), images[row])
    copies = list((settings.home / "cache" / "encoded").iterdir())
    assert len(copies) == 2, "one a day, and nothing half-written"
    again = decoder(settings, recipe, data, "train")
    assert again is not None
    before = copies[0].stat().st_ino
    np.testing.assert_array_equal(again(0), images[0])
    assert copies[0].stat().st_ino == before


def test_photos_that_are_gone_are_none(settings: Settings, recipe: Recipe, data: SnapshotData) -> None:
    shutil.rmtree(Path(settings.data_root, "raw"))
    assert decoder(settings, recipe, data, "train") is None


def test_a_shard_of_another_spec_is_refused(settings: Settings, recipe: Recipe, uri: str) -> None:
    other = recipe.model_copy(update={"image": recipe.image.model_copy(update={"size": 24})})
    clean = files.join(settings.data_root, "clean", files.list_partitions(files.join(settings.data_root, "clean"))[0])
    prepare.run(settings, other, clean_uri=clean)
    with pytest.raises(ClassyError, match=r"was made again for image spec \w+, the snapshot .* is of \w+"):
        read_snapshot(settings, uri)
