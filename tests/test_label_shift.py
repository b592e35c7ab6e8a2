"""Label shift: a known mix is found again, and a changed world is not taken for one."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.drift import detect
from monitoring.label_shift import LabelShift, estimate, explain

CLASSES = ("cat", "dog", "fox", "owl")


def photos(mix: np.ndarray, rows: int, random: np.random.Generator, *, dark: float = 0.0) -> pd.DataFrame:
    """A model that is right some 85% of the time; brightness hangs on the class, and on `dark`."""
    labels = random.choice(len(CLASSES), size=rows, p=mix)
    logits = 3.0 * np.eye(len(CLASSES))[labels] + random.normal(size=(rows, len(CLASSES)))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return pd.DataFrame(
        {
            "label": [CLASSES[i] for i in labels],
            "predicted": [CLASSES[i] for i in p.argmax(axis=1)],
            "confidence": p.max(axis=1),
            "probabilities": list(p),
            "embedding": list(logits),
            "brightness": random.normal(size=rows) + labels - dark,
        }
    )


def ask(reference: pd.DataFrame, window: pd.DataFrame, *, min_rows: int = 40) -> LabelShift:
    def differs(again: pd.DataFrame) -> list[str]:
        found = detect(again, window, stats=["brightness"], min_rows=20, alpha=0.002, min_effect=0.12, seed=1)
        return [column.name for column in found.columns if column.verdict == "DRIFT"]

    return explain(reference, window, CLASSES, differs=differs, min_rows=min_rows, seed=1)


EVEN, SKEWED = np.full(4, 0.25), np.array([0.55, 0.25, 0.15, 0.05])


@settings(max_examples=25, deadline=None)
@given(parts=st.lists(st.floats(0.05, 1), min_size=4, max_size=4), seed=st.integers(0, 2**16))
def test_a_known_mix_is_found_again(parts: list[float], seed: int) -> None:
    random = np.random.default_rng(seed)
    mix = np.asarray(parts) / sum(parts)
    reference, window = photos(EVEN, 2000, random), photos(mix, 2000, random)
    labels = np.array([CLASSES.index(name) for name in reference["label"]])
    known, asked = np.stack(reference["probabilities"].tolist()), np.stack(window["probabilities"].tolist())
    found, draws = estimate(labels, known, asked, seed=seed, draws=50)
    assert found == pytest.approx(mix, abs=0.06)
    assert found.sum() == pytest.approx(1)
    assert (draws >= 0).all()
    assert draws.sum(axis=1) == pytest.approx(np.ones(50))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(3)
    held = []
    for seed in range(60):
        reference, window = photos(EVEN, 300, random), photos(SKEWED, 200, random)
        labels = np.array([CLASSES.index(name) for name in reference["label"]])
        answers = np.stack(reference["probabilities"].tolist()), np.stack(window["probabilities"].tolist())
        low, high = np.percentile(estimate(labels, *answers, seed=seed, draws=200)[1], [2.5, 97.5], axis=0)
        held.append((low <= SKEWED) & (high >= SKEWED))
    assert 0.9 <= np.mean(held) <= 0.99


def test_a_shift_is_named_with_its_classes() -> None:
    random = np.random.default_rng(1)
    found = ask(photos(EVEN, 600, random), photos(SKEWED, 300, random))
    assert found.verdict == "SHIFT"
    assert found.reason.startswith("the mix of classes changed: cat from 2")
    cat = found.classes[0]
    assert (cat.name, round(cat.reference, 1)) == ("cat", 0.2)
    assert cat.low < 0.55 < cat.high


def test_darker_pictures_are_no_shift() -> None:
    random = np.random.default_rng(2)
    reference = photos(EVEN, 600, random)
    assert ask(reference, photos(EVEN, 300, random, dark=2)).verdict == "NO SHIFT"
    both = ask(reference, photos(SKEWED, 300, random, dark=2))
    assert both.verdict == "NO SHIFT"
    assert both.reason.endswith("differ beyond it")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r, w: (r.drop(columns="label"), w), "no column 'label' in the reference"),
        (lambda r, w: (r, w.drop(columns="probabilities")), "no column 'probabilities' in the window"),
        (lambda r, w: (r, w[:39]), "the window has 39 answers, fewer than min_rows=40"),
        (lambda r, w: (r[r["label"] != "owl"], w), "class owl has 0 labelled reference photos"),
        (lambda r, w: (r.assign(probabilities=[np.full(4, 0.25)] * len(r)), w), "cannot be told apart"),
        (lambda r, w: (r, w.assign(probabilities=[np.full(5, 0.2)] * len(w))), "the taxonomy has 4"),
    ],
)
def test_what_cannot_be_told_says_why(spoil, said: str) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(4)
    found = ask(*spoil(photos(EVEN, 300, random), photos(SKEWED, 200, random)))
    assert found.verdict == "UNKNOWN"
    assert said in found.reason
    assert found == replace(found, classes=())
