"""Components in other processes, by name, and requests that travel through them (hybrid sequencing).

A request may say `next`, such as `preprocessor,classifier`: the component that it was sent to does its own part,
hands the photos to the first of these, and that one goes on. The answer is the last one's. Names are looked up in the
server's own registry, hop by hop; an address is never taken from a client.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from serving.components.base import Call, Component, Shapes
from serving.components.pipeline import SAID
from serving.components.remote import SCHEMES, Remote
from serving.messages import InferRequest, InferResponse, ModelMetadata
from serving.photos import Photo, read_photos, write_tensors
from serving.problems import Problem

MOST = 8
"""Hops of one request."""
NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class HopError(ValueError):
    """The setting `hops` cannot be read; the message names the part."""

    for_people = True


def parse_hops(text: str) -> dict[str, tuple[str, ...]]:
    """`classifier=grpc://h:8001|grpc://h2:8001,preprocessor=http://h:8000` as name → addresses.

    Raises:
        HopError: names the part that is wrong and how it should look.
    """
    found: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, addresses = part.partition("=")
        name = name.strip()
        if not equals or not NAME.fullmatch(name):
            raise HopError(f"hops: {part!r}: write NAME=ADDRESS, such as classifier=grpc://host:8001")
        if name in found:
            raise HopError(f"hops: {name} is there twice; put its addresses together: {name}=ADDRESS|ADDRESS")
        found[name] = tuple(_address(name, address.strip()) for address in addresses.split("|"))
    return found


def _address(name: str, address: str) -> str:
    try:
        url = urlsplit(address)
        port = url.port
    except ValueError as error:
        raise HopError(f"hops: {name}: address {address!r}: {error}") from None
    if url.scheme not in SCHEMES or not url.hostname:
        raise HopError(f"hops: {name}: address {address!r}: write one of {', '.join(SCHEMES)}://host:port")
    if port is None and url.scheme.startswith("grpc"):
        raise HopError(f"hops: {name}: address {address!r}: has no port; gRPC needs one, such as :8001")
    if url.path.strip("/") or url.query or url.fragment or "@" in url.netloc:
        shown = (
            f"{url.scheme}://{url.netloc.rpartition('@')[2]}"  # who wrote a password here shall not read it in a log
        )
        raise HopError(f"hops: {name}: address at {shown!r}: only scheme, host and port belong in it")
    return address.rstrip("/")


def open_hops(text: str, *, local: Mapping[str, Component] | None = None, **options: Any) -> dict[str, Component]:
    """The registry: what the setting `hops` names as `Remote`s, beside the components of this process.

    Args:
        text: the setting.
        local: components here; a name that is also in the setting is the remote one.
        options: of every `Remote`.

    Raises:
        HopError: as `parse_hops`.
    """
    remotes = {name: Remote(name, addresses, **options) for name, addresses in parse_hops(text).items()}
    return {**(local or {}), **remotes}


class Onward(Component):
    """A component that may hand on what it has done.

    Args:
        component: does this server's part.
        hops: the registry: name → component, here or remote. May be filled after this is made.
        default_next: where photos go when the request does not say. A request that says `next` decides alone:
            an empty one stops here.
    """

    def __init__(self, component: Component, hops: Mapping[str, Component], default_next: Sequence[str] = ()) -> None:
        self.component = component
        self.name = component.name
        self.platform = component.platform
        self.limit = component.limit
        # What a client says of a photo is let through, for the component that will need it.
        along = tuple(name for name in SAID if name not in component.takes)
        self.takes = (*component.takes, *along)
        self.optional = (*component.optional, *along)
        self.gives = component.gives
        self._hops = hops
        self._default = _checked(self.name, tuple(default_next))

    # What the component itself says of itself.

    def shapes(self) -> Shapes:
        return self.component.shapes()

    def versions(self) -> tuple[str, ...]:
        return self.component.versions()

    def properties(self) -> dict[str, Any]:
        traffic = {name: hop.traffic() for name, hop in self._hops.items() if isinstance(hop, Remote)}
        found = self.component.properties()
        found |= {"hops": traffic} if traffic else {}
        return found | ({"next": list(self._default)} if self._default else {})

    def ready(self) -> str | None:
        mine = self.component.ready()
        if mine is not None or not self._default:
            return mine
        first = self._hops.get(self._default[0])
        if first is None:
            return f"next: {self._default[0]!r} is no hop of this server; hops are {_names(self._hops)}"
        why = first.ready()
        return f"{self._default[0]}: {why}" if why else None

    async def start(self) -> None:
        await self.component.start()

    async def stop(self) -> None:
        await self.component.stop()

    def metadata(self) -> ModelMetadata:
        mine = super().metadata()
        last = self._hops.get(self._default[-1]) if self._default else None
        return mine if last is None else _answering(mine, last.metadata())

    # ------------------------------------------------------------------------------------- a request

    async def apply(self, photos: Sequence[Photo], call: Call) -> None:
        await self.follow(photos, call)

    async def follow(self, photos: Sequence[Photo], call: Call) -> tuple[str, ...]:
        """Do this part, then go on; gives the names of the fields that the last one gives."""
        asked = call.parameters.get("next")
        names = self._default if asked is None else read_next(self.name, asked)
        via = self._via(call)
        if names:
            self._hop(names[0])  # before any work: a name that is unknown here costs nothing
        await self.component.apply(photos, call)
        gives = self.component.gives
        while names:
            hop, names = self._hop(names[0]), names[1:]
            call.left()
            if isinstance(hop, Onward | Remote):
                # It goes on by itself. Where the request has said the way, it also says where the way ends.
                rest = {"next": ",".join(names)} if names or asked is not None else {}
                return await _ask(hop, photos, _onward(call, photos, {**rest, "via": via}))
            await hop.apply(photos, call)
            gives = hop.gives
        return gives

    async def infer(self, request: InferRequest, call: Call) -> InferResponse:
        if request.version:
            call.parameters = {**call.parameters, "version": request.version}
        photos = call.photos = read_photos(request, self.takes, limit=self.limit)
        gives = await self.follow(photos, call)
        if len(photos) == 1 and photos[0].problem is not None:
            raise photos[0].problem
        names = [wanted.name for wanted in request.outputs] or list(gives)
        if unknown := [name for name in names if name not in gives]:
            raise Problem("bad_request", f"outputs: no {unknown[0]!r} in the answer; it has {', '.join(gives)}")
        outputs = write_tensors(photos, names, self.shapes())
        timing = {f"{name}_ms": round(1000 * seconds, 3) for name, seconds in call.seconds.items()}
        return InferResponse(request.model, outputs, version=request.version, id=request.id, parameters=timing)

    def _via(self, call: Call) -> str:
        """The way so far and this one: servers whose defaults point at each other must not go on for ever."""
        before = [name for name in str(call.parameters.get("via", "")).split(",") if name]
        if self.name in before or len(before) >= MOST:
            raise Problem("bad_request", f"next: {' → '.join((*before[:MOST], self.name))} goes in circles")
        return ",".join((*before, self.name))

    def _hop(self, name: str) -> Component:
        found = self._hops.get(name)
        if found is None:
            raise Problem("bad_request", f"next: {name!r} is no hop of this server; hops are {_names(self._hops)}")
        return found


async def _ask(hop: "Onward | Remote", photos: Sequence[Photo], call: Call) -> tuple[str, ...]:
    return await (hop.follow(photos, call) if isinstance(hop, Onward) else hop.ask(photos, call))


def _onward(call: Call, photos: Sequence[Photo], more: dict[str, str]) -> Call:
    """The same request at the next hop; its stages are counted with ours."""
    kept = {key: value for key, value in call.parameters.items() if key != "next"}
    return Call(
        id=call.id,
        identity=call.identity,
        deadline=call.deadline,
        parameters={**kept, **more},
        seconds=call.seconds,
        headers=call.headers,
        photos=photos,
    )


def read_next(me: str, asked: object) -> tuple[str, ...]:
    """The names in a request's `next`.

    Raises:
        Problem: 400: too many, not names, or a way in circles.
    """
    if not isinstance(asked, str):
        raise Problem(
            "bad_request", f"next: {asked!r} is no text; write names of hops, such as preprocessor,classifier"
        )
    if len(asked) > MOST * 65:
        raise Problem("bad_request", f"next: {len(asked)} characters; name at most {MOST} hops")
    return _checked(me, tuple(name.strip() for name in asked.split(",")) if asked.strip() else ())


def _checked(me: str, names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) > MOST:
        raise Problem("bad_request", f"next: {len(names)} hops; name at most {MOST}")
    for name in names:
        if not NAME.fullmatch(name):
            raise Problem("bad_request", f"next: {name[:80]!r} is no name of a hop; an address is not taken")
    if len({me, *names}) <= len(names):
        raise Problem("bad_request", f"next: {' → '.join((me, *names))} goes in circles; name each hop once")
    return names


def _names(hops: Mapping[str, Component]) -> str:
    return ", ".join(sorted(hops)) or "none"


def _answering(mine: ModelMetadata, last: ModelMetadata) -> ModelMetadata:
    """What goes in is mine, what comes out is the last one's."""
    return ModelMetadata(
        name=mine.name,
        platform=mine.platform,
        versions=last.versions,
        inputs=mine.inputs,
        outputs=last.outputs,
        properties={**last.properties, **mine.properties},
    )
