"""The prediction routes: those of every model under its name, those of each version, and the default model's."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.explain import EXPLAIN_QUERY, explain_picture
from api.images import Pictures
from api.openapi import ERRORS, FORM, FORMS, QUERY, picture_body, row_body
from api.rows import predict_rows
from api.schemas import AnomalyPrediction, BatchAnswer, ExplainedPrediction, Prediction, RowBatchAnswer, RowPrediction
from api.shortcut import Endpoint
from models.card import Card, ImageCard
from serving.gradcam.client import RemoteExplainer
from serving.loaded_model import ServedModel
from serving.repository import ServedModels
from settings import Settings

Answerer = Callable[[ServedModel, Request], Awaitable[Response]]


class Predictor:
    """Answers for the models of one process."""

    def __init__(self, served: ServedModels, settings: Settings, explainer: RemoteExplainer | None) -> None:
        self._served, self._timeout_ms = served, settings.timeout_ms
        self._pictures = Pictures(settings.timeout_ms, explainer)

    def routes(self) -> APIRouter:
        """Every route; OpenAPI shows each model's own, with the bodies that its card asks for."""
        router = APIRouter(responses=ERRORS)
        for name, model in sorted(self._served.models.items()):
            self._add(router, f"/models/{name}", name, model.card, name)
        default = self._served.models.get(self._served.default)
        if default is not None:
            self._add(router, "", None, default.card, "default model")
        actions = (("predict", self.one), ("predict/batch", self.many), ("explain", self.explain), ("infer", self.one))
        for action, answer in actions:
            # After those above, and for what they leave: unknown names, versions, a default model that is not there.
            paths = ["", *(["/models/{name}", "/models/{name}/versions/{version}"] if action != "infer" else [])]
            for path in paths:
                router.add_api_route(
                    f"{path}/{action}", self._to(answer, None), methods=["POST"], include_in_schema=False
                )
        return router

    def shortcuts(self) -> dict[str, Endpoint]:
        """The routes of one picture or row, by their exact paths: the same endpoints that `routes` documents."""
        named: dict[str, str | None] = {f"/models/{name}": name for name in self._served.models}
        if self._served.default in self._served.models:
            named[""] = None
        return {f"{prefix}/predict": self._to(self.one, name) for prefix, name in named.items()}

    async def one(self, model: ServedModel, request: Request) -> Response:
        """One picture or one row."""
        if isinstance(model.card, ImageCard):
            return await self._pictures.one(model, model.card, request)
        return await predict_rows(model, model.card, request, self._timeout_ms, batch=False)

    async def many(self, model: ServedModel, request: Request) -> Response:
        """Several pictures or rows; one that is wrong fails alone."""
        if isinstance(model.card, ImageCard):
            return await self._pictures.many(model, model.card, request)
        return await predict_rows(model, model.card, request, self._timeout_ms, batch=True)

    async def explain(self, model: ServedModel, request: Request) -> Response:
        """One picture and where the model looked."""
        return await explain_picture(self._pictures, model, request)

    def _to(self, answer: Answerer, name: str | None) -> Endpoint:
        """An endpoint for a model that is named here, else by the path, else the default one."""

        async def endpoint(request: Request) -> Response:
            path = request.path_params
            return await answer(self._served.get(name or path.get("name"), path.get("version")), request)

        return endpoint

    def _add(self, router: APIRouter, prefix: str, name: str | None, card: Card, tag: str) -> None:
        """The documented routes of one model."""

        def add(path: str, answer: Answerer, model: Any, summary: str, extra: dict[str, Any]) -> None:
            router.add_api_route(
                f"{prefix}/{path}",
                self._to(answer, name),
                methods=["POST"],
                response_model=model,
                openapi_extra=extra,
                summary=summary,
                description=card.description,
                tags=[tag],
                operation_id=f"{path.replace('/', '_')}_{(name or 'default').replace('-', '_')}",
            )

        if isinstance(card, ImageCard):
            add("predict", self.one, Prediction, "Predict one picture", picture_body(FORM, QUERY, raw=True))
            many = picture_body(FORMS, QUERY, raw=False)
            add("predict/batch", self.many, BatchAnswer, "Predict several pictures", many)
            explain = picture_body(FORM, EXPLAIN_QUERY, raw=True)
            add(
                "explain",
                self.explain,
                ExplainedPrediction,
                "Predict one picture and show where the model looked",
                explain,
            )
        else:
            answered = AnomalyPrediction if card.task == "anomaly-detection" else RowPrediction
            add("predict", self.one, answered, "Predict one row", row_body(card, many=False))
            add("predict/batch", self.many, RowBatchAnswer, "Predict several rows", row_body(card, many=True))
