"""The reference pages against the code: no route, parameter, field, error or key of a card without its line."""

import re
from typing import Any, get_args

import pytest
import requests
from pydantic import BaseModel

from api.problems import STATUS
from models.card import ImageCard, RowCard
from tests.conftest import ROOT
from tests.live.server import Server

API, MODELS = ((ROOT / "docs" / name).read_text("utf-8") for name in ("api.md", "models.md"))
ROUTES = re.findall(r"`(GET|POST) (/[^`?]*)`", API)


@pytest.fixture(scope="module")
def openapi(server: Server) -> dict[str, Any]:
    document: dict[str, Any] = requests.get(f"{server.url}/openapi.json", timeout=30).json()
    return document


def test_every_route_is_on_the_page(openapi: dict[str, Any]) -> None:
    missing = []
    for path, operations in openapi["paths"].items():
        general = re.sub(r"^/models/[^/{]+", "/models/{name}", path)
        missing += [f"{verb.upper()} {general}" for verb in operations if (verb.upper(), general) not in ROUTES]
    assert not missing


def test_every_route_on_the_page_is_there(server: Server) -> None:
    version = requests.get(f"{server.url}/health", timeout=30).json()["model_version"]
    for verb, path in ROUTES:
        url = server.url + path.replace("{name}", "kidney-stone").replace("{version}", version)
        status = requests.request(verb, url, timeout=30).status_code
        assert status not in (404, 405), f"{verb} {path}"


def test_every_parameter_is_on_the_page(openapi: dict[str, Any]) -> None:
    named = {
        parameter["name"]
        for operations in openapi["paths"].values()
        for operation in operations.values()
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "query"
    }
    assert named and not {name for name in named if f"| `{name}` |" not in API}


def test_every_field_of_every_answer_is_on_the_page(openapi: dict[str, Any]) -> None:
    schemas = {name: schema for name, schema in openapi["components"]["schemas"].items() if "Validation" not in name}
    fields = {field for schema in schemas.values() for field in schema.get("properties", {})}
    assert fields and not {field for field in fields if not re.search(rf'[`"]{field}[`"]', API)}


def test_every_status_is_on_the_page(openapi: dict[str, Any]) -> None:
    answered = {
        int(status)
        for operations in openapi["paths"].values()
        for operation in operations.values()
        for status in operation["responses"]
    }
    for status in {*answered, *(code for _, code in STATUS), 500} - {200}:
        assert re.search(rf"(?m)^\| {status} \|", API), status


def keys_of(section: type[BaseModel], before: str = "") -> list[tuple[str, Any]]:
    """Every key of a card with dots between its sections, and its type; a section counts as the keys in it."""
    keys = []
    for name, field in section.model_fields.items():
        inner = sections_in(field.annotation)
        keys += [(before + name, field.annotation)] if not inner else []
        keys += [key for part in inner for key in keys_of(part, f"{before}{name}.")]
    return keys


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a key's type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]


def words_in(annotation: Any) -> list[str]:
    """The words of a closed set."""
    if "Literal" in str(getattr(annotation, "__origin__", "")):
        return [str(word) for word in get_args(annotation)]
    return [word for part in get_args(annotation) for word in words_in(part)]


KEYS = [*keys_of(ImageCard), *keys_of(RowCard)]


def test_a_card_has_no_key_without_a_line_and_no_line_without_a_key() -> None:
    lines = re.findall(r"(?m)^\| `([a-z0-9_.]+)` \|", section("The card"))
    assert set(lines) == {key for key, _ in KEYS}
    assert len(lines) == len(set(lines))


def test_every_word_of_a_closed_set_is_in_its_keys_line() -> None:
    for key, annotation in KEYS:
        line = next(line for line in section("The card").splitlines() if line.startswith(f"| `{key}` |"))
        assert not [word for word in words_in(annotation) if f"`{word}`" not in line], line


def section(title: str) -> str:
    """A section of docs/models.md, down to the next of its level."""
    match = re.search(rf"(?ms)^## {title}\n(.*?)(?=^## |\Z)", MODELS)
    assert match, f"docs/models.md has no section {title!r}"
    return match[1]
