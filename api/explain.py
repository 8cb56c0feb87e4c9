"""Explanations: a prediction and where the model looked, from one pass of the Grad-CAM runner."""

import base64
from typing import NamedTuple

from fastapi import Request
from starlette.datastructures import QueryParams
from starlette.responses import Response

from api.body import read_one
from api.images import ALPHA, Pictures, prediction
from api.openapi import QUERY, QueryRow
from api.parameters import number, one_of, read_parameters
from api.schemas import ExplainedPrediction, ExplanationFacts
from api.waiting import race, timing_of
from errors import InvalidInput, NoExplanation
from explain.base import METHOD_NAMES, PREDICTED
from explain.overlay import OUTPUTS, Output
from models.card import ImageCard
from runners.runner import Answer
from serving.gradcam.worker import Ask, Explained
from serving.loaded_model import ServedModel

FORMATS, SIZES = ("json", "png"), ("original", "input")
EXPLAIN_QUERY: list[QueryRow] = [
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


def read_drawing(query: QueryParams, card: ImageCard) -> Drawing:
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
    indices = [str(index) for index in range(len(labels))]
    if text in indices:
        return indices.index(text)
    some = ", ".join(labels[:20]) + (", …" if len(labels) > 20 else "")
    raise InvalidInput(f"target={text!r}: must be a label ({some}) or its index, 0 to {len(labels) - 1}.")


async def explain_picture(pictures: Pictures, model: ServedModel, request: Request) -> Response:
    """Answer with a prediction and where the model looked.

    Raises:
        NoExplanation: the model has none; the message says why.
    """
    card = model.card
    if model.unexplained or not isinstance(card, ImageCard):
        raise NoExplanation(f"There is no explanation: {model.unexplained}.")
    parameters = read_parameters(request.query_params, card)
    drawing = read_drawing(request.query_params, card)
    deadline = pictures.deadline(parameters.timeout_ms)
    upload = await read_one(request)
    ask = Ask(
        upload.data,
        drawing.target,
        drawing.method,
        drawing.output,
        drawing.alpha,
        drawing.at_input_size,
        parameters.threshold,
    )
    answer = await race(pictures.explain(model, ask, deadline), request, deadline)
    headers = timing_of([answer])
    if drawing.format == "png":
        return Response(answer.value.picture, 200, headers, "image/png")
    said = prediction(model, card, answer, parameters, request.state.request_id)
    picture = answer.value.picture
    said.gradcam_heatmap = base64.b64encode(picture).decode() if picture else None
    body = ExplainedPrediction(
        **said.model_dump(exclude={"explanation_error"}), explanation=facts_of(card, answer, drawing)
    )
    return Response(body.model_dump_json(exclude={"explanation_error"}), 200, headers, "application/json")


def facts_of(card: ImageCard, answer: Answer[Explained], drawing: Drawing) -> ExplanationFacts:
    """What was explained, and how."""
    explained = answer.value
    rows = [[float(f"{value:.6g}") for value in row] for row in explained.map] if drawing.output == "map" else None
    return ExplanationFacts(
        method=drawing.method,
        target=card.labels[explained.target],
        target_class_id=explained.target,
        layer=card.explain.layer if card.explain else "",
        output=drawing.output,
        alpha=drawing.alpha if drawing.output == "overlay" else None,
        size=list(explained.size),
        map=rows,
        time_ms=round(answer.decode_ms + answer.infer_ms, 3),
    )
