"""BentoML, adaptive batching on, one worker for each core: `bentoml serve benchmarks.peers.bentoml_service:Photos`."""

import os
from pathlib import Path

import bentoml

from benchmarks.peers.classifying import load


@bentoml.service(workers=int(os.environ["PEER_WORKERS"]), traffic={"timeout": 60})
class Photos:
    def __init__(self) -> None:
        self.classify = load()

    @bentoml.api(batchable=True, max_batch_size=16)
    def predict(self, photos: list[Path]) -> list[str]:
        return self.classify([photo.read_bytes() for photo in photos])
