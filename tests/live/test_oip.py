"""The Open Inference Protocol with the clients that exist: Triton's (HTTP, gRPC, aio), KServe's, BentoML's."""

import asyncio
import base64
import io
import json
import queue
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bentoml
import grpc
import numpy as np
import numpy.typing as npt
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tritonclient.utils import InferenceServerException

from models.card import read_image_card
from preprocessing.decode import decode
from preprocessing.transform import transform
from tests.conftest import ROOT, SHIPPED, encode
from tests.live.server import Server
from tests.live.test_models import CUSTOMER, READING

CARD = read_image_card(SHIPPED / "card.toml")
STONE, CHURN, SENSORS = "kidney-stone", "churn", "machine-anomaly"
FEATURES = [READING[name] for name in ("temperature", "vibration", "pressure", "power")]


@pytest.fixture
def server(shipped: Server) -> Server:
    return shipped


@pytest.fixture(params=[triton_http, triton_grpc], ids=["http", "grpc"])
def module(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(server: Server, module: Any) -> Iterator[Any]:
    """Triton's client over HTTP, then over gRPC."""
    with module.InferenceServerClient(address(server, module)) as found:
        yield found


def address(server: Server, module: Any) -> str:
    return server.url.removeprefix("http://") if module is triton_http else server.grpc


def tensor(module: Any, name: str, array: npt.NDArray[Any], datatype: str) -> Any:
    found = module.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array)
    return found


def files(module: Any, *pictures: bytes) -> Any:
    return tensor(module, "image", np.array(pictures, object), "BYTES")


def predicted(server: Server, data: bytes) -> list[float]:
    """What `/predict` says of one picture."""
    answer = requests.post(f"{server.url}/predict", data=data, timeout=60)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["probabilities"].values())


def test_every_way_in_gives_the_same_probabilities(server: Server, pictures: list[bytes]) -> None:
    data = pictures[3]
    image = decode(data, CARD.limits)
    text = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
    body = {"inputs": [{**text, "data": [base64.b64encode(data).decode()]}]}
    infer = f"{server.url}/v2/models/{STONE}/infer"
    found = [
        requests.post(infer, json=body, timeout=60).json()["outputs"][0]["data"],
        requests.post(infer, data=data, headers={"Inference-Header-Content-Length": "0"}, timeout=60).json()["outputs"][
            0
        ]["data"],
    ]
    for module in (triton_http, triton_grpc):
        with module.InferenceServerClient(address(server, module)) as client:
            for sent in (
                files(module, data),
                tensor(module, "pixels", image[None], "UINT8"),
                tensor(module, "tensor", transform(image, CARD.input).tensor[None], "FP32"),
            ):
                found.append(client.infer(STONE, [sent]).as_numpy("probabilities")[0])

    async def over_aio() -> Any:
        async with triton_aio.InferenceServerClient(server.grpc) as client:
            return (await client.infer(STONE, [files(triton_grpc, data)])).as_numpy("probabilities")[0]

    found.append(asyncio.run(over_aio()))
    with bentoml.SyncHTTPClient(server.url) as bento:
        found.append(list(bento.predict(data)["probabilities"].values()))
    assert np.abs(np.array(found) - predicted(server, data)).max() <= 1e-6


def test_pictures_of_different_sizes_in_one_request_each_get_their_own_answer(
    client: Any, module: Any, server: Server, pictures: list[bytes]
) -> None:
    sizes = {Image.open(io.BytesIO(data)).size for data in pictures[:6]}
    assert len(sizes) > 1
    answer = client.infer(STONE, [files(module, *pictures[:6])], request_id="six")
    alone = np.array([predicted(server, data) for data in pictures[:6]])
    assert np.abs(answer.as_numpy("probabilities") - alone).max() <= 1e-6
    logits = answer.as_numpy("logits").astype(np.float64)
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(odds - alone).max() <= 1e-6
    labels = [CARD.labels[int(row[1] >= 0.5)].encode() for row in alone]
    assert answer.as_numpy("label").tolist() == labels
    said = answer.get_response()
    assert (said["id"] if isinstance(said, dict) else said.id) == "six"


def test_rows_and_columns_are_answered_as_their_json_is(client: Any, module: Any, server: Server) -> None:
    json_answer = requests.post(f"{server.url}/models/{CHURN}/predict", json={"features": CUSTOMER}, timeout=30).json()
    wanted = list(json_answer["probabilities"].values())
    rows = np.array([list(CUSTOMER.values())] * 3, np.float32)
    columns = [tensor(module, name, np.array([value], np.float64), "FP64") for name, value in CUSTOMER.items()]
    for sent, count in (([tensor(module, "rows", rows, "FP32")], 3), (columns, 1)):
        answer = client.infer(CHURN, sent)
        assert np.abs(answer.as_numpy("probabilities") - [wanted] * count).max() <= 1e-6
        assert answer.as_numpy("label").tolist() == [json_answer["prediction"].encode()] * count


def test_a_detector_gives_score_call_and_contributions(client: Any, module: Any, server: Server) -> None:
    wanted = requests.post(f"{server.url}/models/{SENSORS}/predict", json=READING, timeout=30).json()
    hot = [190.0, *FEATURES[1:]]
    answer = client.infer(SENSORS, [tensor(module, "rows", np.array([FEATURES, hot], np.float32), "FP32")])
    assert answer.as_numpy("score")[0] == pytest.approx(wanted["anomaly_score"], rel=1e-3)
    assert answer.as_numpy("contributions")[0] == pytest.approx(
        list(wanted["contributions"].values()), rel=1e-3, abs=1e-5
    )
    assert answer.as_numpy("contributions").mean(axis=1) == pytest.approx(answer.as_numpy("score"), rel=1e-5)
    assert answer.as_numpy("is_anomaly").tolist() == [wanted["is_anomaly"], True]


def test_classes_are_ranked_by_the_extension(client: Any, module: Any, pictures: list[bytes]) -> None:
    outputs = [module.InferRequestedOutput("probabilities", class_count=5), module.InferRequestedOutput("logits")]
    answer = client.infer(STONE, [files(module, *pictures[:3])], outputs=outputs)
    chances = client.infer(STONE, [files(module, *pictures[:3])]).as_numpy("probabilities")
    for said, row in zip(answer.as_numpy("probabilities"), chances, strict=True):
        parts = [text.decode().split(":") for text in said]
        assert [int(index) for _, index, _ in parts] == sorted(range(2), key=lambda index: -row[index])
        assert [label for _, _, label in parts] == [CARD.labels[int(index)] for _, index, _ in parts]
        assert [float(value) for value, _, _ in parts] == pytest.approx(sorted(row, reverse=True), abs=1e-6)
    assert answer.as_numpy("logits").shape == (3, 2)
    assert answer.as_numpy("label") is None


def test_a_map_is_that_of_the_explain_route(client: Any, module: Any, server: Server, pictures: list[bytes]) -> None:
    deadline = time.monotonic() + 60
    while requests.get(f"{server.url}/health", timeout=10).json()["explanations"][STONE] != "ready":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    wanted = requests.post(f"{server.url}/explain?output=map", data=pictures[1], timeout=60).json()["explanation"][
        "map"
    ]
    image = decode(pictures[1], CARD.limits)
    for sent in (files(module, pictures[1]), tensor(module, "pixels", image[None], "UINT8")):
        found = client.infer(STONE, [sent], outputs=[module.InferRequestedOutput("map")]).as_numpy("map")
        assert found[0] == pytest.approx(np.array(wanted), rel=1e-4, abs=1e-6)
    ready = tensor(module, "tensor", transform(image, CARD.input).tensor[None], "FP32")
    with pytest.raises(InferenceServerException, match="no map of a tensor"):
        client.infer(STONE, [ready], outputs=[module.InferRequestedOutput("map")])


def test_both_protocols_say_the_same_of_server_and_models(server: Server) -> None:
    with (
        triton_http.InferenceServerClient(address(server, triton_http)) as over_http,
        triton_grpc.InferenceServerClient(server.grpc) as over_grpc,
    ):
        for name in (STONE, CHURN, SENSORS):
            assert over_http.is_model_ready(name) and over_grpc.is_model_ready(name)
            facts = over_http.get_model_metadata(name)
            message = MessageToDict(over_grpc.get_model_metadata(name), preserving_proto_field_name=True)
            for each in (*message["inputs"], *message["outputs"]):
                each["shape"] = [int(size) for size in each["shape"]]
            assert message == facts
            version = facts["versions"][0]
            assert over_http.is_model_ready(name, version) and over_grpc.is_model_ready(name, version)
            assert over_http.get_model_config(name)["max_batch_size"] == over_grpc.get_model_config(name, as_json=True)[
                "config"
            ].get("max_batch_size")
        assert over_http.is_server_live() and over_grpc.is_server_live()
        assert over_http.is_server_ready() and over_grpc.is_server_ready()
        assert over_http.get_server_metadata() == MessageToDict(over_grpc.get_server_metadata())
        index = over_http.get_model_repository_index()
        states = {row["name"]: row["state"] for row in index}
        assert states == {
            STONE: "READY",
            CHURN: "READY",
            SENSORS: "READY",
            "cifar10": "UNAVAILABLE",
            "imagenet": "UNAVAILABLE",
        }
        assert {row.name: row.state for row in over_grpc.get_model_repository_index().models} == states
        with pytest.raises(InferenceServerException, match="vitrine models import"):
            over_http.load_model("churn")
        with pytest.raises(InferenceServerException, match="vitrine models import"):
            over_grpc.load_model("churn")
        with pytest.raises(InferenceServerException, match="no shared memory"):
            over_grpc.get_system_shared_memory_status()
        for client in (over_http, over_grpc):
            assert not client.is_model_ready("nope") and not client.is_model_ready(STONE, "g")
            everything = client.get_inference_statistics()
            assert len(everything["model_stats"] if isinstance(everything, dict) else everything.model_stats) == 3
    assert requests.get(f"{server.url}/v2/models", timeout=10).json() == {"models": sorted(states)}


def test_statistics_add_up(client: Any, module: Any, pictures: list[bytes], server: Server) -> None:
    def counts() -> dict[str, Any]:
        found = client.get_inference_statistics(STONE)
        found = found if isinstance(found, dict) else MessageToDict(found, preserving_proto_field_name=True)
        return dict(found["model_stats"][0])

    def number(of: Any, *path: str) -> int:
        for key in path:
            of = of.get(key, {})
        return int(of or 0)

    before, sent_at = counts(), time.time()
    client.infer(STONE, [files(module, *pictures[:7])])
    with pytest.raises(InferenceServerException):
        client.infer(STONE, [files(module, b"no picture")])
    after = counts()
    assert number(after, "inference_count") - number(before, "inference_count") == 7
    for path in (("inference_stats", "success", "count"), ("inference_stats", "queue", "count")):
        assert number(after, *path) - number(before, *path) == 7
    fail = ("inference_stats", "fail", "count")
    assert number(after, *fail) - number(before, *fail) == 1
    batches = after["batch_stats"]
    assert sum(number(each, "batch_size") * number(each, "compute_infer", "count") for each in batches) == number(
        after, "inference_count"
    )
    assert sum(number(each, "compute_infer", "count") for each in batches) == number(after, "execution_count")
    assert number(after, "last_inference") / 1e3 >= sent_at - 1
    assert number(after, "inference_stats", "compute_infer", "ns") > number(
        before, "inference_stats", "compute_infer", "ns"
    )


def test_rows_are_counted_one_by_one_and_a_refused_request_as_failed(client: Any, module: Any, server: Server) -> None:
    def counts() -> tuple[int, int, int]:
        found = requests.get(f"{server.url}/v2/models/{CHURN}/stats", timeout=10).json()["model_stats"][0]
        outcome = found["inference_stats"]
        return found["inference_count"], outcome["success"]["count"], outcome["fail"]["count"]

    before = np.array(counts())
    client.infer(CHURN, [tensor(module, "rows", np.array([list(CUSTOMER.values())] * 50, np.float32), "FP32")])
    assert (counts() - before).tolist() == [50, 1, 0]
    with pytest.raises(InferenceServerException):
        client.infer(CHURN, [tensor(module, "rows", np.full((1, 6), np.nan, np.float32), "FP32")])
    assert (counts() - before).tolist() == [50, 1, 1]


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"name": "pixels", "datatype": "UINT8", "shape": [0, 10**20, 1, 3], "data": []}, "shape must be"),
    ({"name": "pixels", "datatype": "UINT8", "shape": [0, 2**62, 2**62, 3], "data": []}, "shape must be"),
    ({"name": "tensor", "datatype": "FP32", "shape": [10**600, 10**600], "data": []}, "shape must be"),
    ({"name": "x" * 5000, "datatype": "FP32", "shape": [1], "data": [1]}, "has no name"),
    ({"name": "\ud800", "datatype": "FP32", "shape": [1], "data": [1]}, "has no name"),
    ({"name": "image", "datatype": "\ud800" * 100_000, "shape": [1], "data": [1]}, "is not one of BOOL"),
    ({"name": "image", "datatype": "BYTES", "shape": list(range(5000)), "data": [1]}, "shape must be"),
    ({"name": "image", "datatype": "BYTES", "shape": [65], "data": ["" for _ in range(65)]}, "takes 1 to 64"),
]


@pytest.mark.parametrize(("said", "message"), HOSTILE)
def test_a_hostile_tensor_is_a_short_400(server: Server, said: dict[str, Any], message: str) -> None:
    answer = requests.post(f"{server.url}/v2/models/{STONE}/infer", json={"inputs": [said]}, timeout=30)
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert len(answer.content) < 6000


@pytest.mark.parametrize(
    ("headers", "parameters"),
    [
        ({"Inference-Header-Content-Length": b"\xb2"}, {}),
        ({"Inference-Header-Content-Length": b"\xb9\xb2"}, {}),
        ({}, {"timeout": 10**400}),
        ({}, {"timeout": True}),
        ({}, {"timeout": "1_000"}),
        ({}, {"timeout": -1}),
        ({}, {"threshold": 1.5}),
        ({}, {"threshold": "high"}),
        ({}, {"partial": 1}),
    ],
)
def test_hostile_headers_and_parameters_are_a_400(
    server: Server, headers: dict[str, bytes], parameters: dict[str, Any]
) -> None:
    row = {"name": "rows", "datatype": "FP32", "shape": [1, 6], "data": list(CUSTOMER.values())}
    body = json.dumps({"inputs": [row], "parameters": parameters}).encode()
    answer = requests.post(f"{server.url}/v2/models/{CHURN}/infer", data=body, headers=headers, timeout=30)
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)


def test_grpc_errors_are_short_enough_for_every_client(server: Server) -> None:
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        emoji = [triton_grpc.InferInput(f"{chr(0x1F600) * 190}{place}", [1], "FP32") for place in range(6)]
        for each in emoji:
            each._raw_content = bytes(4)
        with pytest.raises(InferenceServerException, match="is unknown") as refused:
            client.infer(CHURN, [tensor(triton_grpc, "age", np.zeros(1, np.float32), "FP32"), *emoji])
        assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
        for model, datatype, shape in (
            ("n" * 20_000, "FP32", [1]),
            (CHURN, "F" * 20_000, [1]),
            (CHURN, "FP32", [1] * 5000),
        ):
            sent = triton_grpc.InferInput("rows", shape, datatype)
            sent._raw_content = b""
            with pytest.raises(InferenceServerException) as refused:
                client.infer(model, [sent])
            assert refused.value.status() in ("StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND")


@pytest.mark.parametrize(
    ("model", "sent", "said"),
    [
        (STONE, [("image", np.array([b"x"], object), "BYTES")], r"image\[0\]: The file is not an image"),
        (STONE, [("image", np.zeros((1, 2), np.uint8), "UINT8")], "image: datatype must be BYTES"),
        (STONE, [("image", np.array([[b"x", b"y"]], object), "BYTES")], r"shape must be \[N\] or \[N, 1\]"),
        (STONE, [("image", np.array([], object), "BYTES")], "takes 1 to 64 items"),
        (STONE, [("image", np.array([b"x"] * 65, object), "BYTES")], "takes 1 to 64 items"),
        (STONE, [("pixels", np.zeros((1, 64, 64, 4), np.uint8), "UINT8")], r"must be \[N, H, W, 3\]"),
        (STONE, [("pixels", np.zeros((1, 0, 64, 3), np.uint8), "UINT8")], "each side needs at least"),
        (STONE, [("tensor", np.zeros((1, 3, 64, 64), np.float32), "FP32")], r"must be \[N, 3, 224, 224\]"),
        (STONE, [("tensor", np.full((1, 3, 224, 224), np.nan, np.float32), "FP32")], "not finite"),
        (STONE, [("tensor", np.full((1, 3, 224, 224), 1e38, np.float32), "FP32")], "not finite, or beyond"),
        (STONE, [("picture", np.array([b"x"], object), "BYTES")], "one of image, pixels, tensor"),
        (STONE, [("image", np.array([b"x"], object), "BYTES")] * 2, "'image' stands more than once"),
        (CHURN, [("rows", np.zeros((2, 5), np.float32), "FP32")], r"must be \[N, 6\]"),
        (CHURN, [("rows", np.zeros((2, 6), np.int32), "INT32")], "must be FP32 or FP64"),
        (CHURN, [("age", np.zeros(2, np.float32), "FP32")] * 2, "'age' stands more than once"),
        (CHURN, [("rows", np.full((2, 6), np.nan, np.float32), "FP32")], "Row 0: age must be a number"),
        (CHURN, [("rows", np.zeros((1001, 6), np.float32), "FP32")], "takes 1 to 1,000 items"),
        (CHURN, [("age", np.zeros(1, np.float32), "FP32")], "income is missing"),
        (
            CHURN,
            [("age", np.zeros(1, np.float32), "FP32"), ("zodiac", np.zeros(1, np.float32), "FP32")],
            "'zodiac' is unknown",
        ),
        (
            SENSORS,
            [("rows", np.array([FEATURES, [999.0, *FEATURES[1:]]], np.float32), "FP32")],
            "Row 1: temperature must",
        ),
    ],
)
def test_what_a_model_does_not_take_is_refused_by_name(
    client: Any, module: Any, model: str, sent: list[tuple[str, Any, str]], said: str
) -> None:
    with pytest.raises(InferenceServerException, match=said) as refused:
        client.infer(model, [tensor(module, *each) for each in sent])
    assert refused.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_unknown_models_versions_and_outputs_are_named(client: Any, module: Any, pictures: list[bytes]) -> None:
    sent = [files(module, pictures[0])]
    for model, version, said in (("nope", "", "Known models: churn"), (STONE, "g", "is not served here")):
        with pytest.raises(InferenceServerException, match=said) as refused:
            client.infer(model, sent, model_version=version)
        assert refused.value.status() in ("404", "StatusCode.NOT_FOUND")
    for output, said in (("score", "it has probabilities, logits, label, map"), ("label", "label has no classes")):
        with pytest.raises(InferenceServerException, match=said):
            client.infer(STONE, sent, outputs=[module.InferRequestedOutput(output, class_count=2)])


def test_a_bad_element_is_named_or_left_out(client: Any, module: Any, server: Server, pictures: list[bytes]) -> None:
    sent = [files(module, pictures[0], b"no picture", pictures[2])]
    with pytest.raises(InferenceServerException, match=r"image\[1\]: The file is not an image"):
        client.infer(STONE, sent)
    answer = client.infer(STONE, sent, parameters={"partial": True})
    alone = [predicted(server, pictures[0]), predicted(server, pictures[2])]
    assert np.abs(answer.as_numpy("probabilities") - alone).max() <= 1e-6
    said = answer.get_response()
    failed = said["parameters"]["failed"] if isinstance(said, dict) else said.parameters["failed"].string_param
    assert list(json.loads(failed)) == ["1"]
    rows = tensor(module, "rows", np.array([[999.0, *FEATURES[1:]], FEATURES], np.float32), "FP32")
    assert client.infer(SENSORS, [rows], parameters={"partial": True}).as_numpy("score").shape == (1,)
    with pytest.raises(InferenceServerException, match=r"image\[0\]"):
        client.infer(STONE, [files(module, b"no", b"no")], parameters={"partial": True})


def test_a_message_of_20_mb_goes_through_and_one_over_the_limit_is_refused(
    client: Any, module: Any, server: Server
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 2600, 2600, 3), np.uint8)
    assert noise.nbytes > 20_000_000
    answer = client.infer(STONE, [tensor(module, "pixels", noise, "UINT8")])
    assert np.abs(answer.as_numpy("probabilities")[0] - predicted(server, encode(noise[0], "BMP"))).max() <= 1e-6
    with pytest.raises(InferenceServerException) as refused:
        client.infer(STONE, [tensor(module, "pixels", np.repeat(noise, 2, axis=0), "UINT8")])
    assert refused.value.status() in ("413", "StatusCode.RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_bodies_are_compressed_both_ways(server: Server, coding: str) -> None:
    with triton_http.InferenceServerClient(address(server, triton_http)) as client:
        rows = np.repeat(np.array([list(CUSTOMER.values())], np.float32), 500, axis=0)
        answer = client.infer(
            CHURN,
            [tensor(triton_http, "rows", rows, "FP32")],
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
        )
        plain = client.infer(CHURN, [tensor(triton_http, "rows", rows, "FP32")])
        np.testing.assert_array_equal(answer.as_numpy("logits"), plain.as_numpy("logits"))
    body = {"inputs": [{"name": "rows", "datatype": "FP32", "shape": list(rows.shape), "data": rows.tolist()}]}
    sent = {"json": body, "timeout": 30, "headers": {"Accept-Encoding": coding}}
    found = requests.post(f"{server.url}/v2/models/{CHURN}/infer", **sent)  # type: ignore[arg-type]
    assert found.headers["Content-Encoding"] == coding
    assert found.json()["outputs"][1]["data"] == plain.as_numpy("logits").ravel().tolist()


def test_a_deadline_of_a_millisecond_is_kept_and_costs_no_one_else(
    client: Any, module: Any, server: Server, pictures: list[bytes]
) -> None:
    sent = [files(module, *pictures[:8])]
    with pytest.raises(InferenceServerException, match=r"(?i)deadline"):
        client.infer(STONE, sent, timeout=1000)
    if module is triton_grpc:
        with pytest.raises(InferenceServerException, match=r"(?i)deadline"):
            client.infer(STONE, sent, client_timeout=0.001)
    answer = client.infer(STONE, sent, timeout=30_000_000)
    assert np.abs(answer.as_numpy("probabilities")[0] - predicted(server, pictures[0])).max() <= 1e-6
    for wrong in (-1, "soon"):
        with pytest.raises((InferenceServerException, TypeError), match=r"timeout must be|unexpected|int"):
            client.infer(STONE, sent, timeout=wrong)


def test_who_cancels_leaves_the_queue_and_no_one_else_suffers(server: Server, pictures: list[bytes]) -> None:
    def stats() -> dict[str, Any]:
        return dict(requests.get(f"{server.url}/models/{STONE}/stats", timeout=10).json())

    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    before, answers = stats()["failed"].get("cancelled", 0), queue.Queue[Any]()
    with triton_grpc.InferenceServerClient(server.grpc) as client:

        def answered(result: Any, error: Any) -> None:
            answers.put(error or result.as_numpy("probabilities")[0])

        sent = [client.async_infer(STONE, [files(triton_grpc, *pictures[:4])], answered) for _ in range(16)]
        until(lambda: stats()["waiting"] > 40)
        for call in sent[1::2]:
            call.cancel()
        until(lambda: stats()["failed"].get("cancelled", 0) > before)
        found = [answers.get(timeout=120) for _ in sent]
    kept = [each for each in found if not isinstance(each, InferenceServerException)]
    assert len(kept) >= 8
    assert np.abs(np.array(kept) - predicted(server, pictures[0])).max() <= 1e-6
    assert {each.status() for each in found if isinstance(each, InferenceServerException)} == {"StatusCode.CANCELLED"}


def test_a_stream_answers_each_request_and_outlives_a_bad_one(server: Server, pictures: list[bytes]) -> None:
    answers = queue.Queue[Any]()
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for data in (pictures[0], b"no picture", pictures[1]):
            client.async_stream_infer(STONE, [files(triton_grpc, data)])
        found = [answers.get(timeout=60) for _ in range(3)]
        client.stop_stream()
    assert "image[0]" in str(found[1][1])
    for (result, error), data in ((found[0], pictures[0]), (found[2], pictures[1])):
        assert error is None
        assert np.abs(result.as_numpy("probabilities")[0] - predicted(server, data)).max() <= 1e-6


def test_health_reflection_and_the_request_id_are_grpcs_own(server: Server) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "inference.GRPCInferenceService", STONE):
            deadline = time.monotonic() + 10  # the service is told four times a second
            while stub.Check(health_pb2.HealthCheckRequest(service=name)).status != 1:
                assert time.monotonic() < deadline
        with pytest.raises(grpc.RpcError) as unknown:
            stub.Check(health_pb2.HealthCheckRequest(service="nope"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        listed = next(iter(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))))
        names = {each.name for each in listed.list_services_response.service}
        assert "inference.GRPCInferenceService" in names
        live: Any = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        answer, call = live.with_call(b"", metadata=(("x-request-id", "mine-7"),))
        assert answer == b"\x08\x01"  # live: true
        assert ("x-request-id", "mine-7") in [tuple(each) for each in call.trailing_metadata()]


def test_framework_errors_are_the_protocols_too(server: Server) -> None:
    for method, path, status in (
        ("GET", "/v2/nope", 404),
        ("GET", f"/v2/models/{STONE}/infer", 405),
        ("GET", "/v2/models/nope/ready", 404),
        ("POST", f"/v2/models/{STONE}/infer", 400),
        ("POST", "/v2/repository/models/churn/unload", 501),
    ):
        answer = requests.request(method, server.url + path, timeout=10)
        assert answer.status_code == status
        assert isinstance(answer.json()["error"], str)


def test_kserves_client_works_unmodified(server: Server, pictures: list[bytes], tmp_path: Path) -> None:
    python = ROOT / ".venv-kserve" / "bin" / "python"
    assert python.exists(), "KServe's client is missing: `make test` installs it"
    (tmp_path / "ct.png").write_bytes(pictures[0])
    command = [python, ROOT / "tests" / "live" / "kserve_client.py", server.url, server.grpc, tmp_path / "ct.png"]
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["ready"] == [True] * 6
    assert found["ids"] == ["rest-1", "grpc-1"]
    wanted = predicted(server, pictures[0])
    for way in ("rest", "grpc"):
        assert np.abs(np.array(found[way]).ravel() - wanted).max() <= 1e-6
    churn = requests.post(f"{server.url}/models/{CHURN}/predict", json={"features": CUSTOMER}, timeout=30).json()
    assert np.ravel(found["churn"]) == pytest.approx(list(churn["probabilities"].values()), abs=1e-6)


ROWS = struct.pack("<6f", *CUSTOMER.values())
HEAD = json.dumps(
    {"inputs": [{"name": "rows", "datatype": "FP32", "shape": [1, 6], "parameters": {"binary_data_size": 24}}]}
).encode()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, len(HEAD) + len(ROWS)),
    insert=st.binary(max_size=12),
    length=st.one_of(
        st.just(len(HEAD)),
        st.integers(-5, len(HEAD) + 40),
        st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=4),
    ),
    coding=st.sampled_from(["", "", "", "gzip", "deflate", "br"]),
)
def test_no_body_gets_a_500_or_no_answer(server: Server, cut: int, insert: bytes, length: object, coding: str) -> None:
    whole = HEAD + ROWS
    headers = {"Inference-Header-Content-Length": str(length), "Content-Encoding": coding}
    answer = requests.post(
        f"{server.url}/v2/models/{CHURN}/infer", data=whole[:cut] + insert + whole[cut:], headers=headers, timeout=20
    )
    assert answer.status_code in (200, 400)
    assert "error" in answer.json() or answer.json()["outputs"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_no_grpc_message_is_ours_to_fail(server: Server, data: bytes) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        call: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as refused:
            call(data, timeout=20)
    assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
