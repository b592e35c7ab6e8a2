"""The page at /label and its routes: by keyboard in Chromium, two people at once, and what is refused."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from monitoring import queued
from monitoring.stores import Store, open_store
from monitoring.tables import ground_truth, label_queue, label_votes
from pipelines.online.labels import SqlDesk
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from serving.components.base import ANYONE, Identity
from serving.problems import Problem
from serving.rest.labels import MOST_PASSED
from serving.server import Server
from tests.browser import Watch, browser, sideways, widths_of_pictures  # noqa: F401
from tests.conftest import SIZES, TINY
from tests.labelled import put, put_photos
from tests.serving import Running, running
from tests.test_truth import Doorkeeper

FAR = datetime(2200, 1, 1, tzinfo=UTC)
CLOTHES = ("Blazer", "Dress", "Hat", *(f"Kind {number}" for number in range(30)))


class Gate(Doorkeeper):
    """Keys are names; without `closed`, everybody may do everything."""

    closed = False

    async def admit(self, credentials: str | None, *, scope: str, photos: int = 1, peer: str = "") -> Identity:
        if not self.closed:
            return ANYONE
        return await super().admit(credentials, scope=scope, photos=photos, peer=peer)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(home=tmp_path_factory.mktemp("label") / "var", actor="tester")


@pytest.fixture(scope="module")
def server(settings: Settings) -> Iterator[Running]:
    desk = SqlDesk(settings, Recipe.model_validate(TINY))
    with running(Server(components={}, gate=Gate(), labels=desk, version="0")) as found:
        yield found


@pytest.fixture
def store(settings: Settings, server: Running) -> Store:
    """An empty queue, and a gate that is open."""
    found = open_store(settings.database_url)
    with found.writing() as connection:
        for table in (label_queue, label_votes, ground_truth):
            connection.execute(table.delete())
    server.server.gate.closed = False
    return found


def fill(settings: Settings, store: Store, count: int, **given: Any) -> None:
    put_photos(settings, put(store, count, **given))


def truth(store: Store) -> dict[str, tuple[str, str]]:
    return {row["image_id"]: (row["label"], row["said_by"]) for row in store.truth(as_of=FAR).to_dict("records")}


@pytest.fixture(params=list(SIZES))
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:  # noqa: F811
    yield from new_page(browser, request.param)


@pytest.fixture
def other(browser: Browser) -> Iterator[Page]:  # noqa: F811
    yield from new_page(browser, "desk")


def new_page(browser: Browser, where: str) -> Iterator[Page]:  # noqa: F811
    dark = "dark" if where == "phone" else "light"
    context = browser.new_context(viewport=SIZES[where], has_touch=where == "phone", color_scheme=dark)
    page = context.new_page()
    page.set_default_timeout(15_000)
    yield page
    context.close()


def begin(page: Page, server: Running, name: str) -> None:
    page.goto(f"{server.rest}/label")
    page.get_by_label(re.compile("Your name|Key")).locator("visible=true").fill(name)
    page.keyboard.press("Enter")
    expect(page.locator("#who-line")).to_contain_text(name)
    expect(page.locator("body")).not_to_have_class(re.compile("busy"))


def press(page: Page, key: str, told: str) -> None:
    expect(page.locator("body")).not_to_have_class(re.compile("busy"))
    page.keyboard.press(key)
    expect(page.locator("#last")).to_have_text(told)
    expect(page.locator("body")).not_to_have_class(re.compile("busy"))


# ------------------------------------------------------------------------------------------------- page


def test_a_person_labels_with_the_keyboard_alone(page: Page, server: Running, settings: Settings, store: Store) -> None:
    fill(settings, store, 4)
    watch = Watch(page)
    begin(page, server, "ada")
    expect(page.locator("#work")).to_be_visible()
    assert widths_of_pictures(page, "#photo") == [24]
    expect(page.locator("#about")).to_have_text("Sender sender-1 · 2026-03-07")
    # The class 3 has the key 3: a digit is its own key.
    press(page, "3", "3.")
    press(page, "Space", "Cannot tell.")
    press(page, "ArrowRight", "Put off: it comes again.")
    press(page, "5", "5.")
    press(page, "7", "7.")
    expect(page.locator("#done")).to_be_visible()
    expect(page.locator("#left")).to_have_text("4 by you today · 0 left for you · 1 of 4 open")
    assert truth(store) == {"p0": ("3", "ada"), "p3": ("5", "ada"), "p2": ("7", "ada")}
    assert sideways(page) <= 0
    assert watch.complaints == []
    assert {address.split("/")[2] for address in watch.fetched} == {server.rest.split("/")[2]}


def test_undo_brings_the_photo_back_with_what_was_said(
    page: Page, server: Running, settings: Settings, store: Store
) -> None:
    fill(settings, store, 2)
    begin(page, server, "ada")
    press(page, "Backspace", "There is nothing of yours to take back.")
    press(page, "3", "3.")
    press(page, "4", "4.")
    expect(page.locator("#done")).to_be_visible()
    press(page, "Backspace", "Taken back. What does the photo show?")
    expect(page.locator("#classes .said")).to_have_text("44")  # its key and its name
    assert truth(store) == {"p0": ("3", "ada")}
    press(page, "8", "8.")
    assert truth(store) == {"p0": ("3", "ada"), "p1": ("8", "ada")}


def test_the_models_answer_is_hidden_until_it_is_asked_for(
    page: Page, server: Running, settings: Settings, store: Store
) -> None:
    fill(settings, store, 2, predicted="6", confidence=0.931)
    watch = Watch(page)
    begin(page, server, "ada")
    assert not [address for address in watch.fetched if "answer" in address]
    assert "93" not in page.locator("main").inner_text()
    page.keyboard.press("?")
    expect(page.locator("#answer")).to_have_text("Version 1: 6, 93 %")
    press(page, "3", "3.")
    expect(page.locator("#answer")).to_be_empty()
    expect(page.locator("#reveal")).to_be_visible()


def test_two_people_at_once_do_not_collide_and_see_how_far_they_agree(
    page: Page, other: Page, server: Running, settings: Settings, store: Store
) -> None:
    fill(settings, store, 6, twice=range(6))
    begin(page, server, "ada")
    begin(other, server, "bob")
    with store.reading() as connection:
        held = {row.claimed_by: row.image_id for row in connection.execute(label_queue.select()) if row.claimed_by}
    assert held == {"ada": "p0", "bob": "p1"}
    # Each says the same of all photos but one.
    for number in range(6):
        for person, key in ((page, "3"), (other, "3" if number else "4")):
            expect(person.locator("body")).not_to_have_class(re.compile("busy"))
            person.keyboard.press(key)
            expect(person.locator("#last")).to_have_text(re.compile(rf"^{key}[.:]"))
            expect(person.locator("#left")).to_contain_text(f"{number + 1} by you today")
    rows = queued.listed(store)
    assert all({vote["author"] for vote in row["votes"]} == {"ada", "bob"} for row in rows)
    assert sorted(row["state"] for row in rows) == ["disputed", *["labelled"] * 5]
    page.get_by_role("button", name="Look again").click()
    expect(page.locator("#done-why")).to_contain_text("1 photos are in other people's hands")
    expect(page.locator("#pairs tbody td")).to_have_text(["ada and bob", "6", "83 %", "0.00"])
    assert {said for _, said in truth(store).values()} == {"ada, bob"}


def test_a_photo_that_was_lost_to_somebody_else_is_said_and_the_next_one_comes(
    other: Page, server: Running, settings: Settings, store: Store
) -> None:
    fill(settings, store, 2)
    begin(other, server, "ada")
    with store.writing() as connection:
        connection.execute(label_queue.update().where(label_queue.c.image_id == "p0").values(claimed_by="bob",
                           claimed_until=datetime.now(UTC) + timedelta(minutes=9)))  # fmt: skip
    other.keyboard.press("3")
    expect(other.locator("#notice")).to_contain_text("not in ada's hands any more")
    press(other, "5", "5.")
    assert truth(store) == {"p1": ("5", "ada")}


def test_with_keys_the_keys_subject_labels_and_a_wrong_key_is_refused_in_words(
    other: Page, server: Running, settings: Settings, store: Store
) -> None:
    fill(settings, store, 1)
    # Whether keys are needed is asked once a server, so this one says it for itself.
    other.route(
        "**/page/about", lambda route: route.fulfill(json={"name": "classy", "version": "0", "key_needed": True})
    )
    server.server.gate.closed = True
    other.goto(f"{server.rest}/label")
    expect(other.get_by_label("Your name")).to_be_hidden()
    other.get_by_label("Key").fill("reader")
    other.get_by_role("button", name="Start").click()
    expect(other.locator("#notice")).to_contain_text("needs scope truth")
    other.get_by_label("Key").fill("grace")
    other.get_by_role("button", name="Start").click()
    expect(other.locator("#who-is")).to_have_text("grace")
    press(other, "2", "2.")
    assert truth(store) == {"p0": ("2", "grace")}
    other.reload()
    expect(other.locator("#who-is")).to_have_text("grace")
    assert other.evaluate("localStorage.length") == 0
    other.get_by_role("button", name="Not you?").click()
    expect(other.get_by_label("Key")).to_be_visible()


def test_many_classes_have_keys_as_far_as_they_go_and_are_found_by_typing(
    browser: Browser,  # noqa: F811
    tmp_path: Path,
) -> None:
    settings = load_settings(home=tmp_path / "var", actor="tester")
    recipe = Recipe.model_validate({**TINY, "taxonomy": {"classes": [*CLOTHES, "x", "y", "z"]}})
    store = open_store(settings.database_url)
    fill(settings, store, 3)
    with running(Server(components={}, gate=Gate(), labels=SqlDesk(settings, recipe), version="0")) as found:
        for page in new_page(browser, "desk"):
            begin(page, found, "ada")
            shown = page.locator("#classes button")
            expect(shown).to_have_count(36)
            expect(shown.nth(0).locator("kbd")).to_have_text("1")
            expect(shown.nth(9).locator("kbd")).to_have_text("a")
            expect(shown.nth(33).locator("kbd")).to_have_text("x")
            expect(shown.nth(32).locator("kbd")).to_have_count(0)
            press(page, "2", "Dress.")
            page.keyboard.press("/")
            page.keyboard.type("kind 29")
            expect(page.locator("#classes button:visible")).to_have_count(1)
            page.keyboard.press("Enter")
            expect(page.locator("#last")).to_have_text("Kind 29.")
            press(page, "x", "x.")
            assert [said for said, _ in truth(store).values()] == ["Dress", "Kind 29", "x"]


def test_everything_has_a_name_and_nothing_comes_from_elsewhere(
    other: Page, server: Running, settings: Settings, store: Store
) -> None:
    fill(settings, store, 1, source_id="<b>sender</b>")
    begin(other, server, "ada")
    expect(other.locator("#about")).to_contain_text("<b>sender</b>")
    unnamed = other.evaluate(
        """() => [...document.querySelectorAll("input, button")]
            .filter(control => !(control.labels?.length || control.textContent.trim())).length"""
    )
    assert unnamed == 0
    other.goto(server.rest)
    other.get_by_role("link", name="Label").click()
    expect(other.locator("#who-is")).to_have_text("ada")
    found = httpx.get(f"{server.rest}/label")
    assert "unsafe" not in found.headers["content-security-policy"]
    assert "<script>" not in found.text
    assert "style=" not in found.text


# ------------------------------------------------------------------------------------------------ routes


def ask(server: Running, path: str, body: Any = None, *, key: str = "") -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if body is None:
        return httpx.get(f"{server.rest}/labels{path}", headers=headers)
    return httpx.post(f"{server.rest}/labels{path}", json=body, headers=headers)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/next", {}, 400, "author: access control is off"),
        ("/next", {"author": "a\nb"}, 400, "printable"),
        ("/next", {"author": "x" * 65}, 400, "1 to 64"),
        ("/next", {"author": "ada", "passed": "p0"}, 400, "passed: must be a list"),
        ("/next", {"author": "ada", "passed": ["p"] * (MOST_PASSED + 1)}, 400, "at most 100"),
        ("/next", {"author": "ada", "skip": 1}, 400, "'skip': no such field; fields are author, passed"),
        ("/say", {"author": "ada", "image_id": "p0"}, 400, "label: is missing"),
        ("/say", {"author": "ada", "image_id": "p0", "label": ""}, 400, "label: must be text"),
        ("/say", {"author": "ada", "label": "3"}, 400, "image_id: must be text"),
        ("/say", {"author": "ada", "image_id": "p0", "label": "Sandal"}, 422, "label 'Sandal': is no class"),
        ("/say", {"author": "ada", "image_id": "p0", "label": "3"}, 422, "not in ada's hands"),
        ("/say", {"author": "ada", "image_id": "nobody", "label": "3"}, 422, "not in ada's hands"),
        ("/photo?image_id=nobody", None, 404, "is not in the queue"),
        ("/photo?image_id=p1", None, 404, "of the queue is gone"),
        ("/photo", None, 422, "image_id"),
        ("/answer?image_id=../../etc/passwd", None, 404, "is not in the queue"),
        ("/answer?image_id=%00", None, 400, "without NUL"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_in_words(
    path: str, body: Any, status: int, message: str, server: Running, settings: Settings, store: Store
) -> None:
    put(store, 2)
    put_photos(settings, ["p0"])
    found = ask(server, path, body)
    assert (found.status_code, message in found.json()["error"]) == (status, True), found.text
    assert truth(store) == {}


def test_a_photo_is_an_image_and_nothing_else_and_no_cache_keeps_it(
    server: Running, settings: Settings, store: Store
) -> None:
    fill(settings, store, 1)
    found = ask(server, "/photo?image_id=p0")
    assert found.headers["content-type"] == "image/png"
    assert found.headers["cache-control"] == "private, no-store"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["content-security-policy"] == "default-src 'none'"


def test_nobody_labels_without_the_scope_or_in_anothers_name(server: Running, settings: Settings, store: Store) -> None:
    fill(settings, store, 1)
    server.server.gate.closed = True
    for path, body in [("", None), ("/next", {}), ("/say", {}), ("/undo", {}), ("/photo?image_id=p0", None),
                       ("/answer?image_id=p0", None)]:  # fmt: skip
        assert ask(server, path, body).status_code == 401, path
        assert ask(server, path, body, key="reader").status_code == 403, path
    found = ask(server, "/next", {"author": "bob"}, key="ada")
    assert (found.status_code, "the key is ada's" in found.json()["error"]) == (403, True)
    assert ask(server, "/next", {}, key="ada").json()["photo"]["image_id"] == "p0"
    assert ask(server, "", key="ada").json()["author"] == "ada"


def test_a_database_that_is_away_is_said(tmp_path: Path) -> None:
    pytest.importorskip("psycopg2")
    settings = load_settings(home=tmp_path / "var", database_url="postgresql://ada@127.0.0.1:1/classy")
    desk = SqlDesk(settings, Recipe.model_validate(TINY))
    for work in (lambda: desk.progress("ada"), lambda: desk.take("ada", []), lambda: desk.say("ada", "p0", "3")):
        with pytest.raises(Problem, match="not reachable") as caught:
            work()
        assert (caught.value.kind.status, caught.value.retry_after) == (503, 5)
