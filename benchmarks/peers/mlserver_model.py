"""A custom runtime of MLServer: photos in a BYTES tensor, base64 in JSON, as its content types say."""

from mlserver import MLModel
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.classifying import load


class Photos(MLModel):
    async def load(self) -> bool:
        self.classify = load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        photos = self.decode(payload.inputs[0], default_codec=Base64Codec)
        labels = StringCodec.encode_output("label", self.classify(photos))
        return InferenceResponse(model_name=self.name, outputs=[labels])
