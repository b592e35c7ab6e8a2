"""Ways to a server of the Open Inference Protocol v2: REST with binary tensors, and gRPC. Connections are kept.

https://github.com/kserve/open-inference-protocol, and Triton's binary tensor data extension for REST.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote

import httpx
import orjson

from serving.client.restwire import read_metadata, read_problem, read_response, write_request
from serving.messages import InferRequest, InferResponse, ModelMetadata
from serving.problems import Problem

SCHEMES = ("grpc", "grpcs", "http", "https")
PASSED_ON = ("authorization", "traceparent", "tracestate")
"""Headers of a request that go on with it."""


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
    return (Rpc if address.startswith("grpc") else Rest)(address, key=key, verify=verify)


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


class Rpc(Rest):
    """gRPC: one HTTP/2 connection for all requests."""
