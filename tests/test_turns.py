"""Cores in turns: never more at once than there are, and what has come furthest first."""

import asyncio
import threading

import numpy as np
import pytest

from serving.canonical import ImageSpec
from serving.components.base import Call
from serving.components.preprocessor import Preprocessor
from serving.photos import Photo
from serving.turns import Turns
from tests.answering import jpeg

PATIENCE = 10


def test_never_more_at_once_than_cores() -> None:
    turns, lock = Turns(2), threading.Lock()
    inside, most = [0], [0]
    both = threading.Barrier(2)

    def work(number: int) -> None:
        for round_ in range(50):
            with turns.take(last=bool((number + round_) % 2)):
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                with lock:
                    inside[0] -= 1

    def meet() -> None:
        with turns.take():
            both.wait(PATIENCE)  # only two that are inside at once come through

    for target in (work, meet):
        threads = [
            threading.Thread(target=target, args=(number,) if target is work else ())
            for number in range(6 if target is work else 2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
    assert 1 <= most[0] <= 2


def test_the_last_stage_goes_before_those_that_waited_longer() -> None:
    turns = Turns(1)
    order: list[str] = []
    waits = {name: threading.Event() for name in ("first", "last")}

    def work(name: str) -> None:
        waits[name].set()
        with turns.take(last=name == "last"):
            order.append(name)

    with turns.take():
        threads = [threading.Thread(target=work, args=(name,)) for name in ("first", "last")]
        for thread, name in zip(threads, waits, strict=True):
            thread.start()
            assert waits[name].wait(PATIENCE)
        while not turns._last:  # it has said that it waits
            threading.Event().wait(0.001)
    for thread in threads:
        thread.join(PATIENCE)
    assert order == ["last", "first"]


def test_a_turn_that_fails_is_given_back() -> None:
    turns = Turns(1)
    for last in (False, True):
        with pytest.raises(ZeroDivisionError), turns.take(last=last):
            raise ZeroDivisionError
    done = threading.Thread(target=lambda: turns.take().__enter__())
    done.start()
    done.join(PATIENCE)
    assert not done.is_alive()


def test_no_cores_are_refused() -> None:
    with pytest.raises(ValueError, match="cores=0"):
        Turns(0)


def test_nothing_is_decoded_while_another_stage_has_the_core() -> None:
    turns = Turns(1)
    part = Preprocessor(ImageSpec(size=16), turns=turns)
    photo = Photo(photo=jpeg(1))

    async def ask() -> None:
        await part.start()
        with turns.take(last=True):
            asked = asyncio.ensure_future(part.apply([photo], Call()))
            done, _ = await asyncio.wait([asked], timeout=0.1)
            assert not done
        await asyncio.wait_for(asked, PATIENCE)
        await part.stop()

    asyncio.run(ask())
    assert photo.problem is None
    assert photo.image is not None
    assert photo.image.dtype == np.uint8
