"""What a drift is: asked for a window that drifted, never for another, and plain JSON."""

import json

import numpy as np

from monitoring import drift
from monitoring.explanation import explained
from tests.test_label_shift import CLASSES, EVEN, SKEWED, photos


def test_a_window_that_drifted_is_explained() -> None:
    random = np.random.default_rng(1)
    rules = {"stats": ["brightness"], "min_rows": 20}
    reference = photos(EVEN, 500, random).assign(image_id=[f"old-{i}" for i in range(500)])
    for mix, dark, verdict in ((SKEWED, 0.0, "SHIFT"), (EVEN, 3.0, "NO SHIFT"), (EVEN, 0.0, None)):
        window = photos(mix, 300, random, dark=dark).assign(image_id=[f"new-{i}" for i in range(300)])
        window = window.drop(columns="label")
        found = drift.detect(reference, window, alpha=0.002, min_effect=0.12, seed=1, **rules)  # type: ignore[arg-type]
        assert found.verdict == ("DRIFT" if verdict else "NO DRIFT")
        told = explained(found, reference, window, None, classes=CLASSES, seed=1, **rules)  # type: ignore[arg-type]
        assert json.loads(json.dumps(told, allow_nan=False))
        if verdict is None:
            assert told == {"label_shift": None, "diagnosis": None}
        else:
            assert told["label_shift"]["verdict"] == verdict
            assert told["diagnosis"]["p"] < 0.001
            assert set(told["diagnosis"]["photos"]) <= set(window["image_id"])


def test_without_a_reference_nothing_is_explained() -> None:
    window = photos(EVEN, 50, np.random.default_rng(2))
    found = drift.detect(None, window, stats=[], min_rows=20, alpha=0.002, min_effect=0.12, seed=1)
    told = explained(found, None, window, None, classes=CLASSES, stats=[], min_rows=20, seed=1)
    assert told == {"label_shift": None, "diagnosis": None}
