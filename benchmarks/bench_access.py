"""What access control, counting and tracing cost a request, in microseconds of CPU.

    uv run python -m benchmarks.bench_access [redis://127.0.0.1:6379]

Every figure is the least of five rounds: what the code costs, not what else the machine does.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from serving import traces
from serving.access.gate import KeyGate
from serving.access.jwks import Jwks
from serving.access.keys import new_key
from serving.access.rates import Rates
from serving.access.tokens import Tokens
from serving.components.base import Call
from serving.metrics import Metrics
from serving.photos import Photo
from serving.problems import Problem
from tests import issuer as issued
from tests.gates import Store

ROUNDS, EACH = 5, 2000
PLENTY = "100000000/second"


async def cost(work: Callable[[], Awaitable[Any]], each: int = EACH) -> float:
    """Microseconds of CPU of this thread, once."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(each):
            await work()
        best = min(best, (time.thread_time() - start) / each)
    return round(1e6 * best, 1)


async def gate_rows(folder: Path) -> dict[str, float]:
    store = Store()
    plain, bound = store.add(), store.add(rate=PLENTY, daily_quota=10**9)
    jwks = folder / "jwks.json"
    jwks.write_text(json.dumps(issued.ALL_KEYS))
    tokens = Tokens(issued.ISSUER, issued.AUDIENCE, Jwks(str(jwks)))
    gate = KeyGate(store, tokens=tokens, failures="100000000/minute", poll_s=3600)
    await gate.start()

    async def admit(credentials: str) -> None:
        try:
            await gate.admit(f"Bearer {credentials}", scope="infer", peer="203.0.113.9")
        except Problem as problem:
            if problem.detail != "key_unknown":
                raise

    unknown, token = new_key()[0], issued.token()
    found = {
        "a key": await cost(lambda: admit(plain)),
        "a key with a rate and a quota": await cost(lambda: admit(bound)),
        "an unknown key": await cost(lambda: admit(unknown)),
        "a token that is remembered": await cost(lambda: admit(token)),
    }
    for signer, (_, algorithm) in issued.SIGNERS.items():
        fresh = iter([issued.token(signer, signer=signer, sub=f"{number}") for number in range(ROUNDS * 50)])
        found[f"a token seen first, {algorithm}"] = await cost(lambda fresh=fresh: admit(next(fresh)), 50)
    await gate.stop()
    return found


async def redis_row(url: str) -> dict[str, float]:
    rates = Rates(url)
    rate = rates.rate(PLENTY)
    return {"a rate in Redis": await cost(lambda: rates.take(rate, "key"), 500)}


async def metrics_rows() -> dict[str, float]:
    metrics = Metrics()
    metrics.watch(models=["classy"])
    call, found = Call(seconds={"classifier": 0.003}), {}
    for count in (1, 16):
        spent = {"queue": 0.001, "features": 0.0001, "model": 0.002}
        photos = [Photo(arm="champion", model_version="3", seconds=dict(spent)) for _ in range(count)]

        async def observe(photos: list[Photo] = photos) -> None:
            metrics.observe("classy", call, photos, 200, seconds=0.004)

        found[f"counting a request of {count}"] = await cost(observe)
    return found


async def span_rows() -> dict[str, float]:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    async def span() -> None:
        with traces.span("stage", photos=1):
            pass

    found = {"a span, tracing off": await cost(span)}
    traces.begin(BatchSpanProcessor(InMemorySpanExporter()))
    found["a span, tracing on"] = await cost(span)
    traces.stop()
    return found


async def main(redis: str = "") -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = {**await gate_rows(Path(folder)), **await metrics_rows(), **await span_rows()}
    if redis:
        rows |= await redis_row(redis)
    for name, spent in rows.items():
        print(f"{spent:8.1f}  {name}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
