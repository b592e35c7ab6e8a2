"""Code: where Classy runs, and what it says about a wrong value."""

from pathlib import Path

import pytest

from pipelines.errors import ClassyError
from pipelines.settings import load_settings


def test_everything_lives_under_home_unless_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSY_HOME", str(tmp_path / "here"))
    monkeypatch.setenv("CLASSY_DATA_ROOT", "s3://bucket/classy")
    settings = load_settings()
    assert settings.data_root == "s3://bucket/classy"
    assert settings.database_url == f"sqlite:///{tmp_path}/here/classy.db"
    assert settings.mlflow_uri.startswith(f"sqlite:///{tmp_path}/here/")


def test_a_wrong_value_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSY_DEVICE", "gpu")
    with pytest.raises(ClassyError, match=r"CLASSY_DEVICE='gpu'.*'auto', 'cpu' or 'cuda'"):
        load_settings()
