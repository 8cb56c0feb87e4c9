"""Clients of the replaced services: what they send, and the fields that they read, on the bundled cards."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from starlette.testclient import TestClient

from models.card import read_image_card
from models.package import StoredModel
from preprocessing.transform import transform
from tests.api.conftest import MakeClient, bundled, client_maker
from tests.api.test_rows import CUSTOMER, READING, post
from tests.conftest import ROOT
from tests.tiny import plain, seal

NAMES = ("kidney-stone", "cifar10", "imagenet", "churn", "machine-anomaly")
PICTURES = ("kidney-stone", "cifar10", "imagenet")
WORDS = 'labels = ["tench", "goldfish", "shark", "ray", "hen"]'


def with_small_graph(folder: Path, name: str, answer: str | None = None) -> StoredModel:
    """Return a bundled card of pictures, and its report, with a small graph: the means of the channels, times a matrix.

    `answer` takes the place of what the card says about answers.
    """
    shutil.copytree(ROOT / "models" / name, folder, ignore=shutil.ignore_patterns("*.onnx", "*.safetensors", "goldens"))
    text = (folder / "card.toml").read_text("utf-8").replace("labels = []", WORDS)
    (folder / "card.toml").write_text(text if answer is None else text.partition("\n[answer")[0] + answer)
    card = read_image_card(folder / "card.toml")
    weight = np.random.default_rng(5).standard_normal((3, len(card.labels))).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, *card.input.size])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(card.labels)])
    weights = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array([2, 3], np.int64), "axes")]
    graph = helper.make_graph(nodes, "small", [image], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "predict.onnx").write_bytes(model.SerializeToString())
    (folder / "weights.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (folder / "goldens").mkdir()
    (folder / "goldens" / "grey.png").write_bytes(plain(240))
    reference = transform(np.full((16, 16, 3), 240, np.uint8), card.input).tensor.mean(axis=(1, 2)) @ weight
    golden = {"file": "grey.png", "logits": reference.tolist()}
    goldens = {"reference": "NumPy", "tolerance": 1e-3, "goldens": [golden]}
    (folder / "goldens" / "goldens.json").write_text(json.dumps(goldens))
    onnx.checker.check_model(model)
    return seal(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replaced")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    """The application over all five bundled cards; cifar10 is the default, as it was of its own service."""
    small = [with_small_graph(folder / name, name) for name in ("cifar10", "imagenet", "kidney_stone")]
    shipped = [bundled(folder, name) for name in ("churn", "machine_anomaly")]
    with client_maker() as make:
        yield make(*small, *shipped)


def send_picture(client: TestClient, path: str, **form: str) -> dict[str, Any]:
    """Post a form with one picture, and return the JSON of the answer."""
    response = client.post(path, files={"file": ("scan.png", plain(240), "image/png")}, data=form)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def send_pictures(client: TestClient, path: str) -> Any:
    """Post a form with two pictures, the second of which is damaged, and return the JSON of the answer."""
    files = [("files", ("first.png", plain(240), "image/png")), ("files", ("second.png", b"no picture", "image/png"))]
    response = client.post(path, files=files)
    assert response.status_code == 200, response.text
    return response.json()


def get(client: TestClient, path: str) -> dict[str, Any]:
    """Return the JSON at a path."""
    response = client.get(path)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_health_is_in_the_words_of_all_services(client: TestClient) -> None:
    assert get(client, "/health")["status"] == "healthy"
    assert get(client, "/health/ready")["status"] == "ready"
    assert get(client, "/health/live") == {"status": "alive"}


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_of_every_model_has_its_version_by_both_names(client: TestClient, name: str) -> None:
    path, version = f"/models/{name}", client.get(f"/models/{name}").json()["version"]
    if name in PICTURES:
        answers = [send_picture(client, f"{path}/predict"), send_pictures(client, f"{path}/predict/batch")]
    else:
        row = CUSTOMER if name == "churn" else READING
        answers = [post(client, f"{path}/predict", row), post(client, f"{path}/predict/batch", {"samples": [row]})]
    answers += [answers[1]["predictions"][0], get(client, path)]
    assert {answer["model_version"] for answer in answers} == {version} != {None}


@pytest.mark.parametrize("path", ["/models/kidney-stone/predict", "/models/churn/predict", "/nowhere", "/health"])
def test_every_answer_says_how_long_it_took_and_belongs_in_no_frame(client: TestClient, path: str) -> None:
    response = client.get(path) if path == "/health" else client.post(path, content=b"nothing of use")
    assert 0 < float(response.headers["X-Process-Time"]) < 60
    assert response.headers["X-Frame-Options"] == "DENY"
    if path != "/health":
        assert response.json()["detail"] == response.json()["error"]


def test_kidney_stone_has_its_measured_quality_at_the_top_of_its_info(client: TestClient) -> None:
    metrics = json.loads((ROOT / "models" / "kidney_stone" / "report.json").read_text("utf-8"))["metrics"]
    info = get(client, "/models/kidney-stone")
    assert (info["architecture"], info["parameters"]) == ("efficientnet-b4-head", 18_471_242)
    quality = [info[name] for name in ("auc", "sensitivity", "specificity", "f2_score")]
    assert quality == [metrics[name] for name in ("auc", "sensitivity", "specificity", "f2")]
    assert all(0 < figure <= 1 for figure in quality)


def test_kidney_stone_names_the_file_of_each_entry_of_a_batch(client: TestClient) -> None:
    batch = send_pictures(client, "/models/kidney-stone/predict/batch")
    first, second = batch["predictions"]
    assert (first["filename"], second["filename"]) == ("first.png", "second.png")
    assert first["confidence"] == first["probabilities"][first["prediction"]]
    assert second["error"]["status"] == 400


def test_cifar10_predicts_in_the_words_of_its_service(client: TestClient) -> None:
    answer = send_picture(client, "/predict", request_id="order-66")
    assert (
        answer["predicted_class"]
        == answer["prediction"]
        == max(answer["all_confidences"], key=answer["all_confidences"].get)
    )
    assert len(answer["all_confidences"]) == 10 and sum(answer["all_confidences"].values()) == pytest.approx(1)
    assert answer["prediction_time_ms"] > 0 and answer["model_device"] == "cpu"
    assert answer["request_id"] == "order-66"
    batch = send_pictures(client, "/predict/batch")
    assert batch["total_processing_time_ms"] == batch["inference_time_ms"] > 0
    assert batch["predictions"][0]["predicted_class"] == answer["predicted_class"]
    assert "predicted_class" not in batch["predictions"][1]


@pytest.mark.parametrize("request_id", ["two words", "", "x" * 129])
def test_an_id_in_a_form_that_cannot_be_a_header_is_not_taken(client: TestClient, request_id: str) -> None:
    assert len(send_picture(client, "/predict", request_id=request_id)["request_id"]) == 32


def test_an_id_in_a_form_is_in_the_headers_and_in_problems_too(client: TestClient) -> None:
    response = client.post("/predict", files={"file": ("a.png", b"no picture")}, data={"request_id": "order-66"})
    assert response.status_code == 400
    assert response.headers["X-Request-ID"] == response.json()["request_id"] == "order-66"


def test_cifar10_describes_itself_in_the_words_of_its_service(client: TestClient) -> None:
    info = get(client, "/predict/info")
    assert info["api_version"] == get(client, "/")["version"]
    assert info["model_info"] == {
        "name": "cifar10",
        "version": info["version"],
        "architecture": "pyramidnet-110",
        "parameters": 1_772_706,
        "classes": info["labels"],
    }
    assert info["preprocessing"]["size"] == [32, 32] and info["preprocessing"]["mean"] == [0.4914, 0.4822, 0.4465]


def test_cifar10_counts_in_the_words_of_its_service(client: TestClient) -> None:
    before = get(client, "/health/stats")
    times = [send_picture(client, "/predict")["prediction_time_ms"] for _ in range(3)]
    after = get(client, "/health/stats")
    assert after["is_loaded"] is True and after["model_parameters"] == 1_772_706
    assert after["prediction_count"] - before["prediction_count"] == 3
    assert after["load_time_seconds"] == after["load_seconds"] > 0
    sums = [stats["average_prediction_time_ms"] * stats["prediction_count"] for stats in (before, after)]
    assert sums[1] - sums[0] == pytest.approx(sum(times), abs=0.1)


def test_imagenet_lists_the_most_probable_as_its_predictions(client: TestClient) -> None:
    for top_k in (1, 4):
        answer = send_picture(client, f"/models/imagenet/predict?top_k={top_k}")
        assert len(answer["predictions"]) == top_k
        best = sorted(answer["probabilities"].items(), key=lambda entry: -entry[1])[:top_k]
        assert [(entry["label"], entry["probability"]) for entry in answer["predictions"]] == best


def test_an_operator_sets_how_many_labels_are_listed(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(with_small_graph(tmp_path / "imagenet", "imagenet"), top_k=4)
    assert len(send_picture(client, "/predict")["predictions"]) == 4
    assert len(send_picture(client, "/predict?top_k=2")["predictions"]) == 2
    few = make_client(with_small_graph(tmp_path / "again", "imagenet"), top_k=40)
    assert len(send_picture(few, "/predict")["predictions"]) == 5


def test_churn_predicts_an_index_where_it_is_asked_for(client: TestClient) -> None:
    by_name = post(client, "/models/churn/predict", {"features": CUSTOMER})
    by_index = post(client, "/models/churn/predict?label=index", {"features": CUSTOMER})
    assert by_index["prediction"] is by_index["predicted_class_id"] == int(by_name["prediction"].removeprefix("class_"))
    batch = post(client, "/models/churn/predict/batch?label=index", {"samples": [CUSTOMER, CUSTOMER]})
    assert batch["total_samples"] == 2 and {entry["prediction"] for entry in batch["predictions"]} == {
        by_index["prediction"]
    }
    response = client.post("/models/churn/predict?label=number", json=CUSTOMER)
    assert response.status_code == 400 and "one of name, index" in response.json()["detail"]


def test_churn_names_and_counts_its_features(client: TestClient) -> None:
    info = get(client, "/models/churn")
    assert (info["feature_names"], info["num_features"]) == (list(CUSTOMER), 6)


def test_numbers_in_text_are_the_same_numbers(client: TestClient) -> None:
    for path, row in (("churn", CUSTOMER), ("machine-anomaly", READING)):
        as_text = {name: str(value) for name, value in row.items()}
        exact, texts = (post(client, f"/models/{path}/predict", body) for body in (row, as_text))
        assert texts["confidence"] == exact["confidence"]


def test_machine_anomaly_takes_epoch_times_and_gives_them_back(client: TestClient) -> None:
    expected = post(client, "/models/machine-anomaly/predict", READING)
    for time in (1_768_465_800, 1_768_465_800.25, 1_768_465_800_000, "1768465800"):
        answer = post(client, "/models/machine-anomaly/predict", READING | {"timestamp": time})
        assert (answer["timestamp"], answer["anomaly_score"]) == (time, expected["anomaly_score"])


def test_machine_anomaly_ignores_fields_that_its_card_does_not_know(client: TestClient) -> None:
    more = READING | {"humidity": 40, "operator": {"name": "Kim"}}
    expected = post(client, "/models/machine-anomaly/predict", READING)["anomaly_score"]
    answer = post(client, "/models/machine-anomaly/predict", more)
    assert answer["anomaly_score"] == expected and "humidity" not in answer
    for name in ("samples", "readings"):  # which are where several rows come, if they come alone
        for value in (17, [READING]):
            answer = post(client, "/models/machine-anomaly/predict", READING | {name: value})
            assert answer["anomaly_score"] == expected
    batch = post(client, "/models/machine-anomaly/predict/batch", {"readings": [more, READING], "site": "north"})
    assert batch["errors"] == 0 and {entry["anomaly_score"] for entry in batch["predictions"]} == {expected}
    refused = client.post("/models/churn/predict", json=CUSTOMER | {"humidity": 40})
    assert refused.status_code == 400 and "'humidity' is unknown" in refused.json()["detail"]


def copied(folder: Path, name: str, section: str) -> StoredModel:
    """Copy a bundled model with one more section on its card."""
    package = Path(shutil.copytree(ROOT / "models" / name, folder / name))
    card = package / "card.toml"
    card.write_text(card.read_text("utf-8").partition("\n[answer")[0] + section)
    return seal(package)


def test_a_card_may_answer_with_indices_and_lists(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(copied(tmp_path, "churn", '\n[answer]\nlabel = "index"\nbatch = "list"\n'))
    index = post(client, "/predict", CUSTOMER)["prediction"]
    assert index in (0, 1)
    rows = client.post("/predict/batch", json={"samples": [CUSTOMER, {"age": 3}]}).json()
    assert [entry.get("prediction") for entry in rows] == [index, None] and rows[1]["error"]["status"] == 400
    assert post(client, "/predict?label=name", CUSTOMER)["prediction"] == f"class_{index}"


def test_a_list_of_pictures_has_the_same_entries_as_an_object(make_client: MakeClient, tmp_path: Path) -> None:
    form = '\n[answer]\n{batch}[answer.also]\ncopy = "prediction"\n'
    as_object = make_client(with_small_graph(tmp_path / "object", "cifar10", form.format(batch="")))
    as_list = make_client(with_small_graph(tmp_path / "list", "cifar10", form.format(batch='batch = "list"\n')))
    entries, listed = (
        send_pictures(as_object, "/predict/batch")["predictions"],
        send_pictures(as_list, "/predict/batch"),
    )
    assert [set(entry) for entry in listed] == [set(entry) for entry in entries]
    assert listed[0]["copy"] == listed[0]["prediction"] == entries[0]["prediction"]
    document = as_list.get("/openapi.json").json()
    answer = document["paths"]["/predict/batch"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert document["components"]["schemas"][answer["$ref"].rpartition("/")[2]]["type"] == "array"


def test_openapi_shows_the_further_names_of_each_model(client: TestClient) -> None:
    document = client.get("/openapi.json").json()

    def fields(path: str, method: str = "post") -> dict[str, Any]:
        answer = document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
        properties: dict[str, Any] = document["components"]["schemas"][answer["$ref"].rpartition("/")[2]]["properties"]
        return properties

    predicted = fields("/models/cifar10/predict")
    assert predicted["predicted_class"]["description"] == "The same as `prediction`."
    assert predicted["all_confidences"]["additionalProperties"] == {"type": "number"}
    assert "predicted_class" in fields("/models/cifar10/explain") and "predicted_class" in fields("/predict")
    assert "predicted_class" not in fields("/models/churn/predict")
    assert fields("/models/imagenet/predict")["predictions"]["items"] == {"$ref": "#/components/schemas/TopLabel"}
    entries = fields("/models/cifar10/predict/batch")["predictions"]["items"]["anyOf"]
    schemas = [document["components"]["schemas"][entry["$ref"].rpartition("/")[2]] for entry in entries]
    assert "predicted_class" in schemas[0]["properties"] and "error" in schemas[1]["properties"]
    assert "total_processing_time_ms" in fields("/models/cifar10/predict/batch")
    assert {"api_version", "model_info", "preprocessing"} <= set(fields("/model-info", "get"))
    assert {"is_loaded", "prediction_count"} <= set(fields("/health/stats", "get"))
    texts = [document["paths"][f"/models/{{name}}{end}"]["get"]["description"] for end in ("", "/stats")]
    assert "That of kidney-stone has also: `model_version`, `auc`" in texts[0] and "cifar10" in texts[0]
    assert "That of cifar10 has also: `is_loaded`" in texts[1] and "kidney-stone" not in texts[1]


def test_what_openapi_describes_is_what_is_answered(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for name, answer in (
        ("cifar10", send_picture(client, "/models/cifar10/predict")),
        ("imagenet", send_picture(client, "/models/imagenet/predict")),
        ("churn", post(client, "/models/churn/predict", CUSTOMER)),
    ):
        described = document["paths"][f"/models/{name}/predict"]["post"]["responses"]["200"]["content"]
        schema = document["components"]["schemas"][described["application/json"]["schema"]["$ref"].rpartition("/")[2]]
        assert set(answer) <= set(schema["properties"]) and set(schema["required"]) <= set(answer)
