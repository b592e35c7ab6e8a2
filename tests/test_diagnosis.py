"""Diagnosis: which photos are not of the old world; it must not see a difference between senders as one."""

import numpy as np
import pandas as pd

from monitoring.diagnosis import SHOWN, diagnose
from tests.test_drift import STATS, tastes, world


def named(frame: pd.DataFrame, side: str) -> pd.DataFrame:
    return frame.assign(image_id=[f"{side}-{i}" for i in range(len(frame))])


def test_the_photos_that_changed_are_named() -> None:
    random = np.random.default_rng(1)
    old = named(world(300, random), "old")
    window = named(pd.concat([world(100, random), world(60, random, shift=6)], ignore_index=True), "new")
    found = diagnose(old, window, STATS, seed=1)
    assert found.auc is not None
    assert found.p is not None
    assert found.auc > 0.6
    assert found.p < 1e-4
    assert len(found.photos) == SHOWN
    assert sum(int(name.removeprefix("new-")) >= 100 for name in found.photos) == SHOWN
    assert found == diagnose(old, window, STATS, seed=1)


def test_other_senders_alone_are_told_apart_no_better_than_by_chance() -> None:
    random = np.random.default_rng(2)
    areas = []
    for seed in range(8):
        senders = tastes(random, 40)
        pair = world(200, random, senders=senders), world(200, random, senders=senders)
        areas.append(diagnose(named(pair[0], "old"), named(pair[1], "new"), STATS, seed=seed).auc or 0.0)
    assert abs(np.mean(areas) - 0.5) < 0.06


def test_what_cannot_be_tried_says_why() -> None:
    random = np.random.default_rng(3)
    old, window = named(world(50, random), "old"), named(world(50, random), "new")
    few = diagnose(old, window.assign(source_id="one"), STATS, seed=1)
    assert (few.auc, few.photos) == (None, ())
    assert "1 senders on a side" in few.reason
    bare = diagnose(old[["image_id"]], window[["image_id"]], STATS, seed=1)
    assert bare.reason == "neither picture statistics nor an embedding on both sides"
