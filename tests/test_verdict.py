"""From comparisons to a verdict: which gate decides, and what it says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.comparison import Comparison, Difference, Paired, SeedSpread, compare
from monitoring.gates import Finding, Mix, Ratio, affordable
from monitoring.intervals import Bools
from monitoring.slices import SliceRow, slice_masks
from monitoring.verdict import Judged, Ruling, deciding_mask, judge, rule
from pipelines.sections import Gates
from tests.pairs import CLASSES, answers, joined, planned, swapped, world

GATES = Gates(min_rows=30, log_loss_margin=1, calibration_margin=1)
"""The made-up models boast; what they are about is accuracy."""
seeds = st.integers(0, 2**31)


def ruled(golden: Paired, fresh: Paired, opponent: str = "champion", gates: Gates = GATES, **more: object) -> Ruling:
    pooled = joined(golden, fresh)
    parts = {
        name: compare(part, confidence=gates.confidence)
        for name, part in (("golden", golden), ("fresh", fresh), ("pooled", pooled))
    }
    return rule(opponent=opponent, parts=parts | more.pop("parts", {}), gates=gates, **more)  # type: ignore


def good() -> tuple[Paired, Paired]:
    return world(1, rows=2000, senders=60, contender=0.95, opponent=0.9), world(2, contender=0.9, opponent=0.6)


def by_gate(ruling: Ruling) -> dict[str, Finding]:
    return {finding.gate: finding for finding in ruling.findings}


# ------------------------------------------------------------------------------------------ better, or not


@given(seeds, st.integers(10, 200), st.integers(1, 20), st.sampled_from(["champion", "guess"]))
@settings(max_examples=15, deadline=None)
def test_a_model_is_never_promoted_over_itself(seed: int, rows: int, senders: int, opponent: str) -> None:
    golden, fresh = (world(seed + shift, rows=rows, senders=senders) for shift in (0, 1))
    same = [replace(part, opponent=part.contender) for part in (golden, fresh)]
    assert ruled(*same, opponent=opponent).verdict != "PROMOTE"


def test_two_equal_models_are_rarely_promoted() -> None:
    gates = Gates(min_rows=30, margin=0.5, f1_margin=0.5, log_loss_margin=9, calibration_margin=1)
    promoted = sum(
        ruled(world(seed, rows=200, senders=10), world(10_000 + seed, rows=100, senders=10), gates=gates).verdict
        == "PROMOTE"
        for seed in range(60)
    )
    assert promoted <= 5


def test_a_clear_improvement_on_fresh_rows_that_keeps_the_golden_ones_is_promoted() -> None:
    ruling = ruled(*good())
    assert ruling.verdict == "PROMOTE"
    assert {finding.outcome for finding in ruling.findings} == {"pass"}
    assert ruling.reasons[0].startswith("Better on fresh rows: accuracy 0.")


@pytest.mark.parametrize("metric", ["macro_f1", "log_loss"])
def test_the_recipe_chooses_the_success_metric(metric: str) -> None:
    golden, fresh = good()
    # As right as the champion, and better only in how sure it is of what is right.
    modest = [replace(part, contender=_sharper(part.opponent, part.labels)) for part in (golden, fresh)]
    by_metric = GATES.model_copy(update={"metric": metric})
    assert ruled(*modest).verdict == "HOLD"
    assert ruled(*modest, gates=by_metric).verdict == ("PROMOTE" if metric == "log_loss" else "HOLD")
    assert ruled(golden, fresh, gates=by_metric).verdict == "PROMOTE"


def _sharper(said: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The same answers, with more of a chance for the truth."""
    likelier = said + 0.5 * np.where(said.argmax(axis=1) == labels, 1, 0.1)[:, None] * np.eye(CLASSES)[labels]
    found = likelier / likelier.sum(axis=1, keepdims=True)
    assert (found.argmax(axis=1) == said.argmax(axis=1)).mean() > 0.95
    return found


def test_a_smaller_model_may_be_promoted_for_being_no_worse() -> None:
    same = [replace(part, opponent=part.contender) for part in good()]
    wanted = GATES.model_copy(update={"require": "not_worse"})
    assert ruled(*same).verdict == "HOLD"
    ruling = ruled(*same, gates=wanted)
    assert ruling.verdict == "PROMOTE"
    assert ruling.reasons[0].startswith("Not worse than the champion on fresh rows")
    worse = world(1, rows=2000, senders=60, contender=0.9, opponent=0.9), world(2, contender=0.6, opponent=0.9)
    assert ruled(*worse, gates=wanted).verdict == "HOLD"


def test_a_gain_that_is_not_shown_says_how_many_rows_would_show_it() -> None:
    few = world(4, rows=60, contender=0.85, opponent=0.75)
    ruling = ruled(good()[0], few)
    assert (ruling.verdict, ruling.findings[0].gate) == ("INSUFFICIENT DATA", "better"), "nothing speaks against it"
    assert "If the gain is what it seems, about " in ruling.reasons[0]
    wide = GATES.model_copy(update={"margin": 0.4})
    assert by_gate(ruled(good()[0], few, gates=wide))["better"].outcome == "fail", "a gain that matters is ruled out"
    worse = by_gate(ruled(good()[0], swapped(good()[1])))["better"]
    assert worse.outcome == "fail"
    assert "If the gain" not in worse.sentence


# -------------------------------------------------------------------------------------------- deciding rows


def test_rows_since_the_drift_decide_where_they_are_enough() -> None:
    golden, fresh = good()[0], world(3, rows=200, contender=0.6, opponent=0.85)
    since = world(2, rows=60, contender=0.95, opponent=0.3)
    few = since.where(np.arange(60) < 20)
    gates = GATES
    compared = {name: compare(part, confidence=0.95) for name, part in (("since", since), ("few", few))}
    assert ruled(golden, fresh).verdict == "HOLD"
    ruling = ruled(golden, fresh, parts={"drifted": compared["since"]})
    assert ruling.verdict == "PROMOTE"
    assert ruling.reasons[0].startswith("Better on fresh rows since the drift began: accuracy 0.")
    ruling = ruled(golden, fresh, parts={"drifted": compared["few"]})
    assert ruling.verdict == "HOLD"
    assert "Since the drift began there are 20, too few to decide on" in by_gate(ruling)["rows"].sentence
    mask = np.arange(200) >= 140
    assert deciding_mask("champion", fresh=mask, drifted=np.ones(200, bool), gates=gates).sum() == 60
    assert deciding_mask("champion", fresh=mask, drifted=np.arange(200) >= 180, gates=gates).sum() == 60
    assert deciding_mask("champion", fresh=mask, drifted=np.arange(200) >= 165, gates=gates).sum() == 35
    assert deciding_mask("baseline", fresh=mask, drifted=None, gates=gates).all()


def test_too_few_fresh_rows_say_how_many_more_and_what_they_could_show() -> None:
    ruling = ruled(world(1, rows=400), world(2, rows=12, contender=1.0, opponent=0.2))
    assert ruling.verdict == "INSUFFICIENT DATA"
    assert "12 labelled fresh rows, gates.min_rows asks for 30; 18 more are needed" in ruling.reasons[0]
    assert "They show an improvement of " in ruling.reasons[0]
    assert "better" not in by_gate(ruling)


def test_no_rows_at_all_are_insufficient() -> None:
    assert ruled(world(1, rows=0), world(2, rows=0)).verdict == "INSUFFICIENT DATA"
    assert ruled(world(1, rows=0), world(2, rows=0), opponent="guess").verdict == "INSUFFICIENT DATA"
    assert rule(opponent="champion", parts={}, gates=GATES).verdict == "INSUFFICIENT DATA"


def test_a_first_model_needs_to_be_as_good_as_the_baseline_and_better_than_guessing() -> None:
    def parts(contender: float, opponent: float) -> list[Paired]:
        return [world(seed, rows=1500, senders=60, contender=contender, opponent=opponent) for seed in (1, 2)]

    assert ruled(*parts(0.9, 0.9), opponent="baseline").verdict == "PROMOTE"
    assert ruled(*parts(0.8, 0.9), opponent="baseline").verdict == "HOLD"
    assert ruled(*parts(0.9, 0.3), opponent="guess").verdict == "PROMOTE"
    assert ruled(*parts(0.3, 0.3), opponent="guess").verdict == "HOLD"


# ------------------------------------------------------------------------------------------------ guardrails


def test_a_gain_on_fresh_rows_does_not_hide_a_loss_on_golden_ones() -> None:
    ruling = ruled(world(1, rows=1000, senders=60, contender=0.80, opponent=0.92), good()[1])
    assert ruling.verdict == "HOLD"
    assert ruling.reasons[0].startswith("Worse than the champion on golden rows: accuracy")


def test_a_loss_on_golden_rows_is_made_good_on_the_photos_to_come_the_more_surely_the_longer_a_change_lasts() -> None:
    golden = world(1, rows=1000, senders=60, contender=0.80, opponent=0.92)
    fresh, since = good()[1], world(2, rows=200, contender=0.9, opponent=0.2)
    won = compare(since, confidence=0.95)
    assert won is not None
    assert won.differences["accuracy"].low > 0.5
    ruling = by_gate(ruled(golden, fresh, parts={"drifted": won}))
    for gate in ("golden", "macro-F1"):
        assert ruling[gate].outcome == "pass"
        assert ruling[gate].sentence.startswith("Made good by what is won since: +0.2")
        assert "1 to 1 they are like those since the drift began" in ruling[gate].sentence
        assert "By itself: Worse than the champion on golden rows" in ruling[gate].sentence
    kept = ruled(golden, fresh, gates=GATES.model_copy(update={"drift_trade": 0.0}), parts={"drifted": won})
    assert by_gate(kept)["golden"].outcome == "fail"
    assert by_gate(kept)["golden"].sentence.startswith("Worse than the champion on golden rows")
    far = world(1, rows=1000, senders=60, contender=0.10, opponent=0.92)
    for days, outcome in ((0, "fail"), (1, "pass")):
        lasting = ruled(far, fresh, parts={"drifted": won}, changed_days=days)
        assert by_gate(lasting)["golden"].outcome == outcome, "the odds of the changed world are days + 1"
    small = compare(since.where(np.arange(200) < 20), confidence=0.95)
    assert by_gate(ruled(golden, fresh, parts={"drifted": small}))["golden"].outcome == "fail", "20 rows decide nothing"


PART = compare(world(2, rows=60), confidence=0.95)


@given(st.floats(-0.5, 0.5), st.floats(0.001, 0.3), st.floats(-0.5, 0.5), st.floats(0.001, 0.3), st.floats(0.1, 40))
def test_the_mix_lies_between_its_parts_and_is_surer_than_both_apart(
    since: float, wide: float, golden: float, broad: float, odds: float
) -> None:
    won, lost = _with(PART, "accuracy", since, since - wide), _with(PART, "accuracy", golden, golden - broad)
    mixed = Mix(since=won, odds=odds).with_golden(lost, "accuracy")
    assert min(since, golden) - 1e-12 <= mixed.gain <= max(since, golden) + 1e-12
    assert mixed.gain == pytest.approx((odds * since + golden) / (odds + 1))
    assert mixed.low >= min(since - wide, golden - broad) - 1e-12
    assert mixed.gain - mixed.low <= (odds * wide + broad) / (odds + 1) + 1e-12


def test_after_a_drift_not_worse_is_enough_where_the_recipe_does_not_ask_for_more() -> None:
    golden = good()[0]
    equal = compare(world(3, rows=600, senders=60, contender=0.8, opponent=0.8), confidence=0.95)
    assert equal is not None
    since = _with(equal, "accuracy", 0.01, -0.01)
    for gates, outcome in ((GATES, "pass"), (GATES.model_copy(update={"after_drift": "better"}), "unknown")):
        found = by_gate(ruled(golden, good()[1], gates=gates, parts={"drifted": since}))
        assert found["not worse" if gates is GATES else "better"].outcome == outcome
    assert "better" in by_gate(ruled(golden, good()[1], parts={"drifted": None})), "no drift: better is asked"
    strict = GATES.model_copy(update={"after_drift": "better", "drift_trade": 1.0})
    loses = world(1, rows=1000, senders=60, contender=0.80, opponent=0.92)
    barely = _with(equal, "accuracy", 0.13, 0.12)
    told = by_gate(ruled(loses, good()[1], gates=strict, parts={"drifted": barely}))["golden"]
    assert told.outcome == "unknown", "on the photos to come it is not surely better"
    assert "asked: a bound above 0" in told.sentence


def test_after_a_drift_calibration_and_log_loss_are_of_rows_since_then() -> None:
    golden, fresh = good()
    since = world(2, rows=200, contender=0.9, opponent=0.2)
    boasts = world(2, rows=200, contender=0.2, opponent=0.9)
    strict = GATES.model_copy(update={"calibration_margin": 0.05, "log_loss_margin": 0.05})
    found = by_gate(ruled(golden, fresh, gates=strict, parts={"drifted": compare(since, confidence=0.95)}))
    for gate in ("calibration", "log loss"):
        assert found[gate].outcome == "pass"
        assert "on rows since the drift began" in found[gate].sentence
    worse = by_gate(ruled(golden, fresh, gates=strict, parts={"drifted": compare(boasts, confidence=0.95)}))
    assert worse["calibration"].outcome == worse["log loss"].outcome == "fail"
    hesitant = planned(np.arange(200) < 150, np.arange(200) < 40, np.arange(200) % 20)
    given = compare(hesitant, confidence=0.95)
    assert given is not None
    for better, outcome in ((0.1, "pass"), (-0.1, "unknown")):
        unsure = _with(_with(given, "ece", 0.0, -0.2), "log_loss", better, better)
        ruling = by_gate(ruled(golden, fresh, gates=strict, parts={"drifted": unsure}))
        assert ruling["calibration"].outcome == outcome
        assert ruling["calibration"].sentence.startswith("Calibration is outweighed: log loss") == (better > 0)
    few = compare(since.where(np.arange(200) < 20), confidence=0.95)
    assert "on all rows" in by_gate(ruled(golden, fresh, parts={"drifted": few}))["log loss"].sentence


def test_golden_rows_too_few_to_tell_are_insufficient_and_not_held_against_it() -> None:
    rows = np.arange(60)
    same_score = planned((rows < 6) | (rows >= 12), rows >= 6, rows % 20)
    ruling = ruled(same_score, good()[1], gates=GATES.model_copy(update={"margin": 0.05, "f1_margin": 0.5}))
    assert ruling.verdict == "INSUFFICIENT DATA"
    assert ruling.reasons[0].startswith("Too few golden rows to tell: accuracy")
    assert "set gates.margin to what you can bear" in ruling.reasons[0]


MARGINS = {
    "golden": "margin",
    "macro-F1": "f1_margin",
    "log loss": "log_loss_margin",
    "calibration": "calibration_margin",
}
METRICS = {"golden": "accuracy", "macro-F1": "macro_f1", "log loss": "log_loss", "calibration": "ece"}


@pytest.mark.parametrize("gate", MARGINS)
@pytest.mark.parametrize(
    ("gain", "low", "outcome"),
    [(0.0, -0.039, "pass"), (-0.03, -0.039, "pass"), (-0.03, -0.05, "unknown"), (-0.04, -0.05, "fail")],
)
def test_a_guardrail_passes_fails_or_cannot_tell(gate: str, gain: float, low: float, outcome: str) -> None:
    golden, fresh = good()
    gates = Gates(**{field: 0.04 if name == gate else 0.9 for name, field in MARGINS.items()}, slices=False)
    parts = {name: _with(compare(part, confidence=0.95), METRICS[gate], gain, low)
             for name, part in (("golden", golden), ("pooled", joined(golden, fresh)))}  # fmt: skip
    ruling = ruled(golden, fresh, gates=gates, parts=parts)
    found = by_gate(ruling)[gate]
    assert found.outcome == outcome
    assert f"gates.{MARGINS[gate]}" in found.sentence
    assert ruling.verdict == {"pass": "PROMOTE", "unknown": "INSUFFICIENT DATA", "fail": "HOLD"}[outcome]
    if outcome == "unknown":
        assert " rows in all would show it" in found.sentence


def _with(found: Comparison | None, metric: str, gain: float, low: float) -> Comparison:
    assert found is not None
    high = gain + (gain - low)
    return replace(found, differences=found.differences | {metric: Difference(gain=gain, low=low, high=high)})


@given(
    st.sampled_from(["latency", "size", "cost"]), st.floats(0, 1e9), st.floats(0, 1e9), st.floats(1, 3),
    st.sampled_from([0.5, 1.0, 3.0, 10.0]),
)  # fmt: skip
def test_a_ratio_passes_only_below_its_factor(
    gate: str, ours: float, theirs: float, over: float, factor: float
) -> None:
    seen = ours / theirs if theirs else (np.inf if ours else 1.0)
    ratio = Ratio(gate=gate, contender=ours, opponent=theirs, high=seen * over, unit="s")  # type: ignore[arg-type]
    found = affordable(ratio, Gates(**{f"{gate}_factor": factor}))
    assert (found.outcome == "pass") == (seen * over <= factor)
    if over == 1:
        assert found.outcome != "unknown"
    assert (found.outcome == "fail") == (seen > factor)


def test_a_noisy_measurement_of_a_fast_model_cannot_tell() -> None:
    ratio = Ratio(gate="latency", contender=1.2, opponent=1.0, high=4.0, unit="ms")
    ruling = ruled(*good(), ratios=[ratio])
    assert ruling.verdict == "INSUFFICIENT DATA"
    assert ruling.reasons[0].startswith(
        "Too noisy to tell: 1.20 ms a photo against 1.00 ms a photo, 1.2 times (95% sure"
    )
    assert ruled(*good(), opponent="baseline", ratios=[ratio]).verdict == "PROMOTE"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ratios": [Ratio(gate="latency", contender=9.0, opponent=1.0, high=9.0, unit="ms")]},
         "Too slow: 9.00 ms a photo against 1.00 ms a photo, 9 times; gates.latency_factor allows 3 times."),
        ({"ratios": [Ratio(gate="size", contender=9e6, opponent=1e6, high=9.0, unit="bytes")]},
         "Too large: 9.00 MB against 1.00 MB"),
        ({"ratios": [Ratio(gate="cost", contender=4.0, opponent=0.2, high=20.0, unit="EUR")]},
         "Too expensive: 4.00 EUR of training against 0.20 EUR of training"),
        ({"objections": (Finding(gate="inputs", outcome="fail", sentence="Cannot be compared."),)}, "Cannot be"),
    ],
)  # fmt: skip
def test_one_failed_guardrail_holds_a_better_model(more: dict[str, object], words: str) -> None:
    ruling = ruled(*good(), **more)
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
    ruling = ruled(*boast, gates=Gates(min_rows=30))
    assert ruling.verdict == "HOLD"
    assert by_gate(ruling)["calibration"].outcome == by_gate(ruling)["log loss"].outcome == "fail"


# ------------------------------------------------------------------------------------------ slices and seeds


def row(**changed: object) -> SliceRow:
    fields = {
        "column": "class", "value": "hat", "rows": 60, "senders": 20, "contender": 0.7, "opponent": 0.9,
        "difference": -0.2, "low": -0.3, "high": -0.1, "p_value": 1.0, "p_harm": 0.001,
        "p_harm_holm": 0.02, "judged": True,
    }  # fmt: skip
    return SliceRow(**fields | changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "outcome", "words"),
    [
        ({}, "fail", "Lost on class hat: accuracy 0.700 against 0.900, −0.200 (60 rows of 20 senders"),
        ({"p_harm_holm": 0.2}, "unknown", "more rows of it would tell"),
        ({"p_harm": 0.25, "p_harm_holm": 1.0, "senders": 2}, "unknown", "more rows of it of more senders would tell"),
        ({"p_harm": 0.25, "p_harm_holm": 1.0, "high": 0.01}, "pass", "the largest loss seen is 20 points"),
        ({"difference": -0.09}, "pass", "gates.slice_margin allows 10 points"),
        ({"judged": False, "p_harm_holm": None}, "pass", "none is judged"),
    ],
)
def test_a_slice_is_lost_if_more_than_the_margin_is_lost_for_sure(
    changed: dict[str, object], outcome: str, words: str
) -> None:
    table = [row(value="cap", difference=0.1, low=0.0, high=0.2, p_harm=1.0, p_harm_holm=1.0)] * 3 + [row(**changed)]
    table = table if changed.get("judged", True) else table[-1:]
    ruling = ruled(*good(), slices=table)
    found = by_gate(ruling)["slices"]
    assert found.outcome == outcome
    assert words in found.sentence
    assert ruling.verdict == {"pass": "PROMOTE", "unknown": "INSUFFICIENT DATA", "fail": "HOLD"}[outcome]
    off = GATES.model_copy(update={"slices": False})
    assert ruled(*good(), slices=table, gates=off).verdict == "PROMOTE"
    assert ruled(*good(), slices=table, opponent="baseline").verdict == "PROMOTE"


def test_after_a_drift_a_slice_is_asked_of_the_photos_to_come() -> None:
    def found(**changed: object) -> Finding:
        return by_gate(ruled(*good(), slices=[row(**changed)]))["slices"]

    kept = found(to_come=-0.04)
    assert kept.outcome == "pass"
    assert "the largest loss on the photos to come is 4 points (class hat, 60 rows)" in kept.sentence
    assert found(to_come=-0.15, f1=0.02).outcome == "pass", "it answers this class less, and rightly so"
    assert found(f1=-0.11).outcome == "fail"
    lost = found(to_come=-0.15)
    assert lost.outcome == "fail"
    assert "0.700 against 0.900, −0.200, −0.150 on the photos to come (60 rows of 20 senders" in lost.sentence


def test_a_slice_that_is_lost_in_the_world_before_is_judged_by_how_long_the_change_has_been_there() -> None:
    golden, since = world(1, rows=600, senders=60, contender=0.5, opponent=0.9), world(2, contender=0.9, opponent=0.3)
    paired, fresh = joined(golden, since), np.arange(800) >= 600
    masks = slice_masks(paired.labels, tuple("abcd"), paired.senders, fresh)

    def lost(drifted: Bools | None, days: int, **gates: object) -> int:
        told = judge(paired, opponent="champion", fresh=fresh, drifted=drifted, changed_days=days, masks=masks,
                     gates=GATES.model_copy(update=gates))  # fmt: skip
        return sum(finding.gate == "slices" and finding.outcome == "fail" for finding in told.ruling.findings)

    assert lost(None, 0) > 0
    assert lost(fresh, 3) == 0
    assert lost(fresh, 3, drift_trade=0.0) > 0, "nothing is traded"


def test_no_lost_slice_says_what_could_have_been_seen() -> None:
    sentence = by_gate(ruled(*good(), slices=[row(difference=0.02, low=-0.05, high=0.09)]))["slices"].sentence
    assert "of 1 judged (those of 40 rows or more), on none of them was anything lost" in sentence
    assert "Four times in five a loss of 10.6 points would be found on the best measured" in sentence


@pytest.mark.parametrize(
    ("low", "require", "outcome"),
    [(0.01, "better", "pass"), (-0.01, "better", "fail"), (-0.01, "not_worse", "pass"), (-0.03, "not_worse", "fail")],
)
def test_a_lucky_seed_is_held(low: float, require: str, outcome: str) -> None:
    spread = SeedSpread(gain=0.03, low=low, high=0.07, gains=(0.09, 0.0, 0.0))
    ruling = ruled(*good(), seeds=spread, gates=GATES.model_copy(update={"require": require}))
    assert by_gate(ruling)["seeds"].outcome == outcome
    assert ruling.verdict == {"pass": "PROMOTE", "fail": "HOLD"}[outcome]
    assert "3 seeds gain +0.030 on the average" in by_gate(ruling)["seeds"].sentence


# -------------------------------------------------------------------------------------------------- in all


def judged(paired: Paired, gates: Gates = GATES) -> Judged:
    fresh = np.arange(len(paired.labels)) >= 2000
    masks = slice_masks(paired.labels, tuple("abcd"), paired.senders, fresh)
    return judge(paired, opponent="champion", fresh=fresh, masks=masks, gates=gates)


def test_a_better_contender_that_loses_a_class_is_held() -> None:
    paired = joined(*good())
    assert judged(paired).ruling.verdict == "PROMOTE"
    lost = (paired.labels == 2) & (np.arange(len(paired.labels)) % 3 == 0)
    wrong = np.where(lost[:, None], np.eye(CLASSES)[(paired.labels + 1) % CLASSES], paired.contender)
    loose = {"margin": 0.5, "f1_margin": 0.5, "log_loss_margin": 9}
    found = judged(replace(paired, contender=wrong), GATES.model_copy(update=loose))
    assert found.ruling.verdict == "HOLD"
    assert found.ruling.reasons[0].startswith("Lost on class c: accuracy")
    assert [line.value for line in found.slices if line.p_harm_holm is not None and line.p_harm_holm < 0.05] == ["c"]


def test_the_parts_of_a_judgement_are_their_rows() -> None:
    found = judged(joined(*good()))
    assert {name: part.rows if part else None for name, part in found.comparisons.items()} == {
        "golden": 2000, "fresh": 200, "drifted": None, "pooled": 2200,
    }  # fmt: skip
