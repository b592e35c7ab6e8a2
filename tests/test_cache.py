"""Copies of what is elsewhere: made once, within their bound, the oldest first to go and never one in use."""

import os
import threading
import time
from pathlib import Path

import pytest

from pipelines.cache import ABANDONED, RECENT, Cache, size_of
from pipelines.errors import ClassyError


def put(cache: Cache, key: str, size: int = 100) -> Path:
    return cache.entry(f"partitions/{key}", size, lambda path: folder_of(path, size))


def folder_of(path: Path, size: int) -> None:
    path.mkdir()
    (path / "rows.bin").write_bytes(bytes(size))


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def names(cache: Cache) -> set[str]:
    return {path.name for path in (cache.folder / "partitions").iterdir()}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 300)


def test_a_copy_is_made_once(cache: Cache) -> None:
    first = put(cache, "a")
    inode = (first / "rows.bin").stat().st_ino
    assert put(cache, "a") == first
    assert (first / "rows.bin").stat().st_ino == inode


def test_what_was_not_used_for_longest_makes_room(cache: Cache) -> None:
    for number, key in enumerate("abc"):
        age(put(cache, key), RECENT + 100 - number)
    put(cache, "a")  # used now
    put(cache, "d", 150)
    assert names(cache) == {"a", "d"}
    assert size_of(cache.folder / "partitions") == 250


def test_files_and_folders_share_the_bound(cache: Cache) -> None:
    age(cache.entry("encoded/day.arrow", 250, lambda path: path.write_bytes(bytes(250))), RECENT + 1)
    put(cache, "a")
    assert not list((cache.folder / "encoded").iterdir())


def test_what_was_used_just_now_stays_and_the_message_says_what_to_raise(cache: Cache) -> None:
    for key in "abc":
        put(cache, key)
    with pytest.raises(ClassyError, match=r"partitions/d has 1e-07 GB .* CLASSY_CACHE_GB=3e-07 is all .*; raise it"):
        put(cache, "d")
    with pytest.raises(ClassyError, match="does not fit: 3e-07 GB of copies are in use"):
        put(cache, "e", 301)
    assert names(cache) == set("abc")


def test_a_copy_that_fails_leaves_nothing(cache: Cache) -> None:
    def torn(path: Path) -> None:
        folder_of(path, 50)
        raise OSError("the line is dead")

    with pytest.raises(OSError, match="the line is dead"):
        cache.entry("partitions/a", 100, torn)
    assert names(cache) == set()


def test_what_a_killed_process_left_goes_after_a_day_and_what_is_being_written_does_not(cache: Cache) -> None:
    for name, seconds in {".a.1.tmp": ABANDONED + 1, ".b.2.tmp": RECENT + 1}.items():
        (cache.folder / "partitions").mkdir(parents=True, exist_ok=True)
        folder_of(cache.folder / "partitions" / name, 100)
        age(cache.folder / "partitions" / name, seconds)
    put(cache, "c", 200)
    assert names(cache) == {".b.2.tmp", "c"}


def test_many_at_once_make_one_copy_each(tmp_path: Path) -> None:
    cache, barrier = Cache(tmp_path, 800), threading.Barrier(8)

    def work(number: int) -> None:
        barrier.wait()
        assert (put(cache, f"k{number % 4}") / "rows.bin").stat().st_size == 100

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(cache) == {"k0", "k1", "k2", "k3"}
