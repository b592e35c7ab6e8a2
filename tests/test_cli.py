"""Code: the command line teaches, names what is wrong, and imports nothing it does not need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.steps import STEPS


def classy(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CLASSY_HOME": str(home), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *arguments], capture_output=True, text=True, env=env, timeout=120
    )


def test_every_step_is_a_command_that_explains_itself() -> None:
    for step in STEPS:
        result = CliRunner().invoke(app, [step, "--help"])
        assert result.exit_code == 0
        assert "--json" in result.output, step


def test_a_wrong_recipe_is_one_message_and_no_traceback(tmp_path: Path) -> None:
    done = classy("gather", "--day", "2026-03-01", "--recipe", "clothng", home=tmp_path)
    assert done.returncode == 1
    assert "clothng.toml: no such file. Recipes here: clothing, clothing-month, digits" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_date_names_the_option_and_the_form(tmp_path: Path) -> None:
    done = classy("gather", "--day", "1st of March", home=tmp_path)
    assert done.returncode == 2
    assert "--day" in done.stderr
    assert "2026-03-01" in done.stderr


def test_a_checked_recipe_as_json(tmp_path: Path) -> None:
    done = classy("recipe", "check", "digits", "--json", home=tmp_path)
    assert json.loads(done.stdout)["ok"] is True
    assert list(tmp_path.iterdir()) == [], "looking at a recipe writes nothing"


@pytest.mark.parametrize("arguments", [["--help"], ["recipe", "check", "digits"]])
def test_looking_does_not_import_torch(arguments: list[str], tmp_path: Path) -> None:
    probe = f"import sys; sys.argv = ['classy', *{arguments!r}]\n"
    probe += "from pipelines import cli\ntry: cli.main()\nexcept SystemExit: pass\n"
    probe += "heavy = {'torch', 'mlflow', 'feast', 'evidently', 'pandas', 'optuna'} & set(sys.modules)\n"
    probe += "assert not heavy, heavy"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, env={**os.environ, "CLASSY_HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
