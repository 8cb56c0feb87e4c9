"""Rows over HTTP, through the real application and the bundled models, against outputs worked out by NumPy."""

import json
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file
from starlette.testclient import TestClient

from tests.api.conftest import MakeClient, bundled
from tests.conftest import ROOT

CUSTOMER: dict[str, float] = {
    "age": 42,
    "income": 52_000,
    "tenure_days": 420,
    "num_purchases": 9,
    "avg_transaction_value": 63.5,
    "days_since_last_purchase": 95,
}
SENSORS = ("temperature", "vibration", "pressure", "power")
READING = {
    "temperature": 68.0,
    "vibration": 3.1,
    "pressure": 31.0,
    "power": 1900.0,
    "timestamp": "2026-01-15T08:30:00Z",
    "machine_id": "press-07",
}
COMMON_FIELDS = {"model", "version", "model_version", "warnings", "device", "inference_time_ms", "request_id"}


def post(client: TestClient, path: str, body: Any) -> dict[str, Any]:
    """Post JSON and return the JSON of the answer, which must be a 200."""
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def churn_probabilities(*customers: dict[str, float]) -> npt.NDArray[np.float64]:
    """Return the probabilities by NumPy alone, shape (n, 2), from the card's numbers written out here."""
    x = np.array([list(customer.values()) for customer in customers], np.float64)
    hidden = np.stack(
        [
            (x[:, 0] - 45) / 15,
            (np.log1p(x[:, 1]) - 10.8) / 0.6,
            (np.log1p(np.clip(x[:, 2], 0, 7300)) - 6.3) / 1.0,
            (np.log1p(x[:, 3]) - 2.3) / 1.0,
            (np.log1p(x[:, 4]) - 4.0) / 0.7,
            (np.log1p(np.clip(x[:, 5], 0, 3650)) - 3.9) / 1.2,
        ],
        axis=1,
    )
    weights = load_file(ROOT / "models" / "churn" / "weights.safetensors")
    for layer in (0, 3):
        hidden = np.maximum(hidden @ weights[f"network.{layer}.weight"].T + weights[f"network.{layer}.bias"], 0)
    exponentials = np.exp(hidden @ weights["network.6.weight"].T + weights["network.6.bias"])
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def squared_errors(reading: dict[str, Any]) -> npt.NDArray[np.float64]:
    """Return the squared error of each sensor by NumPy alone, shape (4,)."""
    weights = load_file(ROOT / "models" / "machine_anomaly" / "weights.safetensors")
    x = (np.array([reading[name] for name in SENSORS]) - (65, 3.2, 30, 1800)) / (12, 1.1, 7, 700)
    code = np.maximum(weights["encoder.0.weight"] @ x + weights["encoder.0.bias"], 0)
    code = weights["encoder.2.weight"] @ code + weights["encoder.2.bias"]
    decoded = np.maximum(weights["decoder.0.weight"] @ code + weights["decoder.0.bias"], 0)
    return np.asarray((x - weights["decoder.2.weight"] @ decoded - weights["decoder.2.bias"]) ** 2)


@pytest.mark.parametrize("body", [{"features": CUSTOMER}, CUSTOMER, dict(reversed(CUSTOMER.items()))])
def test_a_row_is_classified_as_numpy_works_it_out(rows_client: TestClient, body: dict[str, Any]) -> None:
    (expected,) = churn_probabilities(CUSTOMER)
    response = rows_client.post("/models/churn/predict", json=body)
    answer = response.json()
    assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-4)
    assert answer["prediction"] == ("class_1" if expected[1] >= 0.5 else "class_0")
    assert answer["confidence"] == pytest.approx(expected.max(), abs=1e-4)
    assert re.fullmatch("[0-9a-f]{16}", answer["version"]) and answer["timestamp"].endswith("Z")
    assert answer["request_id"] == response.headers["x-request-id"] and "server-timing" in response.headers
    assert set(answer) == COMMON_FIELDS | {
        *("prediction", "predicted_class_id", "confidence", "probabilities", "top", "threshold", "timestamp")
    }


def test_a_wrong_row_of_several_fails_alone(rows_client: TestClient) -> None:
    young = CUSTOMER | {"age": 19, "days_since_last_purchase": 4000}
    answer = post(rows_client, "/models/churn/predict/batch", {"samples": [young, {"age": 3}, CUSTOMER]})
    assert (answer["batch_size"], answer["total_samples"], answer["errors"]) == (3, 3, 1)
    served = [list(answer["predictions"][place]["probabilities"].values()) for place in (0, 2)]
    assert np.allclose(served, churn_probabilities(young, CUSTOMER), atol=1e-4)
    assert answer["predictions"][1]["error"]["status"] == 400


def test_a_single_row_that_is_wrong_is_a_400(rows_client: TestClient) -> None:
    response = rows_client.post("/models/churn/predict", json=CUSTOMER | {"age": 3})
    assert response.status_code == 400 and "age" in response.json()["detail"]


def test_several_rows_are_told_by_their_field_on_either_route(rows_client: TestClient) -> None:
    for path in ("/models/churn/predict", "/models/churn/predict/batch"):
        for field in ("samples", "readings"):
            assert post(rows_client, path, {field: [CUSTOMER, {"features": CUSTOMER}]})["errors"] == 0


def test_a_thousand_rows_are_one_request_and_one_more_is_refused(rows_client: TestClient) -> None:
    rows = [CUSTOMER | {"age": 18 + place % 80, "num_purchases": place} for place in range(1000)]
    answer = post(rows_client, "/models/churn/predict/batch", {"samples": rows})
    served = [list(prediction["probabilities"].values()) for prediction in answer["predictions"]]
    assert np.allclose(served, churn_probabilities(*rows), atol=1e-4)
    response = rows_client.post("/models/churn/predict/batch", json={"samples": [*rows, CUSTOMER]})
    assert response.status_code == 400 and "at most 1,000" in response.json()["detail"]


def test_an_anomaly_names_the_sensor_and_repeats_what_identifies_the_row(rows_client: TestClient) -> None:
    answer = post(rows_client, "/models/machine-anomaly/predict", READING)
    errors = squared_errors(READING)
    assert list(answer["contributions"]) == list(SENSORS)
    assert list(answer["contributions"].values()) == pytest.approx(errors, abs=1e-4)
    assert answer["anomaly_score"] == pytest.approx(errors.mean(), abs=1e-4)
    assert answer["is_anomaly"] == bool(errors.mean() > answer["threshold"] == 0.011)
    assert (answer["machine_id"], answer["timestamp"]) == ("press-07", READING["timestamp"])
    assert set(answer) == COMMON_FIELDS | {
        *("is_anomaly", "anomaly_score", "threshold", "confidence", "contributions", "machine_id", "timestamp")
    }


def test_readings_of_a_worn_machine_are_anomalies_and_a_wrong_one_fails_alone(rows_client: TestClient) -> None:
    worn = [READING | {"vibration": 6.0 + step} for step in range(3)]
    answer = post(
        rows_client, "/models/machine-anomaly/predict/batch", {"readings": [*worn, READING | {"machine_id": ""}]}
    )
    for reading, prediction in zip(worn, answer["predictions"], strict=False):
        assert prediction["is_anomaly"]
        assert prediction["anomaly_score"] == pytest.approx(squared_errors(reading).mean(), rel=1e-3)
    assert "machine_id" in answer["predictions"][3]["error"]["detail"] and answer["errors"] == 1


def test_a_threshold_of_the_clients_own_decides_what_is_an_anomaly(rows_client: TestClient) -> None:
    score = squared_errors(READING).mean()
    for threshold in (score / 2, score * 2):
        answer = post(rows_client, f"/models/machine-anomaly/predict?threshold={threshold}", READING)
        assert answer["is_anomaly"] == (threshold < score) and answer["threshold"] == threshold


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/models/machine-anomaly/predict", READING | {"machine_id": "\ud800"}, "machine_id must be a text"),
        ("/models/churn/predict/batch", {"rows": []}, '"samples"'),
        ("/models/churn/predict/batch", {"samples": []}, "one row or more"),
        ("/models/churn/predict/batch", {"samples": CUSTOMER}, "one row or more"),
        ("/models/churn/predict/batch", {"samples": [CUSTOMER], "more": 1}, "nothing else is expected"),
        ("/models/churn/predict", {"features": {**CUSTOMER, "agee": 4}}, "'agee' is unknown"),
        ("/models/churn/predict?threshold=2", CUSTOMER, "threshold='2'"),
    ],
)
def test_what_does_not_fit_is_a_400_that_says_what_does(
    rows_client: TestClient, path: str, body: dict[str, Any], text: str
) -> None:
    response = rows_client.post(path, content=json.dumps(body))
    assert response.status_code == 400, response.text
    assert text in response.json()["detail"]


@pytest.mark.parametrize(
    ("folder", "single", "several", "field"),
    [
        ("churn", {"features": CUSTOMER}, {"samples": [CUSTOMER] * 2}, "prediction"),
        ("machine_anomaly", READING, {"readings": [READING] * 2}, "is_anomaly"),
    ],
)
def test_a_model_of_rows_can_be_the_default(
    make_client: MakeClient, tmp_path: Any, folder: str, single: dict[str, Any], several: dict[str, Any], field: str
) -> None:
    client = make_client(bundled(tmp_path, folder))
    name = folder.replace("_", "-")
    for path in ("/predict", "/infer", "/predict/"):
        answer = post(client, path, single)
        assert answer["model"] == name and field in answer
    answer = post(client, "/predict/batch", several)
    assert (answer["batch_size"], answer["errors"]) == (2, 0)
    assert client.get("/model-info").json()["name"] == name
