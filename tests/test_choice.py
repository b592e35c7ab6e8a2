"""Which photos are compared: each once, no more than asked, the same each time."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.models import choice
from pipelines.models.choice import MOST, read_choice
from pipelines.models.reference import FITTED, read_reference

START = datetime(2026, 3, 1, tzinfo=UTC)


def written(path: Path, first: int, count: int, *, said: str = "cat") -> Path:
    numbers = np.arange(first, first + count)
    frame = pd.DataFrame(
        {
            "image_id": [f"p{n:05d}" for n in numbers],
            "captured_at": [pd.Timestamp(START) + timedelta(minutes=int(n)) for n in numbers],
            "label": said,
            "embedding": [[float(n), 0.5] for n in numbers],
        }
    )
    frame.sample(frac=1, random_state=1).to_parquet(path, row_group_size=100)
    return path


def since(minutes: int) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda rows: rows["captured_at"] >= START + timedelta(minutes=minutes)


def test_all_rows_come_in_order_and_a_photo_once_by_the_last_file(tmp_path: Path) -> None:
    paths = [written(tmp_path / "a", 0, 300), written(tmp_path / "b", 200, 300, said="dog")]
    rows = read_choice(paths, most=1_000)
    assert rows["image_id"].tolist() == [f"p{n:05d}" for n in range(500)]
    assert rows["label"].value_counts().to_dict() == {"dog": 300, "cat": 200}
    assert [row[0] for row in rows["embedding"]] == list(range(500))


def test_rows_of_a_file_that_lacks_a_column_have_nothing_there(tmp_path: Path) -> None:
    """A day that an older Classy scored, beside one of today."""
    paths = [written(tmp_path / "old", 0, 200), written(tmp_path / "new", 200, 100)]
    pd.read_parquet(paths[1]).assign(picture_label="cat").to_parquet(paths[1])
    for order in (paths, paths[::-1]):
        rows = read_choice(order, most=1_000)
        assert rows["picture_label"].isna().tolist() == [True] * 200 + [False] * 100


def test_older_photos_are_left_out(tmp_path: Path) -> None:
    rows = read_choice([written(tmp_path / "a", 0, 300)], most=1_000, keep=since(250))
    assert rows["image_id"].tolist() == [f"p{n:05d}" for n in range(250, 300)]


def test_of_many_a_choice_by_lot_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "BATCH", 64)
    path = written(tmp_path / "a", 0, 4_000)
    rows = read_choice([path], most=500)
    assert len(rows) == 500
    assert read_choice([path], most=500).equals(rows)
    kept = set(rows["image_id"])
    assert kept <= set(read_choice([path, written(tmp_path / "b", 4_000, 10)], most=600)["image_id"])
    # By lot: as many of the first half as of the second, and runs as long as chance makes them.
    numbers = rows["image_id"].str[1:].astype(int)
    assert abs((numbers < 2_000).sum() - 250) < 50
    assert 3 < (numbers.diff() == 1).sum() < 130


def test_nothing_scored_is_nothing(tmp_path: Path) -> None:
    assert read_choice([], most=10).empty
    assert read_choice([written(tmp_path / "a", 0, 5)], most=10, keep=since(99)).empty


def test_of_a_large_reference_every_sender_that_was_trained_on_is_known(tmp_path: Path) -> None:
    """Photos of a sender that was forgotten would be taken for a stranger's, and compared with strangers'."""
    path = written(tmp_path / "reference", 0, 2 * MOST + 50)
    frame = pd.read_parquet(path).sort_values("captured_at", ignore_index=True)
    fitted = frame.index < MOST + 25
    frame["split"] = np.where(fitted, FITTED, "fresh")
    frame["source_id"] = [f"s{n}" for n in range(len(frame))]
    frame.loc[fitted, "embedding"] = None
    frame.to_parquet(path)
    unseen, trained = read_reference(path)
    assert trained is not None
    assert len(unseen) == MOST
    assert set(unseen["split"]) == {"fresh"}
    assert trained["source_id"].tolist() == frame.loc[fitted, "source_id"].tolist()
    assert "embedding" in unseen
    assert "embedding" not in trained
