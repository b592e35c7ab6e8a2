"""What every test may use: a home of its own, and a recipe small enough to run in seconds."""

from pathlib import Path

import pytest

from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings

TINY = {
    "name": "tiny",
    "source": {"kind": "digits", "records": 600, "senders": 20},
    "taxonomy": {"classes": list("0123456789")},
    "replay": {"start": "2026-03-01", "days": 6, "label_delay_days": [0.2, 0.9]},
    "image": {"size": 16, "fit": "stretch"},
    "snapshot": {"fresh_days": 1},
    "candidates": [
        {"name": "baseline", "kind": "sklearn"},
        {"name": "resnet", "kind": "resnet", "epochs": 2, "width": 8, "blocks": [1, 1]},
    ],
    "gates": {"min_rows": 10},
    "monitoring": {"min_rows": 20},
    "story": {"history_days": 3},
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose state is all in the test's own folder."""
    return load_settings(home=tmp_path / "var", actor="tester", threads=1)


@pytest.fixture
def recipe() -> Recipe:
    """Digits, 100 a day, 16 pixels, two small candidates."""
    return Recipe.model_validate(TINY)
