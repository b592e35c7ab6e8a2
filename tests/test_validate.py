"""Data: the good goes on, the bad is kept with its reason, and a bad day stops by verdict."""

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image
from sqlalchemy import select

from monitoring.stores import open_store
from monitoring.tables import ground_truth
from pipelines import files, gather, validate
from pipelines.data.checks import Checked, Seen
from pipelines.data.records import CLEAN, LABELS, QUARANTINE, RAW, write_rows
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from pipelines.validate import Validated
from tests.conftest import TINY

DAY = date(2026, 3, 2)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def picture(seed: int) -> np.ndarray:
    waves = np.random.default_rng(seed).normal(size=(9, 9, 3))
    basis = np.cos(np.outer(np.arange(9), np.linspace(0, np.pi, 40)))
    field = np.einsum("ijc,ix,jy->xyc", waves, basis, basis)
    return np.uint8(20 + 200 * (field - field.min()) / np.ptp(field))


def photo(seed: int, kind: str = "PNG", brighter: int = 0) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(seed) + np.uint8(brighter)).save(out, kind)
    return out.getvalue()


def record(image_id: str, image: bytes | None, **given: Any) -> dict[str, Any]:
    known = {"image_id": image_id, "source_id": "ada", "captured_at": NOON, "image": image, "origin": image_id}
    return {**known, "error": None, "group_id": image_id, **given}


def label(image_id: str, said: str, at: datetime = NOON, taken: datetime = NOON) -> dict[str, Any]:
    return {"image_id": image_id, "label": said, "labelled_at": at, "said_by": "ada", "captured_at": taken}


def raw_day(settings: Settings, records: Any, labels: Any = (), day: date = DAY) -> str:
    """A raw partition as gather writes it, from rows or from whole Arrow tables; the labels are in the truth too."""
    uri = files.join(settings.data_root, "raw", f"date={day}")
    with files.new_partition(uri) as draft:
        for name, schema, rows in (("records", RAW, records), ("labels", LABELS, labels)):
            path = draft.folder / f"{name}.parquet"
            if isinstance(rows, pa.Table):
                pq.write_table(rows, path)
            elif rows is not None:
                write_rows(path, schema, rows)
        draft.meta.update(day=str(day), records=0, labels=0, recipe="x")
    if labels and not isinstance(labels, pa.Table):
        columns = ("image_id", "label", "labelled_at", "said_by")
        store = open_store(settings.database_url)
        store.upsert_truth([{name: row[name] for name in columns} for row in labels])
    return uri


def recipe_of(**validation: Any) -> Recipe:
    rules = {"max_bad_share": 1.0, **validation}
    return Recipe.model_validate({**TINY, "taxonomy": {"classes": ["cat", "dog"]}, "validation": rules})


def clean(validated: Validated) -> pd.DataFrame:
    return pd.read_parquet(f"{validated.clean_uri}/records.parquet")


def quarantine(settings: Settings, day: date = DAY) -> dict[str, tuple[str, str]]:
    """image_id → (what, reason)"""
    table = pd.read_parquet(files.join(settings.data_root, "quarantine", f"date={day}", "records.parquet"))
    assert table["detail"].str.len().gt(0).all()
    return dict(zip(table["image_id"], zip(table["what"], table["reason"], strict=True), strict=True))


def rejected(settings: Settings) -> dict[str, str | None]:
    with open_store(settings.database_url).engine.connect() as connection:
        return {row.image_id: row.rejected for row in connection.execute(select(ground_truth))}


# ------------------------------------------------------------------------------------------ a good day


def test_a_good_day_goes_through(settings: Settings, recipe: Recipe) -> None:
    gathered = gather.run(settings, recipe, day=DAY)
    validated = validate.run(settings, recipe, raw_uri=gathered.raw_uri)
    assert json.loads(json.dumps(asdict(validated))) == asdict(validated)
    assert (validated.ok, validated.reasons, validated.kept, validated.quarantined) == (True, [], 100, 0)
    table = pq.read_table(f"{validated.clean_uri}/records.parquet")
    assert table.schema.equals(CLEAN)
    raw = pq.read_table(f"{gathered.raw_uri}/records.parquet")
    for name in ("image_id", "source_id", "captured_at", "group_id"):
        assert table[name].equals(raw[name])
    assert set(table["format"].to_pylist()) == {"PNG"}
    assert set(table["width"].to_pylist()) == {32}
    manifest = files.need_manifest(validated.clean_uri, "validate")
    assert manifest["raw_uri"] == gathered.raw_uri
    assert {name: manifest[name] for name in ("ok", "kept", "by_reason")} == {"ok": True, "kept": 100, "by_reason": {}}
    assert set(rejected(settings).values()) == {None}


def test_a_second_run_changes_nothing(settings: Settings) -> None:
    labels = [label("a", "cat"), label("b", "bird")]
    raw_uri = raw_day(settings, [record("a", photo(1)), record("b", photo(1)), record("c", b"?")], labels)
    first = validate.run(settings, recipe_of(), raw_uri=raw_uri)
    before = {path: path.read_bytes() for path in (settings.home / "data").rglob("*") if path.is_file()}
    assert validate.run(settings, recipe_of(), raw_uri=raw_uri) == first
    assert {path: path.read_bytes() for path in (settings.home / "data").rglob("*") if path.is_file()} == before
    assert rejected(settings) == {"a": None, "b": "unknown_label"}


def test_the_number_of_threads_changes_nothing(recipe: Recipe, tmp_path: Path) -> None:
    found = []
    for threads in (1, 8):
        settings = load_settings(home=tmp_path / str(threads), threads=threads)
        validated = validate.run(settings, recipe, raw_uri=gather.run(settings, recipe, day=DAY).raw_uri)
        found.append(Path(validated.clean_uri, "records.parquet").read_bytes())
    assert found[0] == found[1]


# ------------------------------------------------------------------------------------------ bad photos


def test_each_bad_photo_has_its_reason(settings: Settings) -> None:
    small = io.BytesIO()
    Image.new("RGB", (7, 40)).save(small, "PNG")
    wide = io.BytesIO()
    Image.new("RGB", (60, 40)).save(wide, "PNG")
    tiff = io.BytesIO()
    Image.new("RGB", (40, 40)).save(tiff, "TIFF")
    records = [
        record("good", photo(1)),
        record("gone", None, error="missing: /photos/gone.jpg is not there"),
        record("silent", None),
        record("refused", None, error="unreadable: https://x/y: 500"),
        record("huge", None, error="too_many_bytes: more than 10 bytes"),
        record("heavy", photo(2) + b"\0" * 20_000),
        record("text", b"hello"),
        record("empty", b""),
        record("tiff", tiff.getvalue()),
        record("cut", photo(3)[:-900]),
        record("small", small.getvalue()),
        record("wide", wide.getvalue()),
        record("again", photo(1)),
    ]
    image = {"size": 16, "max_bytes": 20_000, "max_pixels": 60 * 40 - 1}
    recipe = Recipe.model_validate({**recipe_of().model_dump(by_alias=True), "image": image})
    validated = validate.run(settings, recipe, raw_uri=raw_day(settings, records))
    assert validated.ok
    assert clean(validated)["image_id"].tolist() == ["good"]
    assert quarantine(settings) == {
        "gone": ("photo", "missing"),
        "silent": ("photo", "missing"),
        "refused": ("photo", "unreadable"),
        "huge": ("photo", "too_many_bytes"),
        "heavy": ("photo", "too_many_bytes"),
        "text": ("photo", "not_an_image"),
        "empty": ("photo", "not_an_image"),
        "tiff": ("photo", "format"),
        "cut": ("photo", "truncated"),
        "small": ("photo", "too_small"),
        "wide": ("photo", "too_many_pixels"),
        "again": ("photo", "duplicate"),
    }
    assert (validated.kept, validated.quarantined) == (1, 12)
    assert validated.by_reason["missing"] == 2
    assert sum(validated.by_reason.values()) == 12
    path = files.join(settings.data_root, "quarantine", f"date={DAY}", "records.parquet")
    assert pq.read_schema(path).equals(QUARANTINE)


def day_of(
    settings: Settings, recipe: Recipe, day: date, photos: dict[str, bytes], groups: dict[str, str] | None = None
) -> pd.DataFrame:
    taken = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    records = [
        record(name, data, captured_at=taken, group_id=(groups or {}).get(name, name)) for name, data in photos.items()
    ]
    return clean(validate.run(settings, recipe, raw_uri=raw_day(settings, records, day=day))).set_index("image_id")


def test_the_same_bytes_are_found_on_earlier_days_only(settings: Settings) -> None:
    recipe, later = recipe_of(), DAY + timedelta(days=1)
    assert list(day_of(settings, recipe, later, {"late": photo(1), "other": photo(2)}).index) == ["late", "other"]
    # A day that is filled in afterwards does not look into the future …
    assert list(day_of(settings, recipe, DAY, {"early": photo(1)}).index) == ["early"]
    # … and once it is there, the later day sees it.
    assert list(day_of(settings, recipe, later, {"late": photo(1), "other": photo(2)}).index) == ["other"]
    assert quarantine(settings, later) == {"late": ("photo", "duplicate")}


def test_near_copies_are_one_group_within_a_day_and_with_earlier_ones(settings: Settings) -> None:
    recipe, later = recipe_of(near_duplicate_bits=6), DAY + timedelta(days=1)
    first = day_of(settings, recipe, DAY, {"a": photo(1), "b": photo(2), "a again": photo(1, brighter=3)})
    assert first["group_id"].to_dict() == {"a": "a", "b": "b", "a again": "a"}
    second = day_of(settings, recipe, later, {"b jpeg": photo(2, "JPEG"), "c": photo(3), "a too": photo(1, brighter=5)})
    assert second["group_id"].to_dict() == {"b jpeg": "b", "c": "c", "a too": "a"}
    off = day_of(settings, recipe_of(), later, {"b jpeg": photo(2, "JPEG")})
    assert off["group_id"].to_dict() == {"b jpeg": "b jpeg"}


def test_a_group_that_the_source_gave_is_not_torn_apart(settings: Settings) -> None:
    recipe = recipe_of(near_duplicate_bits=6)
    photos = {"a": photo(1), "x": photo(1, brighter=3), "y": photo(5), "near y": photo(5, brighter=3)}
    found = day_of(settings, recipe, DAY, photos, {"x": "shoe", "y": "shoe"})
    assert found["group_id"].to_dict() == {"a": "a", "x": "shoe", "y": "shoe", "near y": "shoe"}


@given(st.lists(st.integers(0, 2**64 - 1), max_size=40), st.integers(0, 16), st.data())
@examples(max_examples=60, deadline=None)
def test_the_nearest_and_oldest_is_found_as_by_looking_at_each(
    hashes: list[int], bits: int, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(hashes)))
    # Some are near others on purpose: random 64 bits never are.
    hashes = [
        h ^ data.draw(st.sampled_from([0, 1, 0b1011])) if i % 2 == 0 else hashes[i - 1] for i, h in enumerate(hashes)
    ]
    history = pd.DataFrame(
        {
            "image_id": [f"h{i}" for i in range(cut)],
            "sha256": [f"sha-h{i}" for i in range(cut)],
            "phash": [f"{h:016x}" for h in hashes[:cut]],
            "group_id": [f"h{i}" for i in range(cut)],
        }
    )
    seen = Seen(history, bits)
    groups = list(history["group_id"])
    for number, phash in enumerate(hashes[cut:], start=cut):
        one = Checked(
            image_id=f"n{number}", source_id="s", captured_at=NOON, group_id=f"n{number}",
            sha256=f"sha-n{number}", phash=f"{phash:016x}",
        )  # fmt: skip
        apart = [(phash ^ other).bit_count() for other in hashes[:number]]
        expected = groups[apart.index(min(apart))] if apart and min(apart) <= bits else f"n{number}"
        assert seen.place(one).group_id == expected
        groups.append(expected)


# ------------------------------------------------------------------------------------------ bad labels


def test_bad_labels_are_rejected_and_their_photos_stay(settings: Settings) -> None:
    late = NOON + timedelta(hours=1)
    labels = [
        label("a", "cat", late),
        label("b", "bird", late),
        label("c", "dog", NOON - timedelta(seconds=1)),
        label("old", "dog", late, NOON - timedelta(days=3)),
    ]
    raw_uri = raw_day(settings, [record(name, photo(n)) for n, name in enumerate("abc")], labels)
    validated = validate.run(settings, recipe_of(), raw_uri=raw_uri)
    assert validated.ok
    assert clean(validated)["image_id"].tolist() == ["a", "b", "c"]
    assert quarantine(settings) == {"b": ("label", "unknown_label"), "c": ("label", "label_before_photo")}
    assert validated.by_reason == {"label_before_photo": 1, "unknown_label": 1}
    assert rejected(settings) == {"a": None, "b": "unknown_label", "c": "label_before_photo", "old": None}
    known = open_store(settings.database_url).truth(as_of=late)
    assert known["image_id"].tolist() == ["a", "old"]


def test_a_class_that_is_added_later_takes_its_labels_back(settings: Settings) -> None:
    raw_uri = raw_day(settings, [record("a", photo(1))], [label("a", "bird")])
    validate.run(settings, recipe_of(), raw_uri=raw_uri)
    assert rejected(settings) == {"a": "unknown_label"}
    wider = recipe_of().model_copy(
        update={"taxonomy": recipe_of().taxonomy.model_copy(update={"aliases": {"bird": "cat"}})}
    )
    validate.run(settings, wider, raw_uri=raw_uri)
    assert rejected(settings) == {"a": None}


def test_a_label_that_was_replaced_meanwhile_is_left_alone(settings: Settings) -> None:
    raw_uri = raw_day(settings, [record("a", photo(1))], [label("a", "bird")])
    corrected = {"image_id": "a", "label": "cat", "labelled_at": NOON + timedelta(days=2), "said_by": "bob"}
    open_store(settings.database_url).upsert_truth([corrected])
    validate.run(settings, recipe_of(), raw_uri=raw_uri)
    assert rejected(settings) == {"a": None}


# ------------------------------------------------------------------------------------------ bad days


def verdict(settings: Settings, recipe: Recipe, raw_uri: str, *says: str) -> Validated:
    """Validate a day that must be refused for reasons with these words, with nothing let through."""
    validated = validate.run(settings, recipe, raw_uri=raw_uri)
    assert not validated.ok
    assert validated.kept == len(clean(validated)) == 0
    text = " | ".join(validated.reasons)
    for part in says:
        assert part in text
    manifest = files.need_manifest(validated.clean_uri, "validate")
    assert (manifest["ok"], manifest["reasons"]) == (False, validated.reasons)
    return validated


def test_an_empty_day(settings: Settings, recipe: Recipe) -> None:
    raw_uri = gather.run(settings, recipe, day=date(2030, 1, 1)).raw_uri
    validated = verdict(settings, recipe, raw_uri, "empty", "validation.min_records")
    assert (validated.quarantined, validated.by_reason, len(validated.reasons)) == (0, {}, 1)


def test_too_few_and_too_many_bad(settings: Settings) -> None:
    records = [record("a", photo(1)), record("b", b"?"), record("c", b"!"), record("d", photo(4)[:-500])]
    raw_uri = raw_day(settings, records, [label("a", "cat")])
    says = ("1 good photos of 4", "validation.min_records", "75% of 4", "2 not_an_image", "validation.max_bad_share")
    validated = verdict(settings, recipe_of(min_records=2, max_bad_share=0.5), raw_uri, *says)
    assert validated.by_reason == {"not_an_image": 2, "truncated": 1}
    assert set(quarantine(settings)) == {"b", "c", "d"}
    assert validate.run(settings, recipe_of(max_bad_share=0.75), raw_uri=raw_uri).kept == 1


def test_a_refused_day_is_no_history(settings: Settings) -> None:
    raw_uri = raw_day(settings, [record("a", photo(1)), record("b", b"?")])
    verdict(settings, recipe_of(max_bad_share=0.1), raw_uri, "50% of 2")
    assert list(day_of(settings, recipe_of(), DAY + timedelta(days=1), {"c": photo(1)}).index) == ["c"]


def test_a_collapsed_class_mix_stops_the_day_and_its_labels(settings: Settings) -> None:
    names = [f"p{n:02d}" for n in range(30)]
    labels = [label(name, "dog" if n == 0 else "cat") for n, name in enumerate(names)]
    raw_uri = raw_day(settings, [record("a", photo(1))], labels)
    assert validate.run(settings, recipe_of(max_class_share=0.97), raw_uri=raw_uri).ok
    validated = verdict(settings, recipe_of(), raw_uri, "class mix collapsed", "'cat' is 97% of 30", "max_class_share")
    assert validated.by_reason == {"class_mix": 30}
    assert set(rejected(settings).values()) == {"class_mix"}
    few = raw_day(settings, [record("a", photo(1))], labels[:29])
    assert validate.run(settings, recipe_of(), raw_uri=few).ok
    assert rejected(settings)["p01"] is None


RECORDS = pa.Table.from_pylist([record("a", photo(1)), record("b", photo(2))], schema=RAW)
LATE = NOON + timedelta(days=1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop_columns("source_id"), "column source_id: is missing"),
        (lambda t: t.drop_columns("image"), "column image: is missing"),
        (lambda t: t.set_column(3, "image", pa.array(["x", "y"])), "column image: is string, not binary"),
        (lambda t: t.set_column(0, "image_id", pa.array([1, 2])), "column image_id"),
        (lambda t: t.set_column(0, "image_id", pa.array(["a", "a"])), "column image_id"),
        (lambda t: t.set_column(0, "image_id", pa.array(["a", None])), "column image_id"),
        (lambda t: t.set_column(0, "image_id", pa.array(["a", "b" * 65])), "column image_id"),
        (lambda t: t.set_column(2, "captured_at", pa.array([NOON, LATE], RAW.field(2).type)), "column captured_at"),
        (lambda t: t.set_column(2, "captured_at", pa.array(["noon", "later"])), "column captured_at"),
        (lambda t: t.set_column(6, "group_id", pa.array(["", "b"])), "column group_id"),
    ],
)
def test_a_schema_that_is_gone_names_its_column(
    settings: Settings, change: Callable[[pa.Table], pa.Table], says: str
) -> None:
    raw_uri = raw_day(settings, change(RECORDS))
    validated = verdict(settings, recipe_of(), raw_uri, "schema: records.parquet: ", says)
    assert len(validated.reasons) <= 2


def test_tables_that_are_missing_or_of_labels(settings: Settings) -> None:
    verdict(
        settings, recipe_of(), raw_day(settings, None, None), "records.parquet is missing", "labels.parquet is missing"
    )
    labels = pa.Table.from_pylist([label("a", "cat")], schema=LABELS).drop_columns("labelled_at")
    verdict(settings, recipe_of(), raw_day(settings, RECORDS, labels), "labels.parquet: column labelled_at: is missing")


# ------------------------------------------------------------------------------------------ broken input


def test_no_partition_is_an_error_that_says_what_to_do(settings: Settings, recipe: Recipe) -> None:
    with pytest.raises(ClassyError, match=r"no complete partition there; make it with `classy gather"):
        validate.run(settings, recipe, raw_uri=str(settings.home / "data" / "raw" / "date=2026-03-02"))


def test_a_table_that_is_no_parquet_is_an_error(settings: Settings) -> None:
    raw_uri = raw_day(settings, RECORDS)
    Path(raw_uri, "records.parquet").write_bytes(b"PAR1 no, not at all PAR1")
    with pytest.raises(ClassyError, match=r"records\.parquet: no Parquet file .* run `classy gather`"):
        validate.run(settings, recipe_of(), raw_uri=raw_uri)
    assert not (settings.home / "data" / "clean").exists()


def test_data_on_another_filesystem(recipe: Recipe, tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "var", data_root=f"memory://{tmp_path.name}")
    for day in (DAY, DAY + timedelta(days=1)):
        validated = validate.run(settings, recipe, raw_uri=gather.run(settings, recipe, day=day).raw_uri)
        assert (validated.ok, validated.kept) == (True, 100)
