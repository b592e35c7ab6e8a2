"""The client for asyncio."""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import orjson

from serving.channels import Unreachable
from serving.channels.restwire import read_problem
from serving.client.answers import Answer, Source, as_answer, as_photo, find_key, named
from serving.components.base import Call
from serving.components.pipeline import Pipeline
from serving.components.remote import Remote
from serving.messages import ModelMetadata
from serving.photos import Photo
from serving.problems import Problem

Sequencing = Literal["server", "client", "hybrid"]
SEQUENCINGS: tuple[Sequencing, ...] = ("server", "client", "hybrid")
COMPONENTS = ("downloader", "preprocessor", "classifier")
AGAIN = ("busy", "over_quota", "unavailable")
"""Reasons after which another try may succeed."""
WHOLE = ("unauthenticated", "forbidden")
"""Reasons that no photo of a list would escape."""


class AsyncClient:
    """Asks a server of Classy.

    Args:
        url: `http(s)://host:port` (REST with binary tensors) or `grpc(s)://host:port`.
        key: API key or token; default: CLASSY_API_KEY, or the one of this machine's server in CLASSY_HOME.
        sequencing: who leads a photo from component to component. server: one call, the server does the rest.
            client: a call to each of the three. hybrid: one call, each component hands on to the next.
        at: where a component is, if not at `url`: `{"preprocessor": "http://other:8000"}`.
        rest: address for ground truth, if `url` is gRPC.
        timeout_s: of one try.
        retries: how often a busy server is asked again, as it says when.
        patience_s: longest wait before another try; a server that asks for more is not asked again.
        batch: photos of one request of `classify_many`.
        at_once: requests of `classify_many` under way together.
        verify: file of certificates to trust, for a server with its own.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        sequencing: Sequencing = "server",
        at: Mapping[str, str] | None = None,
        rest: str = "",
        arm: str = "",
        timeout_s: float = 30.0,
        retries: int = 3,
        patience_s: float = 10.0,
        batch: int = 16,
        at_once: int = 2,
        verify: str = "",
    ) -> None:
        if sequencing not in SEQUENCINGS:
            raise ValueError(f"sequencing={sequencing!r}: one of {', '.join(SEQUENCINGS)}")
        self.url = url.rstrip("/")
        self.sequencing = sequencing
        self._key = find_key(key)
        self._rest = (rest or ("" if self.url.startswith("grpc") else self.url)).rstrip("/")
        self._at = at or {}
        self._arm = arm
        self._options: dict[str, Any] = {"key": self._key, "timeout_s": timeout_s, "verify": verify}
        self._timeout_s, self._retries, self._patience_s = timeout_s, retries, patience_s
        self._batch, self._at_once = batch, at_once
        self._verify = verify
        self._remotes: dict[str, Remote] = {}
        self._pipeline: Pipeline | None = None
        self._metadata: ModelMetadata | None = None
        self._http: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give connections back."""
        for remote in self._remotes.values():
            await remote.stop()
        if self._http is not None:
            await self._http.aclose()

    # ------------------------------------------------------------------------------------------- asking

    async def classify(
        self, photo: Source, *, sender: str = "", image_id: str = "", captured_at: str = "", arm: str = ""
    ) -> Answer:
        """What a photo shows.

        Args:
            photo: bytes, a `Path`, or a URL as text.
            sender: who sent it, as the feature store knows senders.
            image_id: your name for it, by which ground truth will be told; default: its SHA-256.
            captured_at: ISO 8601; default: now.
            arm: name or version of the model that must answer; default: as the server assigns.

        Raises:
            Problem: it was not answered; `reason` and the message say why.
            Unreachable: there is no server.
        """
        asked = as_photo(photo, sender=sender, image_id=image_id, captured_at=captured_at)
        (answer,) = await self._ask([photo], [asked], arm or self._arm)
        if answer.problem is not None:
            raise answer.problem
        return answer

    async def classify_many(
        self,
        photos: Sequence[Source],
        *,
        sender: str | Sequence[str] = "",
        arm: str = "",
        told: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """What each photo shows, in the order given. A photo that is not answered has its `problem`.

        Args:
            sender: one for all, or one for each.
            told: called with the number of photos of each request that is done.

        Raises:
            Problem: nobody may ask (no key, or not allowed).
            Unreachable: there is no server.
        """
        senders = [sender] * len(photos) if isinstance(sender, str) else list(sender)
        if len(senders) != len(photos):
            raise ValueError(f"sender: {len(senders)} for {len(photos)} photos; give one, or one for each")
        room = asyncio.Semaphore(self._at_once)

        async def part(start: int) -> list[Answer]:
            async with room:
                chosen = range(start, min(start + self._batch, len(photos)))
                found = await self._ask_some([photos[i] for i in chosen], [senders[i] for i in chosen], arm)
            if told is not None:
                told(len(found))
            return found

        tasks = [asyncio.ensure_future(part(start)) for start in range(0, len(photos), self._batch)]
        try:
            return [answer for found in await asyncio.gather(*tasks) for answer in found]
        finally:
            for task in tasks:
                task.cancel()

    async def _ask_some(self, photos: list[Source], senders: list[str], arm: str) -> list[Answer]:
        """One request's photos; a file that cannot be read is its own problem."""
        asked: list[Photo] = []
        for photo, sender in zip(photos, senders, strict=True):
            try:
                asked.append(as_photo(photo, sender=sender))
            except Problem as problem:
                asked.append(Photo(problem=problem))
        try:
            return await self._ask(photos, asked, arm or self._arm)
        except Problem as problem:
            if problem.reason in WHOLE:
                raise
            return [
                Answer(source=named(photo), problem=one.problem or problem)
                for photo, one in zip(photos, asked, strict=True)
            ]

    async def _ask(self, sources: Sequence[Source], asked: Sequence[Photo], arm: str) -> list[Answer]:
        classes = (await self.metadata()).properties.get("classes") or ()
        start = time.perf_counter()
        waited = 0
        while True:
            call = Call(parameters={"arm": arm} if arm else {})
            try:
                await self._send(asked, call)
                break
            except Problem as problem:
                wait = problem.retry_after if problem.retry_after is not None else 0.1 * 2**waited
                if problem.reason not in AGAIN or waited >= self._retries or wait > self._patience_s:
                    raise
                waited += 1
                await asyncio.sleep(wait)
        spent = 1000 * (time.perf_counter() - start)
        timing = {name: round(1000 * seconds, 3) for name, seconds in call.seconds.items()}
        return [
            as_answer(source, photo, classes, milliseconds=spent, timing=timing)
            for source, photo in zip(sources, asked, strict=True)
        ]

    async def _send(self, asked: Sequence[Photo], call: Call) -> None:
        if self.sequencing == "server":
            await self._remote("classy").apply(asked, call)
        elif self.sequencing == "client":
            await self._in_this_process().apply(asked, call)
        else:
            here = [photo for photo in asked if photo.url is None]
            there = [photo for photo in asked if photo.url is not None]
            for first, rest, photos in (
                ("preprocessor", "classifier", here),
                ("downloader", "preprocessor,classifier", there),
            ):
                if photos:
                    onward = Call(parameters={**call.parameters, "next": rest}, seconds=call.seconds)
                    await self._remote(first).apply(photos, onward)

    def _in_this_process(self) -> Pipeline:
        if self._pipeline is None:
            self._pipeline = Pipeline(*(self._remote(name) for name in COMPONENTS))
        return self._pipeline

    def _remote(self, name: str) -> Remote:
        if name not in self._remotes:
            self._remotes[name] = Remote(name, [self._at.get(name, self.url)], **self._options)
        return self._remotes[name]

    # --------------------------------------------------------------------------------- about the server

    async def metadata(self) -> ModelMetadata:
        """What the server says of the model that answers: classes, versions, tensors. Asked once.

        Raises:
            Unreachable: there is no server.
        """
        if self._metadata is None:
            remote = self._remote("classy" if self.sequencing == "server" else "classifier")
            self._metadata = await remote.learn(self._timeout_s)
        return self._metadata

    async def ready(self) -> bool:
        """Whether the server answers requests now; False too if there is none."""
        try:
            return await self._remote("classy").is_ready(self._timeout_s)
        except Unreachable:
            return False

    async def say(self, image_id: str, label: str, *, labelled_at: datetime | None = None) -> dict[str, Any]:
        """Tell the true class of a photo. Telling the same twice changes nothing.

        Args:
            image_id: of the answer (`Answer.image_id`), or the one that was given.
            labelled_at: when it was known; default: now. A time without a zone is this machine's.

        Raises:
            Problem: the label is not taken, or this key may not say it.
            Unreachable: there is no server.
        """
        if not self._rest:
            raise Problem("bad_request", "ground truth is told over REST: give the client rest='http://host:port'")
        row = {"image_id": image_id, "label": label}
        row |= {"labelled_at": labelled_at.astimezone().isoformat()} if labelled_at else {}
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {self._key}"} if self._key else {})
        if self._http is None:
            self._http = httpx.AsyncClient(
                verify=ssl.create_default_context(cafile=self._verify) if self._verify else True,
                trust_env=False,
                timeout=self._timeout_s,
                limits=httpx.Limits(keepalive_expiry=4),
            )
        try:
            response = await self._http.post(f"{self._rest}/ground-truth", content=orjson.dumps(row), headers=headers)
        except httpx.TransportError as error:
            raise Unreachable(f"{self._rest}: {error or type(error).__name__}") from error
        if response.status_code >= 300:
            raise read_problem(response.status_code, response.content, response.headers.get("retry-after"))
        return orjson.loads(response.content)
