"""The names of a model beside its own: what each takes and gives, and that no other model can have them."""

import json
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import requests
from tritonclient.utils import InferenceServerException

from errors import CardError
from models.card import parse_card
from tests.api.counted import counted_requests
from tests.api.oip.served import Served, images, tensor
from tests.conftest import ROOT
from tests.tiny import CARD, logits_of_plain, plain

PIXELS = np.full((2, 16, 16, 3), 200, np.uint8)
BARE = {"Inference-Header-Content-Length": "0"}


def infer_bare(served: Served, name: str, data: bytes) -> requests.Response:
    return requests.post(f"{served.url}/v2/models/{name}/infer", data=data, headers=BARE, timeout=30)


def probability(level: int) -> float:
    low, high = logits_of_plain(level)
    return float(1 / (1 + np.exp(low - high)))


def test_no_card_can_have_the_name_of_another_models_way_in() -> None:
    with pytest.raises(CardError, match="name"):
        parse_card(CARD.format(name="tiny.tensor"), "card.toml")


def test_a_name_answers_with_the_output_that_it_lists_and_with_others_where_they_are_named(
    client: Any, triton: Any
) -> None:
    sent = [tensor(triton, "pixels", PIXELS, "UINT8")]
    answer = client.infer("tiny.pixels", sent)
    assert answer.as_numpy("probabilities")[:, 1] == pytest.approx([probability(200)] * 2, abs=1e-5)
    assert answer.as_numpy("logits") is None and answer.as_numpy("label") is None
    named = client.infer("tiny.pixels", sent, outputs=[triton.InferRequestedOutput("label")])
    assert named.as_numpy("label").tolist() == [b"bright"] * 2
    response = named.get_response()
    assert (response["model_name"] if isinstance(response, dict) else response.model_name) == "tiny.pixels"


def test_pixels_of_another_size_than_the_listed_one_are_resized(client: Any, triton: ModuleType) -> None:
    larger = np.full((1, 90, 40, 3), 60, np.uint8)
    answer = client.infer("tiny.pixels", [tensor(triton, "pixels", larger, "UINT8")])
    assert answer.as_numpy("probabilities")[0, 1] == pytest.approx(probability(60), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny.tensor", "Send tensor as the only input, not image"),
        ("churn.columns", "age is missing.*'image' is unknown.*Expected: age, income"),
    ],
)
def test_a_name_takes_only_what_it_lists(client: Any, triton: ModuleType, name: str, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message) as refused:
        client.infer(name, [images(triton, plain(1))])
    assert refused.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


@pytest.mark.parametrize("name", ["tiny.", "tiny.rows", "tiny.tensor.pixels", "nope.tensor", ".tensor"])
def test_an_unknown_name_is_not_found_and_the_known_ones_are_listed(client: Any, triton: ModuleType, name: str) -> None:
    known = "tiny, tiny.pixels, tiny.tensor" if name.startswith("tiny") else "Known models: churn"
    for call in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics):
        with pytest.raises(InferenceServerException, match=known) as refused:
            call(name)
        assert refused.value.status() in ("404", "StatusCode.NOT_FOUND")
    assert not client.is_model_ready(name)
    with pytest.raises(InferenceServerException, match=known):
        client.infer(name, [images(triton, plain(1))])


def test_the_bare_tensor_of_a_name_is_the_body(served: Served) -> None:
    normalised = (PIXELS.transpose(0, 3, 1, 2) / np.float32(127.5) - 1).astype("<f4")
    for name, data in (("tiny.pixels", PIXELS.tobytes()), ("tiny.tensor", normalised.tobytes())):
        output = infer_bare(served, name, data).json()["outputs"][0]
        assert output["shape"] == [2, 2]
        assert output["data"][1::2] == pytest.approx([probability(200)] * 2, abs=1e-5)
    cut = infer_bare(served, "tiny.pixels", PIXELS.tobytes()[:-1])
    assert cut.status_code == 400 and "were sent" in cut.json()["error"]
    columns = infer_bare(served, "churn.columns", b"\0" * 24)
    assert columns.status_code == 400 and "takes 6 inputs" in columns.json()["error"]


def test_columns_are_answered_as_rows_are(client: Any, triton: ModuleType) -> None:
    row = json.loads((ROOT / "models" / "churn" / "goldens" / "0.json").read_text())
    columns = [tensor(triton, name, np.array([value], np.float32), "FP32") for name, value in row.items()]
    rows = tensor(triton, "rows", np.array([list(row.values())], np.float32), "FP32")
    by_columns = client.infer("churn.columns", columns).as_numpy("probabilities")
    assert by_columns == pytest.approx(client.infer("churn", [rows]).as_numpy("probabilities"), abs=1e-6)


def test_statistics_and_metrics_of_a_name_are_those_of_its_model(served: Served, client: Any, triton: Any) -> None:
    def counted(name: str) -> tuple[str, int]:
        statistics = requests.get(f"{served.url}/v2/models/{name}/stats", timeout=10).json()["model_stats"][0]
        return statistics["name"], statistics["inference_count"]

    before, unknown = counted("tiny")[1], counted_requests("unknown")
    client.infer("tiny.pixels", [tensor(triton, "pixels", PIXELS, "UINT8")])
    assert counted("tiny") == ("tiny", before + 2)
    assert counted("tiny.tensor") == ("tiny.tensor", before + 2)
    assert counted_requests("tiny") > 0 and counted_requests("unknown") == unknown
