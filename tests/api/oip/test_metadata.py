"""The server and its models as both protocols describe them, by Triton's own clients."""

import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from google.protobuf.json_format import MessageToDict, ParseDict
from tritonclient.utils import InferenceServerException

from tests.api.oip.served import Served, images, tensor
from tests.tiny import plain

MODELS = ("tiny", "explained", "churn", "machine-anomaly")
COLUMNS = ("age", "income", "tenure_days", "num_purchases", "avg_transaction_value", "days_since_last_purchase")
NAMES = (
    *("tiny", "tiny.pixels", "tiny.tensor", "explained", "explained.pixels", "explained.tensor"),
    *("churn", "churn.columns", "machine-anomaly", "machine-anomaly.columns"),
)
CUSTOMER = [42.0, 52_000.0, 420.0, 9.0, 63.5, 95.0]


@pytest.fixture
def over_http(served: Served) -> Iterator[Any]:
    with triton_http.InferenceServerClient(served.http) as client:
        yield client


@pytest.fixture
def over_grpc(served: Served) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(served.grpc) as client:
        yield client


def fields(message: Any) -> Any:
    """Return an answer of either client as a dictionary."""
    return message if isinstance(message, dict) else MessageToDict(message, preserving_proto_field_name=True)


def number(statistics: Any, *path: str) -> int:
    """Return a number from Triton's statistics, which leave zeros out."""
    for key in path:
        statistics = statistics.get(key, {})
    return int(statistics or 0)


@pytest.mark.parametrize(
    ("name", "inputs", "output"),
    [
        ("tiny", [("image", "BYTES", [-1])], ("probabilities", [-1, 2])),
        ("tiny.pixels", [("pixels", "UINT8", [-1, 16, 16, 3])], ("probabilities", [-1, 2])),
        ("tiny.tensor", [("tensor", "FP32", [-1, 3, 16, 16])], ("probabilities", [-1, 2])),
        ("churn", [("rows", "FP32", [-1, 6])], ("probabilities", [-1, 2])),
        ("churn.columns", [(name, "FP32", [-1]) for name in COLUMNS], ("probabilities", [-1, 2])),
        ("machine-anomaly", [("rows", "FP32", [-1, 4])], ("score", [-1])),
    ],
)
def test_each_name_of_a_model_lists_one_way_in_and_one_output(
    over_http: Any, name: str, inputs: list[tuple[str, str, list[int]]], output: tuple[str, list[int]]
) -> None:
    metadata = over_http.get_model_metadata(name)
    assert metadata["name"] == name
    assert [(entry["name"], entry["datatype"], entry["shape"]) for entry in metadata["inputs"]] == inputs
    assert metadata["outputs"] == [{"name": output[0], "datatype": "FP32", "shape": output[1]}]


def test_a_models_configuration_is_tritons(over_http: Any) -> None:
    config = over_http.get_model_config("tiny")
    assert config["max_batch_size"] == 4
    image = {"name": "image", "data_type": "TYPE_STRING", "dims": [1], "reshape": {"shape": []}}
    assert config["input"] == [image | {"format": "FORMAT_NONE"}]
    assert config["parameters"]["labels"] == {"string_value": "dark\nbright"}
    for suffix, dims, order in (("tensor", [3, 16, 16], "FORMAT_NCHW"), ("pixels", [16, 16, 3], "FORMAT_NHWC")):
        entry = over_http.get_model_config(f"tiny.{suffix}")["input"][0]
        assert (entry["dims"], entry["format"]) == (dims, order)
    assert over_http.get_model_config("churn")["max_batch_size"] == 1000


def test_a_configuration_tells_the_outputs_that_a_request_may_name(over_http: Any) -> None:
    for name, outputs in (
        ("tiny.tensor", "probabilities logits label map"),
        ("explained", "probabilities logits label map"),
        ("machine-anomaly", "score is_anomaly contributions attributions"),
    ):
        assert over_http.get_model_config(name)["parameters"]["outputs"]["string_value"].split() == outputs.split()


@pytest.mark.parametrize("name", NAMES)
def test_both_protocols_describe_a_model_alike(over_http: Any, over_grpc: Any, name: str) -> None:
    metadata, message = over_http.get_model_metadata(name), fields(over_grpc.get_model_metadata(name))
    for entry in (*message["inputs"], *message["outputs"]):
        entry["shape"] = [int(size) for size in entry["shape"]]
    assert message == metadata
    config, answered = over_http.get_model_config(name), over_grpc.get_model_config(name).config
    assert ParseDict(config, type(answered)()) == answered
    for client in (over_http, over_grpc):
        assert client.is_model_ready(name) and client.is_model_ready(name, metadata["versions"][0])
        assert not client.is_model_ready(name, "g")


def test_both_protocols_describe_the_server_alike(served: Served, over_http: Any, over_grpc: Any) -> None:
    assert over_http.get_server_metadata() == fields(over_grpc.get_server_metadata())
    assert over_http.get_server_metadata()["version"] == "1.2.3"
    index = over_http.get_model_repository_index()
    assert {row["name"]: row["state"] for row in index} == dict.fromkeys(NAMES, "READY")
    rows = over_grpc.get_model_repository_index().models
    assert [(row.name, row.version, row.state) for row in rows] == [
        (row["name"], row["version"], row["state"]) for row in index
    ]
    assert requests.get(f"{served.url}/v2/models", timeout=10).json() == {"models": sorted(NAMES)}
    for client in (over_http, over_grpc):
        assert client.is_server_live() and client.is_server_ready()
        assert not client.is_model_ready("nope")
        assert len(fields(client.get_inference_statistics())["model_stats"]) == len(MODELS)


def test_clients_find_no_shared_memory(over_grpc: Any) -> None:
    with pytest.raises(InferenceServerException, match="no shared memory"):
        over_grpc.get_system_shared_memory_status()


def test_statistics_add_up(client: Any, triton: ModuleType) -> None:
    def statistics() -> Any:
        return fields(client.get_inference_statistics("tiny"))["model_stats"][0]

    before, sent_at = statistics(), time.time()
    client.infer("tiny", [images(triton, *(plain(level) for level in (1, 2, 3)))])
    with pytest.raises(InferenceServerException):
        client.infer("tiny", [images(triton, b"no picture")])
    after = statistics()
    for path, difference in (
        (("inference_count",), 3),
        (("inference_stats", "success", "count"), 3),
        (("inference_stats", "queue", "count"), 3),
        (("inference_stats", "fail", "count"), 1),
    ):
        assert number(after, *path) - number(before, *path) == difference
    batches = [(number(batch, "batch_size"), number(batch, "compute_infer", "count")) for batch in after["batch_stats"]]
    assert sum(size * count for size, count in batches) == number(after, "inference_count")
    assert sum(count for _, count in batches) == number(after, "execution_count")
    assert number(after, "last_inference") / 1e3 >= sent_at - 1
    inferring = ("inference_stats", "compute_infer", "ns")
    assert number(after, *inferring) > number(before, *inferring)


def test_rows_count_one_by_one_and_a_refused_request_as_failed(client: Any, triton: ModuleType, served: Served) -> None:
    def counts() -> Any:
        statistics = requests.get(f"{served.url}/v2/models/churn/stats", timeout=10).json()["model_stats"][0]
        outcomes = statistics["inference_stats"]
        return np.array([statistics["inference_count"], outcomes["success"]["count"], outcomes["fail"]["count"]])

    before = counts()
    client.infer("churn", [tensor(triton, "rows", np.array([CUSTOMER] * 50, np.float32), "FP32")])
    assert (counts() - before).tolist() == [50, 1, 0]
    with pytest.raises(InferenceServerException):
        client.infer("churn", [tensor(triton, "rows", np.full((1, 6), np.nan, np.float32), "FP32")])
    assert (counts() - before).tolist() == [50, 1, 1]
