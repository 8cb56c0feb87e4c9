"""Why a row was answered as it was, over HTTP: attributions against their definition, computed by NumPy alone."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.api.conftest import MakeClient, bundled, client_maker
from tests.api.test_rows import CUSTOMER, READING, SENSORS, churn_probabilities, post, squared_errors
from tests.conftest import ROOT
from tests.explain.orders import mean_over_orders
from tests.linear import linear_package, rows_of, weights_of
from tests.tiny import seal


def background_of(folder: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((ROOT / "models" / folder / "background.json").read_text())["rows"]
    return rows


def churn_attributions(customer: dict[str, float], label: int = 1) -> npt.NDArray[np.float64]:
    names, background = list(CUSTOMER), background_of("churn")

    def worth(members: frozenset[int]) -> float:
        chosen = {names[member]: customer[names[member]] for member in members}
        return float(churn_probabilities(*({**row, **chosen} for row in background))[:, label].mean())

    return mean_over_orders(worth, len(names))


def anomaly_attributions(reading: dict[str, Any]) -> npt.NDArray[np.float64]:
    background = background_of("machine_anomaly")

    def worth(members: frozenset[int]) -> float:
        chosen = {SENSORS[member]: reading[SENSORS[member]] for member in members}
        return float(np.mean([squared_errors({**row, **chosen}).mean() for row in background]))

    return mean_over_orders(worth, len(SENSORS))


def check_sum(explanation: dict[str, Any]) -> None:
    difference = explanation["value"] - explanation["base_value"]
    assert sum(explanation["attributions"].values()) == pytest.approx(difference, abs=1e-7)


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A regressor of 30 features, and a small one without a background."""
    folder = tmp_path_factory.mktemp("linear")
    bare = linear_package(folder / "bare", 2, background=0)
    (bare / "card.toml").write_text((bare / "card.toml").read_text().replace('name = "linear"', 'name = "bare"'))
    with client_maker() as make:
        yield make(seal(linear_package(folder / "linear", 30)), seal(bare))


def test_a_customers_attributions_are_the_mean_over_all_orders(rows_client: TestClient) -> None:
    answer = post(rows_client, "/models/churn/explain?target=class_1", CUSTOMER)
    explanation = answer["explanation"]
    assert list(explanation["attributions"]) == list(CUSTOMER)
    assert list(explanation["attributions"].values()) == pytest.approx(churn_attributions(CUSTOMER), abs=1e-5)
    assert explanation["value"] == pytest.approx(answer["probabilities"]["class_1"], abs=1e-8)
    assert explanation["base_value"] == pytest.approx(
        churn_probabilities(*background_of("churn"))[:, 1].mean(), abs=1e-5
    )
    check_sum(explanation)
    assert explanation["time_ms"] > 0
    assert {name: explanation[name] for name in ("method", "target", "target_class_id", "background_rows")} == {
        **{"method": "shapley", "target": "class_1", "target_class_id": 1, "background_rows": 100},
    }
    assert explanation["background"] == "synthetic customers" and "standard_errors" not in explanation
    predicted = post(rows_client, "/models/churn/predict", CUSTOMER)
    changing = {"request_id", "timestamp", "inference_time_ms", "explanation"}
    assert {name: answer[name] for name in predicted.keys() - changing} == {
        name: predicted[name] for name in predicted.keys() - changing
    }


def test_the_label_that_is_answered_is_explained_unless_another_is_asked_for(rows_client: TestClient) -> None:
    by_default = post(rows_client, "/models/churn/explain", {"features": CUSTOMER})
    assert by_default["explanation"]["target"] == by_default["prediction"]
    for threshold, target in ((0, "class_1"), (1, "class_0")):
        answer = post(rows_client, f"/models/churn/explain?threshold={threshold}", CUSTOMER)
        assert answer["explanation"]["target"] == answer["prediction"] == target
    of_zero, of_one = (
        post(rows_client, f"/models/churn/explain?target={target}", CUSTOMER)["explanation"]
        for target in ("0", "class_1")
    )
    assert of_zero["target_class_id"] == 0
    negated = [-number for number in of_zero["attributions"].values()]
    assert list(of_one["attributions"].values()) == pytest.approx(negated, abs=1e-7)


def test_a_detectors_score_is_explained_beside_its_contributions(rows_client: TestClient) -> None:
    hot = READING | {"temperature": 95.0}
    answer = post(rows_client, "/models/machine-anomaly/explain", hot)
    explanation = answer["explanation"]
    assert list(explanation["attributions"].values()) == pytest.approx(anomaly_attributions(hot), rel=1e-4, abs=1e-6)
    assert explanation["target"] == "anomaly_score" and "target_class_id" not in explanation
    assert explanation["value"] == pytest.approx(answer["anomaly_score"], rel=1e-7)
    check_sum(explanation)
    assert max(explanation["attributions"], key=explanation["attributions"].__getitem__) == "temperature"
    assert set(answer["contributions"]) == set(SENSORS) and answer["machine_id"] == READING["machine_id"]


def test_several_targets_are_explained_from_the_same_evaluations(rows_client: TestClient) -> None:
    answer = post(rows_client, "/models/churn/explain?target=class_1&target=0", CUSTOMER)
    explanations = answer["explanations"]
    assert [each["target"] for each in explanations] == ["class_1", "class_0"]
    assert answer["explanation"] == explanations[0]
    for each, label in zip(explanations, (1, 0), strict=True):
        assert list(each["attributions"].values()) == pytest.approx(churn_attributions(CUSTOMER, label), abs=1e-5)
        assert each["evaluations"] == 63 * 100  # every set of features but that of all six, with each row
    top = post(rows_client, "/models/churn/explain?explain_top=2", CUSTOMER)
    ranked = sorted(top["probabilities"], key=top["probabilities"].__getitem__, reverse=True)
    assert [each["target"] for each in top["explanations"]] == ranked


def test_a_contrast_explains_the_ratio_of_two_probabilities(rows_client: TestClient) -> None:
    answer = post(rows_client, "/models/churn/explain?target=class_1&contrast=class_0", CUSTOMER)
    explanation, probabilities = answer["explanation"], answer["probabilities"]
    assert (explanation["target"], explanation["contrast"]) == ("class_1", "class_0")
    ratio = probabilities["class_1"] / probabilities["class_0"]
    assert explanation["value"] == pytest.approx(np.log(ratio), abs=1e-5)
    names, background = list(CUSTOMER), background_of("churn")

    def worth(members: frozenset[int]) -> float:
        chosen = {names[member]: CUSTOMER[names[member]] for member in members}
        of_each = churn_probabilities(*({**row, **chosen} for row in background))
        return float(np.log(of_each[:, 1] / of_each[:, 0]).mean())

    assert list(explanation["attributions"].values()) == pytest.approx(mean_over_orders(worth, 6), abs=1e-4)
    check_sum(explanation)


def test_the_contrast_is_none_of_the_most_probable_labels(rows_client: TestClient) -> None:
    answer = post(rows_client, "/models/churn/explain?explain_top=2&contrast=class_0", CUSTOMER)
    assert answer["explanation"]["target"] == "class_1" and "explanations" not in answer


def test_a_row_that_is_answered_by_the_contrast_itself_goes_without_alone(rows_client: TestClient) -> None:
    loyal = CUSTOMER | {"days_since_last_purchase": 1, "tenure_days": 3000}
    answer = post(rows_client, "/models/churn/explain/batch?contrast=class_0", {"samples": [CUSTOMER, loyal]})
    first, second = answer["predictions"]
    assert (first["prediction"], second["prediction"]) == ("class_1", "class_0")
    assert first["explanation"]["contrast"] == "class_0" and first["explanation_error"] is None
    assert second["explanation"] is None and "the contrast itself" in second["explanation_error"]


def test_sampled_attributions_state_how_far_they_may_be_off(rows_client: TestClient) -> None:
    answer = post(rows_client, "/models/churn/explain?target=1&method=shapley-sampled&samples=64", CUSTOMER)
    explanation = answer["explanation"]
    off = np.abs(np.array(list(explanation["attributions"].values())) - churn_attributions(CUSTOMER))
    errors = np.array(list(explanation["standard_errors"].values()))
    assert explanation["method"] == "shapley-sampled" and (errors < 0.05).all()
    assert (off <= 4 * errors + 1e-6).all()
    check_sum(explanation)


def test_more_than_twelve_features_are_sampled(linear: TestClient) -> None:
    row = {f"x{place}": float(place) for place in range(30)}
    explanation = post(linear, "/models/linear/explain?target=negative", row)["explanation"]
    expected = -weights_of(30) * (np.arange(30) - rows_of(30, 8).mean(axis=0))
    assert list(explanation["attributions"].values()) == pytest.approx(expected, abs=1e-3)
    assert (explanation["method"], explanation["target_class_id"]) == ("shapley-sampled", 1)
    assert linear.get("/models/linear").json()["explain"]["methods"] == ["shapley-sampled"]


@pytest.mark.parametrize("word", ["include_explanation", "include_gradcam"])
def test_a_prediction_comes_with_its_explanation_where_that_is_asked_for(rows_client: TestClient, word: str) -> None:
    explained = post(rows_client, "/models/churn/explain", CUSTOMER)["explanation"]
    answer = post(rows_client, f"/models/churn/predict?{word}=true", CUSTOMER)
    assert answer["explanation"] | {"time_ms": 0} == explained | {"time_ms": 0}
    assert "explanation_error" not in answer and "gradcam_heatmap" not in answer
    assert "explanation" not in post(rows_client, f"/models/churn/predict?{word}=false", CUSTOMER)


@pytest.mark.parametrize("path", ["explain", "explain/batch", "predict/batch?include_explanation=true"])
def test_each_row_of_several_is_explained_and_a_wrong_one_fails_alone(rows_client: TestClient, path: str) -> None:
    old = CUSTOMER | {"age": 80}
    answer = post(rows_client, f"/models/churn/{path}", {"samples": [CUSTOMER, {"age": 3}, old]})
    assert answer["errors"] == 1 and answer["predictions"][1]["error"]["status"] == 400
    for place, customer in ((0, CUSTOMER), (2, old)):
        alone = post(rows_client, "/models/churn/explain", customer)["explanation"]["attributions"]
        assert answer["predictions"][place]["explanation"]["attributions"] == pytest.approx(alone, abs=1e-6)


def test_so_many_rows_are_predicted_but_not_explained(rows_client: TestClient) -> None:
    body = {"samples": [CUSTOMER] * 65}
    answer = post(rows_client, "/models/churn/predict/batch?include_explanation=true", body)
    assert answer["errors"] == 0 and len(answer["predictions"]) == 65
    last = answer["predictions"][-1]
    assert last["explanation"] is None and "At most 64 rows" in last["explanation_error"]


def test_a_picture_of_bars_is_drawn(rows_client: TestClient) -> None:
    response = rows_client.post("/models/churn/explain?format=png", json=CUSTOMER)
    assert response.status_code == 200 and response.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(response.content))
    assert picture.format == "PNG" and picture.width > 600 and picture.height > 200


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/models/churn/explain?target=yes", CUSTOMER, "target='yes': must be a label (class_0, class_1) or its index"),
        ("/models/churn/explain?target=2", CUSTOMER, "its index, 0 to 1"),
        ("/models/machine-anomaly/explain?target=normal", READING, "must be a value (anomaly_score) or its index"),
        ("/models/churn/explain?method=gradcam", CUSTOMER, "must be one of shapley, shapley-sampled"),
        ("/models/churn/explain?samples=1", CUSTOMER, "samples='1': must be a whole number from 2 to 1,000"),
        ("/models/churn/explain?samples=2.5", CUSTOMER, "must be a whole number"),
        ("/models/churn/explain?format=svg", CUSTOMER, "must be one of json, png"),
        ("/models/churn/predict?include_explanation=perhaps", CUSTOMER, "must be true or false"),
        ("/models/churn/explain", CUSTOMER | {"age": 3}, "age must be a number from 16"),
        ("/models/churn/explain", {"samples": [CUSTOMER] * 65}, "At most 64 rows of one request are explained, not 65"),
        ("/models/churn/explain?format=png", {"samples": [CUSTOMER]}, "a picture is of one row"),
        ("/models/churn/explain?format=png&target=0&target=1", CUSTOMER, "a picture is of one target"),
        ("/models/churn/explain?target=0&target=yes", CUSTOMER, "target='yes': must be a label"),
        ("/models/churn/explain?explain_top=3", CUSTOMER, "explain_top='3': the model has 2 labels"),
        ("/models/churn/explain?explain_top=2&target=0", CUSTOMER, "explain_top='2': goes without target"),
        ("/models/churn/explain?target=class_0&contrast=0", CUSTOMER, "contrast='0': is the target itself"),
        ("/models/churn/explain?threshold=1&contrast=0", CUSTOMER, "contrast='class_0': that is the label"),
        ("/models/churn/explain?samples=16", CUSTOMER, "samples: exact values draw none"),
        (
            "/models/churn/explain?method=shapley-sampled&samples=1000",
            {"samples": [CUSTOMER] * 64},
            "need 64,006,400 evaluations of the model, and one request gets 10,000,000: explain at most 9 rows at once",
        ),
        ("/models/machine-anomaly/explain?contrast=0", READING, "contrast='0': goes with a classifier"),
        ("/models/machine-anomaly/explain?explain_top=1", READING, "explain_top='1': the model has no labels"),
        ("/models/churn/explain/batch", CUSTOMER, "The body has no rows"),
    ],
)
def test_what_is_wrong_is_a_400_that_says_what_is_allowed(
    rows_client: TestClient, path: str, body: Any, message: str
) -> None:
    response = rows_client.post(path, json=body)
    assert response.status_code == 400 and message in response.json()["detail"]


def test_exact_values_of_thirty_features_are_a_400(linear: TestClient) -> None:
    row = {f"x{place}": 0.0 for place in range(30)}
    response = linear.post("/models/linear/explain?method=shapley", json=row)
    assert response.status_code == 400 and "ask for method=shapley-sampled" in response.json()["detail"]


def test_a_model_without_background_says_what_would_help_and_predicts(linear: TestClient) -> None:
    row = {"x0": 1.0, "x1": 2.0}
    response = linear.post("/models/bare/explain", json=row)
    assert response.status_code == 400 and "--examples" in response.json()["detail"]
    answer = post(linear, "/models/bare/predict?include_explanation=true", row)
    assert answer["explanation"] is None and "--examples" in answer["explanation_error"] and len(answer["values"]) == 2
    assert linear.get("/models/bare").json()["explain"] is None


def test_what_explains_a_model_is_told_about_it(rows_client: TestClient) -> None:
    assert rows_client.get("/models/machine-anomaly").json()["explain"] == {
        "method": "shapley",
        "methods": ["shapley", "shapley-sampled"],
        "targets": ["anomaly_score"],
        "background": "synthetic sensors",
        "background_rows": 100,
    }
    assert rows_client.get("/health").json()["explanations"] == {"churn": "ready", "machine-anomaly": "ready"}


@pytest.mark.parametrize(
    ("path", "body", "read"),
    [
        ("/v1/models/churn:explain", {"instances": [CUSTOMER]}, lambda answer: answer["explanations"][0]),
        ("/v1/models/churn:explain", {"instances": [list(CUSTOMER.values())]}, lambda a: a["explanations"][0]),
        ("/explanations/churn", CUSTOMER, lambda answer: answer),
    ],
)
def test_other_protocols_explain_rows_too(
    rows_client: TestClient, path: str, body: Any, read: Callable[[Any], dict[str, Any]]
) -> None:
    explained = post(rows_client, "/models/churn/explain", CUSTOMER)["explanation"]
    answer = read(post(rows_client, path, body))
    assert answer["attributions"] == pytest.approx(explained["attributions"], abs=1e-6)
    assert answer["target"] == explained["target"]


def test_a_model_that_lost_its_background_is_damaged(make_client: MakeClient, tmp_path: Path) -> None:
    stored = bundled(tmp_path, "churn")
    (stored.path / "background.json").unlink()
    client = make_client(stored)
    response = client.post("/models/churn/predict", json=CUSTOMER)
    assert response.status_code == 503 and "background.json is missing" in response.json()["detail"]
