"""The statistics behind a verdict, and the verdict: what must hold whatever the numbers are."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import f1_score, log_loss
from statsmodels.stats.contingency_tables import mcnemar

from monitoring.comparison import (
    Comparison,
    Paired,
    compare,
    interval,
    measure,
    one_sided_mcnemar,
    reliability,
    score_interval,
    slice_masks,
    slice_table,
)
from monitoring.verdict import Finding, Latency, Ruling, rule
from pipelines.sections import Gates

CLASSES = 4
GATES = Gates(min_rows=30)
seeds = st.integers(0, 2**31)


def answers(labels: np.ndarray, accuracy: float, rng: np.random.Generator, *, sure: float = 3.0) -> np.ndarray:
    """Probabilities of a model that is right about this often."""
    right = rng.random(len(labels)) < accuracy
    said = np.where(right, labels, (labels + rng.integers(1, CLASSES, len(labels))) % CLASSES)
    raw = rng.random((len(labels), CLASSES)) + sure * np.eye(CLASSES)[said]
    return (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)


def world(seed: int, *, rows: int = 200, senders: int = 20, contender: float = 0.8, opponent: float = 0.8) -> Paired:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows)
    return Paired(
        labels=labels,
        contender=answers(labels, contender, rng),
        opponent=answers(labels, opponent, rng),
        senders=rng.integers(0, senders, rows).astype(str),
    )


def swapped(paired: Paired) -> Paired:
    return replace(paired, contender=paired.opponent, opponent=paired.contender)


def compared(paired: Paired, confidence: float = 0.95) -> Comparison:
    found = compare(paired, confidence=confidence)
    assert found is not None
    return found


def ruled(golden: Paired, fresh: Paired, opponent: str = "champion", gates: Gates = GATES, **more: object) -> Ruling:
    both = Paired(**{name: np.concatenate([getattr(golden, name), getattr(fresh, name)]) for name in Paired.__slots__})
    parts = {
        name: compare(part, confidence=gates.confidence)
        for name, part in (("golden", golden), ("fresh", fresh), ("pooled", both))
    }
    given_ = {"latency": Latency(contender=2.0, opponent=1.0), "gates": gates, **more}
    return rule(opponent=opponent, **parts, **given_)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------- metrics


@given(seeds, st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_metrics_are_those_of_scikit_learn(seed: int, rows: int) -> None:
    paired = world(seed, rows=rows)
    found = measure(paired.contender, paired.labels)
    assert found is not None
    said = paired.contender.argmax(axis=1)
    assert found.accuracy == pytest.approx(np.mean(said == paired.labels))
    assert found.macro_f1 == pytest.approx(f1_score(paired.labels, said, average="macro"))
    assert found.log_loss == pytest.approx(log_loss(paired.labels, paired.contender, labels=range(CLASSES)), rel=1e-4)
    assert 0 <= found.ece <= 1


def test_a_model_that_is_as_sure_as_it_is_right_has_no_calibration_error() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    honest = np.tile(np.array([0.8, 0.2]), (10, 1))
    boaster = np.tile(np.array([1.0, 0.0]), (10, 1))
    assert measure(honest, labels).ece == pytest.approx(0)  # type: ignore[union-attr]
    assert measure(boaster, labels).ece == pytest.approx(0.2)  # type: ignore[union-attr]
    confidence, accuracy, rows = reliability(boaster, labels)
    assert (confidence, accuracy, rows) == (pytest.approx([1.0]), pytest.approx([0.8]), [10])


def test_no_rows_are_no_metrics() -> None:
    assert compare(world(1, rows=0), confidence=0.95) is None


# ------------------------------------------------------------------------------------------- differences


@given(seeds, st.integers(1, 120), st.integers(1, 30), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_interval_holds_its_point_and_swapping_the_models_mirrors_everything(
    seed: int, rows: int, senders: int, contender: float, opponent: float
) -> None:
    paired = world(seed, rows=rows, senders=senders, contender=contender, opponent=opponent)
    one, other = compared(paired), compared(swapped(paired))
    assert -1 <= one.low <= one.difference <= one.high <= 1
    assert one.difference == pytest.approx(-other.difference)
    assert (one.only_contender, one.only_opponent) == (other.only_opponent, other.only_contender)
    assert (one.only_contender - one.only_opponent) / rows == pytest.approx(one.difference)
    assert one.low == pytest.approx(-other.high, abs=0.03)
    assert one.high == pytest.approx(-other.low, abs=0.03)


@given(seeds, st.integers(2, 20))
@settings(max_examples=30, deadline=None)
def test_more_confidence_is_a_wider_interval(seed: int, senders: int) -> None:
    paired = world(seed, senders=senders, contender=0.9)
    narrow, wide = compared(paired, 0.8), compared(paired, 0.99)
    assert wide.low <= narrow.low <= narrow.high <= wide.high


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_one_sided_test_is_half_of_the_exact_two_sided_one(wins: int, losses: int) -> None:
    p = one_sided_mcnemar(wins, losses)
    two_sided = float(mcnemar([[0, wins], [losses, 0]], exact=True).pvalue) if wins + losses else 1.0
    if wins > losses:
        assert p == pytest.approx(two_sided / 2)
    else:
        assert p >= 0.5


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300))
@settings(deadline=None)
def test_the_score_interval_agrees_with_mcnemars_test_and_mirrors(wins: int, losses: int, same: int) -> None:
    rows = wins + losses + same + 1
    low, high = score_interval(wins, losses, rows, confidence=0.95)
    assert -1 <= low <= (wins - losses) / rows <= high <= 1
    assert score_interval(losses, wins, rows, confidence=0.95) == pytest.approx((-high, -low), abs=1e-9)
    if wins + losses:
        # Without continuity correction the test of "no difference" is the same statistic.
        z = (wins - losses) / np.sqrt(wins + losses)
        assert (low > 1e-9) == (z > norm.ppf(0.95)) or z == pytest.approx(norm.ppf(0.95), abs=1e-6)


@pytest.mark.parametrize("rows", [1, 20, 150, 3000])
def test_rows_without_a_difference_do_not_show_that_there_is_none(rows: int) -> None:
    z2 = norm.ppf(0.95) ** 2
    assert score_interval(0, 0, rows, confidence=0.95)[0] == pytest.approx(-z2 / (rows + z2), abs=1e-9)
    same = world(3, rows=rows)
    assert compared(replace(same, opponent=same.contender)).low == pytest.approx(-z2 / (rows + z2), abs=1e-9)


def test_the_bounds_hold_as_often_as_they_say() -> None:
    rng, truth, held = np.random.default_rng(0), 0.05, 0
    for _ in range(2000):
        wins, losses, _same = rng.multinomial(120, [0.10, 0.05, 0.85])
        held += score_interval(int(wins), int(losses), 120, confidence=0.95)[0] <= truth
    assert held / 2000 == pytest.approx(0.95, abs=0.015)


def test_photos_of_one_sender_count_as_less_than_as_many_senders() -> None:
    rng = np.random.default_rng(3)
    by_sender = np.repeat(rng.choice([1.0, -1.0, 0.0], 20, p=[0.5, 0.2, 0.3]), 10)
    together = interval(by_sender, np.repeat(np.arange(20), 10).astype(str), confidence=0.95)
    apart = interval(by_sender, np.arange(200).astype(str), confidence=0.95)
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_the_same_rows_give_the_same_interval() -> None:
    paired = world(5, contender=0.9)
    assert compared(paired) == compared(paired)


# ------------------------------------------------------------------------------------------------ verdict


@given(seeds, st.integers(10, 200), st.integers(1, 20), st.sampled_from(["champion", "guess"]))
@settings(max_examples=30, deadline=None)
def test_a_model_is_never_promoted_over_itself(seed: int, rows: int, senders: int, opponent: str) -> None:
    golden, fresh = (world(seed + shift, rows=rows, senders=senders) for shift in (0, 1))
    same = [replace(part, opponent=part.contender) for part in (golden, fresh)]
    assert ruled(*same, opponent=opponent).verdict != "PROMOTE"


def test_two_equal_models_are_rarely_promoted() -> None:
    promoted = sum(
        ruled(
            world(seed, rows=200, senders=10),
            world(10_000 + seed, rows=100, senders=10),
            gates=Gates(min_rows=30, margin=0.5, calibration_margin=1),
        ).verdict
        == "PROMOTE"
        for seed in range(200)
    )
    assert promoted / 200 <= 0.05


def test_a_clear_improvement_on_fresh_rows_that_keeps_the_golden_ones_is_promoted() -> None:
    ruling = ruled(
        world(1, rows=2000, senders=60, contender=0.95, opponent=0.94), world(2, contender=0.9, opponent=0.6)
    )
    assert ruling.verdict == "PROMOTE"
    assert {finding.outcome for finding in ruling.findings} == {"pass"}
    assert any("Better on fresh rows: accuracy 0." in reason for reason in ruling.reasons)


def test_a_gain_on_fresh_rows_does_not_hide_a_loss_on_golden_ones() -> None:
    ruling = ruled(
        world(1, rows=1000, senders=60, contender=0.80, opponent=0.92), world(2, contender=0.95, opponent=0.5)
    )
    assert ruling.verdict == "HOLD"
    assert ruling.reasons[0].startswith(("Worse than the champion on golden rows", "Macro-F1 on golden rows is lost"))


def test_golden_rows_too_few_to_tell_are_insufficient_and_not_held_against_it() -> None:
    golden = world(1, rows=60, senders=20, contender=0.8, opponent=0.8)
    wins, losses = np.zeros(60, bool), np.zeros(60, bool)
    wins[:6], losses[6:12] = True, True
    right, wrong = np.eye(CLASSES)[golden.labels], np.eye(CLASSES)[(golden.labels + 1) % CLASSES]
    same_score = replace(
        golden,
        contender=np.where(losses[:, None], wrong, right),
        opponent=np.where(wins[:, None], wrong, right),
    )
    ruling = ruled(
        same_score, world(2, contender=0.95, opponent=0.5), gates=Gates(min_rows=30, margin=0.05, calibration_margin=1)
    )
    assert ruling.verdict == "INSUFFICIENT DATA"
    assert "Too few golden rows to tell" in ruling.reasons[0]
    assert "gates.margin" in ruling.reasons[0]


def test_too_few_fresh_rows_say_how_many_more() -> None:
    ruling = ruled(world(1, rows=400), world(2, rows=12, contender=1.0, opponent=0.2))
    assert ruling.verdict == "INSUFFICIENT DATA"
    assert "12 labelled fresh rows, gates.min_rows asks for 30; 18 more are needed" in ruling.reasons[0]
    assert not any(finding.gate == "better" for finding in ruling.findings)


def test_no_rows_at_all_are_insufficient() -> None:
    assert ruled(world(1, rows=0), world(2, rows=0)).verdict == "INSUFFICIENT DATA"
    assert ruled(world(1, rows=0), world(2, rows=0), opponent="guess").verdict == "INSUFFICIENT DATA"


def test_a_first_model_needs_to_be_as_good_as_the_baseline_and_better_than_guessing() -> None:
    def parts(contender: float, opponent: float) -> list[Paired]:
        return [world(seed, rows=1500, senders=60, contender=contender, opponent=opponent) for seed in (1, 2)]

    assert ruled(*parts(0.9, 0.9), opponent="baseline").verdict == "PROMOTE"
    assert ruled(*parts(0.8, 0.9), opponent="baseline").verdict == "HOLD"
    assert ruled(*parts(0.9, 0.3), opponent="guess").verdict == "PROMOTE"
    assert ruled(*parts(0.3, 0.3), opponent="guess").verdict == "HOLD"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"latency": Latency(contender=9.0, opponent=1.0)}, "Too slow: 9.00 ms a photo against 1.00 ms"),
        ({"objections": (Finding(gate="inputs", outcome="fail", sentence="Cannot be compared."),)}, "Cannot be"),
    ],
)
def test_one_failed_guardrail_holds_a_better_model(more: dict[str, object], words: str) -> None:
    good = world(1, rows=2000, senders=60, contender=0.95, opponent=0.9), world(2, contender=0.9, opponent=0.6)
    assert ruled(*good, gates=Gates(calibration_margin=1)).verdict == "PROMOTE"
    ruling = ruled(*good, gates=Gates(calibration_margin=1), **more)
    assert ruling.verdict == "HOLD"
    assert ruling.reasons[0].startswith(words)


def test_a_contender_that_boasts_is_held() -> None:
    rng = np.random.default_rng(4)
    golden, fresh = world(1, rows=2000, senders=60, contender=0.8, opponent=0.75), world(2, contender=0.8, opponent=0.5)
    boast = [
        replace(
            part,
            contender=np.eye(CLASSES)[part.contender.argmax(axis=1)],
            opponent=answers(part.labels, 0.75, rng, sure=1.8),
        )
        for part in (golden, fresh)
    ]
    ruling = ruled(*boast)
    assert ruling.verdict == "HOLD"
    assert any("Calibration error is too large" in reason for reason in ruling.reasons)


# ------------------------------------------------------------------------------------------------- slices


def test_slices_cover_every_row_once_a_column() -> None:
    paired = world(9, rows=300)
    masks = slice_masks(
        paired.labels,
        tuple("abcd"),
        paired.senders,
        np.random.default_rng(0).random(300),
        np.arange(300) >= 200,
    )
    for column in ("rows", "class", "sender", "brightness"):
        assert np.sum([mask for key, mask in masks.items() if key[0] == column], axis=0).tolist() == [1] * 300
    table = slice_table(paired, masks, confidence=0.95)
    assert [(row.column, row.value) for row in table] == list(masks)
    assert [row.rows for row in table[:2]] == [200, 100]
    assert all(row.low <= row.difference <= row.high for row in table)
    assert asdict(table[0])["contender"] == pytest.approx(
        compared(paired.where(masks["rows", "golden"])).contender.accuracy
    )


def test_slices_of_alike_values_are_one_slice() -> None:
    masks = slice_masks(np.zeros(6, np.int64), ("a", "b"), np.array(list("uvwxyz")), np.full(6, 0.5), np.zeros(6, bool))
    assert {key: int(mask.sum()) for key, mask in masks.items()} == {
        ("rows", "golden"): 6,
        ("class", "a"): 6,
        ("sender", "small"): 6,
        ("brightness", "dark"): 6,
    }
