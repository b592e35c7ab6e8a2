"""The gate: who may come in, for what, and how often. Every refusal says which check failed, and no secret."""

import asyncio
import ipaddress

from serving.access.keys import PREFIX, KeyStore, same_secret, split_key
from serving.access.rates import Rate, Rates
from serving.access.ring import POLL_S, TRUSTED_S, KeyRing, Known, until_midnight
from serving.access.tokens import Tokens
from serving.components.base import ANYONE, Identity
from serving.problems import Problem

LONGEST = 8192
"""Letters of a credential; a longer one is refused unread."""
FAILURES = "30/minute"
"""Refused credentials of one address; beyond, it is told to wait."""
NOBODY = "0" * 64
"""A hash that no secret has: a key that nobody made costs what another one costs."""


class OpenGate:
    """Everybody may do everything (`CLASSY_AUTH=off`): for a machine of one's own."""

    async def start(self) -> None:
        """Nothing."""

    async def stop(self) -> None:
        """Nothing."""

    async def admit(self, credentials: str | None, *, scope: str, photos: int = 1, peer: str = "") -> Identity:
        return ANYONE


class KeyGate:
    """Lets in who shows an API key or a token. One event loop uses it.

    Args:
        keys: where keys are kept.
        tokens: an issuer's tokens are taken beside them.
        rates: where rates are counted; default: in this process.
        failures: how many refused credentials one address may show.
        token_rate: photos of each token's subject; default: no bound.
    """

    def __init__(
        self,
        keys: KeyStore,
        *,
        tokens: Tokens | None = None,
        rates: Rates | None = None,
        failures: str = FAILURES,
        token_rate: str | None = None,
        poll_s: float = POLL_S,
        trusted_s: float = TRUSTED_S,
    ) -> None:
        self.rates = rates or Rates()
        self.tokens = tokens
        self.ring = KeyRing(keys, self.rates.rate, poll_s=poll_s, trusted_s=trusted_s)
        # Counted here alone: a stranger shall not make the server ask another one.
        self._strangers = Rates(workers=self.rates.workers)
        self._failures = self._strangers.rate(failures)
        self._token_rate = self.rates.rate(token_rate) if token_rate else None

    async def start(self) -> None:
        """Before the first request: read the keys and follow them."""
        await asyncio.to_thread(self.ring.start)

    async def stop(self) -> None:
        """After the last request: write what was used."""
        await asyncio.to_thread(self.ring.stop)
        await self.rates.close()

    async def admit(self, credentials: str | None, *, scope: str, photos: int = 1, peer: str = "") -> Identity:
        """See `serving.seams.Gate`. Photos count when they are admitted, whatever becomes of them."""
        try:
            text = _read(credentials)
            if text.startswith(PREFIX):
                known = self._key(text)
                known.identity.need(scope)
                await self._charge(known, photos)
                return known.identity
            identity = await self._token(text)
        except Problem as problem:
            if problem.reason == "unauthenticated":
                await self._failed(peer)
            raise
        identity.need(scope)
        if self._token_rate is not None and photos:
            await self._take(self._token_rate, f"sub:{identity.subject}", photos)
        return identity

    def _key(self, text: str) -> Known:
        parts = split_key(text)
        if parts is None:
            raise _refused("key_form", "the API key is not whole: it is classy_, 12 letters, _ and 39 letters")
        known = self.ring.find(parts[0])
        if not same_secret(parts[1], known.key.secret_hash if known else NOBODY) or known is None:
            raise _refused("key_unknown", "the API key is unknown; `classy keys list` shows which there are")
        key = known.key
        if key.revoked_at is not None:
            raise _refused("key_revoked", f"the API key {key.key_id} was revoked; ask for a new one")
        if key.expires_at is not None and key.expires_at <= self.ring.clock():
            raise _refused("key_expired", f"the API key {key.key_id} expired on {key.expires_at:%Y-%m-%d %H:%M} UTC")
        return known

    async def _token(self, text: str) -> Identity:
        if text.count(".") != 2:
            raise _refused("no_key", "what was sent is neither an API key (classy_…) nor a token")
        if self.tokens is None:
            raise _refused("no_tokens", "tokens are not taken here (CLASSY_JWT_ISSUER is not set); send an API key")
        return await self.tokens.verify(text)

    async def _charge(self, known: Known, photos: int) -> None:
        if not photos:
            return
        key = known.key
        if known.rate is not None:
            await self._take(known.rate, key.key_id, photos)
        if not self.ring.use(key, photos):
            used = self.ring.used(key.key_id)
            raise Problem(
                "over_quota",
                f"API key {key.key_id}: {photos} more photos exceed its {key.daily_quota} a day ({used} used); "
                "a new day begins at 00:00 UTC",
                detail="quota",
                retry_after=round(until_midnight(self.ring.clock()), 1),
            )

    async def _take(self, rate: Rate, name: str, photos: int) -> None:
        wait = await self.rates.take(rate, name, photos)
        if wait is None:
            return
        if not self.rates.fits(rate, photos):
            raise Problem(
                "too_large", f"{photos} photos in one request: the rate is {rate}; send fewer at once", detail="rate"
            )
        raise Problem(
            "over_quota", f"too many photos: the rate is {rate}; wait {wait:.2f} s", detail="rate",
            retry_after=round(wait, 3),
        )  # fmt: skip

    async def _failed(self, peer: str) -> None:
        wait = await self._strangers.take(self._failures, f"peer:{network(peer)}")
        if wait is not None:
            raise Problem(
                "over_quota", f"too many refused credentials from your address; wait {wait:.0f} s", detail="failures",
                retry_after=round(wait, 3),
            )  # fmt: skip


def _read(credentials: str | None) -> str:
    """The key or token of an `Authorization` header or `X-API-Key`."""
    if not credentials:
        raise _refused("no_key", "no API key: send `Authorization: Bearer classy_…`; `classy keys create` makes one")
    if len(credentials) > LONGEST:
        raise _refused("key_form", f"the credentials have {len(credentials)} letters; at most {LONGEST} are read")
    scheme, blank, rest = credentials.partition(" ")
    if not blank:
        return credentials
    if scheme.lower() != "bearer":
        raise _refused("no_key", "the Authorization header must begin with `Bearer `")
    return rest.strip()


def _refused(detail: str, says: str) -> Problem:
    return Problem("unauthenticated", says, detail=detail)


def network(peer: str) -> str:
    """The address that is counted: of IPv6 the /64, which is what one customer has.

    Takes `203.0.113.9`, `203.0.113.9:5000`, and gRPC's `ipv4:203.0.113.9:5000` and `ipv6:[2001:db8::1]:5000`.
    """
    text = peer.replace("%5B", "[").replace("%5D", "]")
    for prefix in ("ipv4:", "ipv6:"):
        text = text.removeprefix(prefix)
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return "elsewhere"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
