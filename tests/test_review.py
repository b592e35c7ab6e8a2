"""The review: a person sees enough to decide, on the version's page and in one file, and never somebody's markup."""

import csv
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from monitoring import disagreement
from monitoring.comparison import Paired
from pipelines.models import judgement
from pipelines.review import report as review
from pipelines.review import telling
from pipelines.review.description import MOST
from pipelines.settings import Settings
from tests.evidences import NASTY, SERVER, Judged, judged, on_server, write


class Tags(HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def named(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in names]


# ---------------------------------------------------------------------------------------- the description


def test_the_page_says_the_verdict_in_words_and_then_why(tmp_path: Path) -> None:
    page = review.markdown(judged().evidence, on_server(tmp_path))
    assert page.startswith("## PROMOTE: version 7 (resnet) is good enough to replace version 3\n")
    assert "Judged against champion (version 3) on 420 photos of 24 senders" in page
    assert "- **holds** On fresh rows: accuracy 0.925 against" in page
    assert "- **fails** Too dear: 0.17 EUR against 0.14 EUR." in page


@pytest.mark.parametrize(
    ("verdict", "kind", "words"),
    [
        ("HOLD", "champion", "version 7 (resnet) should not replace version 3"),
        ("INSUFFICIENT DATA", "champion", "the rows cannot tell whether version 7 (resnet) should replace version 3"),
        ("PROMOTE", "baseline", "version 7 (resnet) is good enough to go into production"),
        ("HOLD", "guess", "version 7 (resnet) should not go into production"),
    ],
)
def test_every_verdict_is_said_as_what_it_means_for_production(
    verdict: str, kind: str, words: str, tmp_path: Path
) -> None:
    one = judged(verdict=verdict, kind=kind)
    assert review.markdown(one.evidence, on_server(tmp_path)).startswith(f"## {verdict}: {words}\n")
    assert f"<title>{verdict}: {words}</title>" in review.html(one.evidence)


def test_the_page_has_every_metric_of_every_part_with_its_interval(tmp_path: Path) -> None:
    one = judged()
    page = review.markdown(one.evidence, on_server(tmp_path))
    for part, found in one.evidence["comparisons"].items():
        assert f"**{part}** ({found['rows']:,})" in page
        for name, words in telling.METRICS.items():
            gain = found["differences"][name]
            low, high = telling.signed(gain["low"]), telling.signed(gain["high"])
            assert f"||{words}||{found['contender'][name]:.3f}||{found['opponent'][name]:.3f}||" in page
            assert f"||{telling.signed(gain['gain'])}||{low} to {high}|" in page
    rows = [line.count("|") for line in page.splitlines() if line.startswith("|")]
    assert len(set(rows)) == 1, "a table's lines have one length"


def test_the_page_has_guardrails_behaviour_seeds_and_where_it_comes_from(tmp_path: Path) -> None:
    page = review.markdown(judged().evidence, on_server(tmp_path))
    for words in (
        "latency 0.84 ms against 0.79 ms, 1.06 (at most 1.11) times (3 allowed: holds)",
        "cost 0.17 EUR against 0.14 EUR, 1.21 times (10 allowed: **too much**)",
        "saved as a coarse JPEG 71%, opponent 88% (80% asked) **fails**",
        "3 seeds gain +0.103 accuracy on the average (+0.061 to +0.146): +0.090 (seed 7)",
        "These 300 golden rows were judged on 4 times, this one included.",
        "snapshot snap-0d4e5f, known as of 2026-03-05, rows 1,800 train, 240 val, 300 golden, 120 fresh",
        "image partitions 4, feature service context_v1 (121212121212)",
        "drift since 2026-03-04",
        "git commit 4f3c2b1a4f3c2b1a4f3c2b1a4f3c2b1a4f3c2b1a",
        "time to train 3 min 23 s, cost to train 0.17 EUR, package 1.48 MB, parameters 361,242",
    ):
        assert words in page


def test_against_a_baseline_no_guardrail_is_called_broken(tmp_path: Path) -> None:
    findings = [{"gate": "better", "outcome": "pass", "sentence": "Better."}]
    page = review.markdown(judged(kind="baseline", findings=findings).evidence, on_server(tmp_path))
    assert "1.21 times (10 allowed: not asked)" in page


def test_only_a_recipe_with_approval_asks_a_person(tmp_path: Path) -> None:
    def asked(**given: Any) -> str:
        return review.markdown(judged(**given).evidence, on_server(tmp_path)).split("### What is asked of you")[1]

    assert "`approval` = `approved` or `rejected`, and `approval_by` = your name" in asked(gates={"approval": True})
    assert "approval_by" not in asked()
    assert "approval_by" not in asked(gates={"approval": True}, verdict="HOLD")


def test_with_a_server_pictures_are_on_the_page_by_addresses_that_hold_behind_a_proxy(tmp_path: Path) -> None:
    run = "0123456789abcdef0123456789abcdef"
    evidence = judged(run_url=f"{SERVER}/#/experiments/1/runs/{run}").evidence
    page = review.markdown(evidence, on_server(tmp_path))
    for name in ("confusion", "disagreements", "slices", "reliability"):
        assert f"![{name}.png](get-artifact?path=judge/{name}.png&run_uuid={run})" in page
    assert f"(#/experiments/1/runs/{run}/artifacts/judge/report.html)" in page
    assert SERVER not in page


def test_without_a_server_there_are_no_dead_links_and_no_pictures(settings: Settings) -> None:
    page = review.markdown(judged().evidence, settings)
    assert "](" not in page
    assert "`judge/report.html` of run `0123456789abcdef0123456789abcdef`" in page


def test_a_judgement_without_rows_is_told_without_pictures(tmp_path: Path) -> None:
    one = judged(golden=0, fresh=0, verdict="INSUFFICIENT DATA")
    page = review.markdown(one.evidence, on_server(tmp_path))
    assert "on no photos" in page
    assert "![" not in page
    report = write(tmp_path, one)
    assert "There were no rows to judge on." in report.read_text()
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"report.html", "slices.csv"}


@pytest.mark.parametrize("missing", ["golden", "fresh", "drifted"])
def test_a_part_without_rows_is_left_out(missing: str, tmp_path: Path) -> None:
    evidence = judged().evidence
    evidence["comparisons"][missing] = None
    assert f"**{missing}**" not in review.markdown(evidence, on_server(tmp_path))
    assert f'colspan="4">{missing}' not in review.html(evidence)


def test_what_nobody_recorded_is_left_out_and_not_called_none(tmp_path: Path) -> None:
    evidence = judged(kind="guess", seeds=None, behaviour=[]).evidence
    evidence["contender"]["facts"] = dict.fromkeys(evidence["contender"]["facts"], None) | {"currency": ""}
    evidence["golden"]["rows"] = 0
    for text in (review.markdown(evidence, on_server(tmp_path)), Tags(review.html(evidence)).words):
        assert "None" not in text
        assert "cost to train" in text
        assert "not counted (budget.price_per_hour is 0)" in text.replace("\n", " ")


def test_a_hundred_classes_with_long_names_fit_the_column_and_the_rest_is_counted(tmp_path: Path) -> None:
    classes = [f"a class with a rather long name, number {number} | of many" for number in range(100)]
    one = judged(classes=classes, golden=4000, fresh=1500, contender=0.95, opponent=0.5)
    page = review.markdown(one.evidence, on_server(tmp_path))
    assert len(page) <= MOST
    assert re.search(r"\*\*Slices won\*\*: .*, and \d+ more\. \*\*Lost", page)
    assert page.count("![") == 4


@pytest.mark.parametrize("name", NASTY)
def test_a_page_of_nasty_names_alone_keeps_its_verdict_and_its_length(name: str, tmp_path: Path) -> None:
    one = judged(classes=[name * 3 + str(number) for number in range(30)], golden=2000, opponent=0.4)
    findings = [{"gate": f"{number}", "outcome": "fail", "sentence": name * 40} for number in range(30)]
    evidence = {**one.evidence, "findings": findings, "recipe": name, "run_key": name}
    page = review.markdown(evidence, on_server(tmp_path))
    assert len(page) <= MOST
    assert page.startswith("## PROMOTE: version 7 (resnet)")
    assert "**pooled**" in page


# ------------------------------------------------------------------------------------------- the report


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Judged, Path]:
    """A judgement, and the folder that was written of it."""
    one, folder = judged(), tmp_path_factory.mktemp("judge")
    write(folder, one)
    return one, folder


def test_the_folder_has_pictures_slices_and_a_report(written: tuple[Judged, Path]) -> None:
    one, folder = written
    assert {path.name for path in folder.iterdir()} == {
        "slices.csv", "confusion.png", "reliability.png", "slices.png", "disagreements.png", "report.html",
    }  # fmt: skip
    for picture in folder.glob("*.png"):
        with Image.open(picture) as image:
            # The room that MLflow's page leaves beside its menus.
            assert image.width <= 716
    with (folder / "slices.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["column"], row["value"]) for row in rows] == [(row.column, row.value) for row in one.table]
    assert (folder / review.REPORT).stat().st_size < 1_000_000


def test_only_the_photos_that_are_shown_are_read(written: tuple[Judged, Path]) -> None:
    one, _ = written
    assert len(one.read) == 20
    assert one.read == [found.position for found in disagreement.pick(one.paired)]


def test_the_report_is_one_file_without_scripts_and_addresses(written: tuple[Judged, Path]) -> None:
    found = Tags((written[1] / review.REPORT).read_text())
    assert not found.named("script", "iframe", "object", "embed", "form", "base")
    sources = [attributes["src"] for attributes in found.named("img")]
    assert len(sources) == 3 + 20
    assert all(source and source.startswith("data:image/") for source in sources)
    assert all(attributes["alt"] for attributes in found.named("img"))
    assert [attributes["href"] for attributes in found.named("link", "a")] == ["data:,"]


def test_the_report_says_what_the_evidence_says(written: tuple[Judged, Path]) -> None:
    one, folder = written
    words = " ".join(Tags((folder / review.REPORT).read_text()).words.split())
    for finding in one.evidence["findings"]:
        assert finding["sentence"] in words
    for row in one.evidence["behaviour"]:
        assert row["sentence"] in words
    for uri in one.evidence["snapshot"]["partitions"]:
        assert uri in words
    first = disagreement.pick(one.paired)[0]
    assert f"image-{first.position:05d}, {one.paired.senders[first.position]}" in words


def test_photos_without_senders_have_none_in_their_captions(tmp_path: Path) -> None:
    one = judged()
    photos = review.Photos(image_ids=one.photos.image_ids, images=one.photos.images)
    review.write(tmp_path, one.evidence, one.paired, one.table, one.classes, photos)
    words = Tags((tmp_path / review.REPORT).read_text()).words
    assert f"image-{disagreement.pick(one.paired)[0].position:05d}" in words
    assert "sender-" not in words


def test_two_models_that_agree_everywhere_have_no_photos_to_show(tmp_path: Path) -> None:
    one = judged()
    same = Paired(
        labels=one.paired.labels,
        contender=one.paired.contender,
        opponent=one.paired.contender,
        senders=one.paired.senders,
    )
    review.write(tmp_path, one.evidence, same, one.table, one.classes, one.photos)
    assert "both say the same about every photo" in (tmp_path / review.REPORT).read_text()
    assert (tmp_path / "disagreements.png").stat().st_size > 1000


def test_nothing_that_people_write_becomes_markup_in_the_report(tmp_path: Path) -> None:
    plain, nasty = tmp_path / "plain", tmp_path / "nasty"
    plain.mkdir()
    nasty.mkdir()
    harmless = [chr(ord("a") + number) for number in range(len(NASTY))]
    one = judged(classes=NASTY, sender_prefix="<b>sender", recipe=NASTY[0])
    kinds = [
        sorted(tag for tag, _ in Tags(write(folder, given).read_text()).elements)
        for folder, given in ((plain, judged(classes=harmless)), (nasty, one))
    ]
    assert kinds[0] == kinds[1]
    words = Tags((nasty / review.REPORT).read_text()).words
    for name in NASTY:
        assert name in words


def test_the_same_judgement_gives_the_same_bytes(written: tuple[Judged, Path], tmp_path: Path) -> None:
    write(tmp_path, judged())
    for path in written[1].iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


@pytest.mark.parametrize(("count", "size"), [(2, 16), (17, 96), (60, 32)])
def test_pictures_are_drawn_for_few_and_for_many_classes(count: int, size: int, tmp_path: Path) -> None:
    one = judged(classes=[f"class number {number} of them all" for number in range(count)], size=size, golden=400)
    report = write(tmp_path, one)
    kind = "png" if size < review.TINY else "jpeg"
    assert report.read_text().count(f'src="data:image/{kind};base64,') == (23 if kind == "png" else 20)


# -------------------------------------------------------------------------------------------- numbers


def test_the_flat_numbers_keep_their_names() -> None:
    evidence = judged().evidence
    found = judgement.flat_metrics(evidence)
    fresh = evidence["comparisons"]["fresh"]
    assert found["fresh_accuracy"] == fresh["contender"]["accuracy"]
    assert found["fresh_opponent_accuracy"] == fresh["opponent"]["accuracy"]
    assert (found["fresh_rows"], found["fresh_p_value"]) == (120, fresh["p_value"])
    accuracy, log_loss = fresh["differences"]["accuracy"], fresh["differences"]["log_loss"]
    assert [found[f"fresh_difference{end}"] for end in ("", "_low", "_high")] == list(accuracy.values())
    assert [found[f"fresh_log_loss_gain{end}"] for end in ("", "_low", "_high")] == list(log_loss.values())
    assert (found["latency_ms_contender"], found["latency_ms_opponent"]) == (0.84, 0.79)
    assert (found["size_contender"], found["latency_factor_high"]) == (1_482_000, 1.11)
    assert (found["behaviour_jpeg"], found["seeds_low"]) == (0.71, 0.061)
    assert all(isinstance(value, int | float) for value in found.values())


def test_flat_numbers_of_a_judgement_without_rows_are_few() -> None:
    evidence = judged(golden=0, fresh=0, kind="guess", seeds=None, behaviour=[]).evidence
    assert judgement.flat_metrics(evidence) == {}
