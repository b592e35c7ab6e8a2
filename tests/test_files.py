"""Code: a partition is there whole or not at all, on a disk and on any other fsspec filesystem."""

import os
import threading
import uuid
from pathlib import Path

import pytest

from pipelines.cache import Cache
from pipelines.errors import ClassyError
from pipelines.files import (
    content_hash,
    join,
    list_partitions,
    listing,
    local,
    need_manifest,
    new_partition,
    read_manifest,
    read_many,
    write_bytes,
)


@pytest.fixture(params=["disk", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "data") if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


def write(uri: str, text: str) -> None:
    with new_partition(uri) as draft:
        (draft.folder / "rows.txt").write_text(text)
        draft.meta["rows"] = len(text)


def test_a_partition_has_its_manifest_and_its_files(root: str, tmp_path: Path) -> None:
    uri = join(root, "raw", "date=2026-03-01")
    write(uri, "three")
    manifest = need_manifest(uri, "gather")
    assert manifest["rows"] == 5
    assert manifest["files"]["rows.txt"]["bytes"] == 5
    assert (local(uri, Cache(tmp_path / "cache", 10**6)) / "rows.txt").read_text() == "three"
    assert list_partitions(join(root, "raw")) == ["date=2026-03-01"]


def test_the_same_content_has_the_same_hash_and_other_content_another(root: str) -> None:
    for name, text in {"a": "same", "b": "same", "c": "other"}.items():
        write(join(root, name), text)
    a, b, c = (content_hash(need_manifest(join(root, name), "x")) for name in "abc")
    assert a == b != c


def test_a_changed_partition_replaces_the_old_one_whole(root: str, tmp_path: Path) -> None:
    uri = join(root, "p")
    with new_partition(uri) as draft:
        (draft.folder / "old.txt").write_text("old")
    write(uri, "new")
    assert list(need_manifest(uri, "x")["files"]) == ["rows.txt"]
    assert (local(uri, Cache(tmp_path / "cache", 10**6)) / "rows.txt").read_text() == "new"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    uri = str(tmp_path / "p")
    with pytest.raises(RuntimeError, match="midway"), new_partition(uri) as draft:
        (draft.folder / "half.txt").write_text("half")
        raise RuntimeError("midway")
    assert read_manifest(uri) is None
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    # /dev/full is the kernel's own full disk: the write really fails with ENOSPC.
    uri = str(tmp_path / "p")
    with pytest.raises(ClassyError, match=r"the disk is full; nothing was kept"), new_partition(uri) as draft:
        os.symlink("/dev/full", draft.folder / "rows.txt")
        (draft.folder / "rows.txt").write_text("does not fit")
    assert list(tmp_path.iterdir()) == []


def test_writers_of_one_partition_do_not_mix(tmp_path: Path) -> None:
    uri = str(tmp_path / "p")
    barrier = threading.Barrier(8)

    def writer(number: int) -> None:
        barrier.wait()
        with new_partition(uri) as draft:
            for name in ("a", "b"):
                (draft.folder / name).write_text(str(number))

    threads = [threading.Thread(target=writer, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "p" / "a").read_text() == (tmp_path / "p" / "b").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"]


def test_a_missing_partition_names_the_step_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ClassyError, match="make it with `classy prepare`"):
        need_manifest(str(tmp_path / "none"), "prepare")


def test_one_file_is_replaced_whole(tmp_path: Path) -> None:
    for data in (b"one", b"two"):
        write_bytes(str(tmp_path / "a" / "file"), data)
    assert (tmp_path / "a" / "file").read_bytes() == b"two"
    assert len(list((tmp_path / "a").iterdir())) == 1


def test_a_listing_shows_what_is_whole_and_when_it_changes(tmp_path: Path) -> None:
    assert listing(str(tmp_path / "none")) == {}
    for name in ("a", "b"):
        with new_partition(str(tmp_path / name)) as draft:
            (draft.folder / "rows.txt").write_text("1")
    (tmp_path / "c").mkdir()
    first = listing(str(tmp_path))
    assert list(first) == ["a", "b"]
    assert first["a"].sizes["rows.txt"] == 1
    with new_partition(str(tmp_path / "a")) as draft:
        (draft.folder / "rows.txt").write_text("2")
    second = listing(str(tmp_path))
    assert (second["a"].stamp != first["a"].stamp, second["b"].stamp == first["b"].stamp) == (True, True)
    assert read_many([str(tmp_path / "a" / "rows.txt"), str(tmp_path / "none")]) == [b"2", None]


def test_looking_while_partitions_are_written_anew_finds_them_or_not(tmp_path: Path) -> None:
    uri = str(tmp_path / "p")
    done = threading.Event()

    def write() -> None:
        for number in range(200):
            with new_partition(uri) as draft:
                (draft.folder / "rows.txt").write_text(str(number))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert set(listing(str(tmp_path))) <= {"p"}
        (read,) = read_many([f"{uri}/rows.txt"])
        assert read is None or read.isdigit()
    writer.join()
