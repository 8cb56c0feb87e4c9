"""Protocol V1 of KServe, which is TensorFlow Serving's REST interface with explanations: the operations under /v1."""

from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.body import read_json
from api.caller import HttpCaller, timing_headers
from api.grants import check_scope
from api.instances import Instances, Predicted, explain_instances, predict_instances
from api.openapi import instances_body
from api.operation import Operation, at_paths
from api.parameters import InstancesQuery, prediction_query
from api.target import requested_model
from errors import InvalidInput
from models.card import Card, RowCard, as_row_card
from postprocessing.anomaly import Anomalies
from postprocessing.classification import card_probabilities
from postprocessing.regression import Regressions
from serving.loaded_model import LoadedModel, State
from serving.predictions import PredictionParameters
from serving.predictor import Predictor
from serving.repository import ModelRepository

TAG = "kserve v1, tensorflow serving"
ADVICE = 'Send JSON: {"instances": […]}, a list with a picture as {"b64": "…"} or a row in each place.'
STATES: dict[State, str] = {
    "ready": "AVAILABLE",
    "loading": "LOADING",
    "checking": "LOADING",
    "draining": "UNLOADING",
}
"""TensorFlow Serving's words for our states; every other one is END."""


class KServeV1:
    """Answers under /v1 for the models of one process.

    Args:
        repository: the models.
        predictor: the core.
    """

    def __init__(self, repository: ModelRepository, predictor: Predictor) -> None:
        self._repository, self._predictor = repository, predictor

    def operations(self) -> list[Operation]:
        """Return every operation."""
        paths = ["/v1/models/{name}", "/v1/models/{name}/versions/{version}"]
        predicting: dict[str, Any] = {"tag": TAG, "query": InstancesQuery, "body": instances_body(), "problems": True}
        return [
            *at_paths("GET", ["/v1/models"], self.models, tag=TAG),
            *at_paths("GET", paths, self.model, tag=TAG),
            *at_paths("POST", [f"{path}:predict" for path in paths], self.predict, **predicting),
            *at_paths("POST", [f"{path}:explain" for path in paths], self.explain, **predicting),
        ]

    async def models(self, request: Request) -> Response:
        """The names of the models."""
        return JSONResponse({"models": sorted(self._repository.models)})

    async def model(self, request: Request) -> Response:
        """Whether a model answers, in KServe's words and in TensorFlow Serving's: 200, else 503."""
        model = requested_model(self._repository, request)
        ready = model.state == "ready"
        code = "OK" if ready else "UNAVAILABLE"
        status = {
            "version": model.version or "",
            "state": STATES.get(model.state, "END"),
            "status": {"error_code": code, "error_message": model.detail},
        }
        answer = {"name": model.name, "ready": ready, "model_version_status": [status]}
        return JSONResponse(answer, 200 if ready else 503)

    async def predict(self, request: Request) -> Response:
        """Predict the pictures or rows in `instances`, all or none: the probabilities of each in label order."""
        model = requested_model(self._repository, request)
        check_scope(model.name, "predict")
        model.check_room(for_lanes=not isinstance(model.card, RowCard))
        instances, parameters, deadline = await self._read(request, model)
        caller = HttpCaller(request)
        predicted = await predict_instances(self._predictor, model, instances, parameters, deadline, caller)
        answer = {"predictions": prediction_values(predicted, model.card)}
        return JSONResponse(answer, headers=timing_headers(predicted.answers))

    async def explain(self, request: Request) -> Response:
        """Predict the pictures or rows in `instances`, with a map or the attributions of each."""
        model = requested_model(self._repository, request)
        check_scope(model.name, "explain")
        model.check_explainable()
        instances, parameters, deadline = await self._read(request, model)
        caller = HttpCaller(request)
        predicted = await explain_instances(self._predictor, model, instances, parameters, deadline, caller)
        answer = {"predictions": prediction_values(predicted, model.card), "explanations": list(predicted.explanations)}
        return JSONResponse(answer, headers=timing_headers(predicted.answers))

    async def _read(self, request: Request, model: LoadedModel) -> tuple[Instances, PredictionParameters, float]:
        """Return what a request brings, what it asks of the predictions, and when it has to be answered."""
        model.check_ready()  # before the body is read
        query = prediction_query(model.card).read(request.scope["query_string"], model.card)
        deadline = self._predictor.deadline(query.timeout_ms)
        limit = model.card.limits.max_bytes if isinstance(model.card, RowCard) else None
        body = await read_json(request, model.large_json, limit, instead_of_form=ADVICE)
        return read_instances(body), PredictionParameters(query.threshold), deadline


def read_instances(body: Any) -> Instances:
    """Return the values that a body lists as its `instances`.

    Raises:
        InvalidInput: the body has no such list.
    """
    instances = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(instances, list):
        raise InvalidInput(ADVICE)
    return Instances(instances)


def prediction_values(predicted: Predicted, card: Card) -> list[Any]:
    """Return what each picture or row is answered with.

    These are its probabilities in the order of the labels, what a detector says of it, or a regressor's values in the
    order of the card's outputs.
    """
    results = predicted.results
    if isinstance(results, Anomalies):
        return [anomaly._asdict() for anomaly in results.one_by_one(as_row_card(card))]
    if isinstance(results, Regressions):
        return list(results.values.tolist())
    return list(card_probabilities(np.stack(predicted.outputs), card).tolist())
