"""Screenshots of the review for docs/review.md, of a real judgement:

    .venv/bin/python -m tests.shots            plays the digits recipe first, a few minutes
    .venv/bin/python -m tests.shots HOME       photographs what was played in HOME

The loop runs in this process, against a real MLflow server, and the last judged version is photographed.
"""

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from pipelines.loop import LocalStage, play
from pipelines.models import judgement, tracking
from pipelines.models.links import version_url
from pipelines.recipe import ROOT, load_recipe
from pipelines.review import report as review
from pipelines.settings import Settings, load_settings
from tests.browser import open_browser, widths_of_pictures
from tests.servers import mlflow_server

DOCS = ROOT / "docs"
WIDE, COLUMNS = 1000, 3
"""Pixels of one column of the report; its length is cut into so many."""


def take(home: Path) -> None:
    """docs/review-mlflow.png and docs/review-report.png."""
    played = (home / "classy.db").exists()
    with mlflow_server(load_settings(home=home)) as uri:
        settings = load_settings(home=home, mlflow_uri=uri, recipe="digits", actor="classy")
        if not played:
            recipe = load_recipe(settings.recipe)
            play(recipe, LocalStage(settings, recipe), print)
        client = tracking.connect(settings)
        versions = client.search_model_versions(f"name = '{settings.model_name}'")
        last = max(versions, key=lambda version: int(version.version))
        uri_of_evidence = Path(last.tags["classy.evidence_uri"])
        with open_browser() as browser:
            _page(browser, settings, str(last.version))
            _report(browser, uri_of_evidence.parent / review.REPORT)
        sys.stdout.write(f"version {last.version}: {judgement.read(str(uri_of_evidence), None)['verdict']}\n")


def _page(browser: Browser, settings: Settings, version: str) -> None:
    page = browser.new_page(viewport={"width": 1180, "height": 3300})
    page.goto(version_url(settings, version))
    page.wait_for_selector("text=Where it comes from", timeout=60_000)
    # MLflow's assistant takes a third of the page until it is closed.
    assistant = page.locator("button[aria-label='Close']")
    if assistant.count():
        assistant.first.click()
    widths_of_pictures(page, "img[src*='get-artifact']")
    photos = page.locator("img[src*='disagreements']").bounding_box()
    assert photos is not None
    page.set_viewport_size({"width": 1180, "height": round(photos["y"] + photos["height"]) + 30})
    _save(_seen(page), DOCS / "review-mlflow.png", width=900)


def _report(browser: Browser, report: Path) -> None:
    page = browser.new_page(viewport={"width": WIDE, "height": 900})
    page.goto(report.as_uri())
    widths_of_pictures(page, "img")
    whole = _seen(page, full=True)
    tall = -(-whole.height // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * WIDE, tall), "white")
    for column in range(COLUMNS):
        part = whole.crop((0, column * tall, WIDE, min((column + 1) * tall, whole.height)))
        sheet.paste(part, (column * WIDE, 0))
    _save(sheet, DOCS / "review-report.png", width=1800)


def _seen(page: Page, *, full: bool = False) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot(full_page=full))).convert("RGB")


def _save(image: Image.Image, path: Path, *, width: int) -> None:
    small = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    # A palette by coverage keeps the few orange pixels that a palette by frequency gives to the greys.
    few = small.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    sys.stdout.write(f"{path}: {path.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", nargs="?", type=Path, help="a CLASSY_HOME that the digits recipe was played in")
    given = parser.parse_args().home
    if given:
        take(given.resolve())
    else:
        with tempfile.TemporaryDirectory(prefix="classy-shots-") as folder:
            take(Path(folder))
