"""Data: a replayed calendar is fair and always the same; a scenario changes what it names, on its days, and no more."""

import io
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.recipe import Recipe
from pipelines.sections import Replay, Scenario
from pipelines.settings import Settings
from pipelines.sources import open_source
from pipelines.sources.base import rows_of
from pipelines.sources.replay import replayed
from pipelines.sources.scenarios import changed_photo, changed_rows, photo_scenarios
from serving.canonical import ImageSpec, inspect
from tests.conftest import TINY

CLASSES = ("a", "b", "c", "d")
START = date(2026, 3, 1)
SPEC = ImageSpec(size=16)


def rows(count: int, unlabelled: int = 0) -> pd.DataFrame:
    ids = [f"photo-{i:04d}" for i in range(count)]
    labels = [None if i < unlabelled else CLASSES[i % 4] for i in range(count)]
    return rows_of(image_id=ids, source_id=[f"s{i % 5}" for i in range(count)], label=labels, origin=ids, place=ids)


# ---------------------------------------------------------------------------------------------- calendar

replays = st.builds(
    Replay,
    days=st.integers(2, 40),
    seed=st.integers(0, 1000),
    label_delay_days=st.tuples(st.floats(0, 2), st.floats(0, 3)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    label_share=st.floats(0.1, 1),
)


@given(count=st.integers(0, 120), unlabelled=st.integers(0, 20), replay=replays, order=st.randoms())
@settings(max_examples=60, deadline=None)
def test_the_calendar(count: int, unlabelled: int, replay: Replay, order: Any) -> None:
    given_rows = rows(count, unlabelled)
    plan = replayed(given_rows, replay)
    assert sorted(plan["image_id"]) == sorted(given_rows["image_id"])
    assert plan["captured_at"].is_monotonic_increasing
    days = [(at.date() - replay.start).days for at in plan["captured_at"]]
    per_day = np.bincount(days, minlength=replay.days)
    assert len(per_day) == replay.days
    assert per_day.max() - per_day.min() <= 1
    told = plan[plan["labelled_at"].notna()]
    assert told["label"].notna().all()
    delay = (told["labelled_at"] - told["captured_at"]) / timedelta(days=1)
    low, high = replay.label_delay_days
    assert ((delay >= low - 1e-9) & (delay <= high + 1e-9)).all()
    if replay.label_share == 1:
        assert len(told) == plan["label"].notna().sum()
    # The same whatever order the rows were listed in.
    mixed = given_rows.sample(frac=1, random_state=order.randrange(2**32))
    pd.testing.assert_frame_equal(replayed(mixed, replay), plan)


def test_every_day_has_the_mix_of_the_whole() -> None:
    plan = replayed(rows(4000), Replay(days=4))
    shares = pd.crosstab(plan["captured_at"].dt.date, plan["label"], normalize="index")
    assert (shares - 0.25).abs().to_numpy().max() < 0.06
    assert not plan["image_id"].is_monotonic_increasing


def test_another_seed_is_another_calendar_and_a_share_of_labels_never_comes() -> None:
    assert not replayed(rows(50), Replay(seed=1)).equals(replayed(rows(50), Replay(seed=2)))
    plan = replayed(rows(2000), Replay(label_share=0.3))
    assert 0.25 < plan["labelled_at"].notna().mean() < 0.35
    assert plan["label"].notna().all()  # what nobody will say is still known in hindsight


def test_a_day_comes_without_the_other_days(
    settings: Settings, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.sources import digits

    drawn = []
    draw = digits._draw
    monkeypatch.setattr(digits, "_draw", lambda *given: drawn.append(given) or draw(*given))
    source = open_source(recipe, settings)
    first = next(source.photos(START + timedelta(days=2)))
    assert first.captured_at.date() == START + timedelta(days=2)
    assert len(drawn) == 1


# --------------------------------------------------------------------------------------------- scenarios


def scenario(kind: str, day: int = 2, **given: Any) -> Scenario:
    return Scenario.model_validate({"kind": kind, "from": START + timedelta(days=day), **given})


def changed(plan: pd.DataFrame, *scenarios: Scenario, seed: int = 3) -> pd.DataFrame:
    return changed_rows(plan, scenarios, CLASSES, seed)


def split(plan: pd.DataFrame, day: int = 2) -> tuple[pd.DataFrame, pd.DataFrame]:
    late = plan["captured_at"] >= pd.Timestamp(START + timedelta(days=day), tz="UTC")
    return plan[~late].reset_index(drop=True), plan[late].reset_index(drop=True)


PLAN = replayed(rows(2000), Replay(days=4))


@pytest.mark.parametrize("kind", ["class_mix", "new_senders", "label_noise"])
def test_nothing_changes_before_the_day_and_the_same_seed_changes_the_same(kind: str) -> None:
    after = changed(PLAN, scenario(kind, amount=0.6))
    pd.testing.assert_frame_equal(split(after)[0], split(PLAN)[0])
    assert not split(after)[1].equals(split(PLAN)[1])
    pd.testing.assert_frame_equal(changed(PLAN, scenario(kind, amount=0.6)), after)
    until = changed(PLAN, scenario(kind, amount=0.6, until=START + timedelta(days=3)))
    pd.testing.assert_frame_equal(split(until, 3)[1], split(PLAN, 3)[1])


def test_class_mix_leaves_a_skewed_mix() -> None:
    counts = split(changed(PLAN, scenario("class_mix", amount=1)))[1]["label"].value_counts()
    expected = [250, 125, 83, 62]
    assert np.abs(counts.to_numpy() - expected).max() < 30


def test_new_senders_take_their_share_and_were_never_seen() -> None:
    early, late = split(changed(PLAN, scenario("new_senders", amount=0.4)))
    strangers = ~late["source_id"].isin(set(early["source_id"]))
    assert 0.33 < strangers.mean() < 0.47


def test_new_senders_do_not_tear_a_group_apart() -> None:
    grouped = PLAN.assign(group_id=[f"g{int(i[-4:]) // 2}" for i in PLAN["image_id"]], source_id="one")
    early, late = split(changed(grouped, scenario("new_senders", amount=1)))
    torn = set(early["group_id"])
    assert (late.loc[late["group_id"].isin(torn), "source_id"] == "one").all()
    assert (late.loc[~late["group_id"].isin(torn), "source_id"] != "one").all()
    assert (late.groupby("group_id")["source_id"].nunique() == 1).all()


def test_label_noise_names_another_class() -> None:
    late, before = split(changed(PLAN, scenario("label_noise", amount=0.3)))[1], split(PLAN)[1]
    wrong = late["label"] != before["label"]
    assert 0.24 < wrong.mean() < 0.36
    assert set(late["label"]) == set(CLASSES)


def test_a_new_class_was_not_there_before() -> None:
    early, late = split(changed(PLAN, scenario("new_class", label="c")))
    assert "c" not in set(early["label"])
    assert len(late) == len(split(PLAN)[1])


def test_scenarios_of_an_empty_source() -> None:
    kinds = [scenario(kind, amount=0.5) for kind in ("class_mix", "new_senders", "label_noise")]
    assert changed(PLAN.iloc[:0], *kinds).empty


# ------------------------------------------------------------------------------------------------ photos


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def photo(kind: str = "PNG", size: tuple[int, int] = (48, 32)) -> bytes:
    pixels = np.random.default_rng(1).integers(30, 220, (4, 6, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), kind)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_a_scenario_has_its_days() -> None:
    moments = [datetime(2026, 3, day, hour, tzinfo=UTC) for day, hour in ((2, 23), (3, 0), (3, 23), (4, 0))]
    dark = scenario("darker", amount=0.5, until=START + timedelta(days=3))
    noise = scenario("label_noise", amount=0.5)
    assert [photo_scenarios([noise, dark], at) for at in moments] == [[], [dark], [dark], []]


def test_each_change_does_what_it_says() -> None:
    data = photo()
    before = pixels(data)

    def after(kind: str, amount: float = 1, seed: int = 1) -> np.ndarray:
        return pixels(changed_photo(data, [scenario(kind, amount=amount)], SPEC, seed))

    assert np.abs(after("darker", 0.4) - before * 0.6).max() <= 1
    assert np.array_equal(after("inverted"), 255 - before)
    assert np.array_equal(after("rotated", 90), np.rot90(before, -1))
    assert np.array_equal(after("rotated", 180), np.rot90(before, 2))
    assert np.array_equal(after("rotated", 360), before)
    assert after("rotated", 60).shape == before.shape
    assert after("blurred", 3).std() < before.std() * 0.9
    cropped = after("cropped", 0.75)
    assert cropped.shape == (16, 24, 3)
    assert not np.array_equal(cropped, after("cropped", 0.75, seed=2))
    assert np.array_equal(cropped, after("cropped", 0.75))
    assert after("cropped", 1).shape == (8, 8, 3)
    crushed = changed_photo(data, [scenario("jpeg", amount=5)], SPEC, 1)
    assert inspect(crushed, SPEC).format == "JPEG"
    assert len(crushed) < len(photo("JPEG"))


@pytest.mark.parametrize(("kind", "expected"), [("JPEG", "JPEG"), ("PNG", "PNG"), ("WEBP", "PNG"), ("GIF", "PNG")])
def test_the_kind_of_file_stays(kind: str, expected: str) -> None:
    dark = changed_photo(photo(kind), [scenario("darker", amount=0.5)], SPEC, 1)
    assert inspect(dark, SPEC).format == expected
    assert pixels(dark).mean() == pytest.approx(pixels(photo(kind)).mean() / 2, abs=2)


def test_changes_add_up_and_grey_stays_grey() -> None:
    grey = encode(Image.fromarray(pixels(photo())[:, :, 0].astype(np.uint8)), "PNG")
    both = changed_photo(grey, [scenario("inverted"), scenario("darker", amount=0.5)], SPEC, 1)
    assert np.abs(pixels(both) - (255 - pixels(grey)) // 2).max() <= 1
    assert Image.open(io.BytesIO(both)).mode == "L"


def test_no_change_and_no_photo_leave_the_bytes() -> None:
    dark = scenario("darker", amount=0.5)
    assert changed_photo(photo(), [], SPEC, 1) == photo()
    for data in (b"", b"no photo", photo()[:100], photo("JPEG")[:-200]):
        assert changed_photo(data, [dark], SPEC, 1) == data


def test_the_photos_of_a_recipe_change_from_the_day_on(settings: Settings) -> None:
    def images(day: int, **scenarios: Any) -> list[bytes | None]:
        recipe = Recipe.model_validate(TINY | scenarios)
        return [p.image for p in open_source(recipe, settings).photos(START + timedelta(days=day))]

    dark = {"scenarios": [{"kind": "darker", "from": "2026-03-03", "amount": 0.5}]}
    assert images(1, **dark) == images(1)
    assert all(a != b for a, b in zip(images(2, **dark), images(2), strict=True))
    assert images(2, **dark) == images(2, **dark)
