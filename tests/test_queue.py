"""The label queue: filled once a day, one photo in one person's hands, settled labels in the ground truth, and back."""

import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from sqlalchemy import select
from typer.testing import CliRunner

from monitoring import queued, votes
from monitoring.days import end_of
from monitoring.labelling import estimate
from monitoring.opinions import Opinion, agreement, settle
from monitoring.stores import Store, open_store
from monitoring.tables import ground_truth, label_queue
from monitoring.votes import LostClaim, Said
from pipelines import files, monitor, queue
from pipelines.cli import app
from pipelines.errors import ClassyError
from pipelines.models.queue import name_of
from pipelines.settings import Settings
from tests.labelled import DAY, NOON, Home, put, scored_home
from tests.test_prediction_log import row as answer

LATER = NOON + timedelta(minutes=30)


@pytest.fixture
def store(settings: Settings, database_url: str) -> Store:
    return open_store(settings.database_url)


def claim(store: Store, author: str, **given: Any) -> str | None:
    found = votes.claim(store, author, **{"now": NOON, "minutes": 10, **given})
    return None if found is None else found["image_id"]


def label(store: Store, author: str, image_id: str, what: str | None, at: Any = NOON) -> str:
    """Take a photo and say something of it."""
    passed = {row["image_id"] for row in queued.listed(store)} - {image_id}
    assert claim(store, author, passed=passed) == image_id
    return votes.say(store, Said(image_id=image_id, author=author, label=what, at=at)).state


def truth(store: Store) -> dict[str, tuple[str, str]]:
    rows = store.truth(as_of=NOON + timedelta(days=9)).to_dict("records")
    return {row["image_id"]: (row["label"], row["said_by"]) for row in rows}


# ------------------------------------------------------------------------------------------------ claims


def test_a_photo_is_in_one_persons_hands_and_comes_back_when_the_time_is_over(store: Store) -> None:
    put(store, 2)
    assert [claim(store, "ada"), claim(store, "ada"), claim(store, "bob"), claim(store, "cy")] == [
        "p0",
        "p0",
        "p1",
        None,
    ]
    assert claim(store, "cy", now=LATER) == "p0"
    with pytest.raises(LostClaim, match="not in ada's hands"):
        votes.say(store, Said(image_id="p0", author="ada", label="3", at=LATER))
    assert truth(store) == {}
    # Late, but nobody else has taken it: the word counts.
    votes.say(store, Said(image_id="p1", author="bob", label="3", at=LATER))
    assert truth(store) == {"p1": ("3", "bob")}


def test_a_photo_that_is_passed_is_let_go_and_comes_again(store: Store) -> None:
    put(store, 2)
    assert claim(store, "ada") == "p0"
    assert claim(store, "ada", passed=["p0"]) == "p1"
    assert claim(store, "bob") == "p0"
    assert claim(store, "ada", passed=["p0", "p1"]) is None
    assert claim(store, "ada") == "p1"


def test_many_people_at_once_never_have_the_same_photo(store: Store) -> None:
    put(store, 60, twice=range(0, 60, 4))

    def work(author: str) -> list[str]:
        mine = []
        shuffle = random.Random(author)
        while (image_id := claim(store, author)) is not None:
            if shuffle.random() < 0.1:
                votes.undo(store, author, now=NOON, minutes=10)
                continue
            try:
                votes.say(store, Said(image_id=image_id, author=author, label=str(shuffle.randrange(2)), at=NOON))
            except LostClaim:
                continue
            mine.append(image_id)
        return mine

    authors = [f"person-{number}" for number in range(6)]
    with ThreadPoolExecutor(len(authors)) as pool:
        list(pool.map(work, authors))
    rows = queued.listed(store)
    for row in rows:
        said = Counter(vote["author"] for vote in row["votes"])
        assert max(said.values(), default=0) <= 1, row["image_id"]
        outcome = settle([Opinion(**vote) for vote in row["votes"]], row["wanted"])
        assert row["state"] == outcome.state
        # Nobody is asked more than is needed: two, and a third where they differ.
        assert len(row["votes"]) <= (3 if row["wanted"] == 2 else 1)
    expected = {
        row["image_id"]: outcome.label
        for row in rows
        if (outcome := settle([Opinion(**vote) for vote in row["votes"]], row["wanted"])).label
    }
    assert {image_id: said for image_id, (said, _) in truth(store).items()} == expected
    assert len(expected) > 40


# ------------------------------------------------------------------------------------------------- words


def test_two_who_agree_make_the_truth_and_both_names_stand_there(store: Store) -> None:
    put(store, 1, twice=[0])
    assert label(store, "bob", "p0", "3") == "open"
    assert truth(store) == {}
    assert claim(store, "bob") is None, "nobody is asked twice"
    assert label(store, "ada", "p0", "3") == "labelled"
    assert truth(store) == {"p0": ("3", "ada, bob")}


def test_where_two_differ_a_third_decides_and_three_who_differ_decide_nothing(store: Store) -> None:
    put(store, 2, twice=[0, 1])
    for image_id, third, state in [("p0", "5", "labelled"), ("p1", "7", "undecided")]:
        assert label(store, "ada", image_id, "3") == "open"
        assert label(store, "bob", image_id, "5") == "disputed"
        assert image_id not in truth(store)
        assert label(store, "cy", image_id, third) == state
    assert truth(store) == {"p0": ("5", "bob, cy")}
    shown = queued.progress(store, "ada", now=NOON)
    assert shown.undecided == [{"image_id": "p1", "day": "2026-03-07", "said": {"ada": "3", "bob": "5", "cy": "7"}}]
    assert (shown.left, shown.mine) == (0, 2)
    assert claim(store, "dan") is None


def test_who_says_something_in_a_file_while_the_photo_is_in_their_hands_has_one_word(store: Store) -> None:
    put(store, 1)
    assert claim(store, "ada") == "p0"
    votes.take_in(store, [Said(image_id="p0", author="ada", label="3", at=NOON)], now=NOON)
    assert votes.say(store, Said(image_id="p0", author="ada", label="4", at=LATER)).state == "labelled"
    assert truth(store) == {"p0": ("4", "ada")}
    assert [vote["label"] for vote in queued.listed(store)[0]["votes"]] == ["4"]


def test_who_cannot_tell_is_not_asked_again_and_two_of_them_close_the_photo(store: Store) -> None:
    put(store, 1)
    assert label(store, "ada", "p0", None) == "open"
    assert claim(store, "ada") is None
    assert label(store, "bob", "p0", None) == "unclear"
    assert claim(store, "cy") is None
    assert truth(store) == {}


def test_undo_takes_ones_own_last_word_back_and_what_it_replaced_comes_again(store: Store) -> None:
    before = {"image_id": "p0", "label": "9", "labelled_at": NOON - timedelta(days=1), "said_by": "feed"}
    put(store, 3)
    assert claim(store, "ada") == "p0"
    store.upsert_truth([before])  # it came while ada was looking
    votes.say(store, Said(image_id="p0", author="ada", label="3", at=NOON))
    label(store, "bob", "p1", "5")
    label(store, "ada", "p2", "4")
    assert truth(store) == {"p0": ("3", "ada"), "p1": ("5", "bob"), "p2": ("4", "ada")}
    undo = {"now": NOON, "minutes": 10}
    assert votes.undo(store, "ada", **undo) == "p2"
    assert claim(store, "ada") == "p2", "it is in her hands again"
    assert votes.undo(store, "ada", **undo) == "p0"
    assert truth(store) == {"p0": ("9", "feed"), "p1": ("5", "bob")}
    assert votes.undo(store, "ada", **undo) is None
    assert truth(store)["p1"] == ("5", "bob")


def test_undo_leaves_alone_what_somebody_said_later(store: Store) -> None:
    put(store, 1)
    label(store, "ada", "p0", "3")
    store.upsert_truth([{"image_id": "p0", "label": "9", "labelled_at": LATER, "said_by": "feed"}])
    assert votes.undo(store, "ada", now=LATER, minutes=10) == "p0"
    assert truth(store) == {"p0": ("9", "feed")}


def test_one_of_three_taken_back_leaves_the_photo_disputed_and_no_truth(store: Store) -> None:
    put(store, 1, twice=[0])
    for author, said in [("ada", "3"), ("bob", "5"), ("cy", "5")]:
        label(store, author, "p0", said)
    assert truth(store) == {"p0": ("5", "bob, cy")}
    votes.undo(store, "bob", now=NOON, minutes=10)
    assert truth(store) == {}
    assert queued.listed(store)[0]["state"] == "disputed"


def test_an_older_word_than_the_known_truth_does_not_replace_it(store: Store) -> None:
    put(store, 2)
    for image_id, said in [("p0", "9"), ("p1", "3")]:
        assert claim(store, "ada", passed=[] if image_id == "p0" else ["p0"]) == image_id
        store.upsert_truth([{"image_id": image_id, "label": said, "labelled_at": LATER, "said_by": "feed"}])
        votes.say(store, Said(image_id=image_id, author="ada", label="3", at=NOON))
    assert truth(store) == {"p0": ("9", "feed"), "p1": ("3", "feed")}


def test_a_label_from_elsewhere_closes_the_question(store: Store) -> None:
    put(store, 2)
    store.upsert_truth([{"image_id": "p0", "label": "9", "labelled_at": NOON, "said_by": "feed"}])
    assert claim(store, "ada") == "p1"
    assert queued.progress(store, "ada", now=NOON).days[0]["elsewhere"] == 1


def test_labels_of_picked_photos_are_known_for_what_they_are(store: Store) -> None:
    put(store, 4)
    for image_id in ("p0", "p1", "p2"):
        label(store, "ada", image_id, "3")
    store.upsert_truth([{"image_id": "p2", "label": "9", "labelled_at": LATER, "said_by": "feed"}])
    picked = select(label_queue.c.image_id).join(ground_truth, queued.for_a_reason())
    with store.reading() as connection:
        found = set(connection.execute(picked).scalars())
    assert found == {"p0"}, "p1 was drawn, p2 came from elsewhere, p3 has no label"
    rows, photos = queued.answered(store, DAY)
    assert photos == 200
    assert sorted(row.correct for row in rows if row.correct is not None) == [False, False, False]
    assert estimate(rows, photos).value == 0.0


# --------------------------------------------------------------------------------------------- agreement


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=60))
@budget(max_examples=60, deadline=None)
def test_agreement_is_cohens(words: list[tuple[str, str]]) -> None:
    counts = [("ada", "bob", ours, theirs, count) for (ours, theirs), count in Counter(words).items()]
    (pair,) = agreement(counts)
    assert pair.photos == len(words)
    assert pair.share == pytest.approx(sum(ours == theirs for ours, theirs in words) / len(words))
    if pair.kappa is None:
        assert len({word for both in words for word in both}) == 1
    else:
        assert pair.kappa == pytest.approx(cohen_kappa_score(*zip(*words, strict=True)))


def test_agreement_counts_photos_that_two_people_labelled_and_nothing_taken_back(store: Store) -> None:
    put(store, 4, twice=range(4))
    said = {"p0": ("1", "1"), "p1": ("2", "2"), "p2": ("1", "2"), "p3": ("2", None)}
    for image_id, (ours, theirs) in said.items():
        label(store, "ada", image_id, ours)
        label(store, "bob", image_id, theirs)
    (pair,) = queued.progress(store, "ada", now=NOON).pairs
    assert (pair.one, pair.other, pair.photos, pair.same) == ("ada", "bob", 3, 2)
    assert pair.kappa == pytest.approx(cohen_kappa_score(list("121"), list("122")))
    for _ in range(2):  # p3 and p2
        votes.undo(store, "bob", now=NOON, minutes=10)
    assert queued.progress(store, "ada", now=NOON).pairs[0].share == 1.0


# -------------------------------------------------------------------------------------------------- step


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return scored_home(tmp_path_factory.mktemp("queue"))


def test_a_day_is_queued_once_with_its_photos_and_twice_changes_nothing(home: Home) -> None:
    first = home.queue()
    assert first.queued == first.new > 15
    assert first.photos == len(home.label_of)
    assert set(first.by_reason) == {"random", "drifted", "uncertain"}
    rows = queued.listed(home.store, home.day)
    assert len(rows) == first.queued
    assert {row["image_id"] for row in rows} <= set(home.label_of)
    for row in rows:
        photo = Path(first.queue_uri or "") / name_of(row["image_id"])
        assert photo.read_bytes().startswith(b"\x89PNG")
    before = files.read_manifest(first.queue_uri or "")
    image_id = rows[0]["image_id"]
    label(home.store, "ada", image_id, home.label_of[image_id])
    again = home.queue(per_day=5, seed=99)
    assert (again.queued, again.new) == (first.queued, 0)
    assert files.read_manifest(first.queue_uri or "") == before
    assert queued.listed(home.store, home.day)[0]["state"] == "labelled"


def test_accuracy_is_measured_on_labels_that_were_not_picked(home: Home) -> None:
    home.queue()
    rows = queued.listed(home.store, home.day)
    for row in rows:
        if row["state"] == "open":
            word = Said(image_id=row["image_id"], author="ada", label=row["predicted"], at=end_of(home.day))
            votes.take_in(home.store, [word, *([replace(word, author="bob")] * (row["wanted"] - 1))], now=NOON)
    drawn = [row for row in rows if row["reason"] == "random"]
    # The label that the test above gave at noon of another day is known then.
    known = home.store.truth(as_of=end_of(home.day))["image_id"]
    found = monitor.run(home.settings, home.recipe, day=home.day)
    assert found.accuracy == 1.0
    assert found.accuracy_rows == sum(row["image_id"] in set(known) for row in drawn)
    evidence = json.loads(Path(found.evidence_uri).read_text())
    assert evidence["labels_known"] == len(known), "to learn from, all of them count"


def test_what_a_shadow_answers_otherwise_is_asked_about(tmp_path: Path) -> None:
    small = scored_home(tmp_path, per_day=30)
    ids = sorted(small.label_of)
    at = {"captured_at": end_of(small.day) - timedelta(hours=5), "arm": "shadow"}
    small.store.add_predictions(
        [answer(number, image_id=image_id, label="nobody", **at) for number, image_id in enumerate(ids[:3])]
    )
    small.queue(random_share=0.0, per_day=9, per_sender=20)
    reasons = {row["image_id"]: row["reason"] for row in queued.listed(small.store)}
    assert {image_id for image_id, reason in reasons.items() if reason == "disagreed"} == set(ids[:3])


def test_a_step_that_was_killed_before_its_table_was_filled_is_finished(home: Home) -> None:
    first = home.queue()
    with home.store.writing() as connection:
        connection.execute(label_queue.delete().where(label_queue.c.place >= 5))
    again = home.queue()
    assert (again.queued, again.new) == (first.queued, first.queued - 5)


def test_a_replayed_source_queues_nothing_unless_asked_and_says_why(home: Home) -> None:
    found = home.queue(replayed=False)
    assert (found.queued, found.queue_uri) == (0, None)
    assert "labelling.replayed" in found.reason
    assert "per_day is 0" in home.queue(per_day=0).reason


def test_a_day_that_was_not_scored_says_what_to_do(home: Home) -> None:
    found = queue.run(home.settings, home.recipe, day=home.day + timedelta(days=5))
    assert "classy score --day 2026-03-08" in found.reason


def test_labelled_photos_are_not_asked_about_and_gone_ones_are_named(tmp_path: Path) -> None:
    small = scored_home(tmp_path, per_day=30)
    known = sorted(small.label_of)[:25]
    small.store.upsert_truth([{"image_id": one, "label": "3", "labelled_at": NOON, "said_by": "feed"} for one in known])
    raw = Path(files.join(small.settings.data_root, "raw", f"date={small.day}"))
    raw.rename(raw.with_name("elsewhere"))
    with pytest.raises(ClassyError, match="raw/date=2026-03-03"):
        small.queue()
    assert queued.listed(small.store) == []
    raw.with_name("elsewhere").rename(raw)
    found = small.queue()
    assert found.photos == 5
    assert {row["image_id"] for row in queued.listed(small.store)}.isdisjoint(known)


def test_the_command_tells_its_receipt(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSY_HOME", str(home.settings.home))
    result = CliRunner().invoke(app, ["queue", "--day", str(home.day), "--recipe", "digits", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert (told["queued"], "replayed" in told["reason"]) == (0, True)
