"""`classy serve` as people start it: two processes on the same ports, followed, killed, ended."""

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http
import trustme

from monitoring.stores import open_store
from pipelines.recipe import ROOT, Recipe, load_recipe
from pipelines.settings import Settings, load_settings
from serving.client import Client, Problem, Unreachable
from tests.champions import install_champion, prepare_days
from tests.worlds import World, make_world

RECIPE = str(ROOT / "tests" / "recipes" / "serving.toml")


@dataclass
class Serving:
    """The running command."""

    settings: Settings
    recipe: Recipe
    world: World
    process: subprocess.Popen[str]
    rest: str
    grpc: str
    key: str
    photos: list[bytes] = field(default_factory=list)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()


def until(true: Callable[[], object], seconds: float = 30) -> None:
    """Wait for something outside this process."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not happen in time"
        threading.Event().wait(0.1)


def start(settings: Settings, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    given = {"CLASSY_HOME": str(settings.home), "CLASSY_REST_PORT": "0", "CLASSY_GRPC_PORT": "0", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "serve", *arguments, "--recipe", RECIPE, "--json"],
        env={**os.environ, **given}, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def where(process: subprocess.Popen[str]) -> dict[str, str]:
    """What the command says when it answers: one JSON document."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("}"):
            return json.loads("".join(lines))
    assert process.stderr is not None
    raise AssertionError(f"it ended before it answered: {process.stderr.read()}")


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    settings = load_settings(home=tmp_path_factory.mktemp("home") / "var", actor="tester", threads=1)
    recipe = load_recipe(RECIPE)
    world = make_world(settings, recipe, days=3, per_day=30, senders=6)
    prepare_days(settings, recipe, world.clean_uris)
    install_champion(settings, recipe, world.days[:2])
    process = start(settings, "--workers", "2")
    try:
        found = where(process)
        key = Path(found["key_file"]).read_text().strip()
        photos = list(world.photos["image"])
        yield Serving(settings, recipe, world, process, found["rest"], found["grpc"], key, photos)
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_a_photo_gets_the_same_answer_by_every_door(serving: Serving) -> None:
    row = serving.world.photos.iloc[0]
    headers = {"Authorization": f"Bearer {serving.key}"}
    plain = httpx.post(f"{serving.rest}/predict?sender={row.source_id}", content=row.image, headers=headers).json()
    assert plain["defaulted"] is False
    assert plain["label"] == row.label
    expected = np.array(list(plain["probabilities"].values()), np.float32)
    address = serving.rest.removeprefix("http://")
    http = tritonclient.http.InferenceServerClient(address)
    rpc = tritonclient.grpc.InferenceServerClient(serving.grpc.removeprefix("grpc://"))
    for client, kit in ((http, tritonclient.http), (rpc, tritonclient.grpc)):
        photo, sender = kit.InferInput("photo", [1], "BYTES"), kit.InferInput("sender", [1], "BYTES")
        photo.set_data_from_numpy(np.array([row.image], np.object_))
        sender.set_data_from_numpy(np.array([row.source_id.encode()], np.object_))
        answer = client.infer("classy", [photo, sender], headers={"authorization": headers["Authorization"]})
        assert answer.as_numpy("label")[0].decode() == plain["label"]
        np.testing.assert_allclose(answer.as_numpy("probabilities")[0], expected, atol=1e-6)
        client.close()


def test_the_monitor_is_shown_to_who_has_a_key(serving: Serving) -> None:
    assert httpx.get(f"{serving.rest}/monitor/data").status_code == 401
    told = httpx.get(f"{serving.rest}/monitor/data", headers={"Authorization": f"Bearer {serving.key}"}).json()
    assert [(band["version"], band["until"]) for band in told["champions"]] == [("1", None)]
    assert told["notices"][0].startswith("No day was watched yet.")


def test_answers_are_in_the_log_with_what_they_were_made_of(serving: Serving) -> None:
    row = serving.world.photos.iloc[1]
    with Client(serving.rest, key=serving.key) as client:
        answer = client.classify(row.image, sender=row.source_id, image_id="by-name")
    store = open_store(serving.settings.database_url)
    found = lambda: [r for r in _online(serving) if r["prediction_id"] == answer.prediction_id]  # noqa: E731
    until(found)
    (logged,) = found()
    assert (logged["image_id"], logged["source_id"], logged["label"]) == ("by-name", row.source_id, answer.label)
    assert (logged["arm"], logged["generation"], logged["channel"]) == ("champion", 1, "online")
    assert len(logged["context"]) == 7 + 2 + 10
    assert logged["content_hash"] == row.sha256
    assert store.current()["generation"] == 1


def _online(serving: Serving) -> list[dict[str, object]]:
    from datetime import UTC, datetime, timedelta

    now = datetime.now(UTC)
    frame = open_store(serving.settings.database_url).predictions(since=now - timedelta(days=1), until=now)
    return frame.to_dict("records")


def test_nobody_comes_in_without_a_key(serving: Serving) -> None:
    refused = httpx.post(f"{serving.rest}/predict", content=serving.photos[0])
    assert refused.status_code == 401
    assert "classy keys create" in refused.json()["error"]
    assert (serving.settings.home / "serving" / "local.key").stat().st_mode & 0o077 == 0
    assert httpx.get(f"{serving.rest}/v2/health/ready").status_code == 200


def test_a_promotion_is_followed_under_load_without_a_failed_request(serving: Serving) -> None:
    versions: Counter[str] = Counter()
    problems: list[Exception] = []
    done = threading.Event()

    def ask(number: int) -> None:
        with Client(serving.rest, key=serving.key, retries=0) as client:
            turn = number
            while not done.is_set():
                turn += 1
                photo = serving.photos[turn % len(serving.photos)]
                try:
                    versions[client.classify(photo, sender=f"load-{turn}").model_version] += 1
                except (Problem, Unreachable) as error:
                    problems.append(error)
                    return

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: versions["1"] > 20)
        install_champion(serving.settings, serving.recipe, serving.world.days[:3], generation=2)
        until(lambda: versions["2"] > 20)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not problems
    assert set(versions) == {"1", "2"}


def test_a_killed_process_is_started_again_and_the_others_answer(serving: Serving) -> None:
    before = {child.pid for child in serving.children()}
    assert len(before) == 2
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    headers = {"Authorization": f"Bearer {serving.key}"}

    def answered() -> bool:
        try:
            return httpx.post(f"{serving.rest}/predict", content=serving.photos[0], headers=headers).status_code == 200
        except httpx.TransportError:  # it was on its way to the one that was killed
            return False

    until(answered)
    until(lambda: len({child.pid for child in serving.children()} - before) == 1)
    assert answered()
    # What it had answered and not yet written is taken over by another one.
    spool = serving.settings.home / "serving" / "spool"
    until(lambda: not list(spool.glob(f"*-{killed}-*")))


def test_it_ends_in_order(serving: Serving) -> None:
    serving.process.terminate()
    assert serving.process.wait(timeout=60) == 0
    assert not [child for child in psutil.process_iter(["cmdline"]) if _serves(child, serving.settings)]
    assert not list((serving.settings.home / "serving" / "spool").rglob("*.jsonl"))


def _serves(process: psutil.Process, settings: Settings) -> bool:
    try:
        return process.environ().get("CLASSY_HOME") == str(settings.home)
    except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["preprocessor", "--next", "classifier"], {}, "classifier=grpc://host:8001"),
        ([], {"CLASSY_HOPS": "classifier=ftp://x"}, "CLASSY_HOPS"),
        ([], {"CLASSY_JWT_ISSUER": "https://id.example.org"}, "CLASSY_JWT_JWKS"),
        ([], {"CLASSY_TLS_CERT": "/nowhere.pem"}, "CLASSY_TLS_KEY"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_served(
    settings: Settings, arguments: list[str], environment: dict[str, str], says: str
) -> None:
    process = start(settings, *arguments, **environment)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert says in error.replace("\n", "")
    assert "Traceback" not in error


def test_every_worker_speaks_tls_with_the_certificate_of_the_flags(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key, roots = (tmp_path / name for name in ("cert.pem", "key.pem", "roots.pem"))
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(str(cert), append=number > 0)
    issued.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(roots))
    settings = load_settings(home=tmp_path / "var")
    flags = ("--tls-cert", str(cert), "--tls-key", str(key))
    process = start(settings, "preprocessor", "--workers", "2", *flags, CLASSY_AUTH="off")
    try:
        found = where(process)
        assert found["rest"].startswith("https://")
        trust = ssl.create_default_context(cafile=str(roots))
        for _ in range(8):  # a connection each: the kernel gives them to both workers
            assert httpx.get(f"{found['rest']}/v2/health/ready", verify=trust).status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{found['rest'].replace('https', 'http')}/v2/health/ready")
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0
