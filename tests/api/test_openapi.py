"""The OpenAPI document against the application that it describes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.auth import Authenticator
from api.keys import add_key
from tests.api.conftest import MakeClient, bundled, client_maker, keys_of
from tests.tiny import plain, seal, tiny_package

Operations = list[tuple[str, str, dict[str, Any]]]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The application over a model of pictures and two of rows."""
    folder = tmp_path_factory.mktemp("described")
    with client_maker() as make:
        tiny = seal(tiny_package(folder / "tiny", explained=True))
        yield make(tiny, bundled(folder, "churn"), bundled(folder, "machine_anomaly"))


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    response = client.get("/openapi.json")
    assert response.status_code == 200
    described: dict[str, Any] = response.json()
    return described


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> Operations:
    """Every method, path and description."""
    return [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def schema_of(operations: Operations, path: str) -> dict[str, Any]:
    """Return the schema of the JSON body of a POST."""
    (operation,) = (operation for method, at, operation in operations if (method, at) == ("post", path))
    schema: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]
    return schema


def parameters_of(operations: Operations, path: str) -> dict[str, dict[str, Any]]:
    """Return the query parameters of an operation by their names."""
    (operation,) = (operation for _, at, operation in operations if at == path)
    return {row["name"]: row for row in operation["parameters"] if row["in"] == "query"}


def test_the_document_names_every_route_of_the_contract(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) >= {
        *("/", "/health", "/health/live", "/health/ready", "/health/stats"),
        *("/models", "/models/{name}", "/models/{name}/stats", "/models/{name}/versions/{version}", "/model-info"),
        *("/predict", "/predict/batch", "/explain"),
        *("/models/tiny/predict", "/models/tiny/predict/batch", "/models/tiny/explain", "/models/tiny/explain/batch"),
        *(
            "/models/churn/predict",
            "/models/churn/predict/batch",
            "/models/churn/explain",
            "/models/churn/explain/batch",
        ),
        *("/v2", "/v2/models/{name}/infer"),
    }
    assert "422" not in json.dumps(document["paths"])


def test_every_operation_that_is_described_is_answered(client: TestClient, operations: Operations) -> None:
    version = client.get("/health").json()["model_version"]
    for method, path, _ in operations:
        url = path.replace("{name}", "tiny").replace("{version}", version)
        status = client.request(method, url).status_code
        assert status not in (404, 405, 500), f"{method} {path}: {status}"


def test_operations_have_ids_of_their_own_and_texts(operations: Operations) -> None:
    ids = [operation["operationId"] for _, _, operation in operations]
    assert len(set(ids)) == len(ids)
    for _, path, operation in operations:
        assert operation["summary"] and operation["tags"], path
        in_path = {row["name"] for row in operation.get("parameters", ()) if row["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references and references <= set(document["components"]["schemas"])


def test_predictions_name_the_problems_that_they_may_answer_with(operations: Operations) -> None:
    (operation,) = (operation for _, path, operation in operations if path == "/models/tiny/predict")
    assert set(operation["responses"]) == {"200", "400", "401", "403", "404", "413", "429", "503", "504"}
    assert "application/problem+json" in operation["responses"]["400"]["content"]


def test_the_limits_that_a_query_is_checked_by_stand_in_the_document(
    client: TestClient, operations: Operations
) -> None:
    parameters = parameters_of(operations, "/models/tiny/explain")
    assert parameters["alpha"]["schema"] == {"type": "number", "minimum": 0, "maximum": 1}
    assert parameters["method"]["schema"]["enum"] == ["gradcam", "gradcam++", "layercam", "hirescam", "rise"]
    assert parameters["output"]["schema"]["enum"] == ["overlay", "heatmap", "map"]
    of_rows = parameters_of(operations, "/models/churn/explain")
    assert of_rows["method"]["schema"]["enum"] == ["shapley", "shapley-sampled"]
    assert set(of_rows) == {
        *("threshold", "top_k", "label", "timeout_ms", "format", "target", "explain_top", "contrast", "method"),
        "samples",
    }
    assert of_rows["target"]["schema"] == {"type": "array", "items": {"type": "string"}}
    assert set(parameters_of(operations, "/models/tiny/predict")) == {
        *("threshold", "top_k", "label", "timeout_ms", "include_explanation", "include_gradcam")
    }
    for path in ("/models/tiny/predict", "/models/machine-anomaly/predict"):
        for name, row in parameters_of(operations, path).items():
            assert row["description"], name
            for limit, change in (("minimum", -1), ("maximum", 1)):
                if limit in row["schema"]:
                    beyond = row["schema"][limit] + change
                    response = client.post(f"{path}?{name}={beyond}", content=plain(1))
                    assert response.status_code == 400 and response.json()["detail"].startswith(f"{name}='")


def test_a_version_may_stand_in_the_query_where_the_path_names_none(operations: Operations) -> None:
    assert "version" in parameters_of(operations, "/models/{name}")
    assert "version" in parameters_of(operations, "/models/{name}/stats")


def test_the_example_of_every_model_of_rows_is_answered(client: TestClient, operations: Operations) -> None:
    answered = list[str]()
    for _, path, operation in operations:
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        if path.startswith("/models/") and body:
            response = client.post(path, json=body["example"])
            assert response.status_code == 200 and response.json().get("errors", 0) == 0, response.text
            answered.append(path)
    assert sorted(answered) == [
        f"/models/{name}/{action}"
        for name in ("churn", "machine-anomaly")
        for action in ("explain", "explain/batch", "predict", "predict/batch")
    ]


def test_the_limits_of_a_card_stand_in_the_schema_of_its_rows(operations: Operations) -> None:
    row = schema_of(operations, "/models/machine-anomaly/predict")
    assert row["properties"]["temperature"] == {
        "type": "number",
        "minimum": -50,
        "maximum": 200,
        "description": "(°C)",
    }
    assert row["properties"]["machine_id"] == {"type": "string", "minLength": 1, "maxLength": 50}
    assert row["properties"]["timestamp"]["format"] == "date-time"
    assert row["additionalProperties"] is True and set(row["required"]) == set(row["properties"])
    features = schema_of(operations, "/models/churn/predict")["properties"]["features"]
    assert features["additionalProperties"] is False
    rows = schema_of(operations, "/models/machine-anomaly/predict/batch")["properties"]["readings"]
    assert rows["items"] == row and (rows["minItems"], rows["maxItems"]) == (1, 1000)
    assert set(schema_of(operations, "/models/churn/predict")["properties"]) == {"features"}
    assert set(schema_of(operations, "/models/churn/predict/batch")["properties"]) == {"samples"}


def test_the_two_ways_to_send_a_key_stand_in_the_document_where_one_is_asked_for(
    make_client: MakeClient, tmp_path: Path, document: dict[str, Any]
) -> None:
    key = add_key(tmp_path / "keys.toml", "ci")
    authenticator = Authenticator(keys_of(tmp_path / "keys.toml"), ())
    client = make_client(seal(tiny_package(tmp_path / "tiny")), authenticator=authenticator, loaded=False)
    guarded = client.get("/openapi.json", headers={"X-API-Key": key}).json()
    assert {scheme["type"] for scheme in guarded["components"]["securitySchemes"].values()} == {"http", "apiKey"}
    assert {name for choice in guarded["security"] for name in choice} == set(guarded["components"]["securitySchemes"])
    assert "security" not in document and "securitySchemes" not in document["components"]
