"""What OpenAPI says of the prediction routes: bodies, parameters, errors; of rows, made from the model's card."""

from collections.abc import Sequence
from typing import Any

from api.schemas import Problem
from models.card import RowCard
from preprocessing.spec import Feature, Identifier

QueryRow = tuple[str, dict[str, Any], str]

_PICTURE = {"schema": {"type": "string", "format": "binary"}}
FORM = {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"]}
FORMS = {
    "type": "object",
    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    "required": ["files"],
}
_TIMEOUT: QueryRow = ("timeout_ms", {"type": "number", "minimum": 1}, "Answer 504 rather than later than this.")
QUERY: list[QueryRow] = [
    ("threshold", {"type": "number", "minimum": 0, "maximum": 1}, "Instead of the card's."),
    ("top_k", {"type": "integer", "minimum": 1}, "How many of the most probable labels to list in `top`."),
    _TIMEOUT,
    ("include_gradcam", {"type": "boolean"}, "Ask for a heatmap; `explanation_error` says why there is none."),
]
DETECTOR_QUERY: list[QueryRow] = [("threshold", {"type": "number", "minimum": 0}, "Instead of the card's."), _TIMEOUT]
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text, "content": {"application/problem+json": {}}}
    for status, text in (
        (400, "Not what the model takes, damaged, wrong field or parameter"),
        (401, "No API key, or a wrong one; only where keys are asked for"),
        (404, "Unknown model; the known ones are listed"),
        (413, "Too many bytes or pixels"),
        (429, "The queue is full; see Retry-After"),
        (503, "Starting, draining, or the self-check failed"),
        (504, "The deadline passed"),
    )
}


def picture_body(form: dict[str, Any], query: Sequence[QueryRow], *, raw: bool) -> dict[str, Any]:
    """Of a route that takes pictures."""
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    if raw:
        content |= {"image/png": _PICTURE, "image/jpeg": _PICTURE}
    return {"requestBody": {"required": True, "content": content}, "parameters": _listed(query)}


def row_body(card: RowCard, *, many: bool) -> dict[str, Any]:
    """Of a route that takes rows, with an example that works."""
    row, example = row_schema(card), example_of(card)
    detector = card.task == "anomaly-detection"
    schema: dict[str, Any]
    body: Any
    if many:
        name = "readings" if detector else "samples"
        rows = {"type": "array", "items": row, "minItems": 1, "maxItems": card.limits.max_items}
        schema, body = _object({name: rows}), {name: [example]}
    elif detector:
        schema, body = row, example
    else:
        schema, body = _object({"features": row}), {"features": example}
    content = {"application/json": {"schema": schema, "example": body}}
    query = DETECTOR_QUERY if detector else QUERY[:-1]
    return {"requestBody": {"required": True, "content": content}, "parameters": _listed(query)}


def row_schema(card: RowCard) -> dict[str, Any]:
    """The JSON schema of one row."""
    return _object({each.name: _property(each) for each in card.input.entries})


def example_of(card: RowCard) -> dict[str, Any]:
    """A row that the card allows."""
    return {each.name: each.example for each in card.input.entries}


def _property(each: Feature | Identifier) -> dict[str, Any]:
    said = {"description": each.description} if each.description else {}
    if isinstance(each, Feature):
        unit = {"description": f"{each.description} ({each.unit})".strip()} if each.unit else said
        return {"type": "number", "minimum": each.low, "maximum": each.high, **unit}
    if each.kind == "text":
        return {"type": "string", "minLength": 1, "maxLength": each.max_length, **said}
    return {"type": "string", "format": "date-time", **said}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _listed(query: Sequence[QueryRow]) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", "schema": schema, "description": text} for name, schema, text in query]
