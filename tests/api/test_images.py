"""Pictures over HTTP, through the real application and a tiny real model, against logits worked out by NumPy."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from api.schemas import Prediction
from errors import QueueFull
from preprocessing.transform import Transformed
from runners.gathered import Gathered
from runners.runner import Runner
from serving.cache import ResponseCache
from serving.options import RunnerOptions
from serving.pipeline import ImageOutputs, ImagePipeline
from tests.api.conftest import MakeClient
from tests.conftest import encode
from tests.tiny import bright_square, logits_of_plain, plain, seal, tiny_package


def probability_of_bright(level: int) -> float:
    logits = logits_of_plain(level).astype(np.float64)
    return float(1 / (1 + np.exp(logits[0] - logits[1])))


@pytest.mark.parametrize("path", ["/predict", "/predict/", "/infer", "/models/tiny/predict"])
def test_a_picture_is_classified_as_numpy_works_it_out(client: TestClient, path: str) -> None:
    for level in (0, 60, 200, 255):
        response = client.post(path, content=plain(level))
        assert response.status_code == 200, response.text
        answer, probability = response.json(), probability_of_bright(level)
        assert answer["probabilities"]["bright"] == pytest.approx(probability, abs=1e-5)
        assert answer["prediction"] == ("bright" if probability >= 0.5 else "dark")
        assert answer["confidence"] == answer["probabilities"][answer["prediction"]]
        assert answer["top"] == [{"label": answer["prediction"], "probability": answer["confidence"]}]
        assert (answer["model"], answer["threshold"], answer["device"]) == ("tiny", 0.5, "cpu")
        assert answer["warnings"] == [
            "Only for tests.",
            "The picture is blurry (sharpness 0, under 1): trust this less.",
        ]
        assert answer["gradcam_heatmap"] is None and "explanation_error" not in answer and "answered_by" not in answer
        assert answer["request_id"] == response.headers["x-request-id"]
        assert {part.split(";")[0].strip() for part in response.headers["server-timing"].split(",")} == {
            "queue",
            "decode",
            "infer",
        }


def test_an_answer_repeats_the_name_of_the_file_that_was_sent(make_client: MakeClient, tmp_path: Path) -> None:
    cached = make_client(seal(tiny_package(tmp_path / "tiny")), cache=ResponseCache(2**20))
    form = {"content-type": "multipart/form-data; boundary=b"}
    for name in ("ct one.png", "\x01é</script>.png"):  # the second answer comes from the cache
        head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        answer = cached.post("/predict", content=head + plain(120) + b"\r\n--b--\r\n", headers=form)
        assert answer.json()["filename"] == name, answer.text
        assert Prediction(**answer.json()).model_dump_json(exclude={"explanation_error"}) == answer.text
        assert answer.headers["x-request-id"] and name not in str(answer.headers)
    assert cached.post("/predict", files={"file": ("x" * 999, plain(1))}).json()["filename"] == "x" * 255
    assert "filename" not in cached.post("/predict", content=plain(120)).json()
    files = [("files", ("a.png", plain(1))), ("files", ("y" * 300, b"no picture"))]
    entries = cached.post("/predict/batch", files=files).json()["predictions"]
    assert [entry["filename"] for entry in entries] == ["a.png", "y" * 255]
    explained = cached.post("/explain?samples=20", files={"file": ("map.png", plain(9))}).json()
    assert explained["filename"] == "map.png"


@pytest.mark.parametrize("query", ["", "?threshold=0.25&top_k=2", "?label=index"])
def test_an_answer_is_written_as_its_schema_writes_it(client: TestClient, query: str) -> None:
    answer = client.post(f"/predict{query}", content=plain(120)).text
    assert answer == Prediction.model_validate_json(answer).model_dump_json(exclude={"explanation_error"})


def test_a_threshold_of_the_clients_own_decides_and_every_label_can_be_listed(client: TestClient) -> None:
    probability = probability_of_bright(120)
    for threshold, label in ((probability - 0.01, "bright"), (probability + 0.01, "dark")):
        answer = client.post(f"/predict?threshold={threshold}&top_k=2", content=plain(120)).json()
        assert answer["prediction"] == label and answer["threshold"] == threshold
        ranked = [(row["label"], row["probability"]) for row in answer["top"]]
        assert sorted(ranked, key=lambda row: -row[1]) == ranked and len(ranked) == 2


def test_a_form_with_one_file_is_the_same_as_the_bare_picture(client: TestClient) -> None:
    bare = client.post("/predict", content=plain(200)).json()
    for field in ("file", "image"):
        form = client.post("/predict", files={field: ("x.png", plain(200))}).json()
        assert form["probabilities"] == bare["probabilities"]


def test_one_corrupt_picture_in_a_batch_fails_alone(client: TestClient) -> None:
    files = [("files", (f"{index}.png", data)) for index, data in enumerate((plain(10), b"no picture", plain(240)))]
    response = client.post("/predict/batch", files=files)
    answer = response.json()
    assert response.status_code == 200 and (answer["batch_size"], answer["errors"]) == (3, 1)
    first, second, third = answer["predictions"]
    assert (first["prediction"], third["prediction"]) == ("dark", "bright")
    assert (first["filename"], second["filename"]) == ("0.png", "1.png")
    assert second["error"]["status"] == 400 and "image" in second["error"]["detail"]


def test_a_batch_of_more_pictures_than_the_card_takes_is_refused(client: TestClient) -> None:
    files = [("files", (f"{index}.png", plain(10))) for index in range(5)]
    response = client.post("/predict/batch", files=files)
    assert response.status_code == 400 and "at most 4" in response.json()["detail"]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("threshold=2", "threshold='2': must be a number from 0 to 1."),
        ("top_k=3", "top_k='3': must be a whole number from 1 to 2."),
        ("timeout_ms=0", "timeout_ms='0': must be a number from 1 to 3,600,000."),
        ("include_gradcam=maybe", "include_gradcam='maybe': must be true or false."),
    ],
)
def test_a_parameter_that_is_not_allowed_is_a_400_that_says_what_is(client: TestClient, query: str, text: str) -> None:
    response = client.post(f"/predict?{query}", content=plain(1))
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"] == response.json()["error"] == text


def test_an_unknown_model_or_version_is_a_404_that_lists_the_known(client: TestClient) -> None:
    response = client.post("/models/absent/predict", content=plain(1))
    assert response.status_code == 404 and "Known models: tiny" in response.json()["detail"]
    version = client.post("/predict", content=plain(1)).json()["version"]
    assert client.post(f"/models/tiny/versions/{version[:6]}/predict", content=plain(1)).status_code == 200
    response = client.post("/models/tiny/versions/ffff/predict", content=plain(1))
    assert response.status_code == 404 and version in response.json()["detail"]


def test_a_model_that_is_loading_is_a_503_before_the_body_is_read(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(seal(tiny_package(tmp_path / "tiny")), loaded=False)
    response = client.post("/predict", content=b"")
    assert response.status_code == 503 and response.headers["retry-after"] == "1"
    assert "waiting to be loaded" in response.json()["detail"]


def test_a_wrong_method_is_a_405_and_a_wrong_path_a_404_both_problems(client: TestClient) -> None:
    response = client.get("/predict")
    assert response.status_code == 405 and response.json()["title"] == "Method Not Allowed"
    assert response.headers["allow"] == "POST"
    response = client.post("/nothing", content=b"")
    assert response.status_code == 404 and "nothing at /nothing" in response.json()["detail"]


def test_a_head_request_answers_as_get_does_without_a_body(client: TestClient) -> None:
    response = client.head("/health")
    assert response.status_code == 200 and response.headers["content-type"] == "application/json"


def test_an_answer_has_every_field_of_the_contract(client: TestClient) -> None:
    response = client.post("/models/tiny/predict", content=plain(200), headers={"X-Request-ID": "mine-1"})
    answer = response.json()
    assert set(answer) == {
        *("model", "version", "prediction", "predicted_class_id", "confidence", "probabilities", "top", "threshold"),
        *("gradcam_heatmap", "warnings", "device", "inference_time_ms", "request_id", "timestamp"),
    }
    assert list(answer["probabilities"]) == ["dark", "bright"]
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert answer["prediction"] == ("dark", "bright")[answer["predicted_class_id"]]
    assert answer["confidence"] == answer["probabilities"][answer["prediction"]]
    assert answer["request_id"] == response.headers["x-request-id"] == "mine-1"
    assert "Only for tests." in answer["warnings"] and answer["timestamp"].endswith("Z")


def test_the_threshold_decides_the_label_and_nothing_else(client: TestClient) -> None:
    low, high = (client.post(f"/predict?threshold={value}", content=plain(200)).json() for value in (0, 1))
    assert (low["prediction"], high["prediction"]) == ("bright", "dark")
    assert low["probabilities"] == high["probabilities"]


def test_a_sharp_picture_is_answered_without_a_warning_of_blur(client: TestClient) -> None:
    assert client.post("/predict", content=encode(bright_square())).json()["warnings"] == ["Only for tests."]


def test_a_deadline_that_cannot_be_met_is_a_504(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    infer = ImagePipeline.infer

    def held_infer(pipeline: ImagePipeline, batch: Sequence[Transformed]) -> list[ImageOutputs]:
        assert held.wait(60)
        return infer(pipeline, batch)

    monkeypatch.setattr(ImagePipeline, "infer", held_infer)
    monkeypatch.setattr(Gathered, "takes", lambda *_: False)
    try:
        response = client.post("/predict?timeout_ms=1", content=plain(1))
        batch = client.post("/predict/batch?timeout_ms=1", files=[("files", ("a.png", plain(1)))])
    finally:
        held.set()
    for answer in (response, batch):
        assert answer.status_code == 504 and answer.headers["content-type"] == "application/problem+json"
        assert "deadline" in answer.json()["detail"]


def test_a_full_queue_is_a_429_that_says_when_to_come_back(
    make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(seal(tiny_package(tmp_path / "tiny")), options=RunnerOptions(gather=False))

    def refuse(*_: object, **__: object) -> None:
        raise QueueFull("tiny has 2.3 seconds of work waiting, and takes 2. Retry later.", 3)

    for entrance in ("submit", "submit_all"):
        monkeypatch.setattr(Runner, entrance, refuse)
    files = [("files", (f"{index}.png", plain(10))) for index in range(2)]
    for response in (client.post("/predict", content=plain(1)), client.post("/predict/batch", files=files)):
        assert (response.status_code, response.headers["retry-after"]) == (429, "3")
