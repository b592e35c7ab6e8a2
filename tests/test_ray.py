"""The components as Ray Serve deployments: the same requests, the same answers, through Ray's own doors."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from serving.ray_app import PARTS, SERVICER, application, ray, serve
from tests import replicas, serving
from tests.answering import jpeg
from tests.packages import make_package

pytestmark = [pytest.mark.slow]
SIZE = 16
PHOTOS = [jpeg(seed) for seed in range(4)]
WANTED = ("label", "probabilities", "prediction_id")


@dataclass(frozen=True, kw_only=True)
class Ports:
    rest: str
    grpc: str


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("ray") / "package", size=SIZE)


@pytest.fixture(scope="module")
def ray_ports(package: Path) -> Iterator[Ports]:
    """A Ray of this machine alone, with two classifiers, until the tests are done."""
    rest, grpc = free_port(), free_port()
    ray.init(num_cpus=3, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)
    try:
        serve.start(
            http_options={"host": "127.0.0.1", "port": rest},
            grpc_options={"port": grpc, "grpc_servicer_functions": [SERVICER]},
        )
        application_ = application(partial(replicas.opened, package, SIZE), scale={"classifier": {"num_replicas": 2}})
        serve.run(application_, name="classy")
        yield Ports(rest=f"127.0.0.1:{rest}", grpc=f"127.0.0.1:{grpc}")
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="module")
def plain(package: Path) -> Iterator[serving.Running]:
    """The same components in one process, as `classy serve` has them."""
    server = replicas.whole({name: replicas.part(name, package, SIZE) for name in PARTS})
    with serving.running(server) as found:
        yield found


def tensor(client: Any, name: str, values: np.ndarray) -> Any:
    made = client.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values)
    return made


def photos_as(client: Any, photos: list[bytes] = PHOTOS) -> list[Any]:
    return [tensor(client, "photo", np.array(photos, dtype=object))]


def wanted(client: Any, names: tuple[str, ...]) -> list[Any]:
    return [client.InferRequestedOutput(name) for name in names]


def answers(client: Any, connected: Any, model: str, inputs: list[Any], names: tuple[str, ...], **more: Any) -> Any:
    found = connected.infer(model, inputs, outputs=wanted(client, names), **more)
    return {name: found.as_numpy(name) for name in names}


def test_rest_and_grpc_say_what_the_plain_server_says(ray_ports: Ports, plain: serving.Running) -> None:
    rest, grpc = tritonclient.http, tritonclient.grpc
    with rest.InferenceServerClient(f"127.0.0.1:{plain.rest_port}") as here:
        expected = answers(rest, here, "classy", photos_as(rest), WANTED)
    with rest.InferenceServerClient(ray_ports.rest) as there:
        assert there.is_server_live()
        assert there.is_server_ready()
        assert there.is_model_ready("classy")
        over_rest = answers(rest, there, "classy", photos_as(rest), WANTED)
    with grpc.InferenceServerClient(ray_ports.grpc) as there:
        assert there.is_server_live()
        assert there.is_server_ready()
        assert there.is_model_ready("classifier")
        over_grpc = answers(grpc, there, "classy", photos_as(grpc), WANTED)
    for found in (over_rest, over_grpc):
        assert found["label"].tolist() == expected["label"].tolist()
        np.testing.assert_allclose(found["probabilities"], expected["probabilities"], atol=1e-6)
        assert len(set(found["prediction_id"].tolist())) == len(PHOTOS)  # each was logged by itself


def test_metadata_is_the_same_over_both_doors(ray_ports: Ports, plain: serving.Running) -> None:
    with tritonclient.http.InferenceServerClient(ray_ports.rest) as client:
        assert client.get_server_metadata()["name"] == "classy"
        over_rest = client.get_model_metadata("classifier")
    with tritonclient.grpc.InferenceServerClient(ray_ports.grpc) as client:
        over_grpc = client.get_model_metadata("classifier", as_json=True)
    expected = httpx.get(f"{plain.rest}/v2/models/classifier").json()
    assert over_rest["inputs"] == expected["inputs"]
    assert over_rest["outputs"] == expected["outputs"]
    assert over_rest["versions"] == over_grpc["versions"] == ["1"]
    assert [found["name"] for found in over_grpc["inputs"]] == [found["name"] for found in expected["inputs"]]


@pytest.mark.parametrize("door", ["rest", "grpc"])
def test_the_three_sequencings_give_one_answer(ray_ports: Ports, door: str) -> None:
    client = tritonclient.http if door == "rest" else tritonclient.grpc
    with client.InferenceServerClient(getattr(ray_ports, door)) as connected:
        server = answers(client, connected, "classy", photos_as(client), ("label", "probabilities"))
        hybrid = answers(
            client, connected, "preprocessor", photos_as(client), ("label", "probabilities"),
            parameters={"next": "classifier"},
        )  # fmt: skip
        middle = answers(client, connected, "preprocessor", photos_as(client), ("image", "image_spec", "stats"))
        asked = [tensor(client, name, value) for name, value in middle.items()]
        own = answers(client, connected, "classifier", asked, ("label", "probabilities"))
    for found in (hybrid, own):
        assert found["label"].tolist() == server["label"].tolist()
        np.testing.assert_allclose(found["probabilities"], server["probabilities"], atol=1e-6)


def test_one_bad_photo_does_not_fail_the_others(ray_ports: Ports) -> None:
    rest, grpc = tritonclient.http, tritonclient.grpc
    photos = [PHOTOS[0], b"no photo", PHOTOS[1]]
    for client, port in ((rest, ray_ports.rest), (grpc, ray_ports.grpc)):
        with client.InferenceServerClient(port) as connected:
            found = answers(client, connected, "classy", photos_as(client, photos), ("label", "error"))
        assert [bool(label) for label in found["label"]] == [True, False, True]
        assert json.loads(found["error"][1])["detail"] == "not_an_image"


def test_problems_are_told_as_status_codes(ray_ports: Ports) -> None:
    rest, grpc = tritonclient.http, tritonclient.grpc
    with rest.InferenceServerClient(ray_ports.rest) as client:
        with pytest.raises(InferenceServerException) as refused:
            client.infer("classy", photos_as(rest, [b"no photo"]))
        assert refused.value.status() in ("400", "415", "422")
        with pytest.raises(InferenceServerException) as unknown:
            client.infer("nobody", photos_as(rest))
        assert unknown.value.status() == "404"
    with grpc.InferenceServerClient(ray_ports.grpc) as client:
        with pytest.raises(InferenceServerException, match="no image") as told:
            client.infer("classy", photos_as(grpc, [b"no photo"]))
        assert told.value.status() == "StatusCode.INVALID_ARGUMENT"
        with pytest.raises(InferenceServerException, match="nobody") as lost:
            client.infer("nobody", photos_as(grpc))
        assert lost.value.status() == "StatusCode.NOT_FOUND"


def test_an_unknown_hop_is_refused_by_name(ray_ports: Ports) -> None:
    with (
        tritonclient.grpc.InferenceServerClient(ray_ports.grpc) as client,
        pytest.raises(InferenceServerException, match="elsewhere"),
    ):
        client.infer("preprocessor", photos_as(tritonclient.grpc), parameters={"next": "elsewhere"})


def test_a_component_scales_by_itself(ray_ports: Ports) -> None:
    from ray import serve

    deployments = serve.status().applications["classy"].deployments
    replicas = {name: sum(found.replica_states.values()) for name, found in deployments.items()}
    assert replicas == {"downloader": 1, "preprocessor": 1, "classifier": 2, "classy": 1}
