"""Ways to a server of the Open Inference Protocol v2: REST with binary tensors, and gRPC. Connections are kept.

https://github.com/kserve/open-inference-protocol, and Triton's binary tensor data extension for REST.
"""

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import grpc
import httpx
import orjson

from serving.channels.restwire import read_metadata, read_problem, read_response, write_request
from serving.messages import InferRequest, InferResponse, ModelMetadata
from serving.problems import KINDS, Problem
from serving.wire import protobuf, rpc

SCHEMES = ("grpc", "grpcs", "http", "https")
PASSED_ON = ("authorization", "traceparent", "tracestate")
"""Headers of a request that go on with it."""
_BY_CODE = {kind.code: reason for reason, kind in reversed(KINDS.items())}
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A backend that is back is found within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
)


class Unreachable(Exception):
    """No connection, or it broke before an answer: nothing is known to have been done."""

    for_people = True


class Channel(Protocol):
    """One server."""

    async def infer(
        self, request: InferRequest, *, timeout: float, headers: Mapping[str, str]
    ) -> tuple[InferResponse, int, int]:
        """The answer, and the bytes of the messages sent and received.

        Raises:
            Problem: what the server answers instead, or too_late.
            Unreachable: it cannot be reached.
        """

    async def ready(self, model: str, *, timeout: float) -> bool: ...

    async def metadata(self, model: str, *, timeout: float) -> ModelMetadata: ...

    async def close(self) -> None: ...


def open_channel(address: str, *, key: str = "", verify: str = "") -> Channel:
    """A channel to `http(s)://host:port` or `grpc(s)://host:port`; connects when it is first used.

    Args:
        key: an API key or token, sent where a request brings no authorization of its own.
        verify: file of the certificates to trust; empty: the system's.
    """
    return Rpc(address, key=key, verify=verify) if address.startswith("grpc") else Rest(address, key=key, verify=verify)


def _carried(headers: Mapping[str, str], key: str) -> dict[str, str]:
    found = {name: headers[name] for name in PASSED_ON if headers.get(name)}
    if key and "authorization" not in found:
        found["authorization"] = f"Bearer {key}"
    return found


class Rest:
    """HTTP/1.1 with binary tensors."""

    def __init__(self, address: str, *, key: str = "", verify: str = "") -> None:
        self.address = address.rstrip("/")
        self._key = key
        # Servers close connections that idle (uvicorn after 5 s); one that is about to be closed is not used again.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=4)
        context: ssl.SSLContext | bool = ssl.create_default_context(cafile=verify) if verify else True
        self._http = httpx.AsyncClient(
            base_url=self.address, limits=limits, verify=context, trust_env=False, follow_redirects=False
        )

    async def infer(
        self, request: InferRequest, *, timeout: float, headers: Mapping[str, str]
    ) -> tuple[InferResponse, int, int]:
        length, body = write_request(request)
        version = f"/versions/{quote(request.version, safe='')}" if request.version else ""
        response = await self._send(
            "POST",
            f"/v2/models/{quote(request.model, safe='')}{version}/infer",
            timeout=timeout,
            headers={
                **_carried(headers, self._key),
                "x-timeout-ms": str(max(1, int(1000 * timeout))),
                "inference-header-content-length": str(length),
                "content-type": "application/octet-stream",
            },
            content=body,
        )
        found = response.headers.get("inference-header-content-length")
        answer = read_response(response.content, int(found) if found else None)
        return answer, len(body), len(response.content)

    async def ready(self, model: str, *, timeout: float) -> bool:
        try:
            await self._send("GET", f"/v2/models/{quote(model, safe='')}/ready", timeout=timeout, headers={})
        except Problem as problem:
            if problem.reason == "unavailable":
                return False
            raise
        return True

    async def metadata(self, model: str, *, timeout: float) -> ModelMetadata:
        response = await self._send("GET", f"/v2/models/{quote(model, safe='')}", timeout=timeout, headers={})
        return read_metadata(orjson.loads(response.content))

    async def _send(
        self, method: str, path: str, *, timeout: float, headers: dict[str, str], **more: Any
    ) -> httpx.Response:
        carried = _carried({}, self._key) | headers
        try:
            async with asyncio.timeout(timeout):
                response = await self._http.request(method, path, headers=carried, timeout=None, **more)
        except TimeoutError:
            raise Problem("too_late", f"{self.address}: no answer within {timeout:.3g} s") from None
        except httpx.TransportError as error:
            raise Unreachable(f"{self.address}: {error or type(error).__name__}") from error
        if response.status_code >= 300:
            raise read_problem(response.status_code, response.content, response.headers.get("retry-after"))
        return response

    async def close(self) -> None:
        await self._http.aclose()


class Rpc:
    """gRPC: one HTTP/2 connection for all requests."""

    def __init__(self, address: str, *, key: str = "", verify: str = "") -> None:
        self.address = address
        self._key, self._verify = key, verify
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[str, Any] = {}

    def _call(self, method: str) -> Any:
        """A method by name, bytes to bytes. The channel is made here, in the event loop that will use it."""
        if self._channel is None:
            self._channel = self._open()
        if method not in self._calls:
            self._calls[method] = self._channel.unary_unary(f"/{protobuf.SERVICE}/{method}")
        return self._calls[method]

    def _open(self) -> grpc.aio.Channel:
        url = urlsplit(self.address)
        if url.scheme == "grpc":
            return grpc.aio.insecure_channel(url.netloc, options=_OPTIONS)
        roots = Path(self._verify).read_bytes() if self._verify else None
        return grpc.aio.secure_channel(url.netloc, grpc.ssl_channel_credentials(roots), options=_OPTIONS)

    async def infer(
        self, request: InferRequest, *, timeout: float, headers: Mapping[str, str]
    ) -> tuple[InferResponse, int, int]:
        body = rpc.write_request(request)
        answer = await self._send("ModelInfer", body, timeout=timeout, headers=headers)
        try:
            return rpc.read_response(answer), len(body), len(answer)
        except Problem as problem:
            raise Problem("internal", f"{self.address}: does not follow the protocol: {problem.message}") from None

    async def ready(self, model: str, *, timeout: float) -> bool:
        asked = protobuf.ModelReadyRequest(name=model).SerializeToString()
        answer = await self._send("ModelReady", asked, timeout=timeout, headers={})
        return bool(protobuf.parse(protobuf.ModelReadyResponse, answer).ready)

    async def metadata(self, model: str, *, timeout: float) -> ModelMetadata:
        asked = protobuf.ModelMetadataRequest(name=model).SerializeToString()
        return rpc.read_metadata(await self._send("ModelMetadata", asked, timeout=timeout, headers={}))

    async def _send(self, method: str, body: bytes, *, timeout: float, headers: Mapping[str, str]) -> bytes:
        metadata = tuple(_carried(headers, self._key).items())
        try:
            return await self._call(method)(body, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            told = dict(error.trailing_metadata() or ()).get(rpc.PROBLEM)
            # CANCELLED, where we have cancelled nothing: it came to a server that was just closing its port.
            if told is None and error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise Unreachable(f"{self.address}: {error.details()}") from error
            raise read_status(error.code().name, error.details() or "", told) from None

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel, self._calls = None, {}


def read_status(code: str, text: str, told: str | bytes | None) -> Problem:
    """What a status of gRPC means; of Classy's own answers the whole problem, of others the code and text."""
    if told:
        return Problem.from_json(orjson.loads(told))
    return Problem(_BY_CODE.get(code, "internal"), text or f"the server answered {code}")
