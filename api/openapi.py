"""The OpenAPI 3.1 document, made of the operations, of pydantic's JSON schemas and of the models' cards."""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.operation import Operation
from api.schemas import Problem
from models.card import RowCard, is_detector
from preprocessing.row_spec import Feature, Identifier

REFERENCE = "#/components/schemas/{model}"
PROBLEMS = {
    400: "Not what the model takes, damaged, wrong field or parameter",
    401: "No API key, or a wrong one; only where keys are asked for",
    403: "The key may not use the model, or not for this",
    404: "Unknown model; the known ones are listed",
    413: "Too many bytes or pixels",
    429: "It would wait too long, or be late, or a quota of the key is used up; see Retry-After",
    503: "Starting, draining, or the self-check failed",
    504: "The deadline passed",
}
"""The problems that a prediction may answer with, by status."""
DESCRIPTION = "Image classifiers whose every prediction can be checked. Errors are RFC 9457 problem details."
KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
"""The two ways to send a key; Swagger UI makes its Authorize button of them."""

_FILE = {"type": "string", "format": "binary"}
_REQUEST_ID = {"request_id": {"type": "string", "description": "Given back, as X-Request-ID is."}}


def openapi_document(operations: Sequence[Operation], version: str, *, asks_for_keys: bool) -> dict[str, Any]:
    """Return the document of the documented operations.

    Args:
        operations: all of the API.
        version: Vitrine's own.
        asks_for_keys: whether requests need a key.
    """
    documented = [operation for operation in operations if operation.documented]
    answers = [operation.answer for operation in documented if operation.answer]
    models: dict[type[BaseModel], None] = dict.fromkeys([*answers, Problem])
    _, definitions = models_json_schema([(model, "serialization") for model in models], ref_template=REFERENCE)
    paths = dict[str, dict[str, Any]]()
    for operation in documented:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Vitrine", "description": DESCRIPTION, "version": version},
        "paths": paths,
        "components": {"schemas": definitions["$defs"]},
    }
    if asks_for_keys:
        document["components"]["securitySchemes"] = KEY_SCHEMES
        document["security"] = [{scheme: []} for scheme in KEY_SCHEMES]
    return document


def _described(operation: Operation) -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format(model=operation.answer.__name__)} if operation.answer else {}
    responses: dict[str, Any] = {
        "200": {"description": "Successful Response", "content": {"application/json": {"schema": schema}}}
    }
    if operation.has_picture:
        responses["200"]["content"]["image/png"] = {"schema": {"type": "string", "contentMediaType": "image/png"}}
    if operation.problems:
        problem = {"application/problem+json": {"schema": {"$ref": REFERENCE.format(model=Problem.__name__)}}}
        responses |= {str(status): {"description": text, "content": problem} for status, text in PROBLEMS.items()}
    described: dict[str, Any] = {"tags": [operation.tag], **operation.titles()}
    if parameters := [*_path_parameters(operation.path), *_query_parameters(operation.query)]:
        described["parameters"] = parameters
    if operation.body:
        described["requestBody"] = operation.body
    return described | {"responses": responses}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(query: type[BaseModel] | None) -> list[dict[str, Any]]:
    """Return a parameter for each field of the model that also checks them."""
    if query is None:
        return []
    parameters = []
    for name, schema in query.model_json_schema()["properties"].items():
        description = schema.pop("description", "")
        schema.pop("title", None)
        schema.pop("default", None)
        if "anyOf" in schema:  # an optional value: the null stands for leaving it out
            schema = next(option for option in schema["anyOf"] if option.get("type") != "null")
        parameters.append({"name": name, "in": "query", "schema": schema, "description": description})
    return parameters


def image_body() -> dict[str, Any]:
    """Return the description of a body with one picture: a form with a file, or the encoded picture itself."""
    form = {"type": "object", "properties": {"file": _FILE} | _REQUEST_ID, "required": ["file"]}
    content = {"multipart/form-data": {"schema": form}, "image/png": {"schema": _FILE}, "image/jpeg": {"schema": _FILE}}
    return {"required": True, "content": content}


def images_body() -> dict[str, Any]:
    """Return the description of a form with several pictures."""
    files = {"files": {"type": "array", "items": _FILE}}
    form = {"type": "object", "properties": files | _REQUEST_ID, "required": ["files"]}
    return {"required": True, "content": {"multipart/form-data": {"schema": form}}}


def instances_body() -> dict[str, Any]:
    """Return the description of a body with `instances`: pictures in base64 or numbers, or rows."""
    instances = {"type": "array", "minItems": 1, "items": {"type": ["object", "array", "string"]}}
    return _json_body(_object({"instances": instances}) | {"additionalProperties": True}, {"instances": [{"b64": "…"}]})


def torchserve_body() -> dict[str, Any]:
    """Return the description of what TorchServe's clients send: a form, the encoded picture itself, or JSON."""
    form = {"type": "object", "properties": {"data": _FILE}, "required": ["data"]}
    content = {"multipart/form-data": {"schema": form}, "image/png": {"schema": _FILE}, "image/jpeg": {"schema": _FILE}}
    return {
        "required": True,
        "content": {**content, "application/json": {"schema": {"type": ["object", "array", "string"]}}},
    }


def row_body(card: RowCard) -> dict[str, Any]:
    """Return the description of a body with one row, with an example that works."""
    row, example = row_schema(card), row_example(card)
    if is_detector(card):
        return _json_body(row, example)
    return _json_body(_object({"features": row}), {"features": example})


def rows_body(card: RowCard) -> dict[str, Any]:
    """Return the description of a body with several rows, with an example that works."""
    name = "readings" if is_detector(card) else "samples"
    rows = {"type": "array", "items": row_schema(card), "minItems": 1, "maxItems": card.limits.max_items}
    return _json_body(_object({name: rows}), {name: [row_example(card)]})


def row_schema(card: RowCard) -> dict[str, Any]:
    """Return the JSON schema of one row."""
    schema = _object({entry.name: _entry_schema(entry) for entry in card.input.entries})
    return schema | {"additionalProperties": card.input.unknown_fields == "ignore"}


def row_example(card: RowCard) -> dict[str, Any]:
    """Return a row that the card allows."""
    return {entry.name: entry.example for entry in card.input.entries}


def _entry_schema(entry: Feature | Identifier) -> dict[str, Any]:
    if isinstance(entry, Feature):
        text = f"{entry.description} ({entry.unit})".strip() if entry.unit else entry.description
        limits = _value_schema(entry)
    elif entry.kind == "text":
        text, limits = entry.description, {"type": "string", "minLength": 1, "maxLength": entry.max_length}
    else:
        text, limits = entry.description, {"type": "string", "format": "date-time"}
    return limits | ({"description": text} if text else {})


def _value_schema(feature: Feature) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "number", "minimum": feature.low, "maximum": feature.high}
    if feature.categories is not None:
        schema = {"type": ["string", "number"]} if feature.other_categories else {"enum": list(feature.categories)}
    return {"anyOf": [schema, {"type": "null"}]} if feature.missing else schema


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _json_body(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}
