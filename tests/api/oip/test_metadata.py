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
from google.protobuf.json_format import MessageToDict
from tritonclient.utils import InferenceServerException

from tests.api.oip.served import Served, images, tensor
from tests.tiny import plain

MODELS = ("tiny", "explained", "churn", "machine-anomaly")
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


def test_a_models_tensors_are_those_of_its_card(over_http: Any) -> None:
    metadata = over_http.get_model_metadata("tiny")
    assert metadata["inputs"] == [
        {"name": "image", "datatype": "BYTES", "shape": [-1]},
        {"name": "pixels", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
        {"name": "tensor", "datatype": "FP32", "shape": [-1, 3, 16, 16]},
    ]
    assert [output["name"] for output in metadata["outputs"]] == ["probabilities", "logits", "label"]
    assert metadata["outputs"][0]["shape"] == [-1, 2]
    assert [output["name"] for output in over_http.get_model_metadata("explained")["outputs"]][-1] == "map"
    assert [tensor["name"] for tensor in over_http.get_model_metadata("churn")["inputs"]][:3] == [
        "rows",
        "age",
        "income",
    ]
    assert [output["name"] for output in over_http.get_model_metadata("machine-anomaly")["outputs"]] == [
        "score",
        "is_anomaly",
        "contributions",
    ]


def test_a_models_configuration_is_tritons(over_http: Any) -> None:
    config = over_http.get_model_config("tiny")
    assert config["max_batch_size"] == 4
    assert config["input"][0] == {
        "name": "image",
        "data_type": "TYPE_STRING",
        "dims": [1],
        "reshape": {"shape": []},
        "optional": True,
    }
    assert config["input"][2]["dims"] == [3, 16, 16]
    assert config["parameters"] == {"labels": {"string_value": "dark\nbright"}}
    assert over_http.get_model_config("churn")["max_batch_size"] == 1000


@pytest.mark.parametrize("name", MODELS)
def test_both_protocols_describe_a_model_alike(over_http: Any, over_grpc: Any, name: str) -> None:
    metadata, message = over_http.get_model_metadata(name), fields(over_grpc.get_model_metadata(name))
    for entry in (*message["inputs"], *message["outputs"]):
        entry["shape"] = [int(size) for size in entry["shape"]]
    assert message == metadata
    config = over_grpc.get_model_config(name, as_json=True)["config"]
    assert over_http.get_model_config(name)["max_batch_size"] == config["max_batch_size"]
    for client in (over_http, over_grpc):
        assert client.is_model_ready(name) and client.is_model_ready(name, metadata["versions"][0])
        assert not client.is_model_ready(name, "g")


def test_both_protocols_describe_the_server_alike(served: Served, over_http: Any, over_grpc: Any) -> None:
    assert over_http.get_server_metadata() == fields(over_grpc.get_server_metadata())
    assert over_http.get_server_metadata()["version"] == "1.2.3"
    index = over_http.get_model_repository_index()
    assert {row["name"]: row["state"] for row in index} == dict.fromkeys(MODELS, "READY")
    rows = over_grpc.get_model_repository_index().models
    assert [(row.name, row.version, row.state) for row in rows] == [
        (row["name"], row["version"], row["state"]) for row in index
    ]
    assert requests.get(f"{served.url}/v2/models", timeout=10).json() == {"models": sorted(MODELS)}
    for client in (over_http, over_grpc):
        assert client.is_server_live() and client.is_server_ready()
        assert not client.is_model_ready("nope")
        assert len(fields(client.get_inference_statistics())["model_stats"]) == len(MODELS)


def test_clients_load_no_models_and_find_no_shared_memory(over_http: Any, over_grpc: Any) -> None:
    for client in (over_http, over_grpc):
        for call in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException, match="vitrine models import"):
                call("churn")
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
