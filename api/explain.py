"""The explain routes: a prediction and where the model looked, from one pass of the Grad-CAM runner."""

import base64
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from starlette.datastructures import QueryParams
from starlette.responses import Response

from api.body import read_one
from api.parameters import number, one_of, read_parameters
from api.predict import ALPHA, ERRORS, FORM, QUERY, Predictor, body_of, prediction, race, timing_of
from api.schemas import ExplainedPrediction, ExplanationFacts
from errors import InvalidInput, NoExplanation
from explain.base import METHOD_NAMES, PREDICTED
from explain.overlay import OUTPUTS, Output
from models.card import ModelCard
from runners.explained import Ask, Explained
from runners.runner import Answer
from runners.served import ServedModel, ServedModels

FORMATS, SIZES = ("json", "png"), ("original", "input")
_QUERY: list[tuple[str, dict[str, Any], str]] = [
    ("format", {"type": "string", "enum": list(FORMATS)}, "json, or the picture itself."),
    (
        "output",
        {"type": "string", "enum": list(OUTPUTS)},
        "The heatmap over the picture, the bare heatmap, the numbers.",
    ),
    ("target", {"type": "string"}, "The class to explain, by label or index; the predicted one by default."),
    ("method", {"type": "string", "enum": list(METHOD_NAMES)}, "Instead of the card's."),
    (
        "alpha",
        {"type": "number", "minimum": 0, "maximum": 1},
        f"Opacity of the overlay at its peak; {ALPHA} by default.",
    ),
    ("size", {"type": "string", "enum": list(SIZES)}, "Of the picture: the upload's own, or the model's input."),
    *(row for row in QUERY if row[0] != "include_gradcam"),
]


class Drawing(NamedTuple):
    """What a client may ask of an explanation."""

    format: str
    output: Output
    target: int
    method: str
    alpha: float
    at_input_size: bool


def read_drawing(query: QueryParams, card: ModelCard) -> Drawing:
    """Read and check the query of an explanation.

    Raises:
        InvalidInput: names the parameter, its value and what is allowed.
    """
    how = one_of(query, "format", FORMATS, "json")
    output = one_of(query, "output", OUTPUTS, "overlay")
    if (how, output) == ("png", "map"):
        raise InvalidInput("format=png&output=map: a map is numbers. Ask for output=heatmap, or for format=json.")
    alpha = number(query, "alpha", 0.0, 1.0)
    return Drawing(
        how,
        output,  # type: ignore[arg-type]
        _target(query.get("target"), card.labels),
        one_of(query, "method", METHOD_NAMES, card.explain.method if card.explain else METHOD_NAMES[0]),
        ALPHA if alpha is None else alpha,
        one_of(query, "size", SIZES, "original") == "input",
    )


def _target(text: str | None, labels: tuple[str, ...]) -> int:
    if text is None:
        return PREDICTED
    if text in labels:
        return labels.index(text)
    if text.isascii() and text.isdigit() and int(text) < len(labels):
        return int(text)
    some = ", ".join(labels[:20]) + (", …" if len(labels) > 20 else "")
    raise InvalidInput(f"target={text!r}: must be a label ({some}) or its index, 0 to {len(labels) - 1}.")


class Explaining:
    """Explains with the models of one process."""

    def __init__(self, served: ServedModels, predictor: Predictor) -> None:
        self._served, self._predictor = served, predictor

    def routes(self) -> APIRouter:
        """The routes with and without a model's name."""
        router = APIRouter(tags=["explain"], responses=ERRORS)
        for path, endpoint in (("/models/{name}/explain", self.named), ("/explain", self.default)):
            router.add_api_route(
                path,
                endpoint,
                methods=["POST"],
                response_model=ExplainedPrediction,
                openapi_extra=body_of(FORM, _QUERY, raw=True),
                summary="Predict one picture and show where the model looked",
            )
        return router

    async def named(self, request: Request, name: str) -> Response:
        """A prediction and its heatmap: model attention, not a lesion's outline."""
        return await self._explain(request, name)

    async def default(self, request: Request) -> Response:
        """A prediction and its heatmap with the default model."""
        return await self._explain(request, None)

    async def _explain(self, request: Request, name: str | None) -> Response:
        model = self._served.get(name)
        if model.unexplained:
            raise NoExplanation(f"There is no explanation: {model.unexplained}.")
        parameters = read_parameters(request.query_params, len(model.card.labels))
        drawing = read_drawing(request.query_params, model.card)
        deadline = self._predictor.deadline(parameters)
        upload = await read_one(request)
        ask = Ask(upload.data, drawing.target, drawing.method, drawing.output, drawing.alpha, drawing.at_input_size)
        answer = await race(self._predictor.explain(model, ask, deadline), request, deadline)
        headers = timing_of([answer])
        if drawing.format == "png":
            return Response(answer.value.picture, 200, headers, "image/png")
        said = prediction(model, answer, parameters, request.state.request_id)
        picture = answer.value.picture
        said.gradcam_heatmap = base64.b64encode(picture).decode() if picture else None
        body = ExplainedPrediction(
            **said.model_dump(exclude={"explanation_error"}), explanation=facts_of(model, answer, drawing)
        )
        return Response(body.model_dump_json(exclude={"explanation_error"}), 200, headers, "application/json")


def facts_of(model: ServedModel, answer: Answer[Explained], drawing: Drawing) -> ExplanationFacts:
    """What was explained, and how."""
    explained = answer.value
    rows = [[float(f"{value:.6g}") for value in row] for row in explained.map] if drawing.output == "map" else None
    return ExplanationFacts(
        method=drawing.method,
        target=model.card.labels[explained.target],
        target_class_id=explained.target,
        layer=model.card.explain.layer if model.card.explain else "",
        output=drawing.output,
        alpha=drawing.alpha if drawing.output == "overlay" else None,
        size=list(explained.size),
        map=rows,
        time_ms=round(answer.decode_ms + answer.infer_ms, 3),
    )
