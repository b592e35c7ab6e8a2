"""The page at `/`, as a person uses it: in Chromium, on a desk and on a phone."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from serving.components.base import Identity
from serving.problems import Problem
from tests.answering import jpeg
from tests.browser import Watch, browser, sideways  # noqa: F401
from tests.serving import Running, running
from tests.test_client import KEY, OneKey, Truth, components, serving


class MayNotTell(OneKey):
    """Lets in without a key; ground truth is for others."""

    async def admit(self, credentials: str | None, *, scope: str, photos: int = 1, peer: str = "") -> Identity:
        if scope == "truth":
            raise Problem("forbidden", "anyone: needs scope truth; this key has infer")
        return Identity(subject="anyone", scopes=frozenset({"infer"}))


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, truth: Truth) -> Iterator[Running]:
    """A server that wants a key."""
    parts = components(tmp_path_factory.mktemp("closed"))
    with running(serving(*parts, gate=OneKey(), truth=truth)) as found:
        yield found


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, truth: Truth) -> Iterator[Running]:
    """A server for everybody, that takes ground truth from nobody."""
    with running(serving(*components(tmp_path_factory.mktemp("opened")), gate=MayNotTell(), truth=truth)) as found:
        yield found


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    given = {"shirt.jpg": jpeg(1), "hat.jpg": jpeg(2), "cut.jpg": jpeg(3)[:400]}
    for name, data in given.items():
        (tmp_path / name).write_bytes(data)
    return [str(tmp_path / name) for name in given]


def ready(page: Page, server: Running, key: str = "") -> Watch:
    watch = Watch(page)
    page.goto(server.rest)
    expect(page.locator("#model")).not_to_have_text("…")
    if key:
        page.get_by_label("Key").fill(key)
        page.get_by_label("Key").press("Tab")
    return watch


def drop(page: Page, names: list[str]) -> None:
    """As the browser tells a page of dropped files."""
    page.evaluate(
        """names => {
            const data = new DataTransfer();
            for (const [name, bytes] of names)
                data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/jpeg"}));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
        }""",
        [[Path(name).name, list(Path(name).read_bytes())] for name in names],
    )


def test_photos_that_are_chosen_are_answered_each_for_itself(
    page: Page, closed: Running, photos: list[str], truth: Truth
) -> None:
    watch = ready(page, closed, KEY)
    expect(page.locator("#model")).to_contain_text("version 1")
    page.get_by_label("Sender").fill("41")
    page.get_by_label("Choose photos").set_input_files(photos)
    cards = page.locator("#answers > li")
    expect(page.locator("#count")).to_have_text("3 answered")
    expect(cards).to_have_count(3)
    shirt, cut = cards.nth(0), cards.nth(2)
    expect(shirt.locator(".name")).to_have_text("shirt.jpg")
    expect(shirt.locator(".label")).to_have_text(re.compile("left|middle|right"))
    expect(shirt.locator(".top dt")).to_have_count(3)
    expect(shirt.locator(".share").first).to_have_text(re.compile(r"^\d+(\.\d)? %$"))
    expect(shirt.locator(".chips")).to_contain_text("version 1")
    expect(shirt.locator(".chips")).not_to_contain_text("sender not known")
    expect(shirt.locator(".stages")).to_have_attribute("aria-label", re.compile(r"model \d.*ms"))
    assert shirt.locator("img").evaluate("image => image.naturalWidth") == 64
    expect(cut.locator(".label")).to_have_text("No answer")
    expect(cut.locator(".problem")).to_contain_text("cut")
    # The bad photo's status is in the browser's log, and nothing else is.
    assert [line for line in watch.complaints if "422" not in line] == []
    assert {address.split("/")[2] for address in watch.fetched} == {closed.rest.split("/")[2]}
    assert sideways(page) <= 0
    told = len(truth)
    shirt.get_by_role("button", name="Yes").click()
    expect(shirt.locator(".told")).to_have_text("Thank you.")
    said = shirt.locator(".label").inner_text()
    assert [row["label"] for row in truth[told:]] == [said]


def test_a_wrong_answer_is_put_right_by_choosing_the_class(
    page: Page, closed: Running, photos: list[str], truth: Truth
) -> None:
    ready(page, closed, KEY)
    drop(page, photos[:1])
    card = page.locator("#answers > li").first
    expect(card.locator(".truth")).to_be_visible()
    expect(card.locator(".chips")).to_contain_text("sender not known")
    others = card.locator("option").all_inner_texts()
    assert card.locator(".label").inner_text() not in others
    told = len(truth)
    card.get_by_label("No, it is").select_option(others[-1])
    expect(card.locator(".told")).to_have_text(f"Thank you: {others[-1]}.")
    assert [row["label"] for row in truth[told:]] == [others[-1]]
    assert len(truth[-1]["image_id"]) == 64


def test_a_key_is_asked_for_kept_in_the_tab_and_refused_in_words(
    page: Page, closed: Running, photos: list[str]
) -> None:
    ready(page, closed)
    expect(page.locator("#model")).to_have_text("needs a key")
    page.get_by_label("Choose photos").set_input_files(photos[:1])
    expect(page.locator("#notice")).to_contain_text("wants a key")
    expect(page.get_by_label("Key")).to_be_focused()
    expect(page.locator("#answers > li")).to_have_count(0)
    page.get_by_label("Key").fill("classy_wrong")
    page.get_by_label("Choose photos").set_input_files(photos[:1])
    expect(page.locator("#notice")).to_contain_text("API key is unknown")
    card = page.locator("#answers > li").first
    expect(card.locator(".problem")).to_contain_text("API key is unknown")
    page.get_by_label("Key").fill(KEY)
    page.get_by_label("Key").press("Tab")
    expect(page.locator("#notice")).to_be_hidden()
    card.get_by_role("button", name="Try again").click()
    expect(card.locator(".label")).to_have_text(re.compile("left|middle|right"))
    page.reload()
    expect(page.get_by_label("Key")).to_have_value(KEY)
    assert page.evaluate("localStorage.length") == 0
    assert KEY not in page.url


def test_addresses_are_asked_about_and_nothing_is_loaded_from_them(page: Page, opened: Running) -> None:
    watch = ready(page, opened)
    field = page.get_by_label("or their addresses")
    field.fill("shirt.jpg")
    field.press("Enter")
    expect(page.locator("#notice")).to_contain_text("must start with https://")
    field.fill("http://127.0.0.1:1/a.jpg\nhttps://127.0.0.1:1/<b>b.jpg")
    page.get_by_role("button", name="Ask").click()
    cards = page.locator("#answers > li")
    expect(cards).to_have_count(2)
    expect(page.locator("#count")).to_have_text("2 answered")
    expect(cards.nth(1).locator(".name")).to_have_text("https://127.0.0.1:1/<b>b.jpg")
    expect(cards.nth(0).locator(".problem")).not_to_be_empty()
    expect(cards.nth(0).locator(".host")).to_have_text("127.0.0.1:1")
    assert {address.split("/")[2] for address in watch.fetched} == {opened.rest.split("/")[2]}


def test_without_access_control_nothing_is_asked_and_truth_is_offered_only_where_it_is_taken(
    page: Page, opened: Running, photos: list[str]
) -> None:
    ready(page, opened)
    expect(page.get_by_label("Key")).to_be_hidden()
    drop(page, photos[:2])
    cards = page.locator("#answers > li")
    expect(page.locator("#count")).to_have_text("2 answered")
    cards.first.get_by_role("button", name="Yes").click()
    expect(page.locator("#notice")).to_contain_text("needs scope truth")
    expect(cards.nth(1).locator(".truth")).to_be_hidden()
    page.get_by_role("button", name="Clear").click()
    expect(cards).to_have_count(0)


def test_photos_and_addresses_are_pasted(page: Page, opened: Running) -> None:
    ready(page, opened)
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "pasted.jpg", {type: "image/jpeg"}));
            document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
        }""",
        list(jpeg(5)),
    )
    card = page.locator("#answers > li").first
    expect(card.locator(".name")).to_have_text("pasted.jpg")
    expect(card.locator(".label")).to_have_text(re.compile("left|middle|right"))


def test_everything_can_be_done_by_keyboard(page: Page, opened: Running, photos: list[str]) -> None:
    ready(page, opened)
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached == ["Ask", "files", "urls", "Ask", "sender"], "the bar of pages, then the page"
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, textarea, button, select")]
            .filter(control => !control.closest("template") && !(control.labels?.length || control.textContent.trim()))
            .length"""
    )
    assert unnamed == 0
    assert page.locator("html").get_attribute("lang") == "en"
    drop(page, photos[:1])
    card = page.locator("#answers > li").first
    expect(card).to_have_attribute("aria-busy", "false")
    card.get_by_label("No, it is").focus()
    assert page.evaluate("document.activeElement.tagName") == "SELECT"


def test_the_page_lets_nothing_in_from_elsewhere(opened: Running) -> None:
    with httpx.Client(base_url=opened.rest) as http:
        found = http.get("/")
        policy = found.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert found.headers["x-content-type-options"] == "nosniff"
        assert "<script>" not in found.text
        assert "style=" not in found.text
        for name in re.findall(r'(?:src|href)="(page/[^"]+)"', found.text):
            assert http.get(f"/{name}").status_code == 200, name
        for name in ("..%2fkeys", "keys.py", "%2e%2e/server.py"):
            assert http.get(f"/page/{name}").status_code == 404, name
