"""Model behaviour: what stays as it is, what goes the right way, what is never below a floor; and how sure that is."""

import gc
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from scipy import stats

from monitoring.behaviour import BehaviourRow, Claim, class_floor, effective, share_bounds, share_row
from monitoring.comparison import Paired
from pipelines.models.behaviour import examine, findings, moved, resaved
from pipelines.models.contest import Side
from pipelines.sections import Behaviour, Gates
from serving.pictures import STATS
from serving.runtime import load_model
from tests.judged import write_package
from training.data import SnapshotData
from training.shards import Mapped, Rows

SIZE = 16
CLASSES = ("a", "b", "c")
CONTEXT = ("brightness", "log_photos", "label_share", "mix_a", "mix_b", "mix_c")
OFF = {"flip": False, "shift": 0.0, "jpeg": 0, "context": False}
"""A recipe's `behaviour` that asks for nothing."""


# -------------------------------------------------------------------------------------- a world and its models


def stripes(labels: np.ndarray) -> np.ndarray:
    """Each class has a bright row and a bright column of its own, so that a model may look at either."""
    images = np.full((len(labels), SIZE, SIZE, 3), 60, np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 * label + 2] += 60  # a row: stays where it is when mirrored
        image[:, 4 * label + 1] += 60  # a column: mirrored it is where no class has one
    return images


def snapshot(
    *, rows: int = 300, senders: int = 30, images: np.ndarray | None = None, names: tuple[str, ...] = CONTEXT,
    known: bool = True, labels: np.ndarray | None = None, brightness: float = 0.3,
) -> SnapshotData:  # fmt: skip
    """Thirty training rows, then golden and fresh ones by turns."""
    rng = np.random.default_rng(5)
    count = 30 + rows
    labels = rng.integers(0, 3, count) if labels is None else np.concatenate([np.arange(30) % 3, labels])
    pixels = stripes(labels)
    if images is not None:
        pixels[30:] = images
    mix = rng.dirichlet([2.0, 2.0, 2.0], count)
    context = np.column_stack([np.full(count, brightness), np.full(count, 3.0 * known), np.full(count, 0.9), mix])
    table = {
        "image_id": [f"image-{number}" for number in range(count)],
        "source_id": [f"sender-{number}" for number in rng.integers(0, senders, count)],
        "captured_at": pa.array([0] * count, pa.timestamp("us", "UTC")),
        "group_id": [f"image-{number}" for number in range(count)],
        "label_index": labels,
        "split": ["train"] * 30 + ["golden" if number % 2 else "fresh" for number in range(rows)],
        "context": pa.array(context[:, : len(names)].astype(np.float32).tolist(), pa.list_(pa.float32())),
        **{name: np.zeros(count) for name in STATS},
    }
    meta = {"snapshot_id": "made-up", "classes": CLASSES, "context_names": names, "stats_names": STATS}
    return SnapshotData(
        meta=meta,
        table=pa.table(table),
        images=Rows(Mapped([pixels], SIZE), np.zeros(count, np.int64), np.arange(count)),
    )


def linear(folder: Path, pixels: np.ndarray, told: Mapping[str, list[float]], names: tuple[str, ...] = CONTEXT) -> Side:
    """A real package whose graph adds up pixels (0..1) and context with these weights ([S, S, C], and [C] a name)."""
    weights = np.repeat(pixels[:, :, None, :], 3, axis=2).reshape(SIZE * SIZE * 3, 3).astype(np.float32)
    heard = np.array([told.get(name, [0.0, 0.0, 0.0]) for name in names], np.float32)
    constants = {"weights": weights, "heard": heard, "scale": np.array(255, np.float32)}
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["numbers", "scale"], ["shares"]),
        helper.make_node("Flatten", ["shares"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["seen"]),
        helper.make_node("MatMul", ["context", "heard"], ["said"]),
        helper.make_node("Add", ["seen", "said"], ["embedding"]),
        helper.make_node("Softmax", ["embedding"], ["probabilities"], axis=1),
    ]
    ports = {
        "image": (TensorProto.UINT8, ["N", SIZE, SIZE, 3]),
        "context": (TensorProto.FLOAT, ["N", len(names)]),
        "probabilities": (TensorProto.FLOAT, ["N", 3]),
        "embedding": (TensorProto.FLOAT, ["N", 3]),
    }
    made = {name: helper.make_tensor_value_info(name, *port) for name, port in ports.items()}
    graph = helper.make_graph(
        nodes, "planted", [made["image"], made["context"]], [made["probabilities"], made["embedding"]],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    card = {
        "classes": CLASSES, "context_names": names, "image": {"size": SIZE}, "image_spec_hash": "spec",
        "service": "context_v1", "service_hash": "service", "run_id": folder.name,
    }  # fmt: skip
    write_package(folder, model, card)
    return Side(kind="contender", run_id=folder.name, card=card, model=load_model(folder, threads=1))


def looks_at(*, rows: bool) -> np.ndarray:
    """Weights that know the classes of `stripes` by their bright row, or by their bright column."""
    weights = np.zeros((SIZE, SIZE, 3))
    for label in range(3):
        if rows:
            weights[4 * label + 2, :, label] = 1
        else:
            weights[:, 4 * label + 1, label] = 1
    return weights


def hears(weight: float) -> dict[str, list[float]]:
    """Context weights: each class gains so much by its own share of what the sender sent."""
    return {f"mix_{name}": [weight * (position == i) for i in range(3)] for position, name in enumerate(CLASSES)}


def only(**given: Any) -> Behaviour:
    return Behaviour(**{**OFF, **given})


GUESS = Side(kind="guess")


# --------------------------------------------------------------------------------------------- planted models


def test_a_model_that_knows_mirrored_photos_and_one_that_does_not(tmp_path: Path) -> None:
    rows, columns = (linear(tmp_path / str(kind), looks_at(rows=kind), {}) for kind in (True, False))
    (found,) = examine(snapshot(), rows, columns, only(flip=True), Gates())
    assert (found.test, found.contender, found.rows, found.asked, found.passed) == ("flip", 1.0, 300, 0.8, True)
    assert found.opponent is not None
    assert found.opponent < 0.5
    assert found.sentence.startswith("Mirrored photos keep their answer: it holds on 1.000 of 300 photos of 30 senders")
    (turned,) = examine(snapshot(), columns, GUESS, only(flip=True), Gates())
    assert (turned.contender, turned.opponent, turned.passed) == (found.opponent, None, False)
    assert turned.sentence.startswith("Mirrored photos lose their answer: it holds on 0.")


def test_a_model_that_hangs_on_single_pixels_loses_its_answer_when_photos_move(tmp_path: Path) -> None:
    fine = linear(tmp_path / "fine", looks_at(rows=True), {})
    broad = linear(tmp_path / "broad", np.repeat(looks_at(rows=True).max(axis=1, keepdims=True), SIZE, 1), {})
    wide = np.zeros((SIZE, SIZE, 3))
    for label in range(3):
        wide[4 * label + 1 : 4 * label + 4, :, label] = 1
    tolerant = linear(tmp_path / "wide", wide, {})
    (found,) = examine(snapshot(), fine, tolerant, only(shift=0.05), Gates())
    # A row of the picture is left by six of the eight ways to move one pixel; what stays then is chance.
    assert 0.25 <= found.contender < 0.65
    assert (found.opponent, found.passed) == (1.0, False)
    assert "moved by 5% of their side" in found.sentence
    (same,) = examine(snapshot(), broad, GUESS, only(shift=0.05), Gates())
    assert same.contender == found.contender, "the same pixels for everybody"


def test_a_model_that_reads_what_jpeg_throws_away(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 200)
    board = np.indices((SIZE, SIZE)).sum(axis=0) % 2 * 2 - 1  # the finest pattern there is
    images = np.full((200, SIZE, SIZE, 3), 120, np.int64) + (3 * (labels - 1))[:, None, None, None] * board[:, :, None]
    weights = np.zeros((SIZE, SIZE, 3))
    weights[..., 0], weights[..., 2] = -board, board
    reader = linear(tmp_path / "reader", weights, {"label_share": [0.0, 1.5, 0.0]})
    data = snapshot(rows=200, images=images.astype(np.uint8), labels=labels)
    shares = {quality: examine(data, reader, GUESS, only(jpeg=quality), Gates())[0].contender for quality in (5, 95)}
    assert shares[95] > 0.95
    assert shares[5] < 0.6


@pytest.mark.parametrize(
    ("weight", "share", "passed"), [(3.0, 1.0, True), (0.0, 1.0, True), (-3.0, 0.0, False)],
    ids=["the right way", "not at all", "the wrong way"],
)  # fmt: skip
def test_what_a_sender_sends_pushes_the_answer(tmp_path: Path, weight: float, share: float, passed: bool) -> None:
    side = linear(tmp_path / "model", looks_at(rows=True) / 20, hears(weight))
    (found,) = examine(snapshot(), side, GUESS, only(context=True), Gates())
    assert (found.test, found.contender, found.passed) == ("context", share, passed)
    how = "A class is not less likely" if passed else "A class is less likely"
    assert found.sentence.startswith(f"{how} when its sender sends more of it")


def test_the_context_is_not_asked_where_it_says_nothing_of_senders(tmp_path: Path) -> None:
    names = CONTEXT[:2]
    deaf = linear(tmp_path / "deaf", looks_at(rows=True), {}, names)
    assert examine(snapshot(names=names), deaf, GUESS, only(context=True), Gates()) == []
    heard = linear(tmp_path / "heard", looks_at(rows=True), hears(1.0))
    assert examine(snapshot(known=False), heard, GUESS, only(context=True), Gates()) == []


def test_a_class_below_the_floor_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    shown = np.repeat([0, 1, 2], 80)
    labels = shown.copy()
    labels[rng.permutation(80)[:60]] = 2  # most photos that look like an `a` are a `c`
    data = snapshot(rows=240, images=stripes(shown), labels=labels)
    side = linear(tmp_path / "model", looks_at(rows=True), {})
    good = linear(tmp_path / "good", looks_at(rows=False), {})
    (found,) = examine(data, side, good, only(class_floor=0.8), Gates(slice_min_rows=40))
    assert (found.test, found.rows, found.passed) == ("class_floor", 220, False), "a itself has 20 photos: not asked"
    assert found.contender == found.opponent == pytest.approx(80 / 140)
    assert found.sentence.startswith("Below the floor of a class: c right on 0.571 of 140 photos (adjusted p ")
    (held,) = examine(data, side, good, only(class_floor=0.5), Gates(slice_min_rows=40))
    assert held.passed
    assert held.sentence.startswith("No class is shown to be below its floor: the worst is c right on 0.571")
    assert examine(data, side, good, only(class_floor=0.8), Gates(slice_min_rows=200)) == []


def test_answers_that_are_known_are_not_asked_for_again(tmp_path: Path) -> None:
    data = snapshot()
    side = linear(tmp_path / "model", looks_at(rows=True), {})
    labels = np.concatenate([data.split(name).labels for name in ("golden", "fresh")])
    never = np.eye(3)[(labels + 1) % 3]
    paired = Paired(labels=labels, contender=never, opponent=never, senders=np.repeat("x", len(labels)))
    (found,) = examine(data, side, GUESS, only(class_floor=0.2), Gates(), paired=paired)
    assert (found.contender, found.passed) == (0.0, False)


def test_a_changed_photo_has_the_context_of_the_changed_photo(tmp_path: Path) -> None:
    # The row says that the picture is black; seen again it is not, and this model believes what it is told.
    side = linear(
        tmp_path / "model", np.zeros((SIZE, SIZE, 3)), {"brightness": [9.0, 0, 0], "label_share": [0, 1.0, 0]}
    )
    (found,) = examine(snapshot(brightness=0.0), side, GUESS, only(flip=True), Gates())
    assert found.contender == 0.0


def test_the_sample_is_bounded_and_the_same_each_time(tmp_path: Path) -> None:
    side = linear(tmp_path / "model", looks_at(rows=False), hears(1.0))
    asked = Behaviour(flip=True, class_floor=0.1)
    first = examine(snapshot(), side, GUESS, asked, Gates(), most=90)
    assert [(row.test, row.rows) for row in first] == [
        ("flip", 90), ("shift", 90), ("jpeg", 90), ("context", 90), ("class_floor", 300),
    ]  # fmt: skip
    assert examine(snapshot(), side, GUESS, asked, Gates(), most=90) == first


def test_nothing_is_asked_where_there_are_no_photos_or_no_tests(tmp_path: Path) -> None:
    side = linear(tmp_path / "model", looks_at(rows=True), {})
    assert examine(snapshot(rows=0), side, GUESS, Behaviour(class_floor=0.5), Gates()) == []
    assert examine(snapshot(), side, GUESS, only(), Gates()) == []


def test_failed_and_open_tests_are_findings_only_where_the_recipe_says_so(tmp_path: Path) -> None:
    side = linear(tmp_path / "model", looks_at(rows=False), {})
    tests = {
        "pass": examine(snapshot(), side, GUESS, only(jpeg=95), Gates())[0],
        "unknown": examine(snapshot(rows=8), side, GUESS, only(jpeg=95), Gates())[0],
        "fail": examine(snapshot(), side, GUESS, only(flip=True), Gates())[0],
    }
    found = findings(list(tests.values()), gating=True)
    assert [finding.outcome for finding in found] == list(tests)
    assert [finding.gate for finding in found] == ["behaviour: jpeg", "behaviour: jpeg", "behaviour: flip"]
    assert [finding.sentence for finding in found] == [row.sentence for row in tests.values()]
    assert found[1].sentence.startswith("Too few photos to be sure that photos saved as JPEG of quality 95 keep")
    assert findings(list(tests.values()), gating=False) == ()


def test_a_row_is_what_the_evidence_keeps() -> None:
    fields = {"test", "contender", "opponent", "rows", "asked", "passed", "sentence"}
    assert set(asdict(BehaviourRow(test="flip", contender=1.0, opponent=None, rows=1, asked=0.8, passed=True,
                                   sentence="x"))) == fields  # fmt: skip


# -------------------------------------------------------------------------------------------------- the changes


def test_a_moved_photo_keeps_its_size_and_repeats_its_edge() -> None:
    image = np.arange(SIZE * SIZE * 3, dtype=np.uint8).reshape(1, SIZE, SIZE, 3)
    ways = set()
    for seed in range(60):
        (out,) = moved(image, 0.13, seeds=np.array([seed]))  # two pixels of sixteen
        padded = np.pad(image[0], ((2, 2), (2, 2), (0, 0)), mode="edge")
        way = [
            (down, right)
            for down in (-2, 0, 2)
            for right in (-2, 0, 2)
            if np.array_equal(out, padded[2 - down :, 2 - right :][:SIZE, :SIZE])
        ]
        assert len(way) == 1
        ways.add(way[0])
    assert len(ways) == 8
    assert (0, 0) not in ways


def test_a_photo_that_is_saved_again_differs_a_little() -> None:
    images = stripes(np.arange(3))
    apart = np.abs(resaved(images, 60).astype(int) - images)
    assert 0 < apart.mean() < 12
    assert apart.mean() > np.abs(resaved(images, 95).astype(int) - images).mean()


# ---------------------------------------------------------------------------------------------- how sure

CLAIM = Claim(test="flip", holds="Photos stay", fails="Photos go")
held_by = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=80)


@given(held_by, st.sampled_from([0.8, 0.95, 0.99]), st.randoms())
def test_bounds_hold_the_share_and_do_not_depend_on_the_order(
    rows: list[tuple[bool, int]], confidence: float, random: Any
) -> None:
    held, senders = np.array([row[0] for row in rows]), np.array([f"s{row[1]}" for row in rows])
    low, high = share_bounds(held, senders, confidence=confidence)
    assert 0 <= low <= held.mean() <= high <= 1
    hits, worth = effective(held, senders, confidence=confidence)
    assert 0 <= hits <= worth <= len(rows)
    order = np.array(random.sample(range(len(rows)), len(rows)))
    assert share_bounds(held[order], senders[order], confidence=confidence) == pytest.approx((low, high))
    # Told as one, the same photos can only look worth more.
    alone = share_bounds(held, np.repeat("one", len(rows)), confidence=confidence)
    assert alone[0] >= low - 1e-9
    assert alone[1] <= high + 1e-9


def test_a_photo_a_sender_is_an_exact_binomial() -> None:
    held = np.arange(200) < 170
    low, high = share_bounds(held, np.arange(200).astype(str), confidence=0.95)
    exact = stats.binomtest(170, 200).proportion_ci(0.9, method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=0.001)


def test_the_bound_holds_as_often_as_it_says_although_a_senders_photos_resemble_each_other() -> None:
    rng = np.random.default_rng(1)
    senders = np.repeat(np.arange(40), 10).astype(str)
    covered, naive = 0, 0
    for _ in range(400):
        held = rng.random(400) < np.repeat(rng.beta(2.4, 0.6, 40), 10)  # 0.8 on the average
        covered += share_bounds(held, senders, confidence=0.95)[0] <= 0.8
        naive += stats.binomtest(int(held.sum()), 400).proportion_ci(0.9, method="exact").low <= 0.8
    assert covered / 400 > 0.92
    assert naive / 400 < 0.88, "or the test shows nothing"


def test_to_ask_for_all_asks_for_each_of_these_photos() -> None:
    senders = np.arange(50).astype(str)
    all_but_one = np.arange(50) > 0
    assert share_row(CLAIM, np.ones(50, bool), None, senders, asked=1.0, confidence=0.95).passed
    assert not share_row(CLAIM, all_but_one, None, senders, asked=1.0, confidence=0.95).passed


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=60), st.floats(0, 1))
def test_what_is_passed_is_what_is_asked(rows: list[tuple[bool, int]], asked: float) -> None:
    held, senders = np.array([row[0] for row in rows]), np.array([f"s{row[1]}" for row in rows])
    row = share_row(CLAIM, held, held, senders, asked=asked, confidence=0.95)
    assert row.contender == row.opponent == held.mean()
    assert row.contender >= row.asked or not row.passed
    assert not (row.passed and row.is_open)
    starts = (
        "Photos stay" if row.passed else "Too few photos to be sure that photos stay" if row.is_open else "Photos go"
    )
    assert row.sentence.startswith(starts)


def test_a_good_model_with_many_classes_is_rarely_failed_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "collect", lambda *_: 0)  # statsmodels collects after each call: a minute of this test
    rng = np.random.default_rng(6)
    classes = [f"c{number}" for number in range(20)]
    labels, senders = np.repeat(np.arange(20), 60), np.arange(1200).astype(str)
    failed, without = 0, 0
    for _ in range(300):
        right = rng.random(1200) < 0.5  # each class exactly at the floor: the hardest case
        row = class_floor(right, None, labels, senders, classes, floor=0.5, min_rows=40, confidence=0.95)
        assert row is not None
        failed += not row.passed
        without += any(share_bounds(right[labels == c], senders[:60], confidence=0.95)[1] < 0.5 for c in range(20))
    assert failed / 300 < 0.08
    assert without / 300 > 0.3, "or Holm's adjustment is for nothing"


def test_a_class_that_one_sender_spoils_is_not_shown_to_be_bad() -> None:
    right = np.arange(60) >= 36  # wrong on the first 36 of 60: all of one sender, or each of another's
    labels = np.zeros(60, np.int64)
    few = np.repeat(["x", "y", "z"], [36, 12, 12])
    asked = {"floor": 0.55, "min_rows": 40, "confidence": 0.95}
    alone = class_floor(right, None, labels, np.arange(60).astype(str), ["a"], **asked)  # type: ignore[arg-type]
    together = class_floor(right, None, labels, few, ["a"], **asked)  # type: ignore[arg-type]
    assert alone is not None
    assert together is not None
    assert (alone.passed, together.passed) == (False, True)
