"""Screenshots of the monitor for docs/monitor.md, of a server over a home that a loop was played in:

    CLASSY_HOME=var/loop .venv/bin/classy serve
    CLASSY_HOME=var/loop .venv/bin/python -m tests.monitor_shots http://127.0.0.1:8000 2026-03-12

The key is CLASSY_API_KEY, or the one in CLASSY_HOME. Writes docs/monitor.png, docs/monitor-day.png and
docs/monitor-phone.png.
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect

from pipelines.recipe import ROOT
from serving.client.answers import find_key
from tests.browser import open_browser

DOCS = ROOT / "docs"
DESK, PHONE = (1180, 900), (390, 844)


def take(url: str, day: str, folder: Path) -> None:
    """The overview with one day looked at, that day's page, and the overview on a phone in the dark."""
    with open_browser() as browser:
        _shot(browser, f"{url}/monitor", folder / "monitor.png", day=day, size=DESK)
        _shot(browser, f"{url}/monitor/{day}", folder / "monitor-day.png", size=DESK)
        _shot(browser, f"{url}/monitor", folder / "monitor-phone.png", day=day, size=PHONE, dark=True)


def _shot(
    browser: Browser, address: str, path: Path, *, size: tuple[int, int], day: str = "", dark: bool = False
) -> None:
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        device_scale_factor=2,
    )
    page = context.new_page()
    page.goto(address)
    if page.get_by_label("Key").is_visible():
        page.get_by_label("Key").fill(find_key(None))
        page.get_by_role("button", name="Open").click()
    expect(page.locator("#board")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#board")).to_be_visible()
    if day:
        page.locator(f"a.day[data-day='{day}']").focus()
    page.mouse.move(0, 0)
    whole = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    context.close()
    small = whole.resize((whole.width * 3 // 4, whole.height * 3 // 4), Image.Resampling.LANCZOS)
    few = small.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    sys.stdout.write(f"{path}: {path.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("day", help="such as 2026-03-12")
    parser.add_argument("--folder", type=Path, default=DOCS)
    given = parser.parse_args()
    take(given.url, given.day, given.folder)
