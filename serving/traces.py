"""OpenTelemetry spans through the components, and from one process to the next.

On where `OTEL_EXPORTER_OTLP_ENDPOINT` is set (OTLP over HTTP) or `OTEL_TRACES_EXPORTER=console`; otherwise `span()`
gives one shared object that does nothing. Sampling, headers, time-outs and the service's name follow the `OTEL_*`
variables of the specification: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
"""

import os
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from serving.photos import Photo
from serving.problems import Problem

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Span:
    """What is said of the work under way: `set(model="classy", photos=3)`."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def set(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            self._inner.set_attribute(f"classy.{name}", value)


class _Off(AbstractContextManager["_Off"]):
    """The span where tracing is off: shared, entered by many at once, and empty."""

    __slots__ = ()

    def __enter__(self) -> "_Off":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def set(self, **attributes: Any) -> None:
        """Nothing."""


OFF = _Off()
_provider: "TracerProvider | None" = None
_tracer: Any = None
_propagator: Any = None


def wanted(environ: Mapping[str, str] = os.environ) -> str:
    """Which exporter the environment asks for: otlp, console, or nothing.

    Raises:
        Problem: one that Classy does not have.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ""
    kind = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if kind in ("", "otlp"):
        protocol = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        if not any(environ.get(name) for name in ENDPOINTS):
            return ""
        if protocol != "http/protobuf":
            raise Problem(
                "bad_request", f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: Classy sends http/protobuf (port 4318)"
            )
        return "otlp"
    if kind not in ("console", "none"):
        raise Problem("bad_request", f"OTEL_TRACES_EXPORTER={kind!r}: must be otlp, console or none")
    return kind if kind == "console" else ""


def start(service: str = "classy", *, version: str = "", environ: Mapping[str, str] = os.environ) -> bool:
    """Begin tracing in this process if the environment asks for it; says whether. After a fork, not before it.

    Raises:
        Problem: a variable asks for what Classy does not have.
    """
    kind = wanted(environ)
    if not kind:
        return False
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    if kind == "console":
        begin(BatchSpanProcessor(ConsoleSpanExporter()), service=service, version=version)
        return True
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    begin(BatchSpanProcessor(OTLPSpanExporter()), service=service, version=version)
    return True


def begin(processor: Any, *, service: str = "classy", version: str = "") -> None:
    """Begin tracing with a span processor of one's own."""
    global _provider, _tracer, _propagator
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    stop()
    name = os.environ.get("OTEL_SERVICE_NAME") or service
    resource = Resource.create({"service.name": name, "service.version": version, "process.pid": os.getpid()})
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(processor)
    _tracer = _provider.get_tracer("classy", version)
    _propagator = TraceContextTextMapPropagator()


def stop() -> None:
    """Send what is left, and trace no more."""
    global _provider, _tracer, _propagator
    ending, _provider, _tracer, _propagator = _provider, None, None, None
    if ending is not None:
        ending.shutdown()


def on() -> bool:
    return _tracer is not None


def span(name: str, parent: "Context | None" = None, **attributes: Any) -> AbstractContextManager[Any]:
    """A span of the current trace; costs nothing where tracing is off.

    Args:
        name: of the stage: download, decode, features, model, …
        parent: what `extract` or `here` gave, where the work goes on in another process or thread.
        attributes: model, arm, version, photos: they are written as `classy.model` and so on.
    """
    return OFF if _tracer is None else _real(name, parent, attributes)


@contextmanager
def _real(name: str, parent: "Context | None", attributes: dict[str, Any]) -> Iterator[Span]:
    from opentelemetry.trace import StatusCode

    given = {f"classy.{key}": value for key, value in attributes.items()}
    # What an error says may name a sender or a file: its kind is told, its words are not.
    with _tracer.start_as_current_span(
        name, context=parent, attributes=given, record_exception=False, set_status_on_exception=False
    ) as inner:
        try:
            yield Span(inner)
        except Problem as problem:
            inner.set_attribute("classy.problem", problem.detail)
            if problem.kind.status >= 500:
                inner.set_status(StatusCode.ERROR, problem.detail)
            raise
        except Exception as error:
            inner.set_status(StatusCode.ERROR, type(error).__name__)
            raise


def told(name: str, photos: Sequence[Photo], stages: Sequence[str], **attributes: Any) -> None:
    """Spans of work that threads did for a request, made from the times that they took; called when it is done.

    A lane's thread works for several requests at once, so that no span of its own could have one parent. The stages
    followed each other and the last one has just ended: they become spans below the current one.

    Args:
        name: of the lane, before the stage's: `classifier queue`, `classifier model`.
        photos: of the request; the slowest of them is what it waited for.
        stages: names in `Photo.seconds`, in order.
    """
    if _tracer is None or not photos:
        return
    slowest = max((photo.seconds for photo in photos), key=lambda spent: sum(spent.get(stage, 0.0) for stage in stages))
    given = {f"classy.{key}": value for key, value in {"photos": len(photos), **attributes}.items()}
    begins = time.time_ns() - round(1e9 * sum(slowest.get(stage, 0.0) for stage in stages))
    for stage in stages:
        if stage in slowest:
            ends = begins + round(1e9 * slowest[stage])
            _tracer.start_span(f"{name} {stage}", start_time=begins, attributes=given).end(ends)
            begins = ends


def about(photos: Sequence[Photo], **attributes: Any) -> dict[str, Any]:
    """What a request's span says: how many photos, who answered them, how many have problems."""
    found: dict[str, Any] = {**attributes, "photos": len(photos)}
    if wrong := sum(photo.problem is not None for photo in photos):
        found["problems"] = wrong
    answered = next((photo for photo in photos if photo.arm), None)
    if answered is not None:
        found |= {"arm": answered.arm, "version": answered.model_version}
    return found


def here() -> "Context | None":
    """Where the trace stands, to be given to another thread as `parent`."""
    if _tracer is None:
        return None
    from opentelemetry.context import get_current

    return get_current()


def extract(headers: Mapping[str, str]) -> "Context | None":
    """Where the caller's trace stands, from `traceparent` (W3C Trace Context); one that is malformed is ignored."""
    if _tracer is None or "traceparent" not in headers:
        return None
    return _propagator.extract(headers)


def inject(headers: MutableMapping[str, str]) -> None:
    """Add `traceparent` for the next hop."""
    if _tracer is not None:
        _propagator.inject(headers)
