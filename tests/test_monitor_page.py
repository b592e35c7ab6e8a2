"""The monitor's pages, as a person uses them: in Chromium, on a desk and on a phone, over days that lie on a disk."""

import re
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from monitoring.stores import open_store
from pipelines.online.board import FileBoard
from pipelines.settings import Settings, load_settings
from serving.components.base import Identity
from serving.problems import Problem
from serving.seams import Board
from tests.answering import downloader, serving
from tests.browser import Watch, browser, sideways  # noqa: F401
from tests.serving import Running, running
from tests.test_client import KEY, OneKey
from tests.watched import FIRST, decide, deploy, evidence, make_months, unknown, whole, write_day

NASTY = '<img src=x onerror="document.title=1">\'"&{{7*7}}'
CHANGED, WHOLE, OLD = FIRST + timedelta(days=22), FIRST + timedelta(days=58), FIRST + timedelta(days=5)


def served(board: Board | None, **options: Any) -> Any:
    return running(serving(downloader(), board=board, **options))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Months with a day of every kind; the last but one has every part, and names that are markup."""
    found = load_settings(home=tmp_path_factory.mktemp("watched") / "var", actor="tester")
    make_months(found)
    parts = whole(WHOLE, drift=1.5)
    parts["slices"][0]["name"] = parts["labels"]["notes"][0] = parts["drift"]["columns"][0]["name"] = NASTY
    parts["estimate"]["method"] = parts["health"][0]["sentence"] = parts["drift"]["diagnosis"]["photos"][0] = NASTY
    write_day(found, WHOLE, parts, run_page="javascript:alert(1)")
    return found


@pytest.fixture(scope="module")
def closed(home: Settings) -> Iterator[Running]:
    """A server that wants a key."""
    with served(FileBoard(home), gate=OneKey()) as found:
        yield found


@pytest.fixture(scope="module")
def opened(home: Settings) -> Iterator[Running]:
    """The same for everybody."""
    with served(FileBoard(home)) as found:
        yield found


def show(page: Page, server: Running, day: date | None = None) -> Watch:
    watch = Watch(page)
    page.goto(f"{server.rest}/monitor{'' if day is None else f'/{day}'}")
    expect(page.locator("#board")).to_be_visible(timeout=15_000)
    return watch


def clean(page: Page, watch: Watch, server: Running) -> None:
    """Nothing was complained of, nothing fetched elsewhere, and nothing is wider than the window."""
    assert watch.complaints == []
    assert {address.split("/")[2] for address in watch.fetched} == {server.rest.split("/")[2]}
    assert sideways(page) <= 0


# ------------------------------------------------------------------------------------------------- the overview


def test_the_overview_draws_what_was_decided_and_who_served(page: Page, opened: Running) -> None:
    watch = show(page, opened)
    marks = page.locator("#calendar .mark")
    for action in ("RETRAIN", "ROLLBACK", "PAGE", "LABEL", "WATCH", "KEEP"):
        assert page.locator(f"#calendar .mark[data-action='{action}']").count() > 0, action
    assert marks.count() == 58, "60 days; one was not watched, one not decided"
    expect(page.locator("#calendar .undecided")).to_have_text("?")
    titles = page.locator("#calendar .band > title").all_text_contents()
    assert [re.match(r"Version (\d), generation (\d)", title).groups() for title in titles] == [  # type: ignore[union-attr]
        ("1", "1"), ("2", "2"), ("3", "3"), ("2", "4"),
    ]  # fmt: skip
    assert page.locator("#calendar .incidents rect.open").count() == 1
    assert page.locator("#calendar polyline.measured").count() == 3, "a gap where there is none: days 15 and 30"
    assert page.locator("#calendar polyline.estimate").count() == 1
    expect(page.locator("#now")).to_contain_text("version 2")
    expect(page.locator("#now")).to_contain_text("PAGE")
    expect(page.locator("#notices")).to_contain_text("classy decide --day 2026-02-15")
    clean(page, watch, opened)


def test_each_cell_of_the_heat_map_has_its_words_and_drift_is_not_by_colour_alone(page: Page, opened: Running) -> None:
    show(page, opened)
    day = page.locator(f"a.day[data-day='{CHANGED}']")
    assert day.locator(".cell").count() == day.locator(".cell > title").count() == 5
    told = [title for title in day.locator(".cell > title").all_text_contents() if "DRIFT, distance" in title]
    assert any(
        re.match(r"brightness, Friday, 23 January 2026: DRIFT, distance 0\.\d+, limit 0\.25, 1\.\d+ times it", t)
        for t in told
    )
    assert day.locator(".cell.drift circle").count() == day.locator(".cell.drift").count() == 3


def test_a_mark_leads_to_its_evidence_and_back(page: Page, opened: Running) -> None:
    watch = show(page, opened)
    page.locator(f"a.day[data-day='{CHANGED}'] .mark").click()
    page.wait_for_url(f"{opened.rest}/monitor/{CHANGED}")
    expect(page.locator("#day")).to_contain_text("Friday, 23 January 2026")
    expect(page.locator("#day")).to_contain_text("RETRAIN")
    expect(page.locator("#parts")).to_contain_text("It made generation 2: version 2 serves.")
    page.get_by_role("link", name="Monitor").click()
    page.wait_for_url(f"{opened.rest}/monitor")
    expect(page.locator("#board")).to_be_visible()
    assert watch.complaints == []


def test_days_are_looked_at_by_keyboard_and_heard(page: Page, opened: Running) -> None:
    show(page, opened)
    last = page.locator("a.day[tabindex='0']")
    expect(last).to_have_attribute("data-day", str(FIRST + timedelta(days=59)))
    last.focus()
    for _ in range(59 - 22):
        page.keyboard.press("ArrowLeft")
    now = page.locator("a.day[tabindex='0']")
    expect(now).to_have_attribute("data-day", str(CHANGED))
    expect(now).to_be_focused()
    expect(page.locator("#readout")).to_contain_text("Day 22 of the story.")
    assert re.match(
        r"Friday, 23 January 2026: DRIFT, 3 columns changed\. Accuracy 50\.0\s%\..* RETRAIN: Day 22",
        now.get_attribute("aria-label") or "",
    )
    page.keyboard.press("Home")
    expect(page.locator("a.day[tabindex='0']")).to_have_attribute("data-day", str(FIRST))
    page.keyboard.press("Enter")
    page.wait_for_url(f"{opened.rest}/monitor/{FIRST}")


def test_behind_each_plot_is_a_table(page: Page, opened: Running) -> None:
    show(page, opened)
    days = page.get_by_text("The days as a table")
    days.click()
    row = page.get_by_role("row").filter(has_text=str(CHANGED)).first
    expect(row).to_contain_text("50.0 %")
    expect(row).to_contain_text("RETRAIN")
    page.get_by_text("The drift of each column as a table").click()
    expect(page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="contrast")).first).to_contain_text(
        "DRIFT 0."
    )
    page.get_by_text("Champions and contenders as a table").click()
    expect(page.get_by_role("table", name="Champions")).to_contain_text("rollback")
    expect(page.get_by_role("table", name="Judged")).to_contain_text("PROMOTE")
    assert sideways(page) <= 0


def test_the_range_is_chosen(page: Page, opened: Running) -> None:
    show(page, opened)
    page.get_by_label("Show").select_option("30")
    expect(page.locator("a.day")).to_have_count(30)


def test_in_the_dark_it_is_dark(browser: Browser, opened: Running) -> None:  # noqa: F811
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    show(page, opened)
    red, green, blue = map(
        int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
    )
    assert max(red, green, blue) < 60
    context.close()


# ---------------------------------------------------------------------------------------------------- one day


def test_a_day_shows_every_part_that_its_evidence_has(page: Page, opened: Running) -> None:
    watch = show(page, opened, WHOLE)
    for part in (
        "What was decided, and why", "How well it does", "Who is affected", "What changed", "How sure", "Labels",
        "The service", "Which classes come more, or less", "Which photos are new",
    ):  # fmt: skip
        expect(page.get_by_role("region", name=part, exact=True)).to_be_visible()
    expect(page.get_by_role("region", name="Who is affected")).to_contain_text("sender-01")
    expect(page.get_by_role("region", name="How well it does")).to_contain_text("2.1 points away on average")
    expect(page.get_by_role("region", name="The service", exact=True)).to_contain_text("features are 3.2 days old")
    changed = page.get_by_role("region", name="Columns that changed")
    expect(changed.get_by_role("row").nth(1)).to_contain_text("DRIFT")
    clean(page, watch, opened)


def test_what_others_write_is_text(page: Page, opened: Running) -> None:
    watch = show(page, opened, WHOLE)
    assert page.get_by_text(NASTY).count() >= 4
    assert page.locator("#parts img").count() == 0
    assert page.title() == f"Classy: {WHOLE}"
    assert page.locator("a[href^='javascript']").count() == 0
    show(page, opened)
    expect(page.locator(".lanes")).to_contain_text("<img src=x")
    assert page.locator("main img").count() == 0
    assert watch.complaints == []


def test_evidence_of_an_earlier_classy_shows_what_it_has(page: Page, opened: Running) -> None:
    watch = show(page, opened, OLD)
    expect(page.get_by_role("region", name="How well it does")).to_be_visible()
    expect(page.get_by_role("region", name="Who is affected")).to_contain_text("By class")
    expect(page.get_by_role("region", name="The service", exact=True)).to_have_count(0)
    clean(page, watch, opened)


def test_a_day_that_could_not_be_told_says_why(page: Page, opened: Running) -> None:
    watch = show(page, opened, FIRST + timedelta(days=15))
    expect(page.locator("#day")).to_contain_text("UNKNOWN")
    expect(page.locator("#summary")).to_contain_text(
        "Drift cannot be told: the window has 3 rows, fewer than min_rows=50"
    )
    expect(page.locator("#summary")).to_contain_text("Accuracy is not known: no labels.")
    clean(page, watch, opened)


def test_the_days_before_and_after_are_a_step_away(page: Page, opened: Running) -> None:
    show(page, opened, FIRST + timedelta(days=29))
    page.get_by_role("link", name="2026-02-01 →").click()
    page.wait_for_url(f"{opened.rest}/monitor/2026-02-01")
    expect(page.get_by_role("link", name="← 2026-01-30")).to_be_visible()


def test_a_day_of_which_nothing_is_known_says_what_to_do(page: Page, opened: Running) -> None:
    page.goto(f"{opened.rest}/monitor/2026-01-31")
    expect(page.get_by_role("alert")).to_contain_text("neither watched nor decided; `classy monitor --day 2026-01-31`")
    expect(page.locator("#board")).to_be_hidden()


def test_the_report_draws_and_reaches_nothing(context: BrowserContext, closed: Running) -> None:
    page = context.new_page()
    page.goto(f"{closed.rest}/monitor/{CHANGED}")
    page.get_by_label("Key").fill(KEY)
    page.get_by_role("button", name="Open").click()
    expect(page.locator("#board")).to_be_visible()
    with context.expect_page() as opened_page:
        page.get_by_role("button", name="Evidently report").click()
    report = opened_page.value
    expect(report.locator("#drawn")).to_have_text("drawn, at null")
    assert KEY not in report.url
    reached = report.evaluate("fetch('/monitor/data').then(() => 'reached', () => 'refused')")
    kept = report.evaluate("(() => { try { return sessionStorage.length; } catch { return 'refused'; } })()")
    assert (reached, kept, report.evaluate("window.opener")) == ("refused", "refused", None)


# ------------------------------------------------------------------------------------------------------ access


def test_the_key_is_asked_for_refused_in_words_and_kept_in_the_tab(page: Page, closed: Running) -> None:
    page.goto(f"{closed.rest}/monitor")
    expect(page.get_by_label("Key")).to_be_focused()
    expect(page.locator("#board")).to_be_hidden()
    page.get_by_label("Key").fill("classy_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("the API key is unknown")
    expect(page.locator("#board")).to_be_hidden()
    page.get_by_label("Key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#board")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()
    page.locator(f"a.day[data-day='{CHANGED}'] .mark").click()
    expect(page.locator("#day")).to_contain_text("RETRAIN")
    assert page.evaluate("localStorage.length") == 0
    assert KEY not in page.url


class Infer(OneKey):
    async def admit(self, credentials: str | None, *, scope: str, photos: int = 1, peer: str = "") -> Identity:
        if scope == "metrics":
            raise Problem("forbidden", "somebody: needs scope metrics; this key has infer")
        return await super().admit(credentials, scope=scope, photos=photos, peer=peer)


def test_a_key_for_photos_alone_opens_nothing(home: Settings) -> None:
    with served(FileBoard(home), gate=Infer()) as server, httpx.Client(base_url=server.rest) as http:
        head = {"Authorization": f"Bearer {KEY}"}
        for path in ("/monitor/data", f"/monitor/{CHANGED}/data", f"/monitor/{CHANGED}/report"):
            assert http.get(path, headers=head).status_code == 403, path
        assert http.post(f"/monitor/{CHANGED}/report", data={"key": KEY}).status_code == 403


def test_without_a_key_no_data_leave(closed: Running) -> None:
    with httpx.Client(base_url=closed.rest) as http:
        for path in ("/monitor/data", f"/monitor/{CHANGED}/data", f"/monitor/{CHANGED}/report"):
            assert http.get(path).status_code == 401, path
        assert http.post(f"/monitor/{CHANGED}/report", data={"key": ""}).status_code == 401
        assert http.post(f"/monitor/{CHANGED}/report", data={"key": "k" * 20_000}).status_code == 413
        assert http.post(f"/monitor/{CHANGED}/report", json={"key": KEY}).status_code == 415
        assert http.get("/monitor").status_code == http.get(f"/monitor/{CHANGED}").status_code == 200


def test_the_pages_let_nothing_in_from_elsewhere(opened: Running) -> None:
    with httpx.Client(base_url=opened.rest) as http:
        for path in ("/monitor", f"/monitor/{CHANGED}"):
            found = http.get(path)
            policy = found.headers["content-security-policy"]
            assert "unsafe" not in policy
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "style=" not in found.text
            assert not re.search(r"<script(?! src=)", found.text)
            for name in re.findall(r'(?:src|href)="(?:\.\./)?(page/[^"]+)"', found.text):
                assert http.get(f"/{name}").status_code == 200, name
        report = http.get(f"/monitor/{CHANGED}/report").headers["content-security-policy"]
        assert report.startswith("sandbox allow-scripts; default-src 'none'")
        assert "allow-same-origin" not in report


@pytest.mark.parametrize("day", ["soon", "20260123", "2026-13-01", "..%2f..%2fetc", "2026-01-23T00:00"])
def test_what_is_no_day_is_not_found(opened: Running, day: str) -> None:
    with httpx.Client(base_url=opened.rest) as http:
        for path in (f"/monitor/{day}", f"/monitor/{day}/data", f"/monitor/{day}/report"):
            assert http.get(path).status_code == 404, path


def test_a_server_of_components_alone_has_no_monitor(page: Page) -> None:
    with served(None) as server, httpx.Client(base_url=server.rest) as http:
        assert http.get("/monitor").status_code == 404
        page.goto(server.rest)
        expect(page.locator("#server")).to_contain_text("classy")
        expect(page.get_by_role("link", name="Monitor")).to_be_hidden()


def test_the_page_for_photos_leads_to_the_monitor(page: Page, opened: Running) -> None:
    page.goto(opened.rest)
    page.get_by_role("link", name="Monitor").click()
    page.wait_for_url(f"{opened.rest}/monitor")


# ------------------------------------------------------------------------------------------------ empty places


def test_before_the_first_champion_the_page_says_what_to_do(page: Page, settings: Settings) -> None:
    with served(FileBoard(settings)) as server:
        watch = show(page, server)
        expect(page.locator("#notices")).to_contain_text("There is no champion yet")
        expect(page.locator("#story")).to_be_hidden()
        clean(page, watch, server)


def test_one_day_is_drawn_too(page: Page, settings: Settings) -> None:
    store = open_store(settings.database_url)
    deploy(store, 1, "1", FIRST)
    write_day(settings, FIRST, unknown(FIRST))
    decide(store, FIRST, "WATCH")
    with served(FileBoard(settings)) as server:
        watch = show(page, server)
        expect(page.locator("a.day")).to_have_count(1)
        expect(page.locator("#notices")).to_contain_text("could not be told")
        clean(page, watch, server)


def test_evidence_that_lacks_nearly_everything_does_not_break_a_page(page: Page, settings: Settings) -> None:
    full = evidence(FIRST)
    write_day(settings, FIRST, {"day": str(FIRST), "verdict": "NO DRIFT", "champion": None})
    write_day(settings, FIRST + timedelta(days=1), {key: full[key] for key in ("day", "verdict", "drift")})
    with served(FileBoard(settings)) as server:
        watch = show(page, server)
        expect(page.locator("a.day")).to_have_count(2)
        for n in range(2):
            show(page, server, FIRST + timedelta(days=n))
        assert watch.complaints == []
