"""Traces: a real OTLP receiver gets one trace with the right parents, within a process and over hops."""

import asyncio
import gzip
import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pipelines.recipe import ROOT
from serving import traces
from serving.components.base import Call, Component
from serving.components.remote import Remote
from serving.photos import Photo
from serving.problems import Problem
from serving.server import Server
from tests.serving import Open, running

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-2] + "00"


class Receiver(ThreadingHTTPServer):
    """What an OpenTelemetry collector is to us: POST /v1/traces with protobuf."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        receiver = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def services(self) -> set[str]:
        return {
            attribute.value.string_value
            for request in self.requests
            for resource in request.resource_spans
            for attribute in resource.resource.attributes
            if attribute.key == "service.name"
        }


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def tracing(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """Tracing on, to the receiver; what it got is there once `traces.stop()` was called."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    assert traces.start(service="classy-test", version="1")
    yield receiver
    traces.stop()


class Preprocessor(Component):
    """Bytes in, their hash out."""

    name = "preprocessor"
    takes = ("photo",)
    gives = ("content_hash", "error")

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        with call.stage("hash"):
            for photo in photos:
                photo.content_hash = hashlib.sha256(photo.photo or b"").hexdigest()
                if not photo.photo:
                    photo.problem = Problem("unprocessable", "it is empty")


class Whole(Component):
    """Asks a preprocessor, here or elsewhere, then has a lane's thread do something."""

    name = "classy"
    takes = ("photo",)
    gives = ("content_hash", "arm", "model_version", "error")

    def __init__(self, first: Component) -> None:
        self._first = first

    async def start(self) -> None:
        await self._first.start()

    async def stop(self) -> None:
        await self._first.stop()

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        with call.stage("preprocessor"):
            await self._first.apply(photos, call)
        with call.stage("classifier"):
            for photo in photos:
                photo.seconds |= {"queue": 0.002, "features": 0.001, "model": 0.003}
                photo.arm, photo.model_version = "champion", "3"
            traces.told("classifier", photos, ("queue", "features", "model"), arm="champion", version="3")


def ask(url: str, headers: dict[str, str] | None = None) -> None:
    body = {"inputs": [{"name": "photo", "datatype": "BYTES", "shape": [2], "data": ["abc", "def"]}]}
    answer = httpx.post(f"{url}/v2/models/classy/infer", json=body, headers=headers)
    assert answer.status_code == 200, answer.text


def tree(spans: list[Any]) -> dict[str, str]:
    """Name of each span → name of its parent ("" for one that is elsewhere)."""
    names = {span.span_id: span.name for span in spans}
    return {span.name: names.get(span.parent_span_id, "") for span in spans}


def said(span: Any) -> dict[str, Any]:
    found = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        found[attribute.key] = getattr(attribute.value, kind)
    return found


def test_a_request_is_one_trace_that_goes_on_where_its_caller_was(tracing: Receiver) -> None:
    with running(Server(components={"classy": Whole(Preprocessor())}, gate=Open())) as server:
        ask(server.rest, {"traceparent": PARENT})
    traces.stop()
    spans = tracing.spans()
    assert {span.trace_id.hex() for span in spans} == {PARENT.split("-")[1]}
    assert tree(spans) == {
        "infer": "",
        "preprocessor": "infer",
        "hash": "preprocessor",
        "classifier": "infer",
        "classifier queue": "classifier",
        "classifier features": "classifier",
        "classifier model": "classifier",
    }
    root = next(span for span in spans if span.name == "infer")
    assert root.parent_span_id.hex() == PARENT.split("-")[2]
    assert said(root) == {"classy.model": "classy", "classy.photos": 2, "classy.arm": "champion", "classy.version": "3"}
    assert tracing.services() == {"classy-test"}


def test_what_threads_did_is_told_in_order_and_ends_now(tracing: Receiver) -> None:
    photos = [Photo(seconds={"queue": 0.002, "model": 0.003}), Photo(seconds={"queue": 0.001, "model": 0.001})]
    with traces.span("request"):
        traces.told("lane", photos, ("queue", "features", "model"), arm="canary")
    traces.stop()
    by_name = {span.name: span for span in tracing.spans()}
    queue, model = by_name["lane queue"], by_name["lane model"]
    assert model.end_time_unix_nano - model.start_time_unix_nano == 3_000_000
    assert queue.end_time_unix_nano == model.start_time_unix_nano
    assert model.end_time_unix_nano <= by_name["request"].end_time_unix_nano
    assert said(model) == {"classy.photos": 2, "classy.arm": "canary"}
    assert "lane features" not in by_name


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_trace_goes_on_in_the_next_process(tracing: Receiver, protocol: str) -> None:
    with running(Server(components={"preprocessor": Preprocessor()}, gate=Open())) as far:
        there = far.rest if protocol == "rest" else far.grpc
        whole = Whole(Remote("preprocessor", [there]))
        with running(Server(components={"classy": whole}, gate=Open())) as near:
            ask(near.rest)
    traces.stop()
    spans = tracing.spans()
    assert len({span.trace_id for span in spans}) == 1
    by_id = {span.span_id: span for span in spans}
    (hashed,) = (span for span in spans if span.name == "hash")
    door = by_id[hashed.parent_span_id]
    assert door.name == ("infer" if protocol == "rest" else "grpc")
    above = [door]
    while above[-1].parent_span_id:
        above.append(by_id[above[-1].parent_span_id])
    assert [span.name for span in above[1:]] == ["to_preprocessor", "preprocessor", "infer"]
    assert said(door)["classy.model"] == "preprocessor"


def test_a_parent_is_given_to_another_thread_by_hand(tracing: Receiver) -> None:
    def work(parent: Any) -> None:
        with traces.span("in the thread", parent, photos=3):
            pass

    async def story() -> None:
        with traces.span("in the loop"):
            thread = threading.Thread(target=work, args=(traces.here(),))
            thread.start()
            await asyncio.to_thread(thread.join)

    asyncio.run(story())
    traces.stop()
    assert tree(tracing.spans()) == {"in the loop": "", "in the thread": "in the loop"}


@pytest.mark.parametrize("given", ["", "nonsense", PARENT[:-4], "00-" + "0" * 32 + PARENT[35:], "é" * 40, "00-" * 999])
def test_a_malformed_parent_is_ignored(tracing: Receiver, given: str) -> None:
    with traces.span("infer", traces.extract({"traceparent": given})):
        pass
    traces.stop()
    (span,) = tracing.spans()
    assert span.parent_span_id == b""


def test_a_trace_that_the_caller_does_not_sample_is_not_sent_but_passed_on(tracing: Receiver) -> None:
    headers: dict[str, str] = {}
    with traces.span("infer", traces.extract({"traceparent": UNSAMPLED})):
        traces.inject(headers)
    traces.stop()
    assert tracing.spans() == []
    assert headers["traceparent"].split("-")[1] == PARENT.split("-")[1]
    assert headers["traceparent"].endswith("-00")


def test_no_key_no_sender_and_no_message_is_in_a_trace(tracing: Receiver) -> None:
    with pytest.raises(Problem), traces.span("infer"):
        raise Problem("unauthenticated", "private words of an error")
    with running(Server(components={"classy": Whole(Preprocessor())}, gate=Open())) as server:
        ask(server.rest, {"authorization": "Bearer private-key", "x-request-id": "private-id"})
    traces.stop()
    sent = b"".join(request.SerializeToString() for request in tracing.requests)
    assert b"infer" in sent
    assert b"private" not in sent


def test_without_a_receiver_a_span_is_one_shared_object_and_nothing_is_passed_on() -> None:
    assert not traces.start(environ={})
    assert traces.span("a", photos=1) is traces.span("b")
    headers: dict[str, str] = {}
    with traces.span("a") as span:
        span.set(model="classy")
        traces.inject(headers)
        traces.told("lane", [Photo(seconds={"model": 1.0})], ("model",))
    assert headers == {}
    assert traces.extract({"traceparent": PARENT}) is None
    assert traces.here() is None


@pytest.mark.parametrize(
    ("environ", "kind"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x:4318/v1/traces"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318"}, ""),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"}, ""),
    ],
)
def test_the_environment_says_whether_to_trace(environ: dict[str, str], kind: str) -> None:
    assert traces.wanted(environ) == kind


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "OTEL_TRACES_EXPORTER='jaeger': must be otlp, console or none"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL='grpc': Classy sends http/protobuf",
        ),
    ],
)
def test_what_classy_does_not_have_is_said(environ: dict[str, str], says: str) -> None:
    with pytest.raises(Problem) as error:
        traces.wanted(environ)
    assert says in str(error.value)


def test_a_console_gets_the_spans_and_opentelemetry_is_not_loaded_where_tracing_is_off() -> None:
    story = """
import sys
from serving import traces
began = traces.start()
with traces.span("infer", photos=2):
    pass
traces.stop()
print("began", began, "loaded", any(name.startswith("opentelemetry.sdk") for name in sys.modules))
"""
    off = subprocess.run([sys.executable, "-c", story], cwd=ROOT, capture_output=True, text=True, check=True)
    assert off.stdout == "began False loaded False\n"
    on = subprocess.run(
        [sys.executable, "-c", story], cwd=ROOT, capture_output=True, text=True, check=True,
        env={"OTEL_TRACES_EXPORTER": "console", "PATH": ""},
    )  # fmt: skip
    assert '"name": "infer"' in on.stdout
    assert '"classy.photos": 2' in on.stdout
