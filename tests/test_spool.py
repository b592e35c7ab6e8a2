"""The spool: lines come out as they went in, in order, whoever reads them and wherever a file was cut."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from pipelines.online import spool as spool_module
from pipelines.online.spool import Spool, SpoolFull


def test_a_spool_belongs_to_one_process_until_it_lets_go(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    spool.append([b"1", b"2"], sync=True)
    assert Spool.orphans(tmp_path) == []
    spool.close()
    (heir,) = Spool.orphans(tmp_path)
    assert Spool.orphans(tmp_path) == [], "it has an owner again"
    chunk = heir.take(1000)
    assert chunk is not None
    assert chunk.lines == [b"1", b"2"]
    heir.close()
    (again,) = Spool.orphans(tmp_path)
    chunk = again.take(1000)
    assert chunk is not None, "what was taken and not done is there for the next"
    again.done(chunk)
    assert again.take(1000) is None
    again.close()
    assert list(tmp_path.iterdir()) == []


def test_a_spool_is_bounded_over_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 100)
    first, second = Spool.create(tmp_path, max_bytes=1_000), Spool.create(tmp_path, max_bytes=1_000)
    with pytest.raises(SpoolFull, match="may hold 1,000"):
        for _ in range(100):
            first.append([b"x" * 40], sync=False)
    with pytest.raises(SpoolFull):
        second.append([b"y"], sync=False)
    while (chunk := first.take(100)) is not None:
        first.done(chunk)
    second.append([b"y"], sync=False)
    first.close()
    second.close()


json_lines = st.binary(max_size=60).map(lambda data: json.dumps(data.hex()).encode())


@budget(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.lists(json_lines, min_size=1, max_size=6), min_size=1, max_size=8),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=20),
    segment=st.integers(20, 400),
)
def test_lines_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[bytes]], sizes: list[int], segment: int
) -> None:
    spool = Spool.create(tmp_path_factory.mktemp("spool"))
    out: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "SEGMENT_BYTES", segment)
        for number, lines in enumerate(batches):
            spool.append(lines, sync=False)
            if (chunk := spool.take(sizes[number % len(sizes)])) is not None and number % 3:
                out += chunk.lines
                spool.done(chunk)
        number = 0
        while (chunk := spool.take(sizes[number % len(sizes)])) is not None:
            assert chunk.torn == 0
            out += chunk.lines
            spool.done(chunk)
            number += 1
    assert out == [line for lines in batches for line in lines]
    assert spool.waiting == 0
    spool.close()


@budget(max_examples=60, deadline=None)
@given(lines=st.lists(json_lines, min_size=1, max_size=10), cut=st.integers(0, 400), size=st.integers(1, 300))
def test_a_file_cut_anywhere_gives_the_whole_lines_before_the_cut(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cut: int, size: int
) -> None:
    root = tmp_path_factory.mktemp("spool")
    spool = Spool.create(root)
    spool.append(lines, sync=False)
    segment = next(spool.folder.glob("*.jsonl"))
    data = segment.read_bytes()
    whole = data[: max(0, len(data) - cut)]
    spool.close()
    segment.write_bytes(whole)
    (heir,) = Spool.orphans(root)
    out: list[bytes] = []
    torn = 0
    while (chunk := heir.take(size)) is not None:
        out += chunk.lines
        torn += chunk.torn
        heir.done(chunk)
    heir.close()
    ends = np.cumsum([len(line) + 10 for line in lines])
    complete = int((ends - 1 <= len(whole)).sum())  # a line that lacks only its newline is whole
    assert out == lines[:complete]
    assert torn == int(bool(whole) and len(whole) > (ends[complete - 1] if complete else 0))
