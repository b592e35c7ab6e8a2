"""Monitoring a day: what goes into the window, what is written down, and what a person finds."""

import hashlib
import io
import json
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from monitoring.stores import open_store
from pipelines import files, monitor, score
from pipelines.models import tracking
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from tests.champions import install_champion, prepare_days
from tests.conftest import TINY
from tests.worlds import World, end_of, make_photos, write_world

DAYS, PER_DAY, CHANGED = 8, 60, 5
"""Days 0 to 2 are history, 3 and 4 ordinary, from 5 on the world is another."""


def change(photos: pd.DataFrame) -> pd.DataFrame:
    """From day CHANGED on, the photos are negatives: the block is dark on bright."""
    late = photos["captured_at"] >= photos["captured_at"].min().normalize() + timedelta(days=CHANGED)
    photos.loc[late, "image"] = photos.loc[late, "image"].map(negative)
    photos.loc[late, "sha256"] = photos.loc[late, "image"].map(lambda data: hashlib.sha256(data).hexdigest())
    return photos


def negative(png: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(255 - np.asarray(Image.open(io.BytesIO(png)))).save(buffer, "PNG")
    return buffer.getvalue()


class Home:
    """A home with a champion, scored day by day."""

    def __init__(self, root: Path) -> None:
        self.settings: Settings = load_settings(home=root / "var", actor="tester", threads=1)
        self.recipe = Recipe.model_validate({**TINY, "monitoring": {"min_rows": 20, "truth_days": 2}})
        photos = change(make_photos(self.recipe, days=DAYS, per_day=PER_DAY, senders=25, delay=(0.2, 1.5)))
        self.world: World = write_world(self.settings, self.recipe, photos)
        prepare_days(self.settings, self.recipe, self.world.clean_uris)
        self.run_id = install_champion(self.settings, self.recipe, self.world.days[:3])
        self.store = open_store(self.settings.database_url)
        for day in self.world.days[3:]:
            score.run(self.settings, self.recipe, day=day)

    def monitor(self, offset: int) -> monitor.Monitored:
        return monitor.run(self.settings, self.recipe, day=self.world.days[offset])

    def evidence(self, offset: int) -> dict:
        return json.loads(Path(self.monitor(offset).evidence_uri).read_text())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    for offset in range(3, DAYS):
        home.monitor(offset)
    return home


def test_ordinary_days_are_quiet_and_a_changed_world_is_drift(home: Home) -> None:
    assert [home.monitor(i).verdict for i in range(3, DAYS)] == ["NO DRIFT", "NO DRIFT", "DRIFT", "DRIFT", "DRIFT"]
    changed = home.monitor(CHANGED)
    assert changed.columns["brightness"]["verdict"] == "DRIFT"
    assert changed.columns["brightness"]["effect"] > changed.columns["brightness"]["limit"]
    assert any(reason.startswith("brightness:") for reason in changed.reasons)


def test_accuracy_is_of_labels_that_had_arrived(home: Home) -> None:
    day = home.world.days[4]
    photos = home.world.photos
    since, until = end_of(day) - timedelta(days=2), end_of(day)
    lately = photos[(photos["captured_at"] >= since) & (photos["captured_at"] < until)]
    found = home.monitor(4)
    assert found.accuracy_rows == (lately["labelled_at"] <= until).sum()
    assert 0 < found.accuracy_rows < len(lately)
    assert found.accuracy is not None
    assert found.accuracy > 0.9
    assert found.reference_accuracy is not None
    assert found.reference_accuracy > 0.9
    assert home.evidence(4)["lately"]["performance"]["photos"] == len(lately)


def test_loss_is_measured_since_the_drift_began(home: Home) -> None:
    evidence = home.evidence(CHANGED + 1)
    assert evidence["drift_since"] == str(home.world.days[CHANGED])
    since = evidence["since_drift"]
    assert since["loss"]["significant"]
    assert since["loss"]["loss"] > 0.3
    photos = home.world.photos
    fresh = photos["captured_at"].dt.date >= home.world.days[CHANGED]
    fresh &= photos["labelled_at"] <= end_of(home.world.days[CHANGED + 1])
    assert evidence["fresh_labels"] == since["performance"]["accuracy"]["rows"] == fresh.sum() > 0
    assert home.evidence(4)["drift_since"] is None
    assert home.evidence(4)["since_drift"] is None


def test_a_drift_is_measured_against_the_champions_own_days_before_it(home: Home) -> None:
    """Not against its reference, which has no photo by a sender that it was trained on."""
    evidence, photos = home.evidence(CHANGED + 1), home.world.photos
    live = photos["captured_at"].dt.date.isin(home.world.days[3:CHANGED])
    live &= photos["labelled_at"] <= end_of(home.world.days[CHANGED + 1])
    before = evidence["accuracy_before"]
    assert before["rows"] == live.sum() != evidence["reference_accuracy"]["rows"]
    since = evidence["since_drift"]["performance"]["accuracy"]
    assert evidence["since_drift"]["loss"]["loss"] == pytest.approx(before["value"] - since["value"], abs=0.05)
    quiet = home.evidence(4)
    assert quiet["accuracy_before"] == quiet["reference_accuracy"], "nothing began"


def test_evidence_is_strict_json_and_names_the_champion(home: Home) -> None:
    text = Path(home.monitor(4).evidence_uri).read_text()
    evidence = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert evidence["champion"] == {
        "version": "1", "generation": 1, "run_id": home.run_id, "as_of": end_of(home.world.days[2]).isoformat(),
    }  # fmt: skip
    assert evidence["drift"]["window_rows"] == PER_DAY
    assert json.loads(json.dumps(asdict(home.monitor(4)))) == asdict(home.monitor(4))


def test_page_and_numbers_are_on_the_champions_run(home: Home) -> None:
    client = tracking.connect(home.settings)
    day = home.world.days[CHANGED]
    listed = {item.path for item in client.list_artifacts(home.run_id, f"monitor/date={day}")}
    assert listed == {f"monitor/date={day}/report.html", f"monitor/date={day}/evidence.json"}
    history = client.get_metric_history(home.run_id, "monitor_drift")
    assert {metric.step: metric.value for metric in history} == {
        home.world.days[i].toordinal(): float(i >= CHANGED) for i in range(3, DAYS)
    }
    assert len(client.get_metric_history(home.run_id, "monitor_accuracy")) == DAYS - 3
    page = Path(home.monitor(CHANGED).report_uri).read_text()
    assert f"tiny, {day} <span" in page
    assert "Accuracy before" in page
    assert "Accuracy since then" in page


def test_a_second_run_changes_nothing(home: Home) -> None:
    first = home.monitor(4)
    report = Path(first.report_uri)
    written = report.stat().st_mtime_ns
    client = tracking.connect(home.settings)
    points = len(client.get_metric_history(home.run_id, "monitor_rows"))
    assert home.monitor(4) == first
    assert report.stat().st_mtime_ns == written
    assert len(client.get_metric_history(home.run_id, "monitor_rows")) == points


def test_late_truth_of_a_day_is_taken_in(home: Home) -> None:
    """Evidence is what the tables said at the day's end; a label that says it was known then counts."""
    day = home.world.days[3]
    before = home.monitor(3)
    photos = home.world.photos
    unknown = photos[(photos["captured_at"].dt.date == day) & (photos["labelled_at"] > end_of(day))].iloc[0]
    row = {"image_id": unknown["image_id"], "label": unknown["label"], "said_by": "late"}
    home.store.upsert_truth([{**row, "labelled_at": end_of(day)}])
    assert home.monitor(3).accuracy_rows == before.accuracy_rows + 1
    home.store.upsert_truth([{**row, "labelled_at": unknown["labelled_at"].to_pydatetime()}])
    assert home.monitor(3) == before


def test_a_day_without_scores_is_unknown(home: Home) -> None:
    found = monitor.run(home.settings, home.recipe, day=home.world.days[-1] + timedelta(days=3))
    assert found.verdict == "UNKNOWN"
    assert found.reasons == ["the window has 0 rows, fewer than min_rows=20"]
    assert (found.accuracy, found.accuracy_rows) == (None, 0)
    assert "UNKNOWN" in Path(found.report_uri).read_text()


def test_without_a_champion_nothing_is_known(settings: Settings, recipe: Recipe, home: Home) -> None:
    found = monitor.run(settings, recipe, day=home.world.days[4])
    assert (found.verdict, found.reasons, found.run_url) == ("UNKNOWN", ["there is no champion yet"], None)


def test_after_a_promotion_only_the_new_champions_photos_count(tmp_path: Path) -> None:
    home = Home(tmp_path)
    before = [home.monitor(i) for i in (4, 5)]
    install_champion(home.settings, home.recipe, home.world.days[5:7], generation=2)
    assert [home.monitor(i) for i in (4, 5)] == before, "days of the old champion are history"
    unseen = home.monitor(6)
    assert unseen.verdict == "UNKNOWN"
    assert unseen.accuracy_rows == 0
    # Day 7 was scored by the old champion; without those scores the new one answers.
    old = Path(files.join(home.settings.data_root, "scores", f"date={home.world.days[7]}"))
    old.rename(tmp_path / "aside")
    score.run(home.settings, home.recipe, day=home.world.days[7])
    fresh = home.monitor(7)
    assert fresh.verdict == "NO DRIFT", "the changed world is the new champion's own"
    assert fresh.accuracy is not None
    assert fresh.accuracy > 0.9
    photos = home.world.photos
    known = (photos["captured_at"].dt.date == home.world.days[7]) & (
        photos["labelled_at"] <= end_of(home.world.days[7])
    )
    assert fresh.accuracy_rows == known.sum(), "no photo that it was trained on, and none of the old champion's"
