"""Code: every kind of source lists its records without opening them, reads what is asked, and says what is wrong."""

import http.server
import io
import json
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sqlalchemy import create_engine

from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from pipelines.sources import PLAN, Source, open_source
from tests.conftest import TINY

DAY = date(2026, 3, 1)


def photo(seed: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 10, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def recipe_of(source: dict[str, Any], classes: tuple[str, ...] = ("cat", "dog"), **given: Any) -> Recipe:
    return Recipe.model_validate({**TINY, "source": source, "taxonomy": {"classes": classes}, **given})


def opened(settings: Settings, source: dict[str, Any], **given: Any) -> Source:
    return open_source(recipe_of(source, **given), settings)


def problem(settings: Settings, source: dict[str, Any], **given: Any) -> str:
    with pytest.raises(ClassyError) as caught:
        opened(settings, source, **given).plan()
    return str(caught.value)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """photos/cat/{1_a,1_b,2_a}.png, photos/dog/3_a.jpg"""
    root = tmp_path / "photos"
    for number, name in enumerate(["cat/1_a.png", "cat/1_b.png", "cat/2_a.png", "dog/3_a.jpg"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(photo(number, "JPEG" if name.endswith("jpg") else "PNG"))
    return root


# ------------------------------------------------------------------------------------------------- digits


def test_digits_are_copied_with_their_sender_and_no_two_are_alike(settings: Settings, recipe: Recipe) -> None:
    many = recipe.model_copy(update={"source": recipe.source.model_copy(update={"records": 4000})})
    source = open_source(many, settings)
    plan = source.plan()
    assert list(plan.columns) == PLAN
    assert len(plan) == plan["image_id"].nunique() == 4000
    assert plan["group_id"].nunique() == 1797
    per_group = plan.groupby("group_id")
    assert (per_group["source_id"].nunique() == 1).all()
    assert (per_group["label"].nunique() == 1).all()
    # As many again of some digits, but of none a third before all have a second.
    assert set(per_group.size()) == {2, 3}
    sample = plan[plan["group_id"].isin(plan["group_id"].unique()[:60])]
    data = [image for _, image, _ in source.read(sample["image_id"])]
    assert len(set(data)) == len(sample)


def test_senders_of_digits_have_a_taste(settings: Settings, recipe: Recipe) -> None:
    plan = open_source(recipe, settings).plan()
    shares = pd.crosstab(plan["source_id"], plan["label"], normalize="index")
    assert shares.max(axis=1).mean() > 0.25  # a sender without a taste would have a tenth of each
    assert plan["label"].value_counts(normalize=True).max() < 0.2


def test_digits_are_the_same_each_time_and_differ_by_seed(settings: Settings, recipe: Recipe) -> None:
    first, again = open_source(recipe, settings), open_source(recipe.model_copy(), settings)
    assert list(first.photos(DAY)) == list(again.photos(DAY))
    other = recipe.model_copy(update={"source": recipe.source.model_copy(update={"seed": 8})})
    assert not open_source(other, settings).plan().equals(first.plan())


# ------------------------------------------------------------------------------------------------- folder


def test_a_class_per_folder(settings: Settings, photos: Path) -> None:
    (photos / ".hidden").mkdir()
    (photos / ".hidden" / "x.png").write_bytes(b"")
    (photos / "readme.txt").write_text("not in a class")
    source = opened(settings, {"kind": "folder", "path": str(photos), "sender_pattern": r"^(\d+)_"})
    plan = source.plan().sort_values("image_id")
    assert plan["image_id"].tolist() == ["cat/1_a.png", "cat/1_b.png", "cat/2_a.png", "dog/3_a.jpg"]
    assert plan["label"].tolist() == ["cat", "cat", "cat", "dog"]
    assert plan["source_id"].tolist() == ["1", "1", "2", "3"]
    assert list(source.read(["dog/3_a.jpg", "cat/1_a.png"])) == [
        ("dog/3_a.jpg", photo(3, "JPEG"), None),
        ("cat/1_a.png", photo(0), None),
    ]


def test_without_a_pattern_each_file_is_its_own_sender(settings: Settings, photos: Path) -> None:
    plan = opened(settings, {"kind": "folder", "path": str(photos)}).plan()
    assert (plan["source_id"] == plan["image_id"]).all()


def test_a_folder_on_another_filesystem(settings: Settings, photos: Path) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    fs, inner = fsspec.url_to_fs(root)
    for name in ("cat/a.png", "dog/b.png"):
        fs.pipe_file(f"{inner}/{name}", photo(5))
    source = opened(settings, {"kind": "folder", "path": root})
    assert [image for _, image, _ in source.read(["dog/b.png", "cat/a.png"])] == [photo(5), photo(5)]


def test_environment_variables_in_paths(
    settings: Settings, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SOME_PHOTOS", str(tmp_path))
    source = {"kind": "folder", "path": "${SOME_PHOTOS}/photos"}
    assert len(opened(settings, source).plan()) == 4
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(opened(settings, {"kind": "folder", "path": "~/photos"}).plan()) == 4
    monkeypatch.delenv("SOME_PHOTOS")
    with pytest.raises(ClassyError, match=r"source.path.*SOME_PHOTOS is not set; export SOME_PHOTOS="):
        opened(settings, source)
    home = {"kind": "folder", "path": "${CLASSY_HOME}/photos"}
    assert str(settings.home) in problem(settings, home)


def test_what_is_wrong_with_a_folder(settings: Settings, photos: Path, tmp_path: Path) -> None:
    folder = {"kind": "folder", "path": str(tmp_path / "nowhere")}
    assert "source.path" in problem(settings, folder)
    assert "no such folder" in problem(settings, folder)
    assert "sub-folder" in problem(settings, {"kind": "folder", "path": str(photos / "cat")})
    assert "no regular expression" in problem(settings, {**folder, "sender_pattern": "("})
    assert "0 groups" in problem(settings, {**folder, "sender_pattern": "a+"})
    assert "source.path" in problem(settings, {"kind": "folder", "path": "carrier-pigeon://coop"})
    strange = problem(settings, {"kind": "folder", "path": str(photos)}, classes=("bird", "fish"))
    assert "taxonomy.classes" in strange
    assert "'cat'" in strange


# ----------------------------------------------------------------------------------------------- manifest

ROWS = [
    {"file": "cat/1_a", "what": "cat", "who": 7, "taken": "2026-03-01T10:00:00Z", "told": "2026-03-02T08:00:00Z"},
    {"file": "cat/1_b", "what": "cat", "who": 7, "taken": "2026-03-01T23:59:59.5Z", "told": "2026-03-01T23:59:59.7Z"},
    {"file": "cat/2_a", "what": None, "who": None, "taken": "2026-03-02T00:00:00Z", "told": None},
    {"file": "cat/gone", "what": "dog", "who": 8, "taken": "2026-03-02T02:00:00+02:00", "told": "2026-03-02T09:00:00Z"},
]
COLUMNS = {"image": "file", "label": "what", "sender": "who", "captured_at": "taken", "labelled_at": "told"}


def write_table(folder: Path, ending: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    path = folder / f"table{ending}"
    frame = pd.DataFrame(rows)
    if ending == ".parquet":
        frame["taken"] = pd.to_datetime(frame["taken"], utc=True, format="ISO8601")
        frame.to_parquet(path)
    elif ending == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        # Whole numbers in a column with gaps are written as people write them.
        frame["who"] = frame["who"].astype("Int64")
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in ending else ",")
    return path


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".jsonl", ".parquet"])
def test_a_table_of_any_kind_gives_the_same_records(settings: Settings, photos: Path, ending: str) -> None:
    path = write_table(photos, ending)
    source = opened(settings, {"kind": "manifest", "path": str(path), "suffix": ".png", **COLUMNS})
    plan = source.plan()
    assert plan["image_id"].tolist() == ["cat/1_a", "cat/1_b", "cat/2_a", "cat/gone"]
    assert plan["source_id"].tolist() == ["7", "7", "cat/2_a", "8"]
    assert plan["label"].tolist() == ["cat", "cat", None, "dog"]
    assert plan["captured_at"].tolist()[2] == plan["captured_at"].tolist()[3] == pd.Timestamp("2026-03-02T00:00Z")
    day = list(source.photos(date(2026, 3, 2)))
    assert [p.image_id for p in day] == ["cat/2_a", "cat/gone"]
    assert day[0].image == photo(2)
    assert day[1].image is None
    assert (day[1].error or "").startswith("missing: ")
    assert source.labels(DAY)["image_id"].tolist() == ["cat/1_b"]
    assert source.labels(date(2026, 3, 2))["image_id"].tolist() == ["cat/1_a", "cat/gone"]
    assert source.said_by == "manifest"


def test_without_a_label_time_a_label_is_as_old_as_its_photo(settings: Settings, photos: Path) -> None:
    path = write_table(photos, ".csv")
    given = {**COLUMNS, "labelled_at": ""}
    plan = opened(settings, {"kind": "manifest", "path": str(path), **given}).plan()
    labelled = plan[plan["label"].notna()]
    assert (labelled["labelled_at"] == labelled["captured_at"]).all()
    assert plan["labelled_at"].isna().sum() == 1


def test_a_changed_table_is_read_again(settings: Settings, photos: Path) -> None:
    path = write_table(photos, ".csv")
    source = {"kind": "manifest", "path": str(path), **COLUMNS}
    assert len(opened(settings, source).plan()) == 4
    write_table(photos, ".csv", [*ROWS, {**ROWS[0], "file": "dog/3_a"}])
    assert len(opened(settings, source).plan()) == 5


def test_a_photo_listed_twice_is_two_records_so_that_validation_can_see_it(settings: Settings, photos: Path) -> None:
    path = write_table(photos, ".csv", [ROWS[0], ROWS[0], ROWS[1]])
    plan = opened(settings, {"kind": "manifest", "path": str(path), **COLUMNS}).plan()
    assert sorted(plan["image_id"]) == ["cat/1_a", "cat/1_a#2", "cat/1_b"]


def test_long_names_become_short_ids(settings: Settings, photos: Path) -> None:
    rows = [{**ROWS[0], "file": "x" * 100}, {**ROWS[0], "file": "x" * 101}]
    plan = opened(settings, {"kind": "manifest", "path": str(write_table(photos, ".csv", rows)), **COLUMNS}).plan()
    assert plan["image_id"].str.len().max() <= 64
    assert plan["image_id"].nunique() == 2


def test_an_empty_table_is_an_empty_source(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("image,label\n")
    source = opened(settings, {"kind": "manifest", "path": str(path)})
    assert source.plan().empty
    assert list(source.photos(DAY)) == []
    assert source.labels(DAY).empty


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"path": "nowhere/table.csv"}, ("source.path", "no such file")),
        ({"label": "lable"}, ("source.label = 'lable'", "no such column", "file, what, who")),
        ({"sender": "whom"}, ("source.sender = 'whom'",)),
        ({"captured_at": "what"}, ("row 1", "source.captured_at", "'cat'", "ISO 8601")),
        ({"captured_at": "told"}, ("row 3", "source.captured_at")),
        ({"captured_at": ""}, ("source.labelled_at", "needs source.captured_at")),
        ({"image": "what"}, ("row 3", "source.image")),
    ],
)
def test_what_is_wrong_with_a_table(
    settings: Settings, photos: Path, change: dict[str, str], says: tuple[str, ...]
) -> None:
    source = {"kind": "manifest", "path": str(write_table(photos, ".csv")), **COLUMNS, **change}
    message = problem(settings, source)
    for part in says:
        assert part in message


def test_a_label_without_a_time_is_no_guess(settings: Settings, photos: Path) -> None:
    path = write_table(photos, ".csv", [ROWS[0], {**ROWS[1], "told": None}])
    message = problem(settings, {"kind": "manifest", "path": str(path), **COLUMNS})
    assert "row 2" in message
    assert "source.labelled_at" in message


def test_files_that_are_no_tables(settings: Settings, tmp_path: Path) -> None:
    for name, content in {
        "t.xlsx": b"PK\3\4",
        "t.parquet": b"no parquet",
        "t.jsonl": b"{nonsense",
        "t.csv": b"\xff\xfe\0\0",
        "t.csv.gz": b"not gzipped",
    }.items():
        (tmp_path / name).write_bytes(content)
        message = problem(settings, {"kind": "manifest", "path": str(tmp_path / name)})
        assert f"source.path = '{tmp_path / name}'" in message
    assert ".jsonl" in problem(settings, {"kind": "manifest", "path": str(tmp_path / "t.xlsx")})


def test_no_more_than_the_allowed_bytes_are_read(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "big.png").write_bytes(b"\0" * 2_000)
    (tmp_path / "t.csv").write_text("image,label\nbig.png,cat\n")
    limit = {"size": 16, "max_bytes": 1_000}
    source = opened(settings, {"kind": "manifest", "path": str(tmp_path / "t.csv")}, image=limit)
    ((_, image, error),) = source.read(["big.png"])
    assert image is None
    assert (error or "").startswith("too_many_bytes: ")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Nothing: a test prints no access log."""

    def do_GET(self) -> None:
        if "broken" in self.path:
            self.send_error(500)
        else:
            super().do_GET()


@pytest.fixture
def web(photos: Path) -> Iterator[str]:
    """The photos over HTTP."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(photos))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_table_of_urls(settings: Settings, web: str, tmp_path: Path) -> None:
    urls = [f"{web}/cat/1_a.png?key=secret", f"{web}/nowhere.png", f"{web}/broken.png?secret", f"{web}/dog/3_a.jpg"] * 6
    (tmp_path / "t.csv").write_text("image,label\n" + "".join(f"{url},cat\n" for url in urls))
    source = opened(settings, {"kind": "manifest", "path": str(tmp_path / "t.csv")})
    plan = source.plan()
    assert not plan["origin"].str.contains("secret").any()
    for image_id, image, error in source.read(plan["image_id"]):
        place = plan.set_index("image_id").loc[image_id, "origin"]
        if "1_a" in place:
            assert image == photo(0)
        elif "3_a" in place:
            assert image == photo(3, "JPEG")
        else:
            assert image is None
            assert (error or "").startswith("missing: " if "nowhere" in place else "unreadable: ")
            assert "secret" not in (error or "")


# ---------------------------------------------------------------------------------------------------- sql


@pytest.fixture
def database(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shop.db"
    # Through SQLAlchemy: to a bare connection of sqlite3 pandas changes how the whole process writes times.
    engine = create_engine(f"sqlite:///{path}")
    pd.DataFrame(ROWS).to_sql("photos", engine, index=False)
    engine.dispose()
    monkeypatch.setenv("SHOP_URL", f"sqlite:///{path}")
    return path


def test_a_query(settings: Settings, database: Path, photos: Path) -> None:
    query = "SELECT file || '.png' AS file, what, who, taken, told FROM photos"
    source = opened(settings, {"kind": "sql", "url_env": "SHOP_URL", "query": query, "base": str(photos), **COLUMNS})
    assert source.plan()["source_id"].tolist() == ["7", "7", "cat/2_a.png", "8"]
    assert [p.image for p in source.photos(DAY)] == [photo(0), photo(1)]
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM photos WHERE who = 7")
    connection.close()
    again = opened(settings, {"kind": "sql", "url_env": "SHOP_URL", "query": query, "base": str(photos), **COLUMNS})
    assert len(again.plan()) == 2


def test_what_is_wrong_with_a_query(
    settings: Settings, database: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"kind": "sql", "url_env": "SHOP_URL", "query": "SELECT * FROM photos", **COLUMNS}
    assert "source.sender = 'whom'" in problem(settings, {**source, "sender": "whom"})
    assert "no such table" in problem(settings, {**source, "query": "SELECT * FROM pictures"})
    assert "write a SELECT" in problem(settings, {**source, "query": "DELETE FROM photos"})
    assert len(opened(settings, source).plan()) == 4  # and the DELETE was not kept
    assert "SHIP_URL is not set" in problem(settings, {**source, "url_env": "SHIP_URL"})
    for url in ("nonsense", "pigeon://user:hush@coop/db"):
        monkeypatch.setenv("SHOP_URL", url)
        message = problem(settings, source)
        assert "SHOP_URL" in message
        assert "hush" not in message


# -------------------------------------------------------------------------------------------- torchvision


def test_a_torchvision_dataset_that_lists_nothing(settings: Settings) -> None:
    given = {"kind": "torchvision", "dataset": "FakeData", "options": {"size": 30, "num_classes": 3}, "limit": 6}
    source = opened(settings, given, classes=("0", "1", "2"))
    plan = source.plan()
    assert len(plan) == 6
    assert set(plan["label"]) <= {"0", "1", "2"}
    (_, data, _), *rest = source.read(plan["image_id"])
    assert Image.open(io.BytesIO(data or b"")).size == (224, 224)
    assert len(rest) == 5


def test_a_torchvision_dataset_with_files(settings: Settings, photos: Path) -> None:
    source = opened(settings, {"kind": "torchvision", "dataset": "ImageFolder", "root": str(photos)})
    plan = source.plan().sort_values("image_id")
    assert plan["label"].tolist() == ["cat", "cat", "cat", "dog"]
    assert plan["image_id"].tolist()[0] == "imagefolder-0000000"
    ((_, data, _),) = source.read(["imagefolder-0000001"])
    expected = Image.open(io.BytesIO(photo(1)))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data or b""))), np.asarray(expected))


def test_what_is_wrong_with_a_torchvision_dataset(settings: Settings, tmp_path: Path) -> None:
    source = {"kind": "torchvision", "dataset": "CIFAR10", "root": str(tmp_path)}
    assert "source.download = true" in problem(settings, source)
    assert "CIFAR10" in problem(settings, {**source, "dataset": "CIFAR11"})
    message = problem(settings, {**source, "options": {"trian": True}})
    assert "source.options" in message
    assert "train" in message
    assert "cannot download" in problem(settings, {**source, "dataset": "FakeData", "download": True})
