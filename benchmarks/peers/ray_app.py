"""Ray Serve, batching on, one replica for each core: `python -m benchmarks.peers.ray_app`."""

import os
import signal
import threading

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.classifying import load

WORKERS, PORT = int(os.environ["PEER_WORKERS"]), int(os.environ["PEER_PORT"])


@serve.deployment(num_replicas=WORKERS, ray_actor_options={"num_cpus": 1}, max_ongoing_requests=64)
class Photos:
    def __init__(self) -> None:
        self.classify = load()

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.005)
    async def many(self, photos: list[bytes]) -> list[str]:
        return self.classify(photos)

    async def __call__(self, request: Request) -> dict[str, str]:
        return {"label": await self.many(await request.body())}


if __name__ == "__main__":
    ray.init(num_cpus=WORKERS, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"enable_access_log": False})
    serve.run(Photos.bind())
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()
    ray.shutdown()
