"""Blocks of photos: results in order, memory bounded, errors in their place; many pictures' figures are one's."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.batch import Scorer, in_order
from serving.canonical import ImageSpec
from serving.photos import Photo
from serving.pictures import figures_of_many, picture_figures
from serving.problems import Problem
from tests.answering import jpeg
from tests.packages import CONTEXT_NAMES, make_package


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_whoever_is_done_first(threads: int) -> None:
    later = threading.Event()

    def work(number: int) -> int:
        if number == 0 and threads > 1:
            assert later.wait(30), "the second is worked on beside the first"
        elif number == 1:
            later.set()
        return number * number

    assert list(in_order(work, range(50), threads=threads)) == [number * number for number in range(50)]


def test_no_more_is_taken_than_there_is_room_for() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(lambda number: number, items(), threads=2, ahead=3)
    for number in range(10):
        assert next(results) == number
        assert len(taken) <= number + 5
    results.close()


def test_an_error_is_raised_in_its_place_and_ends_it() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    results = in_order(work, range(1_000_000), threads=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 21])
@pytest.mark.parametrize("size", [8, 33])
def test_figures_of_many_are_to_the_bit_those_of_one(count: int, size: int) -> None:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    images[::3] = images[::3, :1, :1]  # flat ones, where edges lie on the limit or nowhere
    sizes = [(100 + i, 200) for i in range(count)]
    wanted = [picture_figures(image, width=w, height=h) for image, (w, h) in zip(images, sizes, strict=True)]
    found = figures_of_many(images, sizes)
    assert found.shape == (count, 7)
    assert np.array_equal(found, np.array(wanted, np.float32).reshape(count, 7))


def test_a_bad_photo_of_a_block_has_its_problem_and_the_others_their_answer(tmp_path: Path) -> None:
    scorer = Scorer(make_package(tmp_path / "package", size=16), threads=2)
    spec = ImageSpec(size=16)
    good = jpeg(1)
    photos = [Photo(photo=data) for data in (good, good[:200], b"no photo", None, jpeg(2))]
    photos.append(Photo(problem=Problem("unprocessable", "was not there", detail="missing")))
    scorer.read(photos, spec)
    for photo in photos:
        photo.context = np.zeros(len(CONTEXT_NAMES), np.float32)
    scorer.classify(photos)
    assert [photo.problem and photo.problem.detail for photo in photos] == [
        None, "truncated", "not_an_image", "bad_request", None, "missing",
    ]  # fmt: skip
    alone = Photo(photo=good, context=photos[0].context)
    scorer.read([alone], spec)
    scorer.classify([alone])
    assert alone.label == photos[0].label
    assert alone.probabilities == pytest.approx(photos[0].probabilities, abs=0.03)  # runs of other sizes, bfloat16
    assert all(photo.probabilities is None for photo in photos[1:4])


def test_nothing_to_classify_is_nothing(tmp_path: Path) -> None:
    scorer = Scorer(make_package(tmp_path / "package", size=16))
    scorer.read([], ImageSpec(size=16))
    scorer.classify([])
    assert scorer.about()["agreement"] is not None
