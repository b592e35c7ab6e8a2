"""Pictures on another machine: the same as here, within the disk that was given, and missed with a message."""

import io
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from pipelines import files, train
from pipelines.data.snapshots import read_snapshot
from pipelines.data.streamed import Streamed
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from tests.digits import digits_snapshot, put_mlflow
from tests.test_train import weights
from training.shards import Rows, ShardError

SIZE, BYTES = 4, 4 * 4 * 3
COUNTS = (5, 0, 7, 1)


@pytest.fixture(scope="module")
def shards() -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """URIs of shards in a store that is not this disk, and their pictures."""
    root, rng = f"memory://{uuid.uuid4().hex}", np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8) for count in COUNTS]
    uris = [files.join(root, f"date={number}") for number in range(len(COUNTS))]
    for uri, images in zip(uris, pictures, strict=True):
        put(uri, images)
    yield uris, pictures
    fsspec.filesystem("memory").rm(root, recursive=True)


def put(uri: str, images: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, images)
    files.write_bytes(files.join(uri, "images.npy"), file.getvalue())


@given(draw=st.data(), keep=st.integers(0, 15))
@budget(deadline=None, max_examples=60)
def test_rows_are_the_shards_whatever_is_kept(
    shards: tuple[list[str], list[np.ndarray]], tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject, keep: int
) -> None:
    uris, pictures = shards
    store = Streamed(uris, SIZE, folder=tmp_path_factory.getbasetemp(), keep=keep * BYTES + BYTES // 2)
    assert store.counts == list(COUNTS)
    shard = np.repeat(np.arange(len(COUNTS)), COUNTS)
    row = np.concatenate([np.arange(count) for count in COUNTS])
    whole, rows = np.concatenate(pictures), Rows(store, shard, row)
    for _ in range(4):
        where = draw.draw(st.lists(st.integers(-len(whole), len(whole) - 1), max_size=20))
        np.testing.assert_array_equal(rows[where], whole[np.array(where, np.int64)])
    np.testing.assert_array_equal(rows[:], whole)
    assert store.kept == min(keep, len(whole))
    assert os.fstat(store._file.fileno()).st_size == store.kept * BYTES


def test_what_is_kept_is_not_read_again(shards: tuple[list[str], list[np.ndarray]], tmp_path: Path) -> None:
    uris, pictures = shards
    copies = [f"memory://{uuid.uuid4().hex}" for _ in uris]
    for uri, images in zip(copies, pictures, strict=True):
        put(uri, images)
    store = Streamed(copies, SIZE, folder=tmp_path, keep=3 * BYTES)
    rows = Rows(store, np.array([0, 0, 0, 2]), np.array([0, 1, 2, 3]))
    before = rows[:3]
    for uri in copies:
        fsspec.filesystem("memory").rm(uri, recursive=True)
    np.testing.assert_array_equal(rows[[2, 0, 1]], before[[2, 0, 1]])
    with pytest.raises(ShardError, match=r"no such shard any more; make it again with `classy prepare`"):
        rows[3]
    assert list(tmp_path.iterdir()) == [], "nothing is left behind, whatever ends the process"


def test_a_full_disk_only_makes_it_slower(
    shards: tuple[list[str], list[np.ndarray]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uris, pictures = shards
    store = Streamed(uris, SIZE, folder=tmp_path, keep=1000 * BYTES)
    store._file = open("/dev/full", "r+b", buffering=0)  # type: ignore[assignment]  # noqa: SIM115  (the kernel's own full disk)
    rows = Rows(store, np.zeros(5, int), np.arange(5))
    for _ in range(2):
        np.testing.assert_array_equal(rows[:], pictures[0])
    assert caplog.text.count("read again when they are wanted") == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"not a shard", "not a shard"),
        (b"", "not a shard"),
        (None, "holds uint8"),
        ("short", "ends before byte"),
    ],
)
def test_what_is_no_shard_is_named(tmp_path: Path, body: bytes | str | None, message: str) -> None:
    uri = f"memory://{uuid.uuid4().hex}"
    put(uri, np.zeros((2, SIZE, SIZE + (body is None), 3), np.uint8))
    if isinstance(body, bytes):
        files.write_bytes(f"{uri}/images.npy", body)
    elif body == "short":
        files.write_bytes(f"{uri}/images.npy", fsspec.filesystem("memory").cat_file(f"{uri}/images.npy")[:-1])
    with pytest.raises(ShardError, match=message):
        Rows(Streamed([uri], SIZE, folder=tmp_path, keep=0), np.zeros(2, int), np.arange(2))[:]


def test_shards_of_two_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClassyError, match="is in another store"):
        Streamed(["memory://a", str(tmp_path)], SIZE, folder=tmp_path, keep=0)


def test_a_training_from_afar_with_a_small_cache_ends_with_the_same_weights(
    settings: Settings, recipe: Recipe, tmp_path: Path
) -> None:
    put_mlflow(settings)
    near = train.run(settings, recipe, snapshot_uri=digits_snapshot(settings, recipe), candidate="resnet",
                     run_key="near", epochs=2)  # fmt: skip
    expected = weights(settings, near.run_id, tmp_path / "near")
    root = f"memory://{uuid.uuid4().hex}"
    for name, cache_gb in {"streamed": 2e-4, "copied": 1.0}.items():
        far = load_settings(**{**settings.model_dump(), "data_root": root, "cache_gb": cache_gb})
        uri = digits_snapshot(far, recipe)
        rows = read_snapshot(far, uri).images
        assert isinstance(rows._store, Streamed) == (name == "streamed")
        done = train.run(far, recipe, snapshot_uri=uri, candidate="resnet", run_key=name, epochs=2)
        found = weights(settings, done.run_id, tmp_path / name)
        assert all(torch.equal(found[key], value) for key, value in expected.items())
        assert sum(path.stat().st_size for path in (far.home / "cache").rglob("*")) <= cache_gb * 1e9
