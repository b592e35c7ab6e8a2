"""Access through both doors of a real server, and that nothing secret is said anywhere."""

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from pipelines.online import keys as online
from pipelines.settings import Settings
from serving.access.gate import KeyGate
from serving.access.jwks import Jwks
from serving.access.keys import new_key
from serving.access.tokens import Tokens
from serving.metrics import Metrics
from serving.problems import Problem
from serving.server import Server
from tests import issuer as issued
from tests.gates import Store, opened
from tests.serving import Running, running
from tests.tiny import Tiny


def test_nothing_secret_is_said_whatever_goes_wrong(
    settings: Settings, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Every way to be refused, at the most talkative log level: no secret, no token, no hash."""

    async def story() -> list[str]:
        said: list[str] = []
        file = tmp_path / "jwks.json"
        file.write_text(json.dumps(issued.ALL_KEYS))
        now = datetime.now(UTC)
        made = online.create(settings, name="a", scopes=["infer"], rate="1/minute", now=now)
        gone = online.create(settings, name="b", scopes=["infer"], now=now)
        online.revoke(settings, gone.key_id, now=now)
        token = issued.token()
        tokens = Tokens(issued.ISSUER, issued.AUDIENCE, Jwks(str(file)))
        async with opened(online.SqlKeys(settings.database_url), tokens=tokens) as gate:
            tries = [made.key, made.key, made.key[:-3], gone.key, token, token[:-5], issued.token(aud="x"), "é" + token]
            for credentials in tries:
                for form in (credentials, f"Bearer {credentials}", f"Basic {credentials}"):
                    for scope in ("infer", "admin"):
                        try:
                            said.append(repr(await gate.admit(form, scope=scope)))
                        except Problem as problem:
                            said += [str(problem), repr(problem), str(problem.as_json())]
            said.append(repr(gate.ring._known))
        secrets = [made.key.rpartition("_")[2], gone.key.rpartition("_")[2], token.rpartition(".")[2]]
        for text in [*said, caplog.text]:
            assert not any(secret[:20] in text for secret in secrets), text
        return said

    with caplog.at_level(logging.DEBUG):
        assert len(asyncio.run(story())) > 40


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Running, Store, Metrics]]:
    """A server with a gate, listening on both ports."""
    store, metrics = Store(), Metrics()
    gate = KeyGate(store, poll_s=3600, failures="20/minute")
    gate.ring.start()
    try:
        with running(Server(components={"classy": Tiny()}, gate=gate), metrics=metrics) as server:
            yield server, store, metrics
    finally:
        gate.ring.stop()


def fresh(server: Running, store: Store, scopes: Sequence[str] = ("infer",), **given: Any) -> str:
    """A new key that the running server knows."""
    text = store.add(scopes, **given)
    server.server.gate.ring.turn()  # type: ignore[attr-defined]
    return text


def over_grpc(server: Running, key: str | None, count: int = 1) -> grpc.StatusCode:
    """With what status gRPC answers a request of so many photos."""
    photos = triton_grpc.InferInput("photo", [count], "BYTES")
    photos.set_data_from_numpy(np.array([b"good"] * count, object))
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        try:
            client.infer("classy", [photos], headers=headers)
        except InferenceServerException as error:
            name: str = error.status()
            return grpc.StatusCode[name.removeprefix("StatusCode.")]
    return grpc.StatusCode.OK


def test_both_doors_refuse_alike(guarded: tuple[Running, Store, Metrics]) -> None:
    server, store, _ = guarded
    good, narrow = fresh(server, store), fresh(server, store, ["truth"])
    slow, small = fresh(server, store, rate="3/hour"), fresh(server, store, daily_quota=3)
    with httpx.Client(base_url=server.rest) as client:

        def over_rest(key: str | None) -> httpx.Response:
            return client.post("/predict", content=b"good", headers={"Authorization": f"Bearer {key}"} if key else {})

        assert [over_rest(key).status_code for key in (good, None, narrow, new_key()[0])] == [200, 401, 403, 401]
        assert client.post("/predict", content=b"good", headers={"X-API-Key": good}).status_code == 200
        for key in (slow, small):
            assert [over_rest(key).status_code for _ in range(4)] == [200, 200, 200, 429]
            answer = over_rest(key)
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.json()["problem"]["reason"] == "over_quota"
    codes = grpc.StatusCode
    assert [over_grpc(server, key) for key in (good, None, narrow)] == [
        codes.OK, codes.UNAUTHENTICATED, codes.PERMISSION_DENIED,
    ]  # fmt: skip
    for key in (fresh(server, store, rate="3/hour"), fresh(server, store, daily_quota=3)):
        assert [over_grpc(server, key, 3), over_grpc(server, key)] == [codes.OK, codes.RESOURCE_EXHAUSTED]


def test_a_stranger_who_tries_many_keys_is_told_to_wait(guarded: tuple[Running, Store, Metrics]) -> None:
    server, store, _ = guarded
    with httpx.Client(base_url=server.rest) as client:
        seen = [
            client.post("/predict", content=b"good", headers={"X-API-Key": new_key()[0]}).status_code for _ in range(25)
        ]
        assert seen[-1] == 429
        assert seen == sorted(seen)
        good = fresh(server, store)
        assert client.post("/predict", content=b"good", headers={"X-API-Key": good}).status_code == 200


def test_nothing_secret_is_in_the_logs_the_answers_or_the_metrics_of_a_server(
    guarded: tuple[Running, Store, Metrics], caplog: pytest.LogCaptureFixture
) -> None:
    server, store, metrics = guarded
    keys = [fresh(server, store), fresh(server, store, ["truth"]), new_key()[0], issued.token(), "private-words"]
    said = []
    with caplog.at_level(logging.DEBUG), httpx.Client(base_url=server.rest) as client:
        for key in keys:
            for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}, {"Authorization": key}):
                for path in ("/predict", "/v2/models/classy/infer", "/v2/repository/index", "/metrics", "/nowhere"):
                    answer = client.post(path, content=b"down", headers=headers)
                    said.append(answer.text + str(answer.headers))
            over_grpc(server, key)
    assert caplog.text
    said += [metrics.scrape()[0].decode(), caplog.text]
    for key in keys:
        secret = key.rpartition("_")[2].rpartition(".")[2]
        assert not any(secret in text for text in said)
