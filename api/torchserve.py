"""TorchServe's inference interface: health, predictions and explanations at its routes, in its forms."""

from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.body import is_json, read_json, read_one
from api.caller import HttpCaller, timing_headers
from api.grants import check_scope
from api.instances import Instances, Predicted, explain_instances, predict_instances
from api.kserve_v1 import read_instances
from api.openapi import torchserve_body
from api.operation import Operation, at_paths
from api.parameters import RankedQuery, prediction_query
from api.target import requested_model
from models.card import Card, ImageCard, as_row_card
from postprocessing.anomaly import Anomalies
from postprocessing.classification import Classifications
from postprocessing.regression import Regressions
from serving.loaded_model import LoadedModel
from serving.predictions import PredictionParameters
from serving.predictor import Predictor
from serving.repository import ModelRepository

TAG = "torchserve"
FIELDS = ("data", "body")
"""The fields of a form that TorchServe's handlers look for."""
TOP_K = 5
"""How many labels its `image_classifier` answers with."""
NEWS_MAX_AGE_S = 0.5
"""How old the other workers' news may be where health is asked for, in seconds."""


class TorchServe:
    """Answers as TorchServe did for the models of one process.

    Args:
        repository: the models.
        predictor: the core.
    """

    def __init__(self, repository: ModelRepository, predictor: Predictor) -> None:
        self._repository, self._predictor = repository, predictor

    def operations(self) -> list[Operation]:
        """Return every operation; `curl -T` sends PUT, which is answered as POST is."""
        operations = at_paths("GET", ["/ping"], self.ping, tag=TAG)
        for action, endpoint in (("predictions", self.predictions), ("explanations", self.explanations)):
            paths = [f"/{action}/{{name}}", f"/{action}/{{name}}/{{version}}"]
            details: dict[str, Any] = {"tag": TAG, "query": RankedQuery, "body": torchserve_body(), "problems": True}
            operations += at_paths("POST", paths, endpoint, **details)
            operations += [Operation("PUT", path, endpoint, documented=False) for path in paths]
        return operations

    async def ping(self, request: Request) -> Response:
        """Health: 200 once the default model predicts and no other is still loading, else 503."""
        await self._repository.refresh(max_age_s=NEWS_MAX_AGE_S)
        ready = self._repository.ready
        return JSONResponse({"status": "Healthy" if ready else "Unhealthy"}, 200 if ready else 503)

    async def predictions(self, request: Request) -> Response:
        """The five most probable labels of a picture or row, each with its probability; a regressor's values."""
        model = requested_model(self._repository, request)
        check_scope(model.name, "predict")
        model.check_room(for_lanes=isinstance(model.card, ImageCard))
        instances, parameters, deadline = await self._read(request, model)
        caller = HttpCaller(request)
        predicted = await predict_instances(self._predictor, model, instances, parameters, deadline, caller)
        answers = prediction_fields(predicted, model.card)
        body = {"predictions": answers} if instances.are_listed else answers[0]
        return JSONResponse(body, headers=timing_headers(predicted.answers))

    async def explanations(self, request: Request) -> Response:
        """Where the model looked in a picture for its label, one channel of numbers; or a row's attributions."""
        model = requested_model(self._repository, request)
        check_scope(model.name, "explain")
        model.check_explainable()
        instances, parameters, deadline = await self._read(request, model)
        caller = HttpCaller(request)
        predicted = await explain_instances(self._predictor, model, instances, parameters, deadline, caller)
        has_maps, explanations = isinstance(model.card, ImageCard), predicted.explanations
        answers = [[rows] for rows in explanations] if has_maps else list(explanations)
        body = {"explanations": answers} if instances.are_listed else answers[0]
        return JSONResponse(body, headers=timing_headers(predicted.answers))

    async def _read(self, request: Request, model: LoadedModel) -> tuple[Instances, PredictionParameters, float]:
        """Return what a request brings, what it asks of the predictions, and when it has to be answered."""
        model.check_ready()  # before the body is read
        card = model.card
        query = prediction_query(card).read(request.scope["query_string"], card)
        deadline = self._predictor.deadline(query.timeout_ms)
        parameters = PredictionParameters(
            query.threshold, query.top_k or min(self._predictor.top_k or TOP_K, len(card.labels))
        )
        if not isinstance(card, ImageCard):
            return (
                _json_instances(await read_json(request, model.large_json, card.limits.max_bytes)),
                parameters,
                deadline,
            )
        if is_json(request):
            return _json_instances(await read_json(request, model.large_json)), parameters, deadline
        upload = await read_one(request, FIELDS)
        return Instances([upload.data], are_listed=False), parameters, deadline


def prediction_fields(predicted: Predicted, card: Card) -> list[dict[str, Any]]:
    """Return of each picture or row its most probable labels with their probabilities.

    Of a detector, this is what it says of the row; of a regressor, the values by their names.
    """
    results = predicted.results
    if isinstance(results, Anomalies):
        return [anomaly._asdict() for anomaly in results.one_by_one(as_row_card(card))]
    if isinstance(results, Regressions):
        names = [output.name for output in as_row_card(card).outputs]
        return [dict(zip(names, values, strict=True)) for values in results.values.tolist()]
    if isinstance(results, Classifications):
        probabilities = np.take_along_axis(results.probabilities, results.most_probable, axis=1)
        rows = zip(results.most_probable.tolist(), probabilities.tolist(), strict=True)
        return [{card.labels[place]: number for place, number in zip(*row, strict=True)} for row in rows]
    return [{ranked.label: ranked.probability for ranked in classification.top} for classification in results]


def _json_instances(body: Any) -> Instances:
    """Return what JSON brings: the list of its `instances`, or itself as the only one."""
    if isinstance(body, dict) and "instances" in body:
        return read_instances(body)
    return Instances([body], are_listed=False)
