"""What every test may use: a home of its own, a recipe small enough to run in seconds, and a database of each kind.

A test that asks for `database_url`, or carries `@pytest.mark.usefixtures("database_url")`, runs once on SQLite and once
on PostgreSQL; its `settings` are then on that database.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from tests.postgres import NoPostgres, Server

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

SIZES = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 360, "height": 740}}
"""Windows that pages are looked at in."""
LONGEST = ("test_airflow", "test_loop", "test_kills")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files go first, so that no worker of `pytest -n 2 --dist loadfile` waits for one at the end."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Settings whose state is all the test's own."""
    asked = "database_url" in request.fixturenames
    database = {"database_url": request.getfixturevalue("database_url")} if asked else {}
    return load_settings(home=tmp_path / "var", actor="tester", threads=1, **database)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server of this session. Skips where there is none, unless CI or CLASSY_NEED_POSTGRES is set."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(Server())
        except NoPostgres as error:
            if os.environ.get("CI", "").lower() in ("1", "true") or os.environ.get("CLASSY_NEED_POSTGRES"):
                pytest.fail(str(error))
            pytest.skip(str(error))
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'deep' / 'classy.db'}"
        return
    server: Server = request.getfixturevalue("postgres")
    url = server.new_database()
    yield url
    server.drop(url)


@pytest.fixture(params=list(SIZES))
def context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """A window of its own, once on a desk and once on a phone."""
    found = browser.new_context(viewport=SIZES[request.param], has_touch=request.param == "phone")
    yield found
    found.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    found = context.new_page()
    found.set_default_timeout(15_000)
    return found


@pytest.fixture
def recipe() -> Recipe:
    """Digits, 100 a day, 16 pixels, two small candidates."""
    return Recipe.model_validate(TINY)
