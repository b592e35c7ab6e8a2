"""Inputs: three ways to the same batches, and a choice that says why."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_fit import CPU, OPTIONS, a_fit, same
from tests.test_models import split
from training.inputs import Decode, Name, make_input, pick_input
from training.options import FitError

ORDER = np.random.default_rng(0).permutation(200)


def decode_of(rows: int = 200) -> Decode:
    images = split(rows).images
    return lambda row: images[row]


@pytest.mark.parametrize("name", ["memory", "shards", "decode"])
def test_batches_are_the_rows_of_the_order(name: Name) -> None:
    train = split(200)
    source = make_input(name, train, CPU, decode=decode_of())
    batches = [take() for take in source.batches(ORDER[:97], 32)]
    assert [len(batch.rows) for batch in batches] == [32, 32, 32], "one row alone is left out"
    for number, batch in enumerate(batches):
        rows = ORDER[32 * number : 32 * number + 32]
        assert batch.images.dtype == torch.uint8
        np.testing.assert_array_equal(batch.images, train.images[rows])
        np.testing.assert_array_equal(batch.context, train.context[rows])
        np.testing.assert_array_equal(batch.labels, train.labels[rows])
    later = [take().rows.tolist() for take in source.batches(ORDER[:97], 32, first=2)]
    assert later == [ORDER[64:96].tolist()]


def test_all_three_train_the_same_weights(tmp_path: Path) -> None:
    def trained(name: Name) -> torch.nn.Module:
        fit = a_fit(OPTIONS, source=make_input(name, split(200), CPU, decode=decode_of()))
        fit.run(tmp_path / name, budget_seconds=1e9, on_epoch=lambda _: None)
        return fit.stepper.model

    memory, shards, decode = (trained(name) for name in ("memory", "shards", "decode"))
    assert same(memory, shards)
    assert same(memory, decode)


def test_an_error_of_a_photo_comes_through() -> None:
    def broken(row: int) -> np.ndarray:
        raise ValueError(f"photo {row} is cut off")

    with pytest.raises(ValueError, match="is cut off"):
        next(make_input("decode", split(200), CPU, decode=broken).batches(ORDER, 32))


def test_auto_says_what_it_measured() -> None:
    picked = pick_input("auto", split(200), CPU, batch=32, decode=decode_of())
    assert picked.input.name in ("memory", "shards", "decode")
    assert all(f"{name} " in picked.why for name in ("memory", "shards", "decode"))
    assert pick_input("shards", split(200), CPU, batch=32).why == "asked for"


def test_auto_leaves_memory_out_where_there_is_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.inputs.MEMORY_SHARE", 0.0)
    picked = pick_input("auto", split(200), CPU, batch=32)
    assert picked.input.name == "shards"
    assert "memory is left out" in picked.why


def test_photos_that_are_kept_no_longer_are_said() -> None:
    with pytest.raises(FitError, match=r'input.pipeline = "decode": the photos as they came are not here'):
        make_input("decode", split(10), CPU)
