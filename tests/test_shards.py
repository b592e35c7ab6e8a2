"""Shards: what is written is what is read, in any order, and nothing else is taken for one."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.shards import Mapped, Rows, ShardError, open_shard, write_shard


def pictures(count: int, size: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_what_was_written_is_mapped_not_read(tmp_path: Path) -> None:
    images = pictures(5)
    write_shard(tmp_path, iter(images), 5, 4)
    opened = open_shard(tmp_path)
    assert isinstance(opened, np.memmap)
    np.testing.assert_array_equal(opened, images)


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    write_shard(tmp_path, [], 0, 4)
    assert open_shard(tmp_path).shape == (0, 4, 4, 3)


@pytest.mark.parametrize("announced", [2, 4])
def test_another_number_of_images_than_announced_is_an_error(tmp_path: Path, announced: int) -> None:
    with pytest.raises(ShardError, match="announced"):
        write_shard(tmp_path, pictures(3), announced, 4)


def test_an_image_of_another_size_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 0"):
        write_shard(tmp_path, pictures(1, size=5), 1, 4)


def test_a_missing_torn_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no such shard"):
        open_shard(tmp_path)
    write_shard(tmp_path, pictures(3), 3, 4)
    whole = (tmp_path / "images.npy").read_bytes()
    for part in (whole[:200], whole[:20], b"", b"not a shard at all"):
        (tmp_path / "images.npy").write_bytes(part)
        with pytest.raises(ShardError, match="not a shard"):
            open_shard(tmp_path)
    np.save(tmp_path / "images.npy", np.zeros((2, 2)))
    with pytest.raises(ShardError, match="float64"):
        open_shard(tmp_path)


@given(
    shard=st.lists(st.integers(0, 2), min_size=1, max_size=20),
    draw=st.data(),
)
@settings(deadline=None)
def test_rows_index_like_one_array(shard: list[int], draw: st.DataObject) -> None:
    shards = [pictures(4, seed=seed) for seed in range(3)]
    row = draw.draw(st.lists(st.integers(0, 3), min_size=len(shard), max_size=len(shard)))
    whole = np.stack([shards[s][r] for s, r in zip(shard, row, strict=True)])
    rows = Rows(Mapped(shards, 4), np.array(shard), np.array(row))
    assert rows.shape == whole.shape
    where = draw.draw(st.lists(st.integers(-len(shard), len(shard) - 1), max_size=8))
    np.testing.assert_array_equal(rows[where], whole[np.array(where, np.int64)])
    np.testing.assert_array_equal(rows[where[0] if where else 0], whole[where[0] if where else 0])
    np.testing.assert_array_equal(rows[1:9:2], whole[1:9:2])
    mask = np.array(draw.draw(st.lists(st.booleans(), min_size=len(shard), max_size=len(shard))))
    np.testing.assert_array_equal(rows[mask], whole[mask])
    np.testing.assert_array_equal(np.asarray(rows.take(np.flatnonzero(mask))), whole[mask])


def test_a_batch_may_be_changed_without_touching_the_shard(tmp_path: Path) -> None:
    write_shard(tmp_path, pictures(2), 2, 4)
    rows = Rows(Mapped([open_shard(tmp_path)], 4), np.array([0, 0]), np.array([0, 1]))
    batch = rows[[0, 1]]
    before = rows[0].copy()
    batch[:] = 0
    rows[0][:] = 0
    np.testing.assert_array_equal(rows[0], before)


def test_a_row_that_is_not_there_is_found_at_once() -> None:
    with pytest.raises(ShardError, match="row 7"):
        Rows(Mapped([pictures(4)], 4), np.array([0]), np.array([7]))
    with pytest.raises(ShardError, match="expected"):
        Mapped([pictures(4)], 8)
