"""Docs: what the README and the manual name is there."""

import re
import subprocess
from pathlib import Path

import pytest
import typer

from pipelines.cli import app
from pipelines.recipe import ROOT
from pipelines.settings import Settings
from pipelines.steps import STEPS

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app)


def all_text() -> str:
    return "\n".join(page.read_text() for page in PAGES)


def classy_lines(page: Path) -> list[list[str]]:
    """Each `classy …` in backticks or at the start of a line of a code block, as words."""
    text = page.read_text()
    found = re.findall(r"`(classy [^`\n]+)`", text) + re.findall(r"^\$? ?(classy [^\n#]+)", text, re.MULTILINE)
    return [line.split() for line in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_docs_exists_with_its_options(page: Path) -> None:
    for words in classy_lines(page):
        command = COMMANDS
        names = words[1:]
        while hasattr(command, "commands") and names and not names[0].isupper():
            assert names[0] in command.commands, " ".join(words)
            command = command.commands[names.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in names if word.startswith("--")} <= known | {"--json"}, " ".join(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_in_the_docs_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)`", page.read_text())) <= targets


def test_every_step_and_every_command_is_in_the_manual() -> None:
    text = all_text()
    for name in [*STEPS, *COMMANDS.commands]:
        assert re.search(rf"`(classy )?{name}\b", text), f"{name} is in no page"


def test_every_setting_is_in_the_manual() -> None:
    text = all_text()
    missing = [f"CLASSY_{name.upper()}" for name in Settings.model_fields if f"CLASSY_{name.upper()}" not in text]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_path_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    known = {str(parent) for file in tracked for parent in [Path(file), *Path(file).parents]}
    rooms = r"(?:dags|pipelines|feature_repo|training|serving|monitoring|tests|benchmarks|docker|recipes|docs)"
    for path in re.findall(rf"`({rooms}/[\w./-]*)`", text):
        assert path.rstrip("/") in known, path
