"""Mosec: one stage whose workers do the whole of a request, with one process for each core.

https://mosecorg.github.io/mosec/reference/interface.html (`append_worker`: `num`, `max_batch_size`, `max_wait_time`):
several processes to compute in parallel; batching only where the regime has a batch over 1, with its shortest wait.
"""

import json

from mosec import Server, Worker

from loadtests.compare.work import Answer, from_environment, setting

BATCH = setting("BATCH")


class Classifier(Worker):
    """Classifies pictures or rows as they were sent."""

    def __init__(self) -> None:
        self.work = from_environment()

    def deserialize(self, data: bytes) -> bytes:
        """Return the body as it is."""
        return data

    def forward(self, data: bytes | list[bytes]) -> Answer | list[Answer]:
        """Classify one payload, or a batch."""
        return self.work.batch(data) if isinstance(data, list) else self.work(data)

    def serialize(self, data: Answer) -> bytes:
        """Return the answer as JSON."""
        return json.dumps(data).encode()


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Classifier, num=setting("WORKERS"), max_batch_size=BATCH, max_wait_time=1 if BATCH > 1 else 0, timeout=60
    )
    server.run()
