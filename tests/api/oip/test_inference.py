"""Inference over HTTP and gRPC by Triton's own clients, against NumPy and the models' goldens."""

import base64
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import requests
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.api.oip.served import Served, images, tensor
from tests.conftest import ROOT, encode
from tests.tiny import logits_of_plain, plain

CHURN, SENSORS = ROOT / "models" / "churn", ROOT / "models" / "machine_anomaly"
SENSOR_VALUES = [68.0, 3.1, 31.0, 1900.0]
TOO_HOT = [999.0, *SENSOR_VALUES[1:]]


def golden_rows(package: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the rows of a model's goldens and the outputs that PyTorch computed for them."""
    goldens = json.loads((package / "goldens" / "goldens.json").read_text())["goldens"]
    rows = [json.loads((package / "goldens" / golden["file"]).read_text()) for golden in goldens]
    numbers = [[value for value in row.values() if not isinstance(value, str)] for row in rows]
    return np.array(numbers), np.array([golden["logits"] for golden in goldens])


def softmax(logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    powers = np.exp(np.asarray(logits, np.float64))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def parameter(answer: Any, name: str) -> str:
    response = answer.get_response()
    if isinstance(response, dict):
        return str(response.get("parameters", {}).get(name, ""))
    return str(response.parameters[name].string_param)


def test_encoded_pictures_pixels_and_tensors_are_answered_alike(client: Any, triton: ModuleType) -> None:
    levels = (10, 130, 250)
    pixels = np.stack([np.full((16, 16, 3), level, np.uint8) for level in levels])
    normalised = (pixels.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5
    expected = np.stack([logits_of_plain(level) for level in levels])
    for sent in (
        images(triton, *(plain(level) for level in levels)),
        tensor(triton, "pixels", pixels, "UINT8"),
        tensor(triton, "tensor", normalised.astype(np.float32), "FP32"),
    ):
        answer = client.infer("tiny", [sent], request_id="three")
        assert answer.as_numpy("logits") == pytest.approx(expected, abs=1e-5)
        assert answer.as_numpy("probabilities") == pytest.approx(softmax(expected), abs=1e-6)
        assert answer.as_numpy("label").tolist() == [b"dark" if row[0] > row[1] else b"bright" for row in expected]
        response = answer.get_response()
        assert (response["id"] if isinstance(response, dict) else response.id) == "three"


def test_pictures_of_different_sizes_are_answered_in_order(client: Any, triton: ModuleType) -> None:
    sizes = {(40, 30): 20, (16, 16): 220, (17, 90): 90}
    pictures = [encode(Image.new("RGB", size, (level,) * 3)) for size, level in sizes.items()]
    answer = client.infer("tiny", [images(triton, *pictures)])
    assert answer.as_numpy("logits") == pytest.approx(np.stack([logits_of_plain(level) for level in sizes.values()]))


def test_http_takes_base64_and_the_bare_picture_as_the_body(served: Served) -> None:
    url = f"{served.url}/v2/models/tiny/infer"
    text = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
    body = {"inputs": [{**text, "data": [base64.b64encode(plain(200)).decode()]}]}
    bare = {"Inference-Header-Content-Length": "0"}
    for answer in (
        requests.post(url, json=body, timeout=30),
        requests.post(url, data=plain(200), headers=bare, timeout=30),
    ):
        assert answer.json()["outputs"][1]["data"] == pytest.approx(logits_of_plain(200).tolist(), abs=1e-5)
        assert answer.json()["model_version"] == served.repository.get("tiny").version


def test_bare_rows_are_a_body_too(served: Served) -> None:
    rows, logits = golden_rows(CHURN)
    answer = requests.post(
        f"{served.url}/v2/models/churn/infer",
        data=rows.astype("<f4").tobytes(),
        headers={"Inference-Header-Content-Length": "0"},
        timeout=30,
    )
    assert answer.json()["outputs"][1]["data"] == pytest.approx(logits.ravel().tolist(), abs=1e-3)


def test_rows_and_columns_are_answered_alike(client: Any, triton: ModuleType) -> None:
    rows, logits = golden_rows(CHURN)
    names = list(json.loads((CHURN / "goldens" / "0.json").read_text()))
    columns = [tensor(triton, name, column, "FP64") for name, column in zip(names, rows.T, strict=True)]
    standing = [
        tensor(triton, name, column[:, None].astype(np.float32), "FP32")
        for name, column in zip(names, rows.T, strict=True)
    ]
    for sent in ([tensor(triton, "rows", rows.astype(np.float32), "FP32")], columns, standing):
        answer = client.infer("churn", sent)
        assert answer.as_numpy("logits") == pytest.approx(logits, abs=1e-3)
        assert answer.as_numpy("probabilities") == pytest.approx(softmax(logits), abs=1e-3)
        # Positive is `class_1` from its probability of one half on.
        expected = [b"class_1" if row[1] >= row[0] else b"class_0" for row in logits]
        assert answer.as_numpy("label").tolist() == expected


def test_many_rows_are_answered_as_few_are(client: Any, triton: ModuleType) -> None:
    rows, logits = golden_rows(CHURN)
    answer = client.infer("churn", [tensor(triton, "rows", np.tile(rows, (100, 1)), "FP64")])
    assert answer.as_numpy("logits") == pytest.approx(np.tile(logits, (100, 1)), abs=1e-3)
    assert len(answer.as_numpy("label")) == 100 * len(rows)


def test_a_detector_gives_score_decision_and_contributions(client: Any, triton: ModuleType) -> None:
    rows, errors = golden_rows(SENSORS)
    answer = client.infer("machine-anomaly", [tensor(triton, "rows", rows, "FP64")])
    assert answer.as_numpy("contributions") == pytest.approx(errors, rel=1e-3, abs=1e-4)
    assert answer.as_numpy("score") == pytest.approx(errors.mean(axis=1), rel=1e-3, abs=1e-4)
    for threshold in (1e-6, 1e6):
        judged = client.infer(
            "machine-anomaly", [tensor(triton, "rows", rows, "FP64")], parameters={"threshold": threshold}
        )
        assert judged.as_numpy("is_anomaly").tolist() == [threshold < 1] * len(rows)


def test_a_threshold_decides_the_label_and_nothing_else(client: Any, triton: ModuleType) -> None:
    sent = [images(triton, plain(130))]
    for threshold, label in ((0.0, b"bright"), (1.0, b"dark")):
        answer = client.infer("tiny", sent, parameters={"threshold": threshold})
        assert answer.as_numpy("label").tolist() == [label]
        assert answer.as_numpy("logits")[0] == pytest.approx(logits_of_plain(130), abs=1e-5)


def test_classes_are_ranked_by_the_classification_extension(client: Any, triton: Any) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", class_count=5), triton.InferRequestedOutput("logits")]
    answer = client.infer("tiny", [images(triton, plain(30), plain(220))], outputs=outputs)
    for classes, level in zip(answer.as_numpy("probabilities"), (30, 220), strict=True):
        probabilities = softmax(logits_of_plain(level))
        values, indices, labels = zip(*(text.decode().split(":") for text in classes), strict=True)
        assert [int(index) for index in indices] == sorted(range(2), key=lambda index: -probabilities[index])
        assert list(labels) == [("dark", "bright")[int(index)] for index in indices]
        assert [float(value) for value in values] == pytest.approx(sorted(probabilities, reverse=True), abs=1e-6)
    assert answer.as_numpy("logits").shape == (2, 2)
    assert answer.as_numpy("label") is None


def test_a_map_is_drawn_for_the_same_picture_in_any_form(client: Any, triton: Any) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8] = (40, 80, 160)
    output = [triton.InferRequestedOutput("map")]
    for sent in (images(triton, encode(pixels)), tensor(triton, "pixels", pixels[None], "UINT8")):
        answer = client.infer("explained", [sent], outputs=output)
        assert answer.as_numpy("map").tolist() == [[[20.0, 40.0, 80.0]]]
        assert parameter(answer, "answered_by") == "network"
    transformed = tensor(triton, "tensor", np.zeros((1, 3, 16, 16), np.float32), "FP32")
    with pytest.raises(InferenceServerException, match="There is no map of a tensor"):
        client.infer("explained", [transformed], outputs=output)
    masked = client.infer("tiny", [images(triton, encode(pixels))], outputs=output)  # it has no gradient
    assert masked.as_numpy("map").shape == (1, 16, 16) and masked.as_numpy("map").max() > 0


def test_attributions_of_rows_add_up_to_what_is_answered(client: Any, triton: Any) -> None:
    rows, logits = golden_rows(CHURN)
    sent = [tensor(triton, "rows", rows.astype(np.float32), "FP32")]
    outputs = [triton.InferRequestedOutput(name) for name in ("attributions", "probabilities")]
    answer = client.infer("churn", sent, outputs=outputs)
    base_values = [float(text) for text in parameter(answer, "base_values").split(",")]
    assert answer.as_numpy("attributions").shape == rows.shape
    # Of two labels with a threshold of one half, the more probable is answered and explained.
    explained = answer.as_numpy("attributions").sum(axis=1) + base_values
    assert explained == pytest.approx(answer.as_numpy("probabilities").max(axis=1), abs=1e-5)
    assert explained == pytest.approx(softmax(logits).max(axis=1), abs=1e-3)
    most_probable = answer.as_numpy("probabilities").argmax(axis=1)
    assert json.loads(parameter(answer, "targets")) == [f"class_{label}" for label in most_probable]
    assert client.infer("churn", sent).as_numpy("attributions") is None  # nobody asked


def test_the_part_of_the_network_that_answered_each_picture_is_named(client: Any, triton: ModuleType) -> None:
    for level, part in ((10, "early_exit"), (130, "network")):
        answer = client.infer("explained", [images(triton, plain(level))], parameters={"threshold": 0.001})
        assert parameter(answer, "answered_by") == part
        assert ("The early exit answered" in parameter(answer, "warnings")) == (part == "early_exit")
    assert parameter(client.infer("tiny", [images(triton, plain(10))]), "answered_by") == ""


def test_warnings_come_once_each(client: Any, triton: ModuleType) -> None:
    answer = client.infer("tiny", [images(triton, plain(10), plain(20))])
    assert parameter(answer, "warnings").count("Only for tests.") == 1
    assert parameter(answer, "warnings").count("The picture is blurry") == 1


def test_a_wrong_item_fails_the_request_or_is_left_out(client: Any, triton: ModuleType) -> None:
    sent = [images(triton, plain(10), b"no picture", plain(250))]
    with pytest.raises(InferenceServerException, match=r"image\[1\]: The file is not an image"):
        client.infer("tiny", sent)
    answer = client.infer("tiny", sent, parameters={"partial": True})
    expected = np.stack([logits_of_plain(10), logits_of_plain(250)])
    assert answer.as_numpy("logits") == pytest.approx(expected, abs=1e-5)
    assert list(json.loads(parameter(answer, "failed"))) == ["1"]
    with pytest.raises(InferenceServerException, match=r"image\[0\]"):
        client.infer("tiny", [images(triton, b"no", b"no")], parameters={"partial": True})


def test_a_wrong_row_fails_the_request_or_is_left_out(client: Any, triton: ModuleType) -> None:
    sent = [tensor(triton, "rows", np.array([SENSOR_VALUES, TOO_HOT], np.float32), "FP32")]
    with pytest.raises(InferenceServerException, match="Row 1: temperature must"):
        client.infer("machine-anomaly", sent)
    answer = client.infer("machine-anomaly", sent, parameters={"partial": True})
    assert answer.as_numpy("score").shape == (1,)
    assert "temperature" in json.loads(parameter(answer, "failed"))["1"]
    with pytest.raises(InferenceServerException, match="Row 0: temperature must"):
        client.infer(
            "machine-anomaly",
            [tensor(triton, "rows", np.array([TOO_HOT], np.float32), "FP32")],
            parameters={"partial": True},
        )


IMAGE = np.array([b"x"], object)


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        ("tiny", [("image", IMAGE, "BYTES")], r"image\[0\]: The file is not an image"),
        ("tiny", [("image", np.zeros((1, 2), np.uint8), "UINT8")], "image: datatype must be BYTES"),
        ("tiny", [("image", np.array([[b"x", b"y"]], object), "BYTES")], r"shape must be \[N\] or \[N, 1\]"),
        ("tiny", [("image", np.array([], object), "BYTES")], "takes 1 to 4 items"),
        ("tiny", [("image", np.array([b"x"] * 5, object), "BYTES")], "takes 1 to 4 items"),
        ("tiny", [("pixels", np.zeros((1, 64, 64, 4), np.uint8), "UINT8")], r"must be \[N, H, W, 3\]"),
        ("tiny", [("pixels", np.zeros((1, 0, 64, 3), np.uint8), "UINT8")], "each side needs at least"),
        ("tiny", [("tensor", np.zeros((1, 3, 64, 64), np.float32), "FP32")], r"must be \[N, 3, 16, 16\]"),
        ("tiny", [("tensor", np.full((1, 3, 16, 16), np.nan, np.float32), "FP32")], "not finite"),
        ("tiny", [("tensor", np.full((1, 3, 16, 16), 1e38, np.float32), "FP32")], "not finite, or beyond"),
        ("tiny", [("picture", IMAGE, "BYTES")], "one of image, pixels, tensor"),
        ("tiny", [("image", IMAGE, "BYTES")] * 2, "'image' stands more than once"),
        ("churn", [("rows", np.zeros((2, 5), np.float32), "FP32")], r"must be \[N, 6\]"),
        ("churn", [("rows", np.zeros((2, 6), np.int32), "INT32")], "must be FP32 or FP64"),
        ("churn", [("age", np.zeros(2, np.float32), "FP32")] * 2, "'age' stands more than once"),
        ("churn", [("rows", np.full((2, 6), np.nan, np.float32), "FP32")], "Row 0: age must be a number"),
        ("churn", [("rows", np.zeros((1001, 6), np.float32), "FP32")], "takes 1 to 1,000 items"),
        ("churn", [("age", np.zeros(1, np.float32), "FP32")], "income is missing"),
        ("churn", [(name, np.zeros(1, np.float32), "FP32") for name in ("age", "zodiac")], "'zodiac' is unknown"),
    ],
)
def test_inputs_that_a_model_does_not_take_are_refused_by_name(
    client: Any, triton: ModuleType, model: str, inputs: list[tuple[str, Any, str]], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message) as refused:
        client.infer(model, [tensor(triton, *arguments) for arguments in inputs])
    assert refused.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_columns_of_different_lengths_are_refused(client: Any, triton: ModuleType) -> None:
    names = list(json.loads((CHURN / "goldens" / "0.json").read_text()))
    columns = [tensor(triton, name, np.zeros(2 - (name == "age")), "FP64") for name in names]
    with pytest.raises(InferenceServerException, match=r"same number of rows; they are age \[1\], income \[2\]"):
        client.infer("churn", columns)


def test_unknown_models_versions_and_outputs_are_named(client: Any, triton: Any) -> None:
    sent = [images(triton, plain(1))]
    for model, version, message in (("nope", "", "Known models: churn"), ("tiny", "g", "is not served here")):
        with pytest.raises(InferenceServerException, match=message) as refused:
            client.infer(model, sent, model_version=version)
        assert refused.value.status() in ("404", "StatusCode.NOT_FOUND")
    for output, message in (("score", "it has probabilities, logits, label"), ("label", "label has no classes")):
        with pytest.raises(InferenceServerException, match=message):
            client.infer("tiny", sent, outputs=[triton.InferRequestedOutput(output, class_count=2)])


def test_a_request_that_is_late_is_refused_and_costs_no_other_request(
    client: Any, triton: ModuleType, served: Served
) -> None:
    sent = [images(triton, plain(10))]
    with served.brake.pulled(), pytest.raises(InferenceServerException, match="before the deadline") as late:
        client.infer("tiny", sent, timeout=1000)
    assert late.value.status() in ("504", "StatusCode.DEADLINE_EXCEEDED")
    answer = client.infer("tiny", sent, timeout=30_000_000)
    assert answer.as_numpy("logits")[0] == pytest.approx(logits_of_plain(10), abs=1e-5)


def test_a_parameter_that_nearly_is_a_known_one_is_refused_and_others_are_ignored(
    client: Any, triton: ModuleType
) -> None:
    picture = [images(triton, plain(10))]
    with pytest.raises(InferenceServerException, match=r"thresold: there is no such parameter"):
        client.infer("tiny", picture, parameters={"thresold": 0.9})
    assert client.infer("tiny", picture, parameters={"mine": 1, "threshold": 0.9}).as_numpy("label").shape == (1,)
