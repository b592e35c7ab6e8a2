"""Metrics: what two doors, lanes, arms, the log and several workers count, as Prometheus reads it."""

import asyncio
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import prometheus_client.values
import pytest
import tritonclient.grpc as triton_grpc
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from pipelines.recipe import ROOT
from serving.access.gate import KeyGate
from serving.canonical import ImageSpec
from serving.components.base import Call
from serving.lanes import Lane
from serving.loop_metrics import GAUGES
from serving.metrics import MOST, Metrics
from serving.metrics_files import clean
from serving.photos import Photo
from serving.problems import Problem
from serving.server import Server
from serving.versions.arms import Arm, Arms, Lineup
from tests.gates import Store
from tests.serving import Open, running
from tests.tiny import Tiny

PAGE = ROOT / "docs" / "metrics.md"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def values(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Sample and labels (as `a=b,…`) → value."""
    text = metrics.scrape()[0].decode()
    return {
        (sample.name, ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in read_text(text)
        for sample in family.samples
    }


def full() -> Metrics:
    """Metrics of a server that has everything, each label set used at least once."""
    metrics = Metrics(version="1.2.3")
    lane: Lane[Any, Any] = Lane(lambda items: items, name="model", batch=4, queue=9)
    loaded: Any = SimpleNamespace(lane=lane, image_spec=ImageSpec(size=8))
    arms = Arms()
    champion = Arm(name="champion", version="3", run_id="a", generation=7, loaded=loaded)
    canary = Arm(name="canary", version="4", run_id="b", generation=7, loaded=loaded)
    arms.swap(Lineup(champion=champion, canary=canary, weight=0.25))
    metrics.watch(
        models=["classy"], ready=lambda: None, lanes=lambda: [lane], arms=arms, keys=KeyGate(Store()).ring,
        log=lambda: {"written": 5, "spooled": 4, "replayed": 3, "shed": 2, "refused": 1, "torn": 0, "queue": 6},
        recall=lambda: {"hits": 2, "misses": 8},
        loop=lambda: {gauge.name: {tuple("x" for _ in gauge.labels): 1.0} for gauge in GAUGES},
    )  # fmt: skip
    photo = Photo(arm="champion", model_version="3", defaulted=True, seconds={"model": 0.002})
    metrics.observe("classy", Call(seconds={"classifier": 0.01}), [photo], 200, seconds=0.02)
    metrics.observe("classy", Call(), [], 401, problem=Problem("unauthenticated", "no key", detail="no_key"))
    return metrics


# ------------------------------------------------------------------------------------------------- the doors


@pytest.fixture(scope="module")
def counted() -> tuple[Metrics, str]:
    """Metrics after a known handful of requests through both doors, and the text that was scraped over HTTP."""
    metrics = Metrics(version="1")
    with running(Server(components={"classy": Tiny()}, gate=Open()), metrics=metrics) as server:
        with httpx.Client(base_url=server.rest) as client:
            assert client.post("/predict?sender=7", content=b"good").status_code == 200
            assert client.post("/predict", content=b"good").status_code == 200
            assert client.post("/predict", content=b"bad").status_code == 422
            assert client.post("/predict", content=b"down").status_code == 503
            for name in range(5):
                assert client.post(f"/v2/models/scan-{name}/infer", content=b"{}").status_code == 404
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as rpc:
            photos = triton_grpc.InferInput("photo", [3], "BYTES")
            photos.set_data_from_numpy(np.array([b"good", b"bad", b"good"], object))
            rpc.infer("classy", [photos])
        text = httpx.get(f"{server.rest}/metrics").text
    return metrics, text


def test_requests_of_both_doors_are_counted_by_model_and_status(counted: tuple[Metrics, str]) -> None:
    found = values(counted[0])
    requests = {labels: value for (name, labels), value in found.items() if name == "classy_requests_total"}
    assert requests == {
        "door=rest,model=classy,status=200": 2,
        "door=rest,model=classy,status=422": 1,
        "door=rest,model=classy,status=503": 1,
        "door=rest,model=other,status=404": 5,
        "door=grpc,model=classy,status=200": 1,
    }
    assert found["classy_request_duration_seconds_count", "door=rest,model=classy"] == 4


def test_photos_are_counted_by_what_became_of_them(counted: tuple[Metrics, str]) -> None:
    found = values(counted[0])
    photos = {labels: value for (name, labels), value in found.items() if name == "classy_photos_total"}
    assert photos == {
        "arm=champion,model=classy,outcome=answered,version=3": 4,
        "arm=,model=classy,outcome=refused,version=": 2,
        "arm=,model=classy,outcome=failed,version=": 1,
    }
    assert found["classy_photos_defaulted_total", "arm=champion"] == 3
    problems = {labels: value for (name, labels), value in found.items() if name == "classy_problems_total"}
    assert problems == {"detail=truncated": 2, "detail=unavailable": 1, "detail=not_found": 5}


def test_stages_are_timed_by_arm(counted: tuple[Metrics, str]) -> None:
    found = values(counted[0])
    assert found["classy_stage_duration_seconds_count", "arm=champion,stage=model"] == 4
    assert found["classy_stage_duration_seconds_sum", "arm=champion,stage=model"] == pytest.approx(0.012)
    assert found["classy_stage_duration_seconds_count", "arm=champion,stage=classifier"] == 3
    assert found["classy_stage_duration_seconds_bucket", "arm=champion,le=0.002,stage=model"] == 0
    assert found["classy_stage_duration_seconds_bucket", "arm=champion,le=0.004,stage=model"] == 4


def test_a_time_that_photos_tell_is_not_counted_once_more_for_their_request() -> None:
    metrics = Metrics()
    photos = [Photo(problem=Problem("unprocessable", "cut off")), Photo(arm="champion", seconds={"model": 0.1})]
    metrics.observe("classy", Call(seconds={"model": 0.1, "classifier": 0.2}), photos, 200)
    found = values(metrics)
    counts = {labels: value for (name, labels), value in found.items() if name == "classy_stage_duration_seconds_count"}
    assert counts == {"arm=champion,stage=model": 1, "arm=champion,stage=classifier": 1}


def test_what_is_scraped_over_http_is_what_was_counted(counted: tuple[Metrics, str]) -> None:
    names = {family.name for family in read_text(counted[1])}
    assert {"classy_requests", "classy_photos", "classy_ready", "process_resident_memory_bytes"} <= names


def test_metrics_need_their_scope_and_speak_the_form_that_is_asked_for() -> None:
    store = Store()
    good, other = store.add(["metrics"]), store.add(["infer"])
    gate = KeyGate(store)
    gate.ring.start()
    try:
        served = Server(components={"classy": Tiny()}, gate=gate)
        with running(served, metrics=Metrics()) as server, httpx.Client(base_url=server.rest) as client:
            assert client.get("/metrics").status_code == 401
            assert client.get("/metrics", headers={"X-API-Key": other}).status_code == 403
            said = {"Authorization": f"Bearer {good}"}
            plain = client.get("/metrics", headers=said)
            modern = client.get("/metrics", headers={**said, "Accept": f"{OPENMETRICS},text/plain;q=0.5"})
    finally:
        gate.ring.stop()
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert modern.headers["content-type"].startswith(OPENMETRICS)
    assert modern.text.endswith("# EOF\n")
    assert list(read_openmetrics(modern.text))
    for key in (good, other):
        assert key.split("_")[1] not in plain.text
        assert key.split("_")[2] not in plain.text


# ------------------------------------------------------------------------------------------- what it looks like


def test_both_forms_are_read_and_say_the_same() -> None:
    metrics = full()
    plain = {family.name: family for family in read_text(metrics.scrape()[0].decode())}
    modern = {family.name: family for family in read_openmetrics(metrics.scrape(OPENMETRICS)[0].decode())}
    assert plain.keys() == modern.keys()
    for name, family in plain.items():
        assert (family.type, len(family.samples)) == (modern[name].type, len(modern[name].samples)), name


def test_names_follow_prometheus_rules() -> None:
    """Base units, `_total` on counters alone, every name explained: what `promtool check metrics` asks."""
    for family in full().families():
        assert re.fullmatch(r"(classy|process)_[a-z0-9_]+", family.name), family.name
        assert family.documentation.endswith(".") or family.name.startswith("process_"), family.name
        assert not re.search(r"_(ms|milliseconds|minutes|percent|kb|mb)(_|$)", family.name), family.name
        assert not re.search(r"_(counter|gauge|histogram)$", family.name), family.name
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket")), family.name
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            if family.type == "histogram":
                assert family.name.endswith(("_seconds", "_photos")), family.name
            assert not {"le", "quantile"} & sample.labels.keys() or family.type == "histogram"


def test_the_manual_lists_exactly_what_is_shown() -> None:
    listed: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^\| `([a-z_]+)` \|([^|]*)\|", PAGE.read_text(), re.MULTILINE):
        listed[name] = set(re.findall(r"`([a-z_]+)`", labels))
    shown: dict[str, set[str]] = {}
    for family in full().families():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert family.samples, f"{name}: nothing was shown"
        shown[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    assert listed == shown


def test_labels_are_bounded_and_never_a_senders_or_a_clients() -> None:
    metrics = Metrics()
    metrics.watch(models=["classy"])
    for number in range(3 * MOST):
        secret = f"private-{number}"
        photo = Photo(sender=secret, image_id=secret, url=secret, prediction_id=secret, arm="champion")
        photo.seconds = {f"stage-{number}": 0.1}
        photo.problem = Problem("bad_request", secret, detail=f"detail-{number}")
        metrics.observe(secret, Call(id=secret), [photo], 400, seconds=0.1)
    found = values(metrics)
    assert not any("private" in labels for _, labels in found)
    assert found["classy_requests_total", "door=rest,model=other,status=400"] == 3 * MOST
    for name, of_one in (("classy_problems_total", 1), ("classy_stage_duration_seconds_count", 1)):
        rows = {labels: value for (sample, labels), value in found.items() if sample == name}
        assert len(rows) <= of_one * MOST + 1
        assert sum(rows.values()) == 3 * MOST


# --------------------------------------------------------------------------------------------- others' figures


def test_lanes_arms_log_memory_and_keys_are_asked_when_somebody_scrapes() -> None:
    found = values(full())
    assert found["classy_lane_capacity_photos", "lane=model"] == 9
    assert found["classy_lane_waiting_photos", "lane=model"] == 0
    assert found["classy_arm_info", "arm=canary,generation=7,version=4"] == 1
    assert found["classy_arm_weight_ratio", "arm=champion"] == 0.75
    assert found["classy_arm_weight_ratio", "arm=canary"] == 0.25
    assert found["classy_generation_number", ""] == 7
    assert found["classy_deployment_refused", ""] == 0
    assert found["classy_log_rows_total", "fate=shed"] == 2
    assert found["classy_log_waiting_rows", ""] == 6
    assert found["classy_recall_lookups_total", "found=yes"] == 2
    assert found["classy_ready", ""] == 1
    assert found["classy_build_info", "version=1.2.3"] == 1


def test_sizes_of_batches_are_a_histogram_of_their_lane() -> None:
    lane: Lane[int, int] = Lane(lambda items: items, name="model", batch=4, queue=9)

    async def ask() -> None:
        lane.start()
        await lane.submit_many(list(range(7)))  # admitted at once: a batch of 4 and one of 3
        await lane.submit(1)
        await lane.stop()

    asyncio.run(ask())
    metrics = Metrics()
    metrics.watch(lanes=lambda: [lane, lane])  # known by two names, counted once
    found = values(metrics)
    bounds = {"1.0": 1, "2.0": 1, "4.0": 3, "8.0": 3, "64.0": 3, "+Inf": 3}
    assert {le: found["classy_lane_batch_photos_bucket", f"lane=model,le={le}"] for le in bounds} == bounds
    assert found["classy_lane_batch_photos_count", "lane=model"] == 3
    assert found["classy_lane_batch_photos_sum", "lane=model"] == 8


def test_a_server_that_cannot_answer_says_so() -> None:
    metrics = full()
    metrics.watch(ready=lambda: "no model")
    assert values(metrics)["classy_ready", ""] == 0


# -------------------------------------------------------------------------------------------- several workers

WORKER = """
import sys, time
from pathlib import Path
from serving.components.base import Call
from serving.metrics import Metrics
from serving.photos import Photo
metrics = Metrics(version="1", folder=Path(sys.argv[1]), worker=sys.argv[2])
metrics.watch(models=["classy"], log=lambda: {"written": 10, "queue": 2})
for _ in range(int(sys.argv[3])):
    metrics.observe("classy", Call(), [Photo(arm="champion", model_version="3")], 200, seconds=0.001)
metrics.start()
print("ready", flush=True)
sys.stdin.read()
metrics.stop()
"""


class Worker:
    """Another process that counts `requests` requests, and lives until it is ended."""

    def __init__(self, folder: Path, name: str, requests: int) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), name, str(requests)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ready(self) -> None:
        assert self.child.stdout is not None
        assert self.child.stdout.readline() == "ready\n"

    def end(self) -> None:
        self.child.communicate("")
        assert self.child.returncode == 0


def test_whoever_is_scraped_tells_of_all_workers_also_of_one_that_ended(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    clean(folder)
    (folder / "torn.1.json").write_text("{")
    mine = Metrics(version="1", folder=folder, worker="0")
    mine.watch(models=["classy"], log=lambda: {"written": 1, "queue": 5})
    mine.observe("classy", Call(), [], 200, seconds=0.001)
    others = [Worker(folder, "1", 3), Worker(folder, "2", 4)]
    for other in others:
        other.ready()
    found = values(mine)
    assert found["classy_requests_total", "door=rest,model=classy,status=200"] == 8
    assert found["classy_request_duration_seconds_count", "door=rest,model=classy"] == 8
    assert found["classy_log_rows_total", "fate=written"] == 21
    assert found["classy_log_waiting_rows", ""] == 9
    assert found["classy_ready", ""] == 1
    assert found["classy_build_info", "version=1"] == 1
    workers = {labels for name, labels in found if name == "process_resident_memory_bytes"}
    assert workers == {"worker=0", "worker=1", "worker=2"}
    for other in others:
        other.end()
    found = values(mine)
    assert found["classy_requests_total", "door=rest,model=classy,status=200"] == 8
    assert found["classy_log_waiting_rows", ""] == 5
    assert {labels for name, labels in found if name == "process_resident_memory_bytes"} == {"worker=0"}
    clean(folder)
    assert list(folder.iterdir()) == []


def test_counts_are_in_memory_also_where_another_library_wants_them_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Feast asks for files as soon as it is imported: counters of one name would be one counter, in every process."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(prometheus_client.values, "ValueClass", prometheus_client.values.MultiProcessValue())
    one, other = Metrics(), Metrics()
    for metrics in (one, one, other):
        metrics.watch(models=["classy"])
        metrics.observe("classy", Call(), [], 200, seconds=0.001)
    for metrics, count in ((one, 2), (other, 1)):
        assert values(metrics)["classy_requests_total", "door=rest,model=classy,status=200"] == count
    assert list(tmp_path.iterdir()) == []


def test_a_sum_never_falls_whichever_worker_is_scraped(tmp_path: Path) -> None:
    workers = [Metrics(folder=tmp_path, worker=name) for name in ("a", "b")]
    before = 0.0
    for turn in range(20):
        for place, metrics in enumerate(workers):
            metrics._files._mine = tmp_path / f"{place}.1.json"  # type: ignore[union-attr] # as two processes have it
            for _ in range(turn % 3):
                metrics.observe("x", Call(), [], 200)
        now = sum(value for (name, _), value in values(workers[turn % 2]).items() if name == "classy_requests_total")
        assert now >= before
        before = now
    assert before > 0


def test_counting_costs_microseconds() -> None:
    metrics = full()
    photo = Photo(arm="champion", model_version="3", seconds={"queue": 0.001, "features": 0.0001, "model": 0.002})
    call, photos, spent = Call(seconds={"classifier": 0.003}), [photo], float("inf")
    for _ in range(5):
        started = time.thread_time()
        for _ in range(500):
            metrics.observe("classy", call, photos, 200, seconds=0.004)
        spent = min(spent, time.thread_time() - started)
    assert spent / 500 < 100e-6  # 9 µs where it was written; the bound is for the slowest machine
