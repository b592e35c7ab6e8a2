"""LitServe, batching on, one worker for each core, photos as base64 in JSON as in its own guide to speed."""

import base64
import os

import litserve as ls

from benchmarks.peers.classifying import Pixels, load


class Photos(ls.LitAPI):
    def setup(self, device: str) -> None:
        self.classifying = load()

    def decode_request(self, request: dict[str, str]) -> Pixels:
        return self.classifying.decode(base64.b64decode(request["image_data"]))

    def batch(self, inputs: list[Pixels]) -> list[Pixels]:
        return inputs

    def predict(self, inputs: list[Pixels]) -> list[str]:
        return self.classifying.label(inputs)

    def unbatch(self, output: list[str]) -> list[str]:
        return output

    def encode_response(self, output: str) -> dict[str, str]:
        return {"label": output}


if __name__ == "__main__":
    api = Photos(max_batch_size=16, batch_timeout=0.005)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=int(os.environ["PEER_WORKERS"]))
    server.run(host="127.0.0.1", port=int(os.environ["PEER_PORT"]), generate_client_file=False, log_level="warning")
