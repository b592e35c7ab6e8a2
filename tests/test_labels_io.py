"""Labels as files: CSV and Label Studio both ways, all or nothing, and what is wrong by its place."""

import base64
import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from monitoring import queued, votes
from monitoring.stores import Store, open_store
from monitoring.votes import Said
from pipelines import labels
from pipelines.cli import app
from pipelines.data.labelfiles import label_studio_config, read_csv, read_label_studio
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.sections import Taxonomy
from pipelines.settings import Settings
from tests.labelled import DAY, NOON, Home, put, scored_home

NOW = NOON + timedelta(days=1)
CLASSES = Taxonomy(classes=tuple("0123456789"), aliases={"zero": "0"})


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings.database_url)


@pytest.fixture
def take_in(settings: Settings, recipe: Recipe, tmp_path: Path) -> Callable[..., labels.Imported]:
    """Import a text, as a file of that name."""

    def work(text: str | bytes, name: str = "labels.csv", author: str = "") -> labels.Imported:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        known = recipe.model_copy(update={"taxonomy": CLASSES})
        return labels.take_in(settings, known, path, author=author, format_="", now=NOW)

    return work


def truth(store: Store) -> dict[str, tuple[str, str]]:
    rows = store.truth(as_of=NOW).to_dict("records")
    return {row["image_id"]: (row["label"], row["said_by"]) for row in rows}


def said(store: Store) -> dict[str, dict[str, str | None]]:
    return {row["image_id"]: {vote["author"]: vote["label"] for vote in row["votes"]} for row in queued.listed(store)}


def task(image_id: str = "p0", choice: Any = "3", **changed: Any) -> dict[str, Any]:
    """A task as Label Studio exports it."""
    annotation = {
        "id": 1001,
        "completed_by": 1,
        "was_cancelled": False,
        "created_at": "2026-03-08T09:00:00.000000Z",
        "updated_at": "2026-03-08T10:00:00.000000Z",
        "lead_time": 3.1,
        "result": [
            {"id": "a", "from_name": "choice", "to_name": "photo", "type": "choices", "value": {"choices": [choice]}}
        ],
        **changed,
    }
    return {"id": 7, "project": 1, "data": {"image_id": image_id, "photo": "…"}, "annotations": [annotation]}


# ------------------------------------------------------------------------------------------------ taking


@pytest.mark.usefixtures("database_url")
def test_labels_of_a_spreadsheet_become_the_truth_and_twice_changes_nothing(
    store: Store, take_in: Callable[..., labels.Imported]
) -> None:
    put(store, 5, twice=[2])
    text = (
        "\ufeffimage_id,note,label,author,labelled_at,cannot_tell\n"
        'p0,"a, b",3,ada,2026-03-08T10:00:00Z,\n'
        "p1,,zero,,,\n"
        "p2,,5,ada,,no\n"
        "p3,,,,,yes\n"
        "p4,,,,,\n"
    )
    found = take_in(text, author="bob")
    assert (found.new, found.changed, found.unchanged, found.silent, found.labelled) == (4, 0, 0, 1, 2)
    assert truth(store) == {"p0": ("3", "ada"), "p1": ("0", "bob")}
    assert said(store)["p3"] == {"bob": None}
    again = take_in(text, author="bob")
    assert (again.new, again.changed, again.unchanged) == (0, 0, 4)
    changed = take_in("image_id,label,author\np0,4,ada\n")
    assert (changed.changed, truth(store)["p0"]) == (1, ("4", "ada"))
    assert votes.undo(store, "ada", now=NOW, minutes=1) == "p0"
    assert "p0" not in truth(store)


@pytest.mark.usefixtures("database_url")
def test_annotations_of_label_studio_become_the_truth(store: Store, take_in: Callable[..., labels.Imported]) -> None:
    put(store, 5, twice=[1])
    agreed = task("p1", "5", completed_by={"id": 4, "email": "ada@example.org"})
    agreed["annotations"].append({**agreed["annotations"][0], "completed_by": {"id": 5, "email": "bob@example.org"}})
    tasks = [
        task("p0", "zero"),
        agreed,
        task("p2", was_cancelled=True, result=[]),
        task("p3", result=[]),
        {"data": {"image_id": "p4"}, "annotations": []},
    ]
    found = take_in(json.dumps(tasks), "export.json")
    assert (found.new, found.silent, found.labelled) == (4, 2, 2)
    assert truth(store) == {"p0": ("0", "label-studio:1"), "p1": ("5", "ada@example.org, bob@example.org")}
    assert said(store)["p2"] == {"label-studio:1": None}
    at = store.truth(as_of=NOW).set_index("image_id")["labelled_at"]["p0"]
    assert at == datetime(2026, 3, 8, 10, tzinfo=UTC)


CSV = "image_id,label,author,labelled_at,cannot_tell\n"


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("image_id;label;author\n", "a.csv", "line 1: no column image_id"),
        ("", "a.csv", "no column image_id; .*this one has nothing"),
        (CSV + "p0,Sandal,ada,,\n", "a.csv", "line 2: label 'Sandal': is no class; classes are 0, 1"),
        (CSV + "p0,3,ada,,\np1,3,,,\n", "a.csv", "line 3: author: is missing; .*--author"),
        (CSV + "p0,3,ada,yesterday,\n", "a.csv", "line 2: labelled_at 'yesterday': is no time"),
        (CSV + "p0,3,ada,2027-01-01T00:00:00Z,\n", "a.csv", "is in the future"),
        (CSV + "p0,3,ada,2026-03-08T10:00:00,\n", "a.csv", "has no offset"),
        (CSV + "p0,3,ada,2026-03-01T10:00:00Z,\n", "a.csv", "labelled_at 2026-03-01.*before the photo 'p0' was taken"),
        (CSV + "p0,3,ada,,\np0,4,ada,,\n", "a.csv", "line 3: label '4': line 2 says '3'"),
        (CSV + "p0,3,ada,,maybe\n", "a.csv", "line 2: cannot_tell 'maybe'"),
        (CSV + "p0,3,ada,,yes\n", "a.csv", "line 2: label '3': but cannot_tell is yes"),
        (CSV + "p0,3,ada,,,,\n", "a.csv", "line 2: has more cells"),
        (CSV + 'p0,"3,ada,,\n', "a.csv", "no CSV"),
        (CSV + "p0,3,ada,,\nnobody,3,ada,,\n", "a.csv", "image_id 'nobody': is not in the queue; .*/ground-truth"),
        (CSV.encode() + b"p0,\xff,ada,,\n", "a.csv", "is not UTF-8"),
        (CSV, "labels.xlsx", "names no format; formats are csv"),
        ("{", "a.json", "no JSON"),
        ("[" * 5_000, "a.json", "no JSON"),
        ('{"id": 1}', "a.json", "no list of tasks"),
        ('[{"id": 1, "choice": "3"}]', "a.json", "task 1: data: is missing; .*not as JSON-MIN"),
        (json.dumps([{**task(), "annotations": "x"}]), "a.json", "task 1: annotations: must be a list"),
        (json.dumps([task(), {**task(), "annotations": [7]}]), "a.json", "task 2, annotation 1: '7' is no annotation"),
        (json.dumps([task(choice="Sandal")]), "a.json", "task 1, annotation 1: label 'Sandal': is no class"),
        (json.dumps([task(choice=["3"])]), "a.json", "annotation 1: label: must be text"),
        (json.dumps([task(completed_by=None)]), "a.json", "author: is missing"),
        (json.dumps([task(updated_at="soon")]), "a.json", "labelled_at 'soon': is no time"),
        (json.dumps([task(result=[{"type": "rectanglelabels"}])]), "a.json", "type 'rectanglelabels': only choices"),
        (json.dumps([task(result=[{"type": "choices", "value": {"choices": ["1", "2"]}}])]), "a.json", "one choice"),
        (json.dumps([task(result="3")]), "a.json", "type '3': only choices"),
        (json.dumps([{**task(), "data": {"photo": "…"}}]), "a.json", "data.image_id: is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_nothing_is_taken(
    text: str | bytes, name: str, message: str, store: Store, take_in: Callable[..., labels.Imported]
) -> None:
    put(store, 2)
    with pytest.raises(ClassyError, match=f"(?s){name}.*{message}" if name != "labels.xlsx" else message):
        take_in(text, name)
    assert truth(store) == {}
    assert said(store) == {"p0": {}, "p1": {}}


def test_many_wrong_lines_are_told_by_the_first_ones(take_in: Callable[..., labels.Imported], store: Store) -> None:
    with pytest.raises(ClassyError) as caught:
        take_in(CSV + "p0,Sandal,ada,,\n" * 30)
    assert "30 wrong, nothing was taken" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 12
    assert "and 20 more" in str(caught.value)


def read_or_refused(read: Any, text: str) -> None:
    try:
        words = read(text, CLASSES, author="ada", now=NOW, name="the file").words
    except ClassyError as error:
        words, refusal = [], str(error)
    else:
        refusal = "the file"
    assert refusal.startswith("the file")
    assert all(word.label is None or word.label in CLASSES.classes for word in words)


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["data", "annotations", "result", "type", "value", "choices", "image_id", "completed_by", "x"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSONS)
@budget(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_json_is_read_or_refused_in_words(found: Any) -> None:
    for text in (json.dumps(found), json.dumps([found]), json.dumps([{**task(), "annotations": [found]}])):
        read_or_refused(read_label_studio, text)


@given(st.text(max_size=200), st.booleans())
@budget(max_examples=200, deadline=None)
def test_any_text_is_a_csv_or_is_refused_in_words(text: str, headed: bool) -> None:
    read_or_refused(read_csv, CSV + text if headed else text)


# ---------------------------------------------------------------------------------------------- both ways


WORDS = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.sampled_from(["ada", 'bob "b", jr.', "=cy", "дан\nz"]),
        st.none() | st.sampled_from("0123456789"),
        st.integers(0, 10**6),
    ),
    max_size=20,
    unique_by=lambda word: word[:2],
)


@pytest.mark.parametrize("name", ["labels.csv", "tasks.json"])
@given(words=WORDS)
@budget(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_exported_is_taken_in_again_as_it_was(
    words: list[tuple[int, str, str | None, int]], name: str, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("io")
    first, second = (Settings(home=folder / one, actor="tester") for one in ("first", "second"))
    for one in (first, second):
        put(open_store(one.database_url), 10, twice=range(0, 10, 3))
    given_words = [
        Said(image_id=f"p{number}", author=author, label=label, at=NOON + timedelta(milliseconds=late))
        for number, author, label, late in words
    ]
    votes.take_in(open_store(first.database_url), given_words, now=NOW)
    url = "https://photos.example/{image_id}.png"
    wrote = labels.export(first, folder / name, day=None, state="", format_="", photo_url=url)
    assert (wrote.photos, wrote.words) == (10, len(words))
    found = labels.take_in(second, recipe, folder / name, author="", format_="", now=NOW)
    assert (found.new, found.silent) == (len(words), 10 - len({word[0] for word in words}))
    one, other = (open_store(settings.database_url) for settings in (first, second))
    assert said(one) == said(other)
    assert truth(one) == truth(other)


def test_the_tasks_are_what_label_studio_imports(tmp_path_factory: pytest.TempPathFactory) -> None:
    home: Home = scored_home(tmp_path_factory.mktemp("tasks"), per_day=40)
    home.queue(per_day=6)
    path = home.settings.home / "tasks.json"
    labels.export(home.settings, path, day=home.day, state="open", format_="", photo_url="")
    tasks = json.loads(path.read_text())
    assert len(tasks) == len(queued.listed(home.store))
    for one in tasks:
        kind, data = one["data"]["photo"].split(",", 1)
        assert kind == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (24, 20)
        (prediction,) = one["predictions"]
        (result,) = prediction["result"]
        assert result["type"] == "choices"
        assert result["value"]["choices"][0] in home.recipe.taxonomy.classes
        assert 0 <= prediction["score"] <= 1
        assert one["annotations"] == []
    config = ElementTree.fromstring(label_studio_config(home.recipe.taxonomy))
    image, choices = config
    assert (image.get("name"), image.get("value")) == ("photo", "$photo")
    assert (choices.get("name"), choices.get("toName")) == (result["from_name"], result["to_name"])
    assert [one.get("value") for one in choices] == list(home.recipe.taxonomy.classes)
    (home.settings.home / "data" / "queue" / f"date={home.day}").rename(tmp_path_factory.mktemp("gone") / "x")
    with pytest.raises(ClassyError, match="of the queue is gone"):
        labels.export(home.settings, home.settings.home / "b.json", day=None, state="", format_="", photo_url="")
    assert not (home.settings.home / "b.json").exists()


# ---------------------------------------------------------------------------------------------- commands


def test_the_commands_list_export_import_and_estimate(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLASSY_HOME", str(settings.home))
    monkeypatch.setenv("COLUMNS", "200")

    def classy(*words: str) -> Any:
        result = CliRunner().invoke(app, ["labels", *words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.output) if "--json" in words else result.output

    assert "classy queue --day DAY" in classy("list")
    put(store, 4)
    path = tmp_path / "labels.csv"
    assert classy("export", str(path), "--json")["photos"] == 4
    rows = list(csv.DictReader(path.open()))
    assert [row["image_id"] for row in rows] == ["p0", "p1", "p2", "p3"]
    for row, label in zip(rows, "0010", strict=True):
        row["label"] = label
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    assert classy("import", str(path), "--author", "ada", "--recipe", "digits", "--json")["new"] == 4
    assert "ada: 1" in classy("list", "--state", "labelled", "--day", str(DAY))
    assert classy("list", "--state", "open", "--json") == []
    found = classy("accuracy", "--day", str(DAY), "--json")
    # Two picked photos stand for themselves, one right; two drawn ones, both right, for 198.
    assert found["value"] == pytest.approx((0.5 * 2 + 1.0 * 198) / 200)
    assert (found["rows"], found["photos"]) == (4, 200)
    assert found["low"] < found["value"] <= found["high"]
    assert classy("config", "--recipe", "digits").startswith("<View>")
    assert "<View>" in classy("config", "--recipe", "digits", "--json")["config"]
