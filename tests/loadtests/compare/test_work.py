import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from backends.onnx import OnnxBackend
from errors import InvalidInput
from loadtests.compare import cheapest
from loadtests.compare.regimes import customers
from loadtests.compare.work import Work
from loadtests.server import ROOT
from models.card import as_row_card, read_card, read_image_card
from postprocessing.classification import classify, softmax
from serving.pipeline import ImagePipeline
from serving.row_pipeline import RowPipeline


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "cheapest"
    cheapest.build(folder)
    return folder


def test_the_work_of_the_peers_is_what_vitrine_does(package: Path) -> None:
    card = read_image_card(package / "card.toml")
    backend, work = OnnxBackend(package / "predict.onnx"), Work(package, 1)
    pipeline = ImagePipeline(card, backend)
    pictures = cheapest.pictures()
    together = work.batch(pictures)
    for picture, batched in zip(pictures, together, strict=True):
        (result,) = pipeline.infer([pipeline.preprocess(picture)])
        served, alone = classify(result.logits, card), work(picture)
        assert alone["label"] == batched["label"] == served.label
        for answer in (alone, batched):
            assert answer["probabilities"] == pytest.approx(served.probabilities, abs=1e-6)
    backend.close()
    assert len({answer["label"] for answer in together}) > 1  # or the check of answers would check little


def test_kidney_stone_answers_what_pytorch_did() -> None:
    folder = ROOT / "models" / "kidney_stone"
    goldens = json.loads((folder / "goldens" / "goldens.json").read_text("utf-8"))["goldens"]
    work, stones = Work(folder, 1), list[float]()
    for golden in goldens:
        answer = work((folder / "goldens" / golden["file"]).read_bytes())
        expected = softmax(np.array(golden["logits"], np.float32)).tolist()
        assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-3)
        assert answer["label"] == ("stone" if expected[1] >= 0.1029 else "no_stone") and answer["sharpness"] > 0
        stones += [expected[1]] if answer["label"] == "stone" else []
    assert min(stones) < 0.5  # so the card's threshold decided, not the larger probability


def test_the_cheapest_model_is_the_same_everywhere() -> None:
    once, again = (cheapest.graph().SerializeToString(deterministic=True) for _ in range(2))
    assert once == again
    session = ort.InferenceSession(once, providers=["CPUExecutionProvider"])
    batch = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    assert session.run(["logits"], {"image": batch})[0].shape == (2, 10)


def test_the_work_on_rows_is_what_vitrine_does() -> None:
    folder = ROOT / "models" / "churn"
    card = as_row_card(read_card(folder / "card.toml"))
    backend, work = OnnxBackend(folder / "predict.onnx"), Work(folder, 1)
    pipeline, sent = RowPipeline(card, backend), customers()
    together = work.batch(sent)
    for text, batched in zip(sent, together, strict=True):
        row = json.loads(text)
        served = classify(pipeline.infer([pipeline.preprocess([row])])[0].outputs[0], card)
        for answer in (batched, work(text), work(row)):  # some peers parse the JSON, others leave it to the work
            assert answer["label"] == served.label
            assert answer["probabilities"] == pytest.approx(served.probabilities, abs=1e-6)
    backend.close()
    assert {answer["label"] for answer in together} == {"class_0", "class_1"}
    assert len({round(answer["probabilities"]["class_1"], 3) for answer in together}) > 10  # neighbours are told apart


def test_churn_answers_what_pytorch_did() -> None:
    folder = ROOT / "models" / "churn"
    goldens = json.loads((folder / "goldens" / "goldens.json").read_text("utf-8"))["goldens"]
    for golden in goldens:
        answer = Work(folder, 1)((folder / "goldens" / golden["file"]).read_bytes())
        expected = softmax(np.array(golden["logits"], np.float32)).tolist()
        assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-3)


def test_a_row_that_the_card_does_not_allow_is_refused() -> None:
    with pytest.raises(InvalidInput, match="age is missing"):
        Work(ROOT / "models" / "churn", 1)(b"{}")
