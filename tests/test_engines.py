"""Engines: which one runs a package, that it says what torch said, and what happens when it does not."""

import asyncio
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from serving.engines import with_onnxruntime, with_openvino
from serving.engines.choose import TOLERANCE, choose_engine
from serving.engines.loaded import Loaded
from serving.photos import Photo
from serving.problems import Problem
from serving.runtime import Answer, ModelError, load_model, read_package
from tests.packages import CLASSES, CONTEXT_NAMES, make_package
from training.export import write_manifest

SIZE, WIDTH = 16, len(CONTEXT_NAMES)
CHIP = "bfloat16" if with_openvino.has_bfloat16() else "float32"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("engines") / "package", kind="resnet", seed=4)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "package"))


def change_card(folder: Path, **fields: object) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, **fields}))
    write_manifest(folder)


def change_probe(folder: Path, add: float) -> None:
    """Make torch's answers others than they were, as if this machine computed wrongly."""
    path = folder / "probe.safetensors"
    probe = safetensors.numpy.load(path.read_bytes())
    probe["probabilities"] = np.roll(probe["probabilities"], 1, axis=1) if add >= 1 else probe["probabilities"] + add
    safetensors.numpy.save_file(probe, path)
    write_manifest(folder)


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    return images, rng.normal(1, 2, (count, WIDTH)).astype(np.float32)


# ------------------------------------------------------------------------------------------------ choosing


def test_left_alone_openvino_runs_it_in_the_chips_best_precision(folder: Path) -> None:
    chosen = choose_engine(folder, read_package(folder))
    assert (chosen.engine.name, chosen.engine.precision) == ("openvino", CHIP)
    assert chosen.agreement is not None
    assert 0 < chosen.agreement <= TOLERANCE[CHIP]
    assert chosen.refused == ()


def test_who_asks_for_onnxruntime_gets_it(folder: Path) -> None:
    chosen = choose_engine(folder, read_package(folder), runtime="onnxruntime")
    assert (chosen.engine.name, chosen.engine.precision) == ("onnxruntime", "float32")


def test_the_card_has_its_wish_and_the_setting_the_last_word(copy: Path) -> None:
    change_card(copy, runtime="onnxruntime")
    assert choose_engine(copy, read_package(copy)).engine.name == "onnxruntime"
    assert choose_engine(copy, read_package(copy), runtime="openvino").engine.name == "openvino"
    change_card(copy, runtime="auto", precision="float32")
    assert choose_engine(copy, read_package(copy)).engine.precision == "float32"


def test_a_chip_without_bfloat16_computes_in_float32(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(with_openvino, "has_bfloat16", lambda: False)
    chosen = choose_engine(folder, read_package(folder))
    assert (chosen.engine.name, chosen.engine.precision) == ("openvino", "float32")
    assert chosen.agreement is not None
    assert chosen.agreement <= TOLERANCE["float32"]


def test_without_openvino_onnxruntime_runs_it_unless_openvino_was_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(with_openvino, "has_openvino", lambda: False)
    assert choose_engine(folder, read_package(folder)).engine.name == "onnxruntime"
    with pytest.raises(ModelError, match="pip install openvino"):
        choose_engine(folder, read_package(folder), runtime="openvino")


def test_with_cuda_the_gpu_comes_first_and_is_passed_over_if_it_cannot(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, cuda: bool = False) -> with_onnxruntime.OnnxRuntime:
        if cuda:
            raise ModelError("no device")
        raise AssertionError("OpenVINO comes before ONNX Runtime on the CPU")

    monkeypatch.setattr(with_onnxruntime, "has_cuda", lambda: True)
    monkeypatch.setattr(with_onnxruntime, "OnnxRuntime", broken)
    chosen = choose_engine(folder, read_package(folder))
    assert chosen.engine.name == "openvino"
    assert chosen.refused == ("onnxruntime-cuda: no device",)


def test_an_unknown_runtime_names_those_there_are(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"tensorrt.*auto, openvino, onnxruntime"):
        choose_engine(folder, read_package(folder), runtime="tensorrt")


# ----------------------------------------------------------------------------------------------- agreement


class Off:
    """An engine whose probabilities are off by a chosen amount."""

    on_cores = True

    def __init__(self, name: str, precision: str, folder: Path, off: float) -> None:
        self.name, self.precision, self._model, self._off = name, precision, load_model(folder, threads=1), off

    def predict(self, images: np.ndarray, context: np.ndarray) -> Answer:
        answer = self._model.predict(images, context)
        off = answer.probabilities + np.float32(self._off)
        return Answer(off, answer.embedding, answer.picture_probabilities)


def openvino_off(monkeypatch: pytest.MonkeyPatch, **off: float) -> None:
    """OpenVINO computes wrongly by so much in each precision, on a chip that has both."""

    def opened(folder: Path, _package: object, *, precision: str, **_: object) -> Off:
        return Off("openvino", precision, folder, off[precision])

    monkeypatch.setattr(with_openvino, "has_bfloat16", lambda: True)
    monkeypatch.setattr(with_openvino, "OpenVino", opened)


def test_bfloat16_that_disagrees_with_torch_falls_back_to_float32(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino_off(monkeypatch, bfloat16=0.04, float32=0.0)
    chosen = choose_engine(folder, read_package(folder))
    assert (chosen.engine.name, chosen.engine.precision) == ("openvino", "float32")
    assert len(chosen.refused) == 1
    assert chosen.refused[0].startswith("openvino bfloat16: differs from torch by 0.04")


def test_openvino_that_disagrees_falls_back_to_onnxruntime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino_off(monkeypatch, bfloat16=0.04, float32=0.002)
    loaded = Loaded.open(folder)
    assert (loaded.runtime, loaded.precision) == ("onnxruntime", "float32")
    assert [text.split(":")[0] for text in loaded.about()["refused"]] == ["openvino bfloat16", "openvino float32"]


def test_what_no_runtime_computes_as_torch_did_is_not_served(copy: Path) -> None:
    change_probe(copy, 1.0)
    with pytest.raises(ModelError, match=r"no runtime can serve it.*onnxruntime: differs from torch by .* class of"):
        Loaded.open(copy)


def test_nan_is_no_agreement(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino_off(monkeypatch, bfloat16=float("nan"), float32=float("nan"))
    assert choose_engine(folder, read_package(folder)).engine.name == "onnxruntime"


def test_a_package_without_a_probe_is_served_and_says_that_nothing_was_compared(copy: Path) -> None:
    (copy / "probe.safetensors").unlink()
    write_manifest(copy)
    loaded = Loaded.open(copy)
    assert loaded.agreement is None
    assert loaded.about()["agreement"] is None


def test_a_probe_that_is_none_is_refused(copy: Path) -> None:
    (copy / "probe.safetensors").write_bytes(b"no tensors")
    write_manifest(copy)
    with pytest.raises(ModelError, match=r"probe\.safetensors: is no probe"):
        Loaded.open(copy)


# ----------------------------------------------------------------------------------------------- answering


@pytest.mark.parametrize(
    ("runtime", "precision", "near"),
    # Made-up noise is what the network saw least: bfloat16 may be further off there than on photos.
    [("openvino", "float32", 1e-3), ("openvino", "bfloat16", 0.1), ("onnxruntime", "float32", 1e-5)],
)
def test_any_number_of_rows_is_answered_as_the_runtime_that_travels_with_the_model_does(
    copy: Path, runtime: str, precision: str, near: float
) -> None:
    change_card(copy, precision=precision)
    engine = choose_engine(copy, read_package(copy), runtime=runtime).engine
    reference = load_model(copy, threads=1)
    for count in (0, 1, 2, 3, 7, 16, 21):
        images, context = rows(count, count)
        found, wanted = engine.predict(images, context), reference.predict(images, context)
        assert found.probabilities.shape == (count, len(CLASSES))
        np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=near)
        assert found.embedding.shape == wanted.embedding.shape
        assert found.picture_probabilities is not None
        assert wanted.picture_probabilities is not None
        np.testing.assert_allclose(found.picture_probabilities, wanted.picture_probabilities, atol=near)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_several_threads_may_ask_at_once(folder: Path, runtime: str) -> None:
    engine = choose_engine(folder, read_package(folder), runtime=runtime, threads=4).engine
    wrong: list[int] = []

    def ask(seed: int) -> None:
        images, context = rows(5, seed)
        wanted = engine.predict(images, context).probabilities
        for _ in range(30):
            if not np.allclose(engine.predict(images, context).probabilities, wanted, atol=1e-6):
                wrong.append(seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_card_of_another_model_is_refused_though_it_is_signed(copy: Path, runtime: str) -> None:
    change_card(copy, classes=["only", "two"])
    with pytest.raises(ModelError, match=r"probe\.safetensors: .*not of the card's shapes"):
        Loaded.open(copy, runtime=runtime)
    (copy / "probe.safetensors").unlink()
    write_manifest(copy)
    with pytest.raises(ModelError, match="card and graph are of two models"):
        Loaded.open(copy, runtime=runtime)


def test_bytes_that_are_no_graph_are_refused_by_every_runtime(copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"no graph")
    write_manifest(copy)
    with pytest.raises(ModelError, match=r"OpenVINO cannot open it.*onnxruntime cannot open it"):
        Loaded.open(copy)


def test_images_that_this_version_does_not_make_are_refused(copy: Path) -> None:
    change_card(copy, image_spec_hash="0" * 12)
    with pytest.raises(ModelError, match="trained on images 000000000000, this version makes"):
        Loaded.open(copy)
    change_card(copy, image={"size": SIZE, "fit": "melt"})
    with pytest.raises(ModelError, match="image is none that this version makes"):
        Loaded.open(copy)


def test_what_was_opened_is_what_was_verified(copy: Path) -> None:
    """Files that change after the check change nothing."""
    loaded = Loaded.open(copy)
    for file in copy.iterdir():
        file.write_bytes(b"")
    images, context = rows(1)
    photo = Photo(image=images[0], context=context[0])

    async def main() -> None:
        loaded.start()
        await loaded.classify([photo])
        await loaded.stop()

    asyncio.run(main())
    assert photo.label in CLASSES


# -------------------------------------------------------------------------------------------------- loaded


def classify(folder: Path, photos: list[Photo], **options: object) -> None:
    async def main() -> None:
        loaded = Loaded.open(folder, runtime="onnxruntime", **options)  # type: ignore[arg-type]
        loaded.start()
        await loaded.classify(photos)
        await loaded.stop()

    asyncio.run(main())


def test_each_photo_gets_its_own_answer_or_its_own_problem(folder: Path) -> None:
    images, context = rows(6, 3)
    photos = [Photo(image=image, context=row) for image, row in zip(images, context, strict=True)]
    photos[1].image = np.zeros((8, 8, 3), np.uint8)
    photos[2].context = np.zeros(WIDTH + 1, np.float32)
    photos[3].context = np.full(WIDTH, np.nan, np.float32)
    photos[4].context = None
    classify(folder, photos)
    wanted = load_model(folder, threads=1).predict(images, context).probabilities
    for row in (0, 5):
        assert photos[row].problem is None
        np.testing.assert_allclose(photos[row].probabilities, wanted[row], atol=1e-5)
        assert photos[row].label == CLASSES[wanted[row].argmax()]
        assert photos[row].confidence == pytest.approx(wanted[row].max(), abs=1e-5)
        assert set(photos[row].seconds) >= {"queue", "model"}
    problems = [str(photo.problem) for photo in photos[1:5]]
    assert "uint8 [8, 8, 3], this model takes uint8 [16, 16, 3]" in problems[0]
    assert "4 numbers, this model takes 3" in problems[1]
    assert "NaN" in problems[2]
    assert "no feature store" in problems[3]
    assert all(photo.probabilities is None for photo in photos[1:5])


def test_features_are_looked_up_once_a_batch_in_another_thread(folder: Path) -> None:
    images, context = rows(4, 5)
    calls: list[tuple[int, str]] = []

    def prepare(photos: list[Photo]) -> None:
        calls.append((len(photos), threading.current_thread().name))
        for photo in photos:
            photo.context = context[int(photo.sender)]

    photos = [Photo(image=image, sender=str(row)) for row, image in enumerate(images)]
    photos[3].context = context[3]
    classify(folder, photos, prepare=prepare)
    assert [count for count, _ in calls] == [3]
    assert calls[0][1].startswith("model ")
    wanted = load_model(folder, threads=1).predict(images, context).probabilities
    for photo, row in zip(photos, wanted, strict=True):
        np.testing.assert_allclose(photo.probabilities, row, atol=1e-5)


def test_a_store_that_is_away_stops_those_who_need_it_and_nobody_else(folder: Path) -> None:
    def away(photos: list[Photo]) -> None:
        raise Problem("unavailable", "the store is away")

    images, context = rows(2, 6)
    photos = [Photo(image=images[0]), Photo(image=images[1], context=context[1])]
    classify(folder, photos, prepare=away)
    assert str(photos[0].problem) == "the store is away"
    assert photos[1].problem is None
    assert photos[1].label in CLASSES
