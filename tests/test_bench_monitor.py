"""The benchmark of a day's monitoring runs through on a few answers: it measures what it says, on all of them."""

import json
from pathlib import Path

import pytest

from benchmarks import bench_monitor


@pytest.mark.slow
def test_it_measures_all_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSY_HOME", str(tmp_path))
    monkeypatch.delenv("CLASSY_CLOTHING", raising=False)
    rows = bench_monitor.measure(rows=3_000, repeats=1)
    written = json.loads((tmp_path / "bench" / "monitor.json").read_text())
    assert [row["name"] for row in written["rows"]] == ["ten_million", "ten_million_memory"]
    assert written["rows_logged"] == 3_000
    assert all(row.ours > 0 for row in rows)
    assert list((tmp_path / "bench").glob("monitor-*")) == [], "its data are gone"
