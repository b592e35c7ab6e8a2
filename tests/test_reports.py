"""The page: our verdict is on it, Evidently's marks agree with it, and it is of bounded size."""

import re
import time

import numpy as np
import pandas as pd
import pytest
from evidently.legacy.core import ColumnType

from monitoring import drift, reports
from tests.test_drift import STATS, detect, world


def page_of(reference: pd.DataFrame, window: pd.DataFrame, **given: str) -> tuple[drift.Drift, str]:
    found = detect(reference, window)
    shown, current = drift.compared(reference, window, stats=STATS, min_rows=20, seed=1)
    given = {"title": "digits, 2026-03-07", **given}
    facts = [("Champion", "version 3"), ("Accuracy", "0.81 <of 40>")]
    return found, reports.render(found, facts=facts, reference=shown, window=current, **given)


@pytest.fixture(scope="module")
def drifted() -> tuple[drift.Drift, str]:
    random = np.random.default_rng(0)
    window = world(120, random, shift=4).assign(contrast=1.0)
    return page_of(world(240, random).assign(contrast=1.0), window)


def test_our_verdict_comes_first(drifted: tuple[drift.Drift, str]) -> None:
    found, page = drifted
    assert found.verdict == "DRIFT"
    ours = page.index("digits, 2026-03-07 <span")
    assert page.index("<body>") < ours < page.index("root_metric_")
    assert page.count("<title>digits, 2026-03-07: DRIFT</title>") == 1
    for told in found.columns:
        assert f"<td>{told.name}</td>" in page
    assert "nothing to compare" in page, "a column that cannot be told says why"


def test_what_comes_from_outside_is_escaped() -> None:
    random = np.random.default_rng(1)
    _, page = page_of(world(40, random), world(40, random), title="<script>alert(1)</script>")
    assert "<script>alert(1)" not in page
    assert "0.81 &lt;of 40&gt;" in page


def test_evidently_draws_what_was_decided(drifted: tuple[drift.Drift, str]) -> None:
    found, page = drifted
    marks = dict(re.findall(r"Drift in column '(\w+)'.{0,400}?Data drift (detected|not detected)", page, re.DOTALL))
    decided = {
        c.name: "detected" if c.verdict == "DRIFT" else "not detected" for c in found.columns if c.effect is not None
    }
    assert marks == decided
    assert {"detected", "not detected"} <= set(decided.values())


def test_evidently_gets_our_distance() -> None:
    random = np.random.default_rng(2)
    reference, window = world(90, random), world(70, random, shift=1)
    found = detect(reference, window)
    shown, current = drift.compared(reference, window, stats=STATS, min_rows=20, seed=1)
    for told in found.columns:
        kind = ColumnType.Categorical if told.name == drift.CLASS_MIX else ColumnType.Numerical
        score, detected = reports._distance(shown[told.name], current[told.name], kind, told.limit or 0)
        assert score == pytest.approx(told.effect, abs=2e-6)
        assert detected == (told.verdict == "DRIFT")


def test_a_column_with_gaps_is_drawn() -> None:
    random = np.random.default_rng(3)
    window = world(80, random)
    window.loc[:9, "brightness"] = np.nan
    found, page = page_of(world(80, random), window)
    assert "Drift in column 'brightness'" in page
    assert found.verdict == "NO DRIFT"


def test_where_nothing_can_be_drawn_the_reason_still_is() -> None:
    found = detect(None, pd.DataFrame())
    page = reports.render(found, title="digits", facts=[], reference=None, window=None)
    assert "UNKNOWN" in page
    assert "the model has no reference" in page
    assert len(page) < 10_000


def test_a_page_is_bounded_in_size_and_time() -> None:
    random = np.random.default_rng(4)
    reference, window = world(6000, random), world(3000, random)
    page_of(world(40, random), world(40, random))
    found = detect(reference, window)
    shown, current = drift.compared(reference, window, stats=STATS, min_rows=20, seed=1)
    started = time.process_time()
    page = reports.render(found, title="large", facts=[], reference=shown, window=current)
    assert time.process_time() - started < 5
    assert len(page) < 6_000_000


def test_the_page_needs_no_network(drifted: tuple[drift.Drift, str]) -> None:
    _, page = drifted
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?https?:", page)
