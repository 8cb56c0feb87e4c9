"""MLServer: a custom runtime, and as many parallel workers as cores.

https://docs.seldon.ai/mlserver/user-guide/custom (the runtime), and for `parallel_workers`
https://docs.seldon.ai/seldon-core-2/user-guide/performance-tuning/models/inference . A picture comes as its
`Base64Codec` encodes it, a row as a tensor for each value (`NumpyCodec`), and the answer goes back as JSON text
(`StringCodec`). Adaptive batching is off, its default.
"""

import json

from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from loadtests.compare.work import Payload, from_environment


class Classifier(MLModel):
    """Classifies pictures or rows, one run at a time in each of its processes."""

    async def load(self) -> bool:
        """Load the model, once in each worker."""
        self.work = from_environment()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Classify one picture or row."""
        answer = StringCodec.encode_output("answer", [json.dumps(self.work(_decoded(payload)))])
        return InferenceResponse(model_name=self.name, outputs=[answer])


def _decoded(payload: InferenceRequest) -> Payload:
    if payload.inputs[0].datatype == "BYTES":
        picture: bytes = Base64Codec.decode_input(payload.inputs[0])[0]
        return picture
    return {value.name: NumpyCodec.decode_input(value).item() for value in payload.inputs}
