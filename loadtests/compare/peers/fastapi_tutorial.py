"""FastAPI as most tutorials use it: the model is loaded in the lifespan, a plain `def` classifies an uploaded file.

Its documentation has the model loaded in the lifespan (https://fastapi.tiangolo.com/advanced/events/), blocking code in
`def` so that a thread runs it (https://fastapi.tiangolo.com/async/), and several workers to use several cores
(https://fastapi.tiangolo.com/deployment/server-workers/): one a core, each with single-threaded runs.
A row is a Pydantic model (https://fastapi.tiangolo.com/tutorial/body/).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, UploadFile

from loadtests.compare.peers.customer import Customer
from loadtests.compare.work import Answer, Work, from_environment

models: dict[str, Work] = {}


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Load the model before the first request, drop it after the last."""
    models["classifier"] = from_environment()
    yield
    models.clear()


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
def predict(file: UploadFile) -> Answer:
    """Classify one uploaded picture."""
    return models["classifier"](file.file.read())


@app.post("/predict-row")
def predict_row(customer: Customer) -> Answer:
    """Classify one row."""
    return models["classifier"](customer.model_dump())
