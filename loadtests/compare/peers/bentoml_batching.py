"""BentoML's own adaptive batching behind `depends()`.

A service takes the request and hands the picture to a second one whose API is batchable, as in
https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html; the model's service has `workers="cpu_count"`, as
https://docs.bentoml.com/en/latest/build-with-bentoml/parallelize-requests.html says of work that keeps the processor
busy. `max_latency_ms` stays at its default of 60 s: below a batch's real latency the dispatcher refuses requests.
No server here logs its requests.
"""

from typing import Annotated

import bentoml

from loadtests.compare.peers.customer import Customer
from loadtests.compare.work import Answer, from_environment, setting

QUIET = {"access": {"enabled": False}}


@bentoml.service(workers="cpu_count", logging=QUIET)
class Model:
    """Classifies the batches that the dispatcher makes; one of its two APIs is used, by the kind of the model."""

    def __init__(self) -> None:
        self.work = from_environment()

    @bentoml.api(batchable=True, max_batch_size=setting("BATCH"))
    def classify(self, pictures: list[bytes]) -> list[Answer]:
        """Classify a batch."""
        return self.work.batch(pictures)

    @bentoml.api(batchable=True, max_batch_size=setting("BATCH"))
    def classify_rows(self, rows: list[dict[str, float]]) -> list[Answer]:
        """Classify a batch of rows."""
        return self.work.batch(rows)


@bentoml.service(traffic={"timeout": 60}, logging=QUIET)
class Api:
    """Answers clients."""

    model = bentoml.depends(Model)

    @bentoml.api(route="/predict")
    async def predict(self, data: Annotated[bytes, bentoml.validators.ContentType("image/jpeg")], /) -> Answer:
        """Classify one picture."""
        answers: list[Answer] = await self.model.to_async.classify([data])
        return answers[0]

    @bentoml.api(route="/predict-row")
    async def predict_row(self, row: Customer, /) -> Answer:
        """Classify one row."""
        answers: list[Answer] = await self.model.to_async.classify_rows([row.model_dump()])
        return answers[0]
