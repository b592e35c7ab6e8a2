"""The benchmark of scoring runs through in its quick mode: it measures what it says, on equal answers."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import bench_scoring


@pytest.mark.slow
def test_it_measures_all_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSY_HOME", str(tmp_path))
    monkeypatch.delenv("CLASSY_CLOTHING", raising=False)
    rows = bench_scoring.measure(quick=True)
    written = json.loads((tmp_path / "bench" / "scoring-quick.json").read_text())
    assert [row["name"] for row in written["rows"]] == [row.name for row in rows]
    assert {"batch_score_vs_eager", "batch_score_vs_limit"} <= {row.name for row in rows}
    assert all(row.ours > 0 and row.other > 0 for row in rows)
    assert written["same_class_by_its_own_decoder"] > 0.5


def test_other_answers_than_torchs_are_not_measured() -> None:
    exact = np.array([[0.9, 0.1], [0.55, 0.45]], np.float32)

    def answers(probabilities: np.ndarray) -> pd.DataFrame:
        labels = [("cat", "dog")[best] for best in probabilities.argmax(1)]
        return pd.DataFrame({"label": labels, "probabilities": list(probabilities)})

    same = answers(exact)
    assert (
        bench_scoring.check_equal(same, same, answers(exact[:, ::-1] * [[0], [1]] + exact * [[1], [0]]), exact, 1e-3)
        == 0.5
    )
    with pytest.raises(AssertionError, match="differs from torch"):
        bench_scoring.check_equal(answers(exact + np.float32(0.01)), same, same, exact, 1e-3)
    with pytest.raises(AssertionError, match="1 of 1 clear photos"):
        bench_scoring.check_equal(same, same, answers(exact[:, ::-1]), exact, 1e-3)
