"""A Caffe-style VGG and a torchvision-style network take turns behind one client, and the client never knows."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from safetensors.torch import save_file
from tritonclient.utils import InferenceServerException

from pipelines.models.fitting import options_of
from pipelines.training_sections import TorchvisionCandidate
from serving.components.classifier import Classifier
from serving.components.pipeline import Pipeline
from serving.components.preprocessor import Preprocessor
from serving.engines.loaded import Loaded
from serving.pictures import STATS
from serving.versions.arms import Arm, Arms, Lineup
from tests.answering import Known, Rows, downloader, jpeg, serving
from tests.packages import make_package, probe_rows
from tests.serving import Running, running
from training.baseline import standardise
from training.checkpoint import load_model as load_module
from training.models import CAFFE_MEAN, ModelSpec, build, load_weights

SIZE = 32
TURNS = 4
KINDS = ("torchvision", "caffe_vgg")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("architectures")
    names = (*STATS, "photos")
    return {kind: make_package(root / kind, kind=kind, size=SIZE, context_names=names) for kind in KINDS}


class Both(Classifier):
    """A classifier whose one model is exchanged for the other's while it serves."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders, self.turns = folders, Arms()
        super().__init__(self.turns, Known(), Rows())

    async def start(self) -> None:
        self.turns.swap(Lineup(champion=await self.opened(0)))

    async def stop(self) -> None:
        await super().stop()
        await self.turns.all()[0].loaded.stop()

    async def opened(self, turn: int) -> Arm:
        kind = KINDS[turn % len(KINDS)]
        loaded = await asyncio.to_thread(Loaded.open, self.folders[kind])
        loaded.start()
        return Arm(name="champion", version=f"{turn}", run_id=kind, generation=turn + 1, loaded=loaded)

    async def take_turn(self, turn: int) -> None:
        old = self.turns.all()[0]
        self.turns.swap(Lineup(champion=await self.opened(turn)))
        await self.turns.drained(old.loaded)
        await old.loaded.stop()


@pytest.fixture(scope="module")
def both(folders: dict[str, Path]) -> Iterator[tuple[Running, Both]]:
    classifier = Both(folders)
    preprocessor = Preprocessor(classifier.turns.image_spec)
    pipeline = Pipeline(downloader(), preprocessor, classifier)
    with running(serving(preprocessor, classifier, pipeline)) as server:
        yield server, classifier


def ask(module: Any, client: Any, photos: list[bytes]) -> Any:
    given = module.InferInput("photo", [len(photos)], "BYTES")
    given.set_data_from_numpy(np.array(photos, object))
    return client.infer("classy", [given], parameters={"sender": "41"})


class Client(threading.Thread):
    """One client that asks the same photos over and over; it was written once."""

    def __init__(self, module: Any, address: str, photos: list[bytes]) -> None:
        super().__init__(daemon=True)
        self.module, self.address, self.photos = module, address, photos
        self.done = threading.Event()
        self.failed: list[str] = []
        self.answers: dict[str, np.ndarray] = {}
        self.counts: Counter[str] = Counter()
        self.uneven: list[str] = []

    def run(self) -> None:
        client = self.module.InferenceServerClient(self.address)
        while not self.done.is_set():
            try:
                found = ask(self.module, client, self.photos)
            except InferenceServerException as error:
                self.failed.append(str(error))
                continue
            versions = [text.decode() for text in found.as_numpy("model_version")]
            self.failed += [text.decode() for text in found.as_numpy("error") if text]
            kind = KINDS[int(versions[0]) % len(KINDS)]
            probabilities = found.as_numpy("probabilities")
            self.counts[versions[0]] += 1
            wanted = self.answers.setdefault(kind, probabilities)
            if len(set(versions)) > 1 or not np.allclose(wanted, probabilities, atol=1e-4):
                self.uneven.append(versions[0])
        client.close()


def test_two_architectures_take_turns_under_load_and_no_client_notices(both: tuple[Running, Both]) -> None:
    server, classifier = both
    photos = [jpeg(seed) for seed in range(3)]
    clients = [
        Client(module, f"127.0.0.1:{port}", photos)
        for module, port in ((triton_http, server.rest_port), (triton_grpc, server.grpc_port))
        for _ in range(2)
    ]
    for client in clients:
        client.start()
    for turn in range(1, TURNS + 1):
        asyncio.run_coroutine_threadsafe(classifier.take_turn(turn), server.loop).result(60)
        wait_for(clients, str(turn))
    for client in clients:
        client.done.set()
    for client in clients:
        client.join(20)
        assert client.failed == []
        assert client.uneven == [], "the same model gives the same photos the same answers"
        assert len(client.answers) == 2
        assert np.abs(client.answers[KINDS[0]] - client.answers[KINDS[1]]).max() > 0.01, "they are two models"
    assert {arm.run_id for arm in classifier.turns.all()} == {KINDS[TURNS % len(KINDS)]}


def wait_for(clients: list[Client], version: str) -> None:
    """Until each client has been answered by this version."""
    tick = threading.Event()
    for _ in range(2000):
        if all(client.counts[version] or client.failed for client in clients):
            return
        tick.wait(0.01)
    raise AssertionError(f"version {version} answered nobody: {[client.counts for client in clients]}")


def test_a_client_reads_the_same_metadata_of_both(both: tuple[Running, Both]) -> None:
    server, classifier = both
    told = []
    for turn in (TURNS + 1, TURNS + 2):
        asyncio.run_coroutine_threadsafe(classifier.take_turn(turn), server.loop).result(60)
        about = httpx.get(f"{server.rest}/v2/models/classifier").json()
        told.append({"inputs": about["inputs"], "outputs": about["outputs"]})
    assert told[0] == told[1]


def test_the_graph_of_a_caffe_style_network_does_its_own_arithmetic_on_pixels(folders: dict[str, Path]) -> None:
    model, _ = load_module(folders["caffe_vgg"] / "model.safetensors")
    image = torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 200, 100, 50  # red, green, blue
    pixels = model.pixels(image)[0, :, 0, 0]
    torch.testing.assert_close(pixels, torch.tensor([50 - 103.939, 100 - 116.779, 200 - 123.68]), atol=1e-3, rtol=0)
    assert pytest.approx(255 * CAFFE_MEAN[2]) == 103.939
    plain, _ = load_module(folders["torchvision"] / "model.safetensors")
    assert abs(plain.pixels(image)).max() < 20
    assert np.array_equal(model.context_mean, plain.context_mean)


def test_a_recipe_asks_for_caffes_pixels_and_weights_do_not_undo_it(tmp_path: Path) -> None:
    candidate = TorchvisionCandidate(name="vgg", kind="torchvision", architecture="vgg11", pixels="caffe")
    options = options_of(candidate, SIZE)
    assert options == {"architecture": "vgg11", "side": SIZE, "pixels": "caffe"}
    assert "pixels" not in options_of(candidate.model_copy(update={"pixels": "torchvision"}), SIZE)
    spec = ModelSpec(kind="torchvision", classes=2, context=3, size=SIZE, options=options)
    donor, model = build(spec), build(spec)
    save_file(donor.body.network.state_dict(), tmp_path / "vgg.safetensors")
    load_weights(model, str(tmp_path / "vgg.safetensors"))
    standardise(model, probe_rows(8, size=SIZE, classes=2, width=3))
    torch.testing.assert_close(255 * model.pixel_mean, torch.tensor([123.68, 116.779, 103.939]))
    torch.testing.assert_close(255 * model.pixel_std, torch.ones(3))
    assert sum(weight.numel() for weight in model.parameters()) < 10_000_000, "without the two widest layers"
