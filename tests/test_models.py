"""Networks: what goes in and comes out, with which statistics, and that the linear one is scikit-learn's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.metrics import log_loss as sk_log_loss

from tests.digits import digit_images
from training import metrics
from training.baseline import fit_baseline, standardise
from training.calibrate import fit_temperature
from training.data import Split
from training.models import BuildError, ModelSpec, build, load_weights, pixel_statistics, torchvision_side
from training.shards import Mapped, Rows

CONTEXT = 5


def split(count: int, start: int = 0, classes: int = 10) -> Split:
    images, labels = digit_images(count, start)
    keep = labels < classes
    images, labels = images[keep], labels[keep].astype(np.int64)
    total = len(labels)
    names = np.array([f"{start + row:04d}" for row in range(total)])
    return Split(
        images=Rows(Mapped([images], 16), np.zeros(total, int), np.arange(total)),
        context=np.random.default_rng(start).normal(3, 2, (total, CONTEXT)).astype(np.float32),
        labels=labels,
        image_ids=names,
        source_ids=names,
        group_ids=names,
        captured_at=np.full(total, np.datetime64("2026-03-01", "us")),
        stats=np.zeros((total, 7), np.float32),
    )


def torchvision_spec(architecture: str) -> ModelSpec:
    side = torchvision_side(architecture, 16, pretrained=False)
    options = {"architecture": architecture, "side": side}
    return ModelSpec(kind="torchvision", classes=3, context=CONTEXT, size=16, options=options)


@given(arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.just(3))))
def test_statistics_of_pixels_are_numpys(images: np.ndarray) -> None:
    mean, std = pixel_statistics(images)
    assert mean == pytest.approx(list(images.mean(axis=(0, 1, 2)) / 255))
    assert std == pytest.approx(list(images.std(axis=(0, 1, 2)) / 255), abs=1e-12)


@pytest.mark.parametrize("size", [8, 16, 28, 64, 100, 224])
def test_resnet_takes_any_size(size: int) -> None:
    spec = ModelSpec(kind="resnet", classes=3, context=CONTEXT, size=size, options={"width": 4, "blocks": [1, 2]})
    model = build(spec).eval()
    logits, embedding = model(torch.zeros(2, size, size, 3, dtype=torch.uint8), torch.zeros(2, CONTEXT))
    assert logits.shape == (2, 3)
    assert embedding.ndim == 2
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "squeezenet1_1"])
def test_torchvision_by_name_uses_the_context(architecture: str) -> None:
    torch.manual_seed(0)
    model = build(torchvision_spec(architecture)).eval()
    image = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    with torch.inference_mode():
        plain, seen = model(image, torch.zeros(2, CONTEXT))
        told, same = model(image, torch.ones(2, CONTEXT))
    assert plain.shape == (2, 3)
    assert not torch.allclose(plain, told), "the context changes nothing"
    assert torch.equal(seen, same), "the embedding is of the picture alone"


def test_a_vision_transformer_is_shown_its_own_size() -> None:
    with torch.device("meta"):
        model = build(torchvision_spec("vit_b_32"))
        logits, _ = model(torch.zeros(2, 16, 16, 3, dtype=torch.uint8), torch.zeros(2, CONTEXT))
    assert model.body.side == 224
    assert logits.shape == (2, 3)


def test_an_unknown_architecture_is_named_with_those_there_are() -> None:
    with pytest.raises(BuildError, match=r"resnet81.*resnet18"):
        build(torchvision_spec("resnet81"))


def test_weights_from_a_file_replace_the_body(tmp_path: Path) -> None:
    spec = torchvision_spec("mobilenet_v3_small")
    torch.manual_seed(1)
    donor, model = build(spec), build(spec)
    # As published: with a classifier for other classes, which is not wanted.
    state = {**donor.body.network.state_dict(), "classifier.3.weight": torch.zeros(1000, 1024)}
    save_file(state, tmp_path / "donor.safetensors")
    load_weights(model, str(tmp_path / "donor.safetensors"))
    for key, value in model.body.network.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert model.pixel_mean.tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_wrong_weights_are_refused_by_name(tmp_path: Path) -> None:
    model = build(torchvision_spec("mobilenet_v3_small"))
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"pickle")
    with pytest.raises(BuildError, match=r"other\.safetensors.*not mobilenet_v3_small's"):
        load_weights(model, str(tmp_path / "other.safetensors"))
    with pytest.raises(BuildError, match=r"bad\.safetensors.*not a safetensors"):
        load_weights(model, str(tmp_path / "bad.safetensors"))
    with pytest.raises(BuildError, match="no such file"):
        load_weights(model, str(tmp_path / "none.safetensors"))
    with pytest.raises(BuildError, match="has IMAGENET1K_V1"):
        load_weights(model, "IMAGENET9")


def test_published_weights_that_cannot_be_fetched_say_what_else_would_do(monkeypatch: pytest.MonkeyPatch,
                                                                         tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    model = build(torchvision_spec("mobilenet_v3_small"))
    with pytest.raises(BuildError, match=r"IMAGENET1K_V1.*cannot be fetched.*safetensors file instead"):
        load_weights(model, "IMAGENET1K_V1")


def test_statistics_live_in_the_module() -> None:
    rows = split(300)
    rows.context[:, 2] = 7.0  # never varies
    model = build(ModelSpec(kind="sklearn", classes=10, context=CONTEXT, size=16, options={"pixels": 4}))
    standardise(model, rows, batch=64)
    pixels = model.pixels(torch.from_numpy(rows.images[:]))
    assert pixels.shape == (300, 3, 16, 16)
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-4)
    assert pixels.std((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=1e-3)
    known = model.known(torch.from_numpy(rows.context))
    assert known.std(0)[[0, 1, 3, 4]].tolist() == pytest.approx([1] * 4, abs=0.05)
    strange = model.known(torch.full((1, CONTEXT), 1e9))
    assert strange[0, 2] == 0, "a column that never varied in training has no say"
    assert strange.abs().max() <= 4, "one odd sender must not drown the picture"


@pytest.mark.parametrize("classes", [2, 10])
def test_the_linear_module_gives_scikit_learns_probabilities(classes: int) -> None:
    rows = split(300, classes=classes)
    spec = ModelSpec(kind="sklearn", classes=classes, context=CONTEXT, size=16, options={"pixels": 8})
    model = fit_baseline(spec, rows, c=0.1, seed=7)
    images, context = torch.from_numpy(rows.images[:]), torch.from_numpy(rows.context)
    with torch.inference_mode():
        found = torch.softmax(model(images, context)[0], 1).numpy()
        seen = torch.cat([model.body(model.pixels(images)), model.known(context)], 1).numpy()
    reference = LogisticRegression(C=0.1, max_iter=2000, random_state=7).fit(seen, rows.labels)
    np.testing.assert_allclose(found, reference.predict_proba(seen), atol=1e-5)
    assert metrics.accuracy(found, rows.labels) > 0.97


def test_a_recent_row_counts_as_if_it_had_come_so_many_times() -> None:
    """Pictures are inverted from March on, in 120 rows of 400: too few to be learnt from as they are."""
    rows, later = split(400), split(200, start=500)
    new = np.arange(400) >= 280
    inverted = np.where(new[:, None, None, None], 255 - rows.images[:], rows.images[:])
    rows = replace(rows, images=Rows(Mapped([inverted], 16), np.zeros(400, int), np.arange(400)),
                   captured_at=rows.captured_at - np.where(new, 0, 1) * np.timedelta64(1, "D"))  # fmt: skip
    spec = ModelSpec(kind="sklearn", classes=10, context=CONTEXT, size=16, options={"pixels": 8})
    plain, weighted = (fit_baseline(spec, rows, c=0.1, seed=7, recent_weight=weight, recent_since="2026-03-01T00:00:00")
                       for weight in (1.0, 4.0))  # fmt: skip
    images, context = torch.from_numpy(rows.images[:]), torch.from_numpy(rows.context)
    with torch.inference_mode():
        found = torch.softmax(weighted(images, context)[0], 1).numpy()
        seen = torch.cat([weighted.body(weighted.pixels(images)), weighted.known(context)], 1).numpy()
        told = [model(torch.from_numpy(255 - later.images[:]), torch.from_numpy(later.context))[0].numpy()
                for model in (plain, weighted)]  # fmt: skip
    times = np.where(new, 4, 1)
    again = LogisticRegression(C=0.1 / times.mean(), max_iter=2000)
    again.fit(np.repeat(seen, times, axis=0), np.repeat(rows.labels, times))
    np.testing.assert_allclose(found, again.predict_proba(seen), atol=2e-3)
    before, after = (metrics.accuracy(logits, later.labels) for logits in told)
    assert after > before + 0.1


def test_a_class_without_rows_is_never_the_answer() -> None:
    rows = split(300, classes=9)
    spec = ModelSpec(kind="sklearn", classes=10, context=CONTEXT, size=16, options={"pixels": 8})
    with torch.inference_mode():
        model = fit_baseline(spec, rows, c=0.1, seed=7)
        unseen = split(60, start=400)
        logits, _ = model(torch.from_numpy(unseen.images[:]), torch.from_numpy(unseen.context))
    assert (logits.argmax(1) != 9).all()


# --------------------------------------------------------------------------------------------------- figures

LOGITS = arrays(np.float64, (40, 4), elements=st.floats(-6, 6))
LABELS = arrays(np.int64, 40, elements=st.integers(0, 3))


@given(LOGITS, LABELS)
def test_metrics_are_scikit_learns(logits: np.ndarray, labels: np.ndarray) -> None:
    probabilities = metrics.softmax(logits)
    said = probabilities.argmax(1)
    found = metrics.summary(probabilities, labels)
    true = sorted(set(labels))
    assert found["accuracy"] == pytest.approx((said == labels).mean())
    assert found["macro_f1"] == pytest.approx(f1_score(labels, said, labels=true, average="macro", zero_division=0))
    assert found["log_loss"] == pytest.approx(sk_log_loss(labels, probabilities, labels=range(4)), abs=1e-6)
    assert 0 <= found["ece"] <= 1


def test_calibration_error_is_the_gap_of_confidence_and_accuracy() -> None:
    probabilities = np.tile([0.9, 0.1], (10, 1))
    assert metrics.calibration_error(probabilities, np.zeros(10, int)) == pytest.approx(0.1)
    assert metrics.calibration_error(probabilities, np.array([1] + [0] * 9)) == pytest.approx(0.0)
    assert metrics.calibration_error(probabilities, np.ones(10, int)) == pytest.approx(0.9)


def test_temperature_undoes_overconfidence_and_keeps_the_classes() -> None:
    rng = np.random.default_rng(3)
    honest = rng.normal(size=(4000, 5)) * 2
    chance = metrics.softmax(honest)
    labels = np.array([rng.choice(5, p=row) for row in chance])
    temperature = fit_temperature((honest * 3).astype(np.float32), labels)
    assert temperature == pytest.approx(3, rel=0.1)
    assert metrics.calibration_error(metrics.softmax(honest * 3, temperature), labels) < 0.03


@given(LOGITS, LABELS)
def test_temperature_never_makes_log_loss_worse(logits: np.ndarray, labels: np.ndarray) -> None:
    temperature = fit_temperature(logits.astype(np.float32), labels)
    before = metrics.log_loss(metrics.softmax(logits), labels)
    assert metrics.log_loss(metrics.softmax(logits, temperature), labels) <= before + 1e-3
