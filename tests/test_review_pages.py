"""The review where it is read: on a real MLflow's page and in a file, in a real browser."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from playwright.sync_api import Browser, Page

from pipelines.models import judgement, registry, tracking
from pipelines.models.links import monitor_url
from pipelines.review import report as review
from pipelines.settings import Settings, load_settings
from tests.browser import Watch, browser, sideways, widths_of_pictures
from tests.evidences import NASTY, Judged, judged, on_server, write
from tests.servers import mlflow_server

__all__ = ["browser"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, str, Path]]:
    """A real MLflow server with a version whose page is ours: settings, its address, the report's file."""
    home = tmp_path_factory.mktemp("review")
    with mlflow_server(load_settings(home=home, actor="tester")) as uri:
        settings = on_server(home, uri)
        client = tracking.connect(settings)
        run_id = client.create_run(tracking.experiment_id(client), run_name="resnet").info.run_id
        one = judged(
            classes=NASTY, golden=1200, fresh=500, size=32, sender_prefix="<b>sender", run_id=run_id,
            run_url=tracking.run_url(settings, run_id), gates={"approval": True},
        )  # fmt: skip
        folder = home / "judge"
        folder.mkdir()
        report = write(folder, one)
        (folder / judgement.FILE).write_text(json.dumps(one.evidence))
        client.log_artifacts(run_id, str(folder), "judge")
        version = publish(client, settings, run_id, one)
        copy = home / "elsewhere.html"
        shutil.copyfile(report, copy)
        yield settings, f"{uri}/#/models/{settings.model_name}/versions/{version}", copy


def publish(client: MlflowClient, settings: Settings, run_id: str, one: Judged) -> str:
    client.create_registered_model(settings.model_name)
    made = client.create_model_version(settings.model_name, f"runs:/{run_id}/judge", run_id=run_id)
    registry.describe(client, settings, made.version, review.markdown(one.evidence, settings), {})
    return str(made.version)


def ours(watch: Watch) -> list[str]:
    """Complaints about what we put on the page, and none of MLflow's own."""
    return [text for text in watch.complaints if "ajax-api" not in text and "path=MLmodel" not in text]


def described(page: Page) -> str:
    page.wait_for_selector("text=Where it comes from", timeout=60_000)
    return page.inner_text("body")


def test_a_reviewer_sees_verdict_table_and_pictures_on_mlflows_page(
    browser: Browser, published: tuple[Settings, str, Path]
) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    watch = Watch(page)
    page.goto(published[1])
    words = described(page)
    assert "PROMOTE: version 7 (resnet) is good enough to replace version 3" in words
    table = page.locator("table:has-text('calibration error')")
    assert table.locator("tr").count() == 1 + 4 * 4
    pictures = "img[src*='get-artifact']"
    assert page.locator(pictures).count() == 4
    assert min(widths_of_pictures(page, pictures)) > 500
    named = [name for name in NASTY if f"class {' '.join(name.split())[:20]}" in words]
    assert len(named) >= 3, "names are shown as they are"
    links = page.eval_on_selector_all("[class*=note-] a", "links => links.map(link => link.getAttribute('href'))")
    known = monitor_url(published[0])
    assert known in links
    assert all("artifact" in link or "/runs/" in link or link == known for link in links), "no name became a link"
    assert ours(watch) == []
    page.close()


def test_the_page_leads_to_the_report_which_the_server_shows(
    browser: Browser, published: tuple[Settings, str, Path]
) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(published[1])
    described(page)
    with page.expect_popup() as opened:
        page.click("text=The whole report")
    report = opened.value
    frame = report.frame_locator("iframe")
    frame.locator("h1").wait_for(timeout=60_000)
    assert "good enough to replace version 3" in frame.locator("h1").inner_text()
    assert frame.locator(".photos img").count() == 20
    report.close()
    page.close()


@pytest.mark.parametrize("width", [320, 375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_read_from_a_file_on_a_phone_and_at_a_desk(
    width: int, scheme: Any, browser: Browser, published: tuple[Settings, str, Path]
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 700}, color_scheme=scheme)
    watch = Watch(page)
    page.goto(published[2].as_uri())
    assert page.title().startswith("PROMOTE: version 7")
    assert sideways(page) <= 0
    assert min(widths_of_pictures(page, "img")) > 0
    assert watch.fetched == [published[2].as_uri()]
    assert watch.complaints == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 25, 28)"
    assert dark == (scheme == "dark")
    page.close()


def test_the_report_prints_on_paper(browser: Browser, published: tuple[Settings, str, Path], tmp_path: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(published[2].as_uri())
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    pages = len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "report.pdf").read_bytes()))
    assert 3 <= pages <= 12
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    page.close()
