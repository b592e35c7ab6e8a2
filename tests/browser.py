"""A real browser for pages that people read: headless Chromium, with an eye on what it fetches and complains of."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = (
    f"no browser: none of {', '.join(NAMES)} is on PATH. Install what .ci/packages lists (on Debian), "
    "or set CLASSY_CHROMIUM to the file of a Chromium"
)


def chromium() -> str | None:
    """The file of a Chromium: what CLASSY_CHROMIUM names, or the first on PATH."""
    return os.environ.get("CLASSY_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser of its own, ended at the end. Without one a test is skipped, in CI it fails."""
    path = chromium()
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
    with sync_playwright() as playwright:
        # The sandbox needs rights that a container's root has not; only our own pages are opened.
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield found
        finally:
            found.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as found:
        yield found


@dataclass
class Watch:
    """What a page fetched and complained of."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} ({message.location.get('url', '')})")

    def _asked(self, request: Request) -> None:
        # What is inside the page is not fetched from anywhere.
        if not request.url.startswith(("data:", "blob:")):
            self.fetched.append(request.url)


def sideways(page: Page) -> int:
    """Pixels by which a page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def widths_of_pictures(page: Page, selector: str) -> list[int]:
    """The natural width of each picture: 0 where it was not loaded."""
    page.wait_for_function(
        "selector => [...document.querySelectorAll(selector)].every(image => image.complete)", arg=selector
    )
    return page.eval_on_selector_all(selector, "images => images.map(image => image.naturalWidth)")
