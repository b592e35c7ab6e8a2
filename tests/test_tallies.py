"""Answers and their truth, counted: the database and the frames say the same, and nothing counts twice."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from monitoring import tallies
from monitoring.stores import Store, open_store

START = datetime(2026, 3, 1, tzinfo=UTC)
CLASSES = ("cat", "dog")


def answer(photo: str, label: str, *, day: float = 0.5, version: str = "1", asked: float = 0.0, arm: str = "champion",
           sender: str = "ann", number: int = 0) -> dict:  # fmt: skip
    captured = START + timedelta(days=day)
    return {
        "prediction_id": f"{photo}-{version}-{asked}-{number}-{arm}", "image_id": photo, "source_id": sender,
        "captured_at": captured, "predicted_at": captured + timedelta(days=1 + asked), "label": label,
        "confidence": 0.9, "probabilities": [0.9, 0.1], "model_version": version, "run_id": "run", "generation": 1,
        "arm": arm, "channel": "batch", "service_hash": "x", "defaulted": False,
    }  # fmt: skip


def truth(photo: str, label: str, *, day: float, rejected: str | None = None) -> dict:
    told = START + timedelta(days=day)
    return {"image_id": photo, "label": label, "labelled_at": told, "said_by": "people", "rejected": rejected}


def written(url: str, answers: list[dict], said: list[dict]) -> Store:
    store = open_store(url)
    store.upsert_predictions(answers)
    store.upsert_truth(said)
    return store


def counted(store: Store, **given: datetime) -> pd.DataFrame:
    times = {"since": START, "until": START + timedelta(days=9), "unseen_from": START, "senders_since": START}
    return tallies.counted(store, **{**times, **given})


def lines(counts: pd.DataFrame) -> list[tuple]:
    return sorted(map(tuple, counts[[*tallies.GROUPS, "rows"]].to_numpy(object).tolist()), key=str)


def a_life(seed: int) -> tuple[list[dict], list[dict]]:
    """Photos of six days, asked once or more by two versions; labels late, early, missing, of a strange class."""
    random = np.random.default_rng(seed)
    answers, said = [], []
    for n in range(120):
        day = float(random.uniform(0, 6))
        for number, version in enumerate(random.choice(["1", "2"], random.integers(1, 4))):
            answers.append(
                answer(f"p{n}", str(random.choice(CLASSES)), day=day, version=str(version), number=number,
                       asked=number / 10, sender=f"s{n % 7}", arm=str(random.choice(["champion"] * 9 + ["canary"])))
            )  # fmt: skip
        if random.random() < 0.7:
            label, late = str(random.choice([*CLASSES, "cow"])), float(random.uniform(-0.2, 4))
            said.append(truth(f"p{n}", label, day=day + late, rejected="blurred" if random.random() < 0.1 else None))
    return answers, said


@pytest.mark.parametrize("seed", range(3))
def test_the_database_counts_what_the_frames_hold(database_url: str, seed: int) -> None:
    answers, said = a_life(seed)
    store = written(database_url, answers, said)
    times = {
        "since": START + timedelta(days=1),
        "until": START + timedelta(days=5),
        "unseen_from": START + timedelta(days=2, hours=7),
        "senders_since": START + timedelta(days=3),
    }
    frame = pd.DataFrame([row for row in answers if row["arm"] == "champion"])
    accepted = pd.DataFrame([row for row in said if row["rejected"] is None])
    assert lines(counted(store, **times)) == lines(tallies.tally(frame, accepted, **times)) != []


def test_a_photo_counts_once_a_version_by_its_last_answer(database_url: str) -> None:
    asked = [
        answer("a", "dog", asked=0.0), answer("a", "cat", asked=0.5), answer("a", "dog", version="2"),
        answer("b", "dog", arm="canary"),
    ]  # fmt: skip
    counts = counted(written(database_url, asked, [truth("a", "cat", day=1.5)]))
    assert counts[["version", "again", "said", "label", "rows"]].sort_values("version").to_numpy().tolist() == [
        ["1", False, "cat", "cat", 1],
        ["2", True, "dog", "cat", 1],
    ]


def test_labels_are_of_their_time_and_kind(database_url: str) -> None:
    asked = [answer(name, "cat") for name in "abcde"]
    said = [
        truth("a", "cat", day=2.5), truth("b", "cat", day=0.4), truth("c", "cat", day=1, rejected="two labels"),
        truth("d", "cat", day=20), truth("stranger", "dog", day=1.5),
    ]  # fmt: skip
    store = written(database_url, asked, said)
    counts = counted(store)
    known = counts[counts["label"].notna()].sort_values("labelled_on")
    assert known[["early", "rows"]].to_numpy().tolist() == [[True, 1], [False, 1]]
    assert [str(day) for day in known["labelled_on"]] == ["2026-03-01", "2026-03-03"]
    assert counts["rows"].sum() == 5
    assert tallies.labels_known(store, CLASSES, as_of=START + timedelta(days=9)) == 3
    assert tallies.labels_known(store, ["dog"], as_of=START + timedelta(days=9)) == 1
    assert tallies.doubts(store, since=START, until=START + timedelta(days=9)) == {"unknown photo": 1, "two labels": 1}
    assert tallies.doubts(store, since=START + timedelta(days=3), until=START + timedelta(days=9)) == {}


def test_nothing_asked_is_an_empty_tally(database_url: str) -> None:
    counts = counted(open_store(database_url))
    assert (len(counts), list(counts.columns)) == (0, [*tallies.GROUPS, "rows"])
