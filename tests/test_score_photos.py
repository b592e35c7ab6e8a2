"""Photos that are no day's: the champion's answers whatever scores them, bad ones with their problem, once."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from monitoring.stores import open_store
from pipelines import files, score, score_photos
from pipelines.cli import app
from pipelines.commands.steps import senders_of
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.scoring import ANSWERS
from pipelines.settings import Settings, load_settings
from tests.champions import install_champion, prepare_days
from tests.conftest import TINY
from tests.worlds import World, make_world

BAD = {"cut.png": "truncated", "note.txt": "not_an_image", "gone.png": "missing"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Recipe, World]:
    """Three days, a champion fitted on two of them, and the third day's photos also as files."""
    home = tmp_path_factory.mktemp("home") / "var"
    settings = load_settings(home=home, actor="tester", threads=2)
    recipe = Recipe.model_validate(TINY)
    world = make_world(settings, recipe, days=3, per_day=70, senders=10)
    prepare_days(settings, recipe, world.clean_uris)
    before = score_photos.run(settings, recipe, photos=["x.jpg"], to=str(home / "none"), day=world.days[2])
    assert (before.scores_uri, before.answered) == (None, 0)
    assert before.reason.startswith("no champion yet")
    install_champion(settings, recipe, world.days[:2])
    folder = home.parent / "archive"
    folder.mkdir()
    for row in world.photos[world.photos["captured_at"].dt.date == world.days[2]].itertuples():
        (folder / f"{row.source_id}_{row.image_id}.png").write_bytes(row.image)
    return settings, recipe, world


def places(settings: Settings) -> list[str]:
    return [str(path) for path in sorted((settings.home.parent / "archive").iterdir())]


def answers(uri: str | None) -> pd.DataFrame:
    assert uri is not None
    return pd.read_parquet(Path(uri) / score_photos.ANSWERED)


def test_files_get_the_answers_of_the_day_they_were_taken(
    served: tuple[Settings, Recipe, World], tmp_path: Path
) -> None:
    settings, recipe, world = served
    photos = places(settings)
    scored = score_photos.run(settings, recipe, photos=photos, to=str(tmp_path / "out"), day=world.days[2])
    assert (scored.photos, scored.answered, scored.problems, scored.generation) == (70, 70, {}, 1)
    found = answers(scored.scores_uri)
    assert found["origin"].tolist() == photos
    by_day = score.run(settings, recipe, day=world.days[2])
    assert by_day.scores_uri is not None
    day = pd.read_parquet(Path(by_day.scores_uri) / score.PREDICTIONS).set_index("content_hash")
    wanted = day.loc[found["content_hash"]]
    assert found["label"].tolist() == wanted["label"].tolist()
    assert np.stack(found["probabilities"]) == pytest.approx(np.stack(wanted["probabilities"]), abs=1e-5)
    assert found["defaulted"].all(), "nobody said who sent them"


def test_a_known_sender_is_told_about(served: tuple[Settings, Recipe, World], tmp_path: Path) -> None:
    settings, recipe, world = served
    photos = places(settings)
    senders = senders_of(photos, "", "^(sender-[0-9]+)_")
    scored = score_photos.run(
        settings, recipe, photos=photos, to=str(tmp_path / "out"), day=world.days[2], senders=senders
    )
    found = answers(scored.scores_uri)
    assert found["source_id"].tolist() == senders
    assert not found["defaulted"].any()


def test_bad_photos_have_their_problem_and_do_not_fail_the_others(
    served: tuple[Settings, Recipe, World], tmp_path: Path
) -> None:
    settings, recipe, world = served
    good = Path(places(settings)[0]).read_bytes()
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "note.txt").write_text("not a photo")
    photos = [places(settings)[0], *(str(tmp_path / name) for name in BAD), places(settings)[1], places(settings)[1]]
    scored = score_photos.run(settings, recipe, photos=photos, to=str(tmp_path / "out"), day=world.days[2])
    assert (scored.photos, scored.answered, scored.problems) == (6, 3, dict.fromkeys(sorted(BAD.values()), 1))
    found = answers(scored.scores_uri)
    assert [text.split(":")[0] for text in found["problem"][1:4]] == list(BAD.values())
    assert found["label"].notna().tolist() == [True, False, False, False, True, True]
    assert found["image_id"].is_unique


def test_the_same_photos_are_scored_once_and_changed_ones_again(
    served: tuple[Settings, Recipe, World], tmp_path: Path
) -> None:
    settings, recipe, world = served
    folder = Path(shutil.copytree(settings.home.parent / "archive", tmp_path / "archive"))
    photos = [str(path) for path in sorted(folder.iterdir())][:10]
    to = tmp_path / "out"

    def run() -> score_photos.PhotosScored:
        return score_photos.run(settings, recipe, photos=photos, to=str(to), day=world.days[2])

    first = run()
    written = (to / files.MANIFEST).stat().st_mtime_ns
    assert run() == first
    assert (to / files.MANIFEST).stat().st_mtime_ns == written
    Path(photos[3]).write_bytes(b"changed")
    assert run().problems == {"not_an_image": 1}
    assert open_store(settings.database_url).current() is not None


def test_nothing_is_left_of_a_run_that_died(
    served: tuple[Settings, Recipe, World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, recipe, world = served

    def die(*_: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr("pipelines.scoring._as_table", die)
    with pytest.raises(RuntimeError, match="killed"):
        score_photos.run(settings, recipe, photos=places(settings), to=str(tmp_path / "out"), day=world.days[2])
    assert list(tmp_path.iterdir()) == []


def test_a_champion_of_other_images_is_refused(served: tuple[Settings, Recipe, World], tmp_path: Path) -> None:
    settings, _, world = served
    other = Recipe.model_validate({**TINY, "image": {"size": 24, "fit": "stretch"}})
    with pytest.raises(ClassyError, match="was trained on images"):
        score_photos.run(settings, other, photos=places(settings), to=str(tmp_path / "out"), day=world.days[2])
    with pytest.raises(ClassyError, match="senders: are 1, photos are 70"):
        score_photos.asked_of(places(settings), ["one"])


def test_the_command_takes_folders_and_says_what_was_answered(
    served: tuple[Settings, Recipe, World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, recipe, world = served
    (tmp_path / "tiny.toml").write_text("")
    monkeypatch.setattr("pipelines.commands.shared.door", lambda _: (settings, recipe))
    folder, to = str(settings.home.parent / "archive"), str(tmp_path / "out")
    given = ["score-photos", folder, "--to", to, "--day", str(world.days[2]), "--senders", "^(sender-[0-9]+)_"]
    done = CliRunner().invoke(app, [*given, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["answered"] == 70
    assert answers(to)["source_id"].str.startswith("sender-").all()
    wrong = CliRunner().invoke(app, [*given[:-1], "sender-[0-9]+"])
    assert wrong.exit_code == 2
    assert "0 groups" in wrong.output


def test_processes_give_the_same_rows_and_the_errors_of_one(
    served: tuple[Settings, Recipe, World], tmp_path: Path
) -> None:
    settings, recipe, world = served
    photos = [*places(settings), str(tmp_path / "gone.png")]
    asked = {"photos": photos, "day": world.days[2]}
    one = score_photos.run(settings, recipe, to=str(tmp_path / "one"), **asked)
    two = score_photos.run(settings, recipe, to=str(tmp_path / "two"), processes=2, **asked)
    assert (two.answered, two.problems) == (70, {"missing": 1})
    pd.testing.assert_frame_equal(answers(two.scores_uri), answers(one.scores_uri))
    other = Recipe.model_validate({**TINY, "image": {"size": 24, "fit": "stretch"}})
    with pytest.raises(ClassyError, match="was trained on images"):
        score_photos.run(settings, other, to=str(tmp_path / "none"), processes=2, **asked)


@pytest.mark.slow
def test_ray_data_on_two_workers_gives_the_same_rows(served: tuple[Settings, Recipe, World], tmp_path: Path) -> None:
    settings, recipe, world = served
    (tmp_path / "note.txt").write_text("not a photo")
    photos = [*places(settings), str(tmp_path / "note.txt"), *places(settings), *places(settings)[:30]]
    one = score_photos.run(settings, recipe, photos=photos, to=str(tmp_path / "one"), day=world.days[2])
    many = score_photos.run(settings, recipe, photos=photos, to=str(tmp_path / "many"), day=world.days[2], ray="local")
    assert (many.answered, many.problems) == (170, {"not_an_image": 1}) == (one.answered, one.problems)
    found, wanted = answers(many.scores_uri), answers(one.scores_uri)
    assert list(found.columns) == ANSWERS.names
    same = [name for name in ANSWERS.names if name not in ("probabilities", "confidence")]
    pd.testing.assert_frame_equal(found[same], wanted[same])
    there = wanted["problem"].isna()
    assert np.stack(found["probabilities"][there]) == pytest.approx(np.stack(wanted["probabilities"][there]), abs=1e-6)
