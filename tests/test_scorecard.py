"""The scorecard: made-up worlds of which the answer is known, through the command."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monitoring.days import end_of
from pipelines.cli import app
from pipelines.recipe import RECIPES, Recipe, load_recipe
from pipelines.scorecard.album import Album, make_album, open_album
from pipelines.scorecard.measure import figure, lines_of, recovery_gap, regained_vs_daily
from pipelines.scorecard.play import Day, Played, play
from pipelines.scorecard.running import candidate_of
from pipelines.scorecard.training import Trainer
from pipelines.scorecard.worlds import Change, make_world
from pipelines.settings import Settings, load_settings

DARK = ("darker", 0.6)
SUDDEN = Change(kind="sudden", name="darker 0.6", looks=(DARK,))
QUIET = Change(kind="quiet", name="nothing")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(home=tmp_path_factory.mktemp("home"), threads=1)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("digits")


@pytest.fixture(scope="module")
def album(home: Settings, recipe: Recipe) -> Album:
    folder = home.home / "album"
    folder.mkdir()
    make_album(home, recipe, [DARK], folder)
    return open_album(folder, [DARK])


@pytest.fixture(scope="module")
def sudden(recipe: Recipe, album: Album) -> Played:
    return play(make_world(recipe, album, SUDDEN, 3), SUDDEN, 3, candidate_of(recipe))


def test_a_sudden_change_is_seen_answered_and_won_back(sudden: Played) -> None:
    before = [day for day in sudden.days if day.since_change < 0]
    changed = [day for day in sudden.days if day.since_change >= 0]
    assert {day.verdict for day in before} == {"NO DRIFT"}
    assert {day.action for day in before} == {"KEEP"}
    assert changed[0].verdict == changed[1].verdict == "DRIFT"
    assert ("2026-03-12", "PROMOTE") in sudden.retrains
    assert changed[-1].ours > changed[-1].never + 0.15
    assert 0 < sudden.seconds < sudden.daily_seconds


def test_nobody_beats_the_oracle_and_before_the_change_all_are_one(sudden: Played) -> None:
    for day in sudden.days:
        if day.oracle is None:
            assert day.daily is None
            if day.since_change <= 0:
                assert day.ours == day.never
        else:
            assert day.oracle >= max(day.daily or 0.0, day.never, day.ours)


def test_a_quiet_world_trains_nothing(recipe: Recipe, album: Album) -> None:
    played = play(make_world(recipe, album, QUIET, 4), QUIET, 4, candidate_of(recipe))
    assert played.retrains == ()
    assert (played.seconds, played.daily_seconds) == (0.0, 0.0)
    assert {day.action for day in played.days} == {"KEEP"}


def test_a_window_is_of_as_many_days_as_the_recipe_says(recipe: Recipe, album: Album) -> None:
    """A day alone has too few photos here; two have enough."""
    world = make_world(recipe, album, QUIET, 4)
    most = int(world.photos["day"].value_counts().max())
    monitoring = recipe.monitoring.model_copy(update={"window_days": 2, "min_rows": most + 1})
    patient = recipe.model_copy(update={"monitoring": monitoring})
    played = play(make_world(patient, album, QUIET, 4), QUIET, 4, candidate_of(recipe))
    assert [day.verdict == "UNKNOWN" for day in played.days] == [True] + [False] * (len(played.days) - 1)


def test_a_world_is_dealt_by_its_seed_and_changes_on_its_day_alone(recipe: Recipe, album: Album) -> None:
    one, again, other = (make_world(recipe, album, SUDDEN, seed) for seed in (1, 1, 2))
    assert one.photos.equals(again.photos)
    assert not one.photos["image_id"].equals(other.photos["image_id"])
    late = (one.photos["captured_at"] >= end_of(one.days[one.changed_on - 1])).to_numpy()
    assert (one.photos["look"].to_numpy() == late).all()
    quiet = make_world(recipe, album, QUIET, 1)
    assert (quiet.stats[~late] == one.stats[~late]).all()
    assert quiet.stats[late, 0].mean() > 1.5 * one.stats[late, 0].mean()


def test_nothing_is_told_that_was_not_known(recipe: Recipe, album: Album) -> None:
    """A model of a day's end has only labels of before, and a held-out sender is nobody's teacher."""
    world = make_world(recipe, album, SUDDEN, 5)
    trainer = Trainer(world=world, candidate=candidate_of(recipe))
    as_of = end_of(world.days[world.first_live + 2])
    trainer.rows(end_of(world.days[world.first_live - 1]))
    assigned = trainer.rows(as_of)
    used = world.photos[assigned != ""]
    assert (used["labelled_at"] <= as_of).all()
    assert (used["captured_at"] < as_of).all()
    taught = set(world.photos.loc[assigned == "train", "source_id"])
    assert not taught & set(world.photos.loc[assigned.isin(["golden", "fresh", "val"]), "source_id"])
    # On the first day nobody is known; later on, most are.
    assert world.defaulted[trainer.of_day(0)].all()
    assert world.defaulted[trainer.of_day(8)].mean() < 0.1


def day(since: int, ours: float, never: float, daily: float | None, oracle: float | None) -> Day:
    return Day(date="2026-03-01", since_change=since, verdict="DRIFT" if since >= 0 else "NO DRIFT",
               action="WATCH", ours=ours, never=never, daily=daily, oracle=oracle)  # fmt: skip


def test_the_figures_are_what_they_say() -> None:
    days = (
        day(-1, 0.9, 0.9, None, None), day(0, 0.5, 0.5, None, None), day(1, 0.5, 0.5, 0.7, 0.7),
        day(2, 0.8, 0.5, 0.8, 0.8), day(3, 0.85, 0.5, 0.9, 0.9), day(4, 0.85, 0.5, 0.9, 0.95),
    )  # fmt: skip
    world = Played(recipe="r", kind="sudden", change="c", seed=0, days=days,
                   retrains=(("2026-03-02", "PROMOTE"),), seconds=2.0, daily_seconds=8.0)  # fmt: skip
    assert recovery_gap([world]) == pytest.approx((0.0 + 0.05 + 0.1) / 3)
    assert regained_vs_daily([world]) == pytest.approx((0.3 + 0.35 + 0.35) / (0.2 + 0.3 + 0.4 + 0.4))
    (line,) = lines_of([world])
    assert line.cost.value == pytest.approx(0.4)
    assert (line.detection_delay, line.detected_within_2.value, line.minutes_vs_daily.value) == (0, 1, 0.25)
    assert (line.alarms_per_100.value, line.false_retrains_per_100.value) == (0, 0)
    same = figure([world] * 5, recovery_gap)
    assert same.low == same.value == same.high
    assert figure([], recovery_gap).value is None


def test_the_command_gives_the_same_figures_for_the_same_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSY_HOME", str(tmp_path))
    small = tmp_path / "small.toml"
    digits = (RECIPES / "digits.toml").read_text()
    small.write_text(digits.replace('name = "digits"', 'name = "small"').replace("records = 3600", "records = 1800"))
    asked = ["scorecard", "--recipe", str(small), "--kinds", "quiet", "--worlds", "2", "--json"]
    told = [CliRunner().invoke(app, [*asked, "--processes", number], catch_exceptions=False) for number in ("1", "2")]
    lines = [json.loads(one.stdout) for one in told]
    assert lines[0] == lines[1]
    assert (lines[0][0]["kind"], lines[0][0]["worlds"]) == ("quiet", 2)
    rows = json.loads((tmp_path / "bench" / "scorecard.json").read_text())["rows"]
    assert [(row["name"], row["holds"]) for row in rows] == [("false_retrains_per_100_small", True)]
    assert (tmp_path / "bench" / "scorecard.png").read_bytes().startswith(b"\x89PNG")


def test_a_wrong_kind_names_those_that_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSY_HOME", str(tmp_path))
    told = CliRunner().invoke(app, ["scorecard", "--kinds", "suden"])
    assert told.exit_code == 2
    assert "suden" in told.output
    assert "label_shift" in told.output
