"""How a server listens, and how it ends: TLS, shared ports, nothing cut off."""

import asyncio
import json
import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import trustme
from playwright.sync_api import Browser
from prometheus_client import generate_latest

from serving.listen import ListenError
from serving.metrics import Metrics
from tests.brightness import DARK, LIGHT, Slow, a_server
from tests.browser import Watch, browser, sideways  # noqa: F401
from tests.serving import Running, running

SLOW = json.dumps({"inputs": [{"name": "photo", "shape": [1], "datatype": "BYTES", "data": ["x"]}]}).encode()


def photo(data: bytes = DARK) -> Any:
    made = triton_grpc.InferInput("photo", [1], "BYTES")
    made.set_data_from_numpy(np.array([data], object))
    return made


def wait_for(server: Running, event: asyncio.Event) -> None:
    asyncio.run_coroutine_threadsafe(asyncio.wait_for(event.wait(), 5), server.loop).result(6)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    names = {name: str(folder / f"{name}.pem") for name in ("cert", "key", "authority")}
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(names["cert"], append=number > 0)
    issued.private_key_pem.write_to_path(names["key"])
    authority.cert_pem.write_to_path(names["authority"])
    return names


def test_both_ports_speak_tls_when_they_are_given_a_certificate(tls: dict[str, str]) -> None:
    with running(a_server(), tls_cert=tls["cert"], tls_key=tls["key"]) as server:
        assert server.rest.startswith("https")
        with httpx.Client(verify=tls["authority"]) as client:
            assert client.post(f"{server.rest}/predict", content=LIGHT).json()["label"] == "light"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.rest}/v2/health/live")  # by an authority that nobody knows
        with triton_grpc.InferenceServerClient(
            f"localhost:{server.grpc_port}", ssl=True, root_certificates=tls["authority"]
        ) as client:
            assert client.infer("classy", [photo()]).as_numpy("label").tolist() == [b"dark"]


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path, tls: dict[str, str]) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    for given, says in (
        ({"tls_cert": str(tmp_path / "bad.pem"), "tls_key": tls["key"]}, "bad.pem"),
        ({"tls_cert": str(tmp_path / "none.pem"), "tls_key": tls["key"]}, "none.pem"),
        ({"tls_cert": tls["cert"], "tls_key": ""}, "give both"),
    ):
        with pytest.raises(ListenError, match=says), running(a_server(), **given):
            raise AssertionError("it must not start")


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for given in ({"rest_port": port}, {"grpc_port": port}):
            with pytest.raises(ListenError, match=str(port)), running(a_server(), **given):
                raise AssertionError("it must not start")


def test_several_servers_share_the_ports() -> None:
    with running(a_server()) as one, running(a_server(), rest_port=one.rest_port, grpc_port=one.grpc_port) as other:
        assert (other.rest_port, other.grpc_port) == (one.rest_port, one.grpc_port)
        with httpx.Client(headers={"connection": "close"}) as client:
            for _ in range(40):
                assert client.post(f"{one.rest}/predict", content=DARK).json()["label"] == "dark"
        asked = [len(server.server.components["classy"].calls) for server in (one, other)]  # type: ignore[attr-defined]
    assert sum(asked) == 40
    assert min(asked) > 0


def test_what_is_under_way_is_answered_before_the_server_ends() -> None:
    """On both ports, and a request whose bytes are still arriving."""
    made = a_server()
    slow = made.components["slow"]
    assert isinstance(slow, Slow)
    answers: dict[str, Any] = {}

    def over_rest() -> None:
        answers["rest"] = httpx.post(f"{server.rest}/v2/models/slow/infer", content=SLOW, timeout=20)

    def over_grpc() -> None:
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            answers["grpc"] = client.infer("slow", [photo()]).as_numpy("label").tolist()

    threads = [threading.Thread(target=work) for work in (over_rest, over_grpc)]
    with running(made) as server:
        for thread in threads:
            slow.begun.clear()
            thread.start()
            wait_for(server, slow.begun)
        arriving = socket.create_connection(("127.0.0.1", server.rest_port))
        arriving.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(DARK) + DARK[:9])

        async def end() -> None:
            """Let them go only when the server has begun to end."""
            while made.live:
                await asyncio.sleep(0.01)
            slow.go.set()

        asyncio.run_coroutine_threadsafe(end(), server.loop)
        finish = threading.Timer(0.3, arriving.sendall, [DARK[9:]])
        finish.start()
    for thread in (*threads, finish):
        thread.join(10)
    assert answers["rest"].status_code == 200
    assert answers["rest"].json()["outputs"][0]["data"] == ["late"]
    assert answers["grpc"] == [b"late"]
    assert not slow.cancelled.is_set()
    with arriving:
        told = arriving.makefile("rb").read()
    assert told.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in told
    assert b'"dark"' in told


def test_a_server_that_ends_says_first_that_it_is_not_ready() -> None:
    made = a_server()
    seen: dict[str, Any] = {}

    def ask(server: Running, ended: threading.Event) -> None:
        ended.wait(10)
        answer = httpx.get(f"{server.rest}/v2/health/ready")
        seen.update(status=answer.status_code, body=answer.json())
        last = httpx.post(f"{server.rest}/predict", content=DARK)
        seen.update(label=last.json()["label"], connection=last.headers.get("connection"))

    ended = threading.Event()
    with running(made, notice_s=1.0) as server:
        thread = threading.Thread(target=ask, args=(server, ended))
        thread.start()

        async def tell() -> None:
            while made.live:
                await asyncio.sleep(0.01)
            ended.set()

        asyncio.run_coroutine_threadsafe(tell(), server.loop)
    thread.join(10)
    assert seen["status"] == 503
    assert "ending" in seen["body"]["error"]
    assert (seen["label"], seen["connection"]) == ("dark", "close")


def test_a_server_without_a_ready_model_says_why() -> None:
    made = a_server()
    made.components["slow"].ready = lambda: "no model is loaded"  # type: ignore[method-assign]
    with running(made) as server:
        answer = httpx.get(f"{server.rest}/v2/health/ready")
        assert answer.status_code == 503
        assert answer.json()["error"] == "slow: no model is loaded"
        assert httpx.get(f"{server.rest}/v2/health/live").status_code == 200
        assert httpx.get(f"{server.rest}/v2/models/slow/ready").status_code == 503
        assert httpx.get(f"{server.rest}/v2/models/classy/ready").status_code == 200
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            assert not client.is_server_ready()
            assert not client.is_model_ready("slow")
            assert client.is_model_ready("classy")


def test_every_request_is_counted_by_door_model_and_status() -> None:
    metrics = Metrics()
    with running(a_server(), metrics=metrics) as server:
        httpx.post(f"{server.rest}/predict", content=DARK)
        httpx.post(f"{server.rest}/predict", content=b"no photo")
        httpx.post(f"{server.rest}/v2/models/nope/infer", content=SLOW)
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            client.infer("classy", [photo()])
        scraped = httpx.get(f"{server.rest}/metrics")
        assert scraped.status_code == 200
    text = generate_latest(metrics.registry).decode()
    for door, model, status in (
        ("rest", "classy", 200), ("rest", "classy", 422), ("rest", "other", 404), ("grpc", "classy", 200),
    ):  # fmt: skip
        assert f'classy_requests_total{{door="{door}",model="{model}",status="{status}"}} 1.0' in text


class Truth:
    """Takes labels and forgets them."""

    def write(self, rows: Any) -> dict[str, Any]:
        return {"taken": len(rows)}


def test_the_openapi_page_is_read_without_internet_also_on_a_phone(browser: Browser) -> None:  # noqa: F811
    with running(a_server(truth=Truth())) as server:
        page = browser.new_page(viewport={"width": 360, "height": 700})
        watch = Watch(page)
        page.goto(f"{server.rest}/docs")
        page.wait_for_selector("details")
        shown = page.locator("summary").all_inner_texts()
        assert len(shown) == sum(map(len, httpx.get(f"{server.rest}/openapi.json").json()["paths"].values()))
        for path in ("/predict", "/v2/models/{model}/infer", "/ground-truth"):
            box = page.locator("details", has=page.locator(f"summary code:text-is('{path}')"))
            box.locator("summary").click()
            assert box.locator("pre").first.is_visible()
        assert sideways(page) == 0
        assert not watch.complaints
        assert {urlsplit(url).netloc for url in watch.fetched} == {urlsplit(server.rest).netloc}
        page.close()


def test_the_openapi_document_describes_every_route_and_its_examples_work() -> None:
    with running(a_server()) as server, httpx.Client(base_url=server.rest) as client:
        document = client.get("/openapi.json").json()
        paths = document["paths"]
        assert {
            "/predict", "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/{model}", "/v2/models/{model}/infer",
            "/v2/models/{model}/ready", "/v2/models/{model}/versions/{version}",
            "/v2/models/{model}/versions/{version}/infer", "/v2/models/{model}/versions/{version}/ready",
            "/v2/repository/index", "/v2/repository/models/{model}/load", "/v2/repository/models/{model}/unload",
        } <= set(paths)  # fmt: skip
        for methods in paths.values():
            for found in methods.values():
                assert found["summary"]
                assert "default" in found["responses"]
        example = paths["/v2/models/{model}/infer"]["post"]["requestBody"]["content"]["application/json"]["example"]
        answer = client.post("/v2/models/classy/infer", json=example)
        assert answer.status_code == 200
        outputs = {output["name"]: output for output in answer.json()["outputs"]}
        assert list(outputs) == ["label", "confidence", "error"]
        told = paths["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
        assert set(told) == set(client.post("/predict", content=DARK).json())
