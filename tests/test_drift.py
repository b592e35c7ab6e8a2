"""Drift: how often it cries wolf, what it notices, and what it refuses to say."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import binom, ks_2samp

from monitoring import columns, drift
from monitoring.permutation import shuffles

STATS = ("brightness", "contrast", "sharpness", "colourfulness", "entropy", "edge_density")
CLASSES, WIDTH = 6, 24


def world(
    rows: int, random: np.random.Generator, *, senders: np.ndarray | None = None, shift: float = 0.0
) -> pd.DataFrame:
    """Photos of a made-up world; `senders` [S, WIDTH] are the tastes of those who send, `shift` darkens all."""
    base = random.normal(size=(rows, WIDTH)) * np.linspace(1.5, 0.2, WIDTH)
    source = np.array([f"once-{random.integers(1 << 50)}" for _ in range(rows)])
    if senders is not None:
        chosen = random.integers(len(senders), size=rows)
        base += senders[chosen]
        source = np.array([f"sender-{senders[i, 0]:.6f}" for i in chosen])
    logits = 1.5 * base[:, :CLASSES] + 0.5 * random.normal(size=(rows, CLASSES))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    frame = pd.DataFrame({stat: base[:, i] + random.normal(size=rows) for i, stat in enumerate(STATS)})
    frame["brightness"] -= shift
    return frame.assign(
        confidence=p.max(axis=1),
        predicted=[str(i) for i in p.argmax(axis=1)],
        probabilities=list(p.astype(np.float32)),
        embedding=list(base.astype(np.float32)),
        source_id=source,
    )


def detect(reference: pd.DataFrame | None, window: pd.DataFrame, **given: object) -> drift.Drift:
    rules = {"min_rows": 20, "alpha": 0.002, "min_effect": 0.12, "seed": 1, **given}
    return drift.detect(reference, window, stats=STATS, **rules)  # type: ignore[arg-type]


def column(found: drift.Drift, name: str) -> drift.Column:
    return next(c for c in found.columns if c.name == name)


def tastes(random: np.random.Generator, count: int) -> np.ndarray:
    return random.normal(size=(count, WIDTH)) * np.linspace(1.0, 0.15, WIDTH)


# ------------------------------------------------------------------------------------------ false alarms


@pytest.mark.parametrize(
    ("rows", "reference_rows", "kind"),
    [(50, 200, "strangers"), (200, 100, "strangers"), (100, 200, "held-out senders"), (100, 200, "same senders")],
)
def test_unchanged_windows_alarm_at_most_at_the_nominal_rate(rows: int, reference_rows: int, kind: str) -> None:
    """A/A: no effect is asked for, so that the test's own rate shows."""
    random = np.random.default_rng(rows + reference_rows)
    alpha, windows, alarms = 0.05, 80, 0
    for seed in range(windows):
        all_senders = None if kind == "strangers" else tastes(random, 40)
        known = all_senders if all_senders is None or kind == "same senders" else all_senders[:16]
        reference = world(reference_rows, random, senders=known)
        window = world(rows, random, senders=all_senders)
        alarms += detect(reference, window, alpha=alpha, min_effect=0, seed=seed).verdict == "DRIFT"
    assert alarms <= binom.ppf(0.999, windows, alpha)


def test_senders_are_what_makes_row_by_row_tests_cry_wolf() -> None:
    """The same windows without their senders: photos count as independent, and unchanged windows alarm."""
    random = np.random.default_rng(5)
    alarms = 0
    for seed in range(25):
        senders = tastes(random, 40)
        reference, window = world(300, random, senders=senders[:16]), world(150, random, senders=senders)
        blind = detect(
            reference.drop(columns="source_id"), window.drop(columns="source_id"), alpha=0.05, min_effect=0, seed=seed
        )
        assert blind.shuffled == "photos"
        alarms += blind.verdict == "DRIFT"
    assert alarms > binom.ppf(0.999, 25, 0.05)


def test_components_do_not_follow_the_noise_of_the_reference() -> None:
    random = np.random.default_rng(3)
    pooled = fitted = 0
    for _ in range(60):
        rows = random.normal(size=(200, 64))
        scores = columns.components(rows)
        pooled += min(ks_2samp(scores[:100, k], scores[100:, k]).pvalue for k in range(3)) < 0.05 / 3
        axes = np.linalg.svd(rows[100:] - rows[100:].mean(axis=0), full_matrices=False)[2][:3]
        fitted += min(ks_2samp(rows[:100] @ axis, rows[100:] @ axis).pvalue for axis in axes) < 0.05 / 3
    assert pooled <= binom.ppf(0.999, 60, 0.05)
    assert fitted > 15, "axes of the reference alone are the reason for fitting on both"


@pytest.mark.parametrize("shape", [(60, 8), (20, 50), (9, 2)])
def test_components_are_those_of_a_full_decomposition(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(4).normal(size=shape) * np.linspace(3, 1, shape[1])
    centred = rows - rows.mean(axis=0)
    left, values, axes = np.linalg.svd(centred, full_matrices=False)
    count = min(3, shape[1])
    signs = np.sign(axes[np.arange(count), np.abs(axes[:count]).argmax(axis=1)])
    assert columns.components(rows) == pytest.approx((left * values)[:, :count] * signs, abs=1e-8)


def test_an_axis_without_variance_is_no_column() -> None:
    line = np.outer(np.arange(30.0), [1.0, 2.0, -3.0])
    scores = columns.components(line)
    assert np.ptp(scores[:, 0]) > 0
    assert (scores[:, 1:] == 0).all()


@pytest.mark.parametrize("side", ["window", "reference"])
def test_the_same_values_in_another_precision_are_the_same(side: str) -> None:
    """Photos of one camera share a shape, 1600 / 2132: as float32 it is a little less than as float64."""
    random = np.random.default_rng(8)
    sides = {"window": world(200, random), "reference": world(300, random)}
    for name, frame in sides.items():
        shapes = random.choice([1600 / 2132, 1200 / 1602, 4 / 3], len(frame))
        frame["brightness"] = shapes.astype(np.float32 if name == side else np.float64)
    found = column(detect(sides["reference"], sides["window"]), "brightness")
    assert found.verdict == "NO DRIFT"
    assert found.effect is not None
    assert found.effect < 0.15


def by_picture(frame: pd.DataFrame, *, known: float) -> pd.DataFrame:
    """The model is surer of a sender the more it knows of it, and says also what it would of the picture alone."""
    alone = np.stack(frame["probabilities"].to_list()).astype(float)
    told = alone ** (1 + known)
    told /= told.sum(axis=1, keepdims=True)
    return frame.assign(
        picture_label=frame["predicted"],
        picture_probabilities=list(alone),
        probabilities=list(told),
        confidence=told.max(axis=1),
    )


def test_what_is_learnt_of_senders_is_no_drift_where_the_model_says_what_the_picture_alone_does() -> None:
    random = np.random.default_rng(5)
    reference, window = by_picture(world(300, random), known=0.0), by_picture(world(200, random), known=2.0)
    found = detect(reference, window)
    assert (found.verdict, found.by_picture) == ("NO DRIFT", True)
    alone = ["picture_label", "picture_probabilities"]
    told = detect(reference, window.drop(columns=alone))
    assert (told.verdict, told.by_picture) == ("DRIFT", False), "an older model does not say it"
    assert column(told, "confidence").verdict == "DRIFT"
    half = window.assign(picture_probabilities=window["picture_probabilities"].where(window.index > 0, None))
    assert not detect(reference, half).by_picture


def test_a_change_of_pictures_shows_in_what_the_picture_alone_says() -> None:
    random = np.random.default_rng(6)
    reference, window = by_picture(world(300, random), known=0.0), by_picture(world(200, random), known=0.0)
    swapped = [np.roll(row, 1) for row in window["picture_probabilities"]]
    flat = [row * 0.3 + 0.7 / CLASSES for row in swapped]
    found = detect(reference, window.assign(picture_probabilities=flat))
    assert column(found, "confidence").verdict == "DRIFT"
    pair = drift.compared(reference, window, stats=STATS, min_rows=20, seed=1)
    np.testing.assert_allclose(pair[0]["confidence"], np.stack(reference["picture_probabilities"]).max(axis=1))


# ------------------------------------------------------------------------------------------------- power


def test_a_shift_of_one_column_is_noticed_there() -> None:
    random = np.random.default_rng(11)
    noticed = 0
    for seed in range(30):
        found = detect(world(300, random), world(120, random, shift=2.5), seed=seed)
        noticed += found.verdict == "DRIFT" and column(found, "brightness").verdict == "DRIFT"
        assert column(found, "sharpness").verdict == "NO DRIFT"
    assert noticed >= 29


def test_a_shift_is_noticed_across_senders() -> None:
    random = np.random.default_rng(12)
    noticed = 0
    for seed in range(20):
        senders = tastes(random, 40)
        found = detect(
            world(300, random, senders=senders[:16]), world(150, random, senders=senders, shift=4), seed=seed
        )
        assert found.shuffled == "within senders and senders"
        noticed += found.verdict == "DRIFT"
    assert noticed >= 19


def test_another_class_mix_is_noticed() -> None:
    random = np.random.default_rng(13)
    window = world(400, random)
    window = window[window["predicted"].isin(["0", "1"])]
    found = detect(world(400, random), window)
    assert column(found, "class_mix").verdict == "DRIFT"
    assert column(found, "class_mix").effect == pytest.approx(0.6, abs=0.15)


def test_a_class_the_reference_never_saw_counts_in_the_mix() -> None:
    random = np.random.default_rng(14)
    window = world(200, random)
    window["predicted"] = "new"
    assert column(detect(world(200, random), window), "class_mix").effect == 1.0


def test_an_embedding_that_moves_is_noticed() -> None:
    random = np.random.default_rng(15)
    window = world(200, random)
    window["embedding"] = [row + 3 for row in window["embedding"]]
    assert column(detect(world(200, random), window), "embedding_1").verdict == "DRIFT"


def test_answers_that_move_without_the_mix_are_noticed_on_the_outputs() -> None:
    """Two classes trade places in what the model hesitates between: neither mix, nor confidence, nor pictures move."""
    random = np.random.default_rng(11)
    reference, window = world(500, random), world(300, random)
    swapped = [row[[0, 1, 3, 2, 4, 5]] if row.argmax() == 0 else row for row in window["probabilities"]]
    found = detect(reference.drop(columns="embedding"), window.drop(columns="embedding").assign(probabilities=swapped))
    assert {c.name for c in found.columns} >= {f"output_{i + 1}" for i in range(CLASSES)}
    assert column(found, "class_mix").verdict == "NO DRIFT"
    many = [np.full(columns.MOST_OUTPUTS + 1, 1 / (columns.MOST_OUTPUTS + 1))] * 500
    wide = detect(reference.assign(probabilities=many), window.assign(probabilities=many[:300]))
    assert not any(c.name.startswith("output_") for c in wide.columns)


def test_a_quiet_window_is_told_by_the_first_look_and_a_changed_one_by_all_shuffles() -> None:
    random = np.random.default_rng(12)
    reference = world(300, random)
    assert detect(reference, world(200, random)).permutations == drift.FIRST_LOOK
    assert detect(reference, world(200, random, shift=1.0)).permutations == drift.PERMUTATIONS


def test_sure_but_small_is_not_drift() -> None:
    random = np.random.default_rng(16)
    reference, window = world(2000, random), world(2000, random, shift=0.5)
    sure = column(detect(reference, window, min_effect=0), "brightness")
    assert sure.verdict == "DRIFT"
    assert sure.effect is not None
    assert sure.effect < 0.3
    small = column(detect(reference, window, min_effect=0.3), "brightness")
    assert small.verdict == "NO DRIFT"
    assert "below min_effect" in small.reason


# ----------------------------------------------------------------------------------------------- unknown


def test_a_small_window_is_unknown() -> None:
    random = np.random.default_rng(0)
    for rows in (0, 19):
        found = detect(world(100, random), world(100, random, shift=9)[:rows])
        assert found.verdict == "UNKNOWN"
        assert found.reasons == (f"the window has {rows} rows, fewer than min_rows=20",)


def test_a_small_or_missing_reference_is_unknown() -> None:
    random = np.random.default_rng(0)
    window = world(100, random)
    assert detect(None, window).reasons == ("the model has no reference",)
    assert detect(world(5, random), window).reasons == ("the reference has 5 rows, fewer than min_rows=20",)
    assert detect(pd.DataFrame(), pd.DataFrame()).verdict == "UNKNOWN"


@pytest.mark.parametrize("name", ["brightness", "confidence", "predicted", "probabilities", "embedding"])
def test_a_missing_column_is_unknown(name: str) -> None:
    random = np.random.default_rng(1)
    found = detect(world(100, random), world(100, random).drop(columns=name))
    assert found.verdict == "UNKNOWN"
    assert f"no column {name!r} in the window" in found.reasons[0]


@pytest.mark.parametrize("name", ["contrast", "confidence"])
def test_a_column_of_nan_is_unknown(name: str) -> None:
    random = np.random.default_rng(2)
    window = world(100, random)
    window[name] = np.nan
    found = detect(world(100, random), window)
    assert found.verdict == "UNKNOWN"
    assert found.reasons == (f"{name}: the window has no values, all are NaN",)
    window[name] = [1.0] * 15 + [np.nan] * 85
    assert "15 values, fewer than min_rows=20" in detect(world(100, random), window).reasons[0]


def test_lists_with_gaps_are_unknown() -> None:
    random = np.random.default_rng(2)
    window = world(60, random)
    window["embedding"] = None
    window.loc[3, "predicted"] = None
    found = detect(world(60, random), window)
    assert {c.name for c in found.columns if c.verdict == "UNKNOWN"} == {
        "embedding_1", "embedding_2", "embedding_3", "class_mix",
    }  # fmt: skip
    assert found.verdict == "UNKNOWN"


def test_drift_is_said_even_when_another_column_is_unknown() -> None:
    random = np.random.default_rng(3)
    window = world(100, random, shift=9).drop(columns="confidence")
    found = detect(world(100, random), window)
    assert found.verdict == "DRIFT"
    assert found.reasons[0].startswith("brightness:")
    assert "confidence" in found.reasons[1]


def test_a_column_that_never_varies_says_nothing_and_blocks_nothing() -> None:
    random = np.random.default_rng(4)
    reference, window = world(100, random).assign(contrast=1.0), world(100, random).assign(contrast=1.0)
    found = detect(reference, window)
    assert column(found, "contrast").verdict == "UNKNOWN"
    assert found.verdict == "NO DRIFT"
    stuck = detect(world(100, random), window)
    assert column(stuck, "contrast").verdict == "DRIFT", "a value that got stuck is a change"


def test_nothing_varies_at_all() -> None:
    random = np.random.default_rng(4)
    frame = world(1, random).loc[[0] * 50].reset_index(drop=True)
    assert detect(frame, frame).verdict == "UNKNOWN"


def test_an_alpha_too_fine_to_tell_is_unknown() -> None:
    random = np.random.default_rng(5)
    found = detect(world(50, random), world(50, random, shift=9), alpha=1e-6)
    assert found.verdict == "UNKNOWN"
    assert "alpha=1e-06" in found.reasons[0]


def test_a_fine_alpha_takes_more_shuffles() -> None:
    random = np.random.default_rng(5)
    found = detect(world(50, random), world(50, random, shift=9), alpha=0.0005)
    assert found.permutations == 3999
    assert found.verdict == "DRIFT"


# -------------------------------------------------------------------------------------------- properties


def test_the_same_input_gives_the_same_verdict() -> None:
    random = np.random.default_rng(6)
    reference, window = world(150, random), world(80, random, shift=1)
    assert detect(reference, window) == detect(reference, window)
    assert detect(reference, window, seed=2).columns != detect(reference, window, seed=3).columns


def test_distances_are_what_scipy_says() -> None:
    random = np.random.default_rng(7)
    reference, window = world(90, random), world(60, random, shift=1)
    window.loc[:9, "brightness"] = np.nan
    reference["contrast"] = reference["contrast"].round(0)
    window["contrast"] = window["contrast"].round(0)
    found = detect(reference, window)
    for name in ("brightness", "contrast", "confidence"):
        expected = ks_2samp(reference[name].dropna(), window[name].dropna()).statistic
        assert column(found, name).effect == pytest.approx(expected, abs=1e-5)


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(20, 60),
    shift=st.floats(0, 4),
    alpha=st.floats(0.002, 0.2),
    least=st.floats(0, 0.5),
    seed=st.integers(0, 99),
)
def test_verdict_p_and_limit_agree(rows: int, shift: float, alpha: float, least: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    found = detect(world(50, random), world(rows, random, shift=shift), alpha=alpha, min_effect=least, seed=seed)
    for told in found.columns:
        assert told.effect is not None
        assert told.p is not None
        assert told.limit is not None
        assert 0 < told.p <= 1
        assert 0 <= told.effect <= 1
        assert (told.verdict == "DRIFT") == (told.p <= alpha and told.effect >= least) == (told.effect > told.limit)
    assert (found.verdict == "DRIFT") == any(c.verdict == "DRIFT" for c in found.columns)


@hypothesis_settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_shuffles_keep_what_must_stay(data: st.DataObject) -> None:
    count = data.draw(st.integers(4, 40))
    senders = np.array(data.draw(st.lists(st.integers(0, 12), min_size=count, max_size=count)))
    is_window = np.arange(count) < data.draw(st.integers(1, count - 1))
    sides, shuffled = shuffles(senders, is_window, np.ones(count, bool), 20, np.random.default_rng(0))
    assert (sides[0] == is_window).all()
    assert sides.any(axis=1).all(), "no side is ever empty"
    assert (~sides).any(axis=1).all(), "no side is ever empty"
    for sender in np.unique(senders):
        for part in (senders == sender) & is_window, (senders == sender) & ~is_window:
            if shuffled == "senders":
                assert np.isin(sides[:, part].sum(axis=1), (0, part.sum())).all(), "a sender's photos move together"
        if shuffled == "within senders" and len(set(is_window[senders == sender])) == 2:
            mine = senders == sender
            assert (sides[:, mine].sum(axis=1) == is_window[mine].sum()).all(), "each sender keeps its counts"


def test_many_rows_are_thinned_alike_for_the_verdict_and_the_page() -> None:
    random = np.random.default_rng(8)
    reference, window = world(2500, random), world(50, random)
    found = detect(reference, window)
    assert found.reference_rows == 2500
    shown, current = drift.compared(reference, window, stats=STATS, min_rows=20, seed=1)
    assert (len(shown), len(current)) == (columns.MOST_ROWS, 50)
    assert {c.name for c in found.columns} == set(shown.columns) == set(current.columns)
    for name in ("brightness", "embedding_1", "uncertainty"):
        assert column(found, name).effect == pytest.approx(ks_2samp(shown[name], current[name]).statistic, abs=1e-5)


def test_a_day_is_judged_within_a_second() -> None:
    random = np.random.default_rng(9)
    reference, window = world(400, random), world(200, random)
    started = time.process_time()
    detect(reference, window)
    assert time.process_time() - started < 1.0


# ------------------------------------------------------------------------------------- who was trained on


def surer(frame: pd.DataFrame) -> pd.DataFrame:
    """Answers of a model that knows these senders."""
    return frame.assign(confidence=frame["confidence"] * 0.5 + 0.5)


def familiar(random: np.random.Generator, *, shift: float = 0.0) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Reference, window and trained rows: two thirds of the window are of senders that the champion was trained on."""
    senders = tastes(random, 30)
    reference, strange = world(250, random, senders=senders[:10]), world(70, random, senders=senders[:10])
    known = surer(world(140, random, senders=senders[10:], shift=shift))
    trained = world(300, random, senders=senders[10:])[["source_id", *STATS]]
    return reference, pd.concat([strange, known], ignore_index=True), trained


def test_answers_about_senders_that_were_trained_on_are_no_drift() -> None:
    random = np.random.default_rng(21)
    blind = seeing = 0
    for seed in range(20):
        reference, window, trained = familiar(random)
        blind += detect(reference, window, alpha=0.05, min_effect=0, seed=seed).verdict == "DRIFT"
        found = detect(reference, window, trained=trained, alpha=0.05, min_effect=0, seed=seed)
        seeing += found.verdict == "DRIFT"
        assert (found.window_rows, found.new_rows) == (210, 70)
    assert blind > binom.ppf(0.999, 20, 0.05), "without knowing them, each is an alarm"
    assert seeing <= binom.ppf(0.999, 20, 0.05)


def test_pictures_of_senders_that_were_trained_on_are_watched_all_the_same() -> None:
    random = np.random.default_rng(22)
    for seed in range(5):
        reference, window, trained = familiar(random, shift=3)
        found = detect(reference, window, trained=trained, seed=seed)
        assert column(found, "brightness").verdict == "DRIFT"
        assert column(found, "confidence").verdict == "NO DRIFT"


def test_too_few_senders_that_were_not_trained_on_is_unknown() -> None:
    random = np.random.default_rng(23)
    reference, window, trained = familiar(random)
    found = detect(reference, window[66:], trained=trained)
    assert found.verdict == "UNKNOWN"
    assert found.new_rows == 4
    assert (
        "4 photos of the window are of senders that the champion was not trained on, fewer than 5" in found.reasons[0]
    )
    assert column(found, "brightness").verdict == "NO DRIFT"


def test_many_strangers_with_other_photos_are_noticed() -> None:
    """Most of a window is of senders that nobody knows, and the reference has nobody like them."""
    random = np.random.default_rng(24)
    senders = tastes(random, 60)
    reference = world(300, random, senders=senders[:20])
    window = pd.concat(
        [world(50, random, senders=senders[:20]), world(150, random, senders=senders[20:], shift=6)], ignore_index=True
    )
    assert detect(reference, window).verdict == "DRIFT"


# ---------------------------------------------------------------------------------------------- seasons


def weeks(days: range, random: np.random.Generator, rows: int = 30) -> pd.DataFrame:
    """Days from Monday 2026-03-02 on, of which Saturdays and Sundays are darker."""
    parts = []
    for day in days:
        at = pd.Timestamp("2026-03-02", tz="UTC") + pd.Timedelta(days=day)
        parts.append(world(rows, random, shift=4.0 * (at.dayofweek >= 5)).assign(captured_at=at))
    return pd.concat(parts, ignore_index=True)


def test_a_weekend_is_compared_with_weekends_where_the_recipe_says_so() -> None:
    random = np.random.default_rng(31)
    reference, saturday = weeks(range(14), random), weeks(range(19, 20), random, rows=60)
    assert detect(reference, saturday).verdict == "DRIFT"
    found = detect(reference, saturday, season="week")
    assert found.verdict == "NO DRIFT"
    assert detect(reference, weeks(range(17, 18), random, rows=60), season="week").verdict == "NO DRIFT", "a Thursday"


def test_a_reference_without_such_days_is_taken_whole_and_says_so() -> None:
    random = np.random.default_rng(32)
    reference, saturday = weeks(range(5), random), weeks(range(19, 20), random, rows=60)
    found = detect(reference, saturday, season="week")
    assert found.verdict == "DRIFT"
    assert found.reasons[-1] == (
        "compared with all days: the reference has 0 photos of a Saturday, fewer than min_rows=20"
    )
    bare = detect(reference.drop(columns="captured_at"), saturday, season="week")
    assert "no column 'captured_at'" in bare.reasons[-1]
