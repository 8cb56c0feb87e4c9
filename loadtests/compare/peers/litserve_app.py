"""LitServe: as many workers as cores, as its reference advises on a CPU, and its ZeroMQ queue for over 100 requests/s.

https://lightning.ai/docs/litserve/api-reference/litserver (`workers_per_device`, `fast_queue`); as many HTTP servers as
workers, its default. A picture comes as base64 in JSON, as in its own `ImageInput`, a row as the JSON itself. Batching
only where the regime has a batch over 1: https://lightning.ai/docs/litserve/features/batching
"""

import base64
from typing import Any

import litserve

from loadtests.compare.work import Answer, Payload, from_environment, setting


class Classifier(litserve.LitAPI):
    """Classifies pictures or rows in a worker process."""

    def setup(self, device: str) -> None:
        """Load the model, once in each worker."""
        self.work = from_environment()

    def decode_request(self, request: dict[str, Any]) -> Payload:
        """Take the picture out of the JSON; a row is the JSON."""
        return base64.b64decode(request["image_data"]) if "image_data" in request else request

    def batch(self, inputs: list[Payload]) -> list[Payload]:
        """Return the payloads as a list: pictures differ in length."""
        return inputs

    def predict(self, x: Any) -> Any:
        """Classify one payload, or a list of them."""
        return self.work.batch(x) if isinstance(x, list) else self.work(x)

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        """Return the answers as a list."""
        return output

    def encode_response(self, output: Answer) -> Answer:
        """Return the answer as it is."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Classifier(max_batch_size=setting("BATCH"), batch_timeout=0.0),
        accelerator="cpu",
        workers_per_device=setting("WORKERS"),
        fast_queue=True,
        timeout=60,
    )
    server.run(host="127.0.0.1", port=setting("PORT"), log_level="warning", generate_client_file=False)
