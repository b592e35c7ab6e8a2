"""Model behaviour: the story without Airflow closes, twice the same, and leaves what people read afterwards."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from monitoring.days import end_of
from monitoring.stores import open_store
from pipelines import explain, files
from pipelines.errors import ClassyError
from pipelines.loop import story_days
from pipelines.models import tracking
from pipelines.models.judgement import of_decision
from pipelines.recipe import Recipe, load_recipe
from pipelines.settings import Settings, load_settings
from pipelines.stage.story import MARK, fresh_home, play_locally
from pipelines.stage.summary import Summary
from pipelines.status import history, status

RECIPE = Path(__file__).parent / "recipes" / "airflow.toml"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Summary, list[str]]:
    home = tmp_path_factory.mktemp("loop") / "var"
    settings = load_settings(home=home, recipe=str(RECIPE), actor="tester")
    lines: list[str] = []
    summary = play_locally(settings, load_recipe(str(RECIPE)), lines.append)
    return load_settings(home=home / "loop", recipe=str(RECIPE)), summary, lines


def test_the_loop_closes(told: tuple[Settings, Summary, list[str]]) -> None:
    _, summary, lines = told
    assert summary.missing == []
    assert (summary.closed, summary.false_retrains) == (True, 0)
    assert summary.drift_from <= summary.detected_on <= summary.retrained_on < summary.recovered_on
    assert summary.accuracy_drifted < summary.accuracy_after
    assert summary.accuracy_drifted < summary.accuracy_before
    assert [day.champion for day in summary.days if day.champion][-1] == "2"
    assert any(line.startswith("judge: PROMOTE") for line in lines)


def test_what_a_search_chose_was_trained(told: tuple[Settings, Summary, list[str]]) -> None:
    settings, _, _ = told
    run_id = open_store(settings.database_url).current()["champion_run_id"]
    assert json.loads(tracking.connect(settings).get_run(run_id).data.params["chosen"]) == {"lr": 5e-3}


def test_two_runs_give_the_same_days(told: tuple[Settings, Summary, list[str]], tmp_path: Path) -> None:
    _, first, _ = told
    settings = load_settings(home=tmp_path / "var", recipe=str(RECIPE), actor="tester")
    second = play_locally(settings, load_recipe(str(RECIPE)), lambda _: None)
    assert second.days == first.days


def test_the_summary_and_its_picture_are_on_disk(told: tuple[Settings, Summary, list[str]]) -> None:
    settings, summary, _ = told
    assert json.loads((settings.home / "summary.json").read_text()) == summary.as_json()
    assert (settings.home / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_status_and_history_tell_what_served_and_why(told: tuple[Settings, Summary, list[str]]) -> None:
    settings, summary, _ = told
    now = status(settings)
    assert (now["generation"], now["version"], now["verdict"]) == (2, "2", "PROMOTE")
    changed = load_recipe(str(RECIPE)).drift_from
    assert [row["generation"] for row in history(settings, at=end_of(changed))] == [1]
    assert [row["generation"] for row in history(settings)] == [1, 2]
    assert str(summary.retrained_on) in now["run_key"]


def photos_of(settings: Settings, snapshot_id: str, splits: set[str]) -> pd.DataFrame:
    """Rows of a snapshot with the SHA-256 of each photo's bytes, as they were gathered."""
    rows = pd.read_parquet(Path(settings.data_root, "snapshots", snapshot_id, "rows.parquet"))
    index = pd.concat([pd.read_parquet(f"{uri}/index.parquet")[["image_id", "sha256"]] for uri in set(rows.shard_uri)])
    return rows[rows["split"].isin(splits)].merge(index, on="image_id", validate="one_to_one")


def test_neither_model_was_trained_on_a_row_that_judged_it(told: tuple[Settings, Summary, list[str]]) -> None:
    settings, _, _ = told
    judgements = [of_decision(row) for row in open_store(settings.database_url).decisions("judge")]
    assert {found["opponent"]["kind"] for found in judgements} == {"baseline", "champion"}
    for found in judgements:
        judged = photos_of(settings, found["snapshot"]["id"], {"golden", "fresh"})
        assert len(judged) == found["comparisons"]["pooled"]["rows"]
        for side in ("contender", "opponent"):
            trained = photos_of(settings, found[side]["trained_on"], {"train", "val"})
            assert len(trained)
            for column in ("sha256", "image_id", "group_id", "source_id"):
                assert not set(trained[column]) & set(judged[column]), (found["run_key"], side, column)


def test_the_champion_can_be_explained_down_to_its_raw_photos(told: tuple[Settings, Summary, list[str]]) -> None:
    settings, _, _ = told
    for generation in (1, 2):
        assert files.read_manifest(f"{settings.data_root}/lineage/generation={generation}"), "kept when it was made"
    chain = explain.run(settings, load_recipe(str(RECIPE)), generation=2)
    states = [found["state"] for found in _links(chain)]
    assert set(states) == {"there"}
    assert len(states) > 10


def _links(found: Any) -> Iterator[dict[str, Any]]:
    """Every part of a chain that says whether it is there."""
    if isinstance(found, dict):
        if "state" in found:
            yield found
        for part in found.values():
            yield from _links(part)
    elif isinstance(found, list):
        for part in found:
            yield from _links(part)


def test_after_a_drift_the_rows_since_it_began_decide(told: tuple[Settings, Summary, list[str]]) -> None:
    settings, summary, _ = told
    first, second = [of_decision(row) for row in open_store(settings.database_url).decisions("judge")]
    assert (first["snapshot"]["drift_from"], first["comparisons"]["drifted"]) == (None, None)
    assert second["snapshot"]["drift_from"] == str(summary.drift_from)
    drifted = second["comparisons"]["drifted"]
    assert 0 < drifted["rows"] <= second["comparisons"]["fresh"]["rows"]
    assert any(finding["gate"] == "better" and "drift" in finding["sentence"] for finding in second["findings"])
    assert (first["golden"]["uses"], second["golden"]["uses"]) == (1, 2)
    assert first["golden"]["hash"] == second["golden"]["hash"]


def test_a_folder_that_the_story_did_not_make_is_left_alone(settings: Settings, recipe: Recipe) -> None:
    precious = settings.home / "loop" / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    with pytest.raises(ClassyError, match=r"was not made by `classy run`; move it away"):
        fresh_home(settings, recipe)
    assert precious.read_text() == "mine"


def test_its_own_folder_is_made_anew(settings: Settings, recipe: Recipe) -> None:
    home = fresh_home(settings, recipe).home
    (home / "old").touch()
    assert [path.name for path in fresh_home(settings, recipe).home.iterdir()] == [MARK]


def test_the_days_of_the_story(recipe: Recipe) -> None:
    days = story_days(recipe)
    assert (str(days[0]), str(days[-1]), len(days)) == ("2026-03-01", "2026-03-06", 6)


@pytest.mark.parametrize(("at", "times"), [("starting MLflow", 1), ("ready after", 200)])
def test_an_interrupted_run_says_so_and_leaves_no_process(tmp_path: Path, at: str, times: int) -> None:
    """Also where it is told again and again while it ends: by an impatient hand, or by make, uv and `timeout` each."""
    env = {**os.environ, "CLASSY_HOME": str(tmp_path), "CLASSY_RECIPE": str(RECIPE)}
    child = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "run"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any(at in line for line in child.stdout or ())
    started = psutil.Process(child.pid).children(recursive=True)
    for number in [signal.SIGINT, *[signal.SIGTERM] * (times - 1)]:
        child.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.1)
            break
    _, errors = child.communicate(timeout=120)
    assert child.returncode != 0
    assert "Traceback" not in errors
    mine = str(tmp_path / "loop")
    environments = [process.info["environ"] or {} for process in psutil.process_iter(["environ"])]
    left = [environment for environment in environments if environment.get("CLASSY_HOME") == mine]
    assert left == []
    assert not [one for one in started if one.is_running()]  # Airflow's hide their environment


def test_the_evidence_of_a_generation_can_be_read_back(told: tuple[Settings, Summary, list[str]]) -> None:
    from monitoring.stores import open_store

    settings, _, _ = told
    current = open_store(settings.database_url).current()
    assert of_decision(current)["verdict"] == "PROMOTE"
