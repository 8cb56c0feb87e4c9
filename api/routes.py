"""The operations that predict: those of every model under its name, those of each version, and the default model's."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api import images, rows
from api.aliases import AnswerSchemas
from api.grants import check_scope
from api.openapi import image_body, images_body, row_body, rows_body
from api.operation import Operation
from api.parameters import ExplanationQuery, prediction_query
from api.restrictions import Action
from api.row_explanations import row_explanation_query
from models.card import Card, ImageCard
from serving.loaded_model import LoadedModel
from serving.predictor import Predictor
from serving.repository import ModelRepository

Answerer = Callable[[Predictor, LoadedModel, Request], Awaitable[Response]]


class PredictionRoutes:
    """The operations that predict with the models of one process.

    Args:
        repository: the models.
        predictor: predicts with them.
        schemas: the schemas of each model's answers, by its name.
    """

    def __init__(self, repository: ModelRepository, predictor: Predictor, schemas: Mapping[str, AnswerSchemas]) -> None:
        self._repository, self._predictor, self._schemas = repository, predictor, schemas

    def operations(self) -> list[Operation]:
        """Return every operation; OpenAPI shows each model's own, with the bodies that its card asks for."""
        operations = list[Operation]()
        default = self._repository.models.get(self._repository.default)
        if default is not None:
            operations += self._of_card("", None, default.card, "default model")
        for name, model in sorted(self._repository.models.items()):
            operations += self._of_card(f"/models/{name}", name, model.card, name)
        # These take what those above leave: unknown names, versions, and a default model that is not there.
        for action in (predict, predict_batch, explain, explain_batch):
            path = action.__name__.replace("_", "/")
            for prefix in ("", "/models/{name}", "/models/{name}/versions/{version}"):
                operations.append(Operation("POST", f"{prefix}/{path}", self._endpoint(action), documented=False))
        return [*operations, Operation("POST", "/infer", self._endpoint(predict), documented=False)]

    def _endpoint(self, action: Answerer, name: str | None = None) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint for the model of this name, else for the one in the path, else for the default one."""
        repository, predictor = self._repository, self._predictor
        kind: Action = "explain" if action.__name__.startswith("explain") else "predict"

        async def endpoint(request: Request) -> Response:
            path = request.path_params
            model = repository.get(name or path.get("name"), path.get("version"))
            request.scope["state"]["model"] = model
            check_scope(model.name, kind)
            return await action(predictor, model, request)

        return endpoint

    def _of_card(self, prefix: str, name: str | None, card: Card, tag: str) -> list[Operation]:
        """Return the documented operations of one model."""

        def operation(
            path: str,
            action: Answerer,
            summary: str,
            answer: type[BaseModel],
            query: type[BaseModel],
            body: dict[str, Any],
        ) -> Operation:
            return Operation(
                "POST",
                f"{prefix}/{path}",
                self._endpoint(action, name),
                tag=tag,
                answer=answer,
                query=query,
                body=body,
                has_picture=path == "explain",
                problems=True,
                summary=summary,
                description=card.description,
                operation_id=f"{path.replace('/', '_')}_{(name or 'default').replace('-', '_')}",
                template=f"/models/{{name}}/{path}" if name else "",
            )

        query, schemas = prediction_query(card), self._schemas[card.name]
        if isinstance(card, ImageCard):
            single, batch = image_body(), images_body()
            return [
                operation("predict", images.predict, "Predict one picture", schemas.prediction, query, single),
                operation(
                    "predict/batch", images.predict_batch, "Predict several pictures", schemas.batch, query, batch
                ),
                operation(
                    "explain",
                    images.explain,
                    "Predict one picture and show where the model looked",
                    schemas.explained,
                    ExplanationQuery,
                    single,
                ),
                operation(
                    "explain/batch",
                    images.explain_batch,
                    "Predict several pictures and show where the model looked",
                    schemas.explained_batch,
                    ExplanationQuery,
                    batch,
                ),
            ]
        single, batch = row_body(card), rows_body(card)
        return [
            operation("predict", rows.predict, "Predict one row", schemas.prediction, query, single),
            operation("predict/batch", rows.predict_batch, "Predict several rows", schemas.batch, query, batch),
            operation(
                "explain",
                rows.explain,
                "Predict one row and say what each feature counted for",
                schemas.explained,
                row_explanation_query(card),
                single,
            ),
            operation(
                "explain/batch",
                rows.explain_batch,
                "Predict several rows and say what each feature counted for",
                schemas.explained_batch,
                row_explanation_query(card),
                batch,
            ),
        ]


async def predict(predictor: Predictor, model: LoadedModel, request: Request) -> Response:
    """Answer with the prediction of one picture or row."""
    answer = images.predict if isinstance(model.card, ImageCard) else rows.predict
    return await answer(predictor, model, request)


async def predict_batch(predictor: Predictor, model: LoadedModel, request: Request) -> Response:
    """Answer with the predictions of several pictures or rows; one that is wrong fails alone."""
    answer = images.predict_batch if isinstance(model.card, ImageCard) else rows.predict_batch
    return await answer(predictor, model, request)


async def explain(predictor: Predictor, model: LoadedModel, request: Request) -> Response:
    """Answer with a prediction and why it was made: where the network looked, or what each feature counted for."""
    answer = images.explain if isinstance(model.card, ImageCard) else rows.explain
    return await answer(predictor, model, request)


async def explain_batch(predictor: Predictor, model: LoadedModel, request: Request) -> Response:
    """Answer with several predictions and why each was made; a picture or row that is wrong fails alone."""
    answer = images.explain_batch if isinstance(model.card, ImageCard) else rows.explain_batch
    return await answer(predictor, model, request)
