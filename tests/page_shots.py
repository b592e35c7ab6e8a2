"""Screenshots of the page for docs/clients.md, of a server that answers:

    .venv/bin/python -m tests.page_shots http://127.0.0.1:8000 PHOTO... [--sender NAME]

The key is CLASSY_API_KEY, or the one in CLASSY_HOME. Writes docs/page.png and docs/page-phone.png.
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from pipelines.recipe import ROOT
from serving.client.answers import find_key
from tests.browser import open_browser

DOCS = ROOT / "docs"


def take(url: str, photos: list[str], sender: str, folder: Path) -> None:
    with open_browser() as browser:
        _shot(browser, url, photos, sender, folder / "page.png", size=(1180, 1100), dark=False)
        _shot(browser, url, photos[:2], sender, folder / "page-phone.png", size=(390, 1300), dark=True)


def _shot(
    browser: Browser, url: str, photos: list[str], sender: str, path: Path, *, size: tuple[int, int], dark: bool
) -> None:
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        device_scale_factor=2,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#model")).not_to_have_text("…")
    if page.get_by_label("Key").is_visible():
        page.get_by_label("Key").fill(find_key(None))
        page.get_by_label("Key").press("Tab")
    page.get_by_label("Sender").fill(sender)
    _ask(page, photos)
    for _ in range(2):  # the first photos pay for connections and caches
        page.get_by_role("button", name="Clear").click()
        _ask(page, photos)
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    whole = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    context.close()
    small = whole.resize((whole.width * 3 // 4, whole.height * 3 // 4), Image.Resampling.LANCZOS)
    small.quantize(256, method=Image.Quantize.MEDIANCUT).save(path, optimize=True)
    sys.stdout.write(f"{path}: {path.stat().st_size / 1000:.0f} kB\n")


def _ask(page: Page, photos: list[str]) -> None:
    page.get_by_label("Choose photos").set_input_files(photos)
    expect(page.locator("#count")).to_have_text(f"{len(photos)} answered")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--sender", default="")
    parser.add_argument("--folder", type=Path, default=DOCS)
    given = parser.parse_args()
    take(given.url, given.photos, given.sender, given.folder)
