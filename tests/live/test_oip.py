"""The Open Inference Protocol of a real server with the clients that exist: Triton's, KServe's and BentoML's.

What needs no real server is tested in tests/api/oip.
"""

import asyncio
import base64
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import bentoml
import numpy as np
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from models.card import read_image_card
from preprocessing.decode import decode
from preprocessing.transform import transform
from tests.api.oip.image_clients import check_image_model, described, prepared, ranked, request
from tests.api.oip.served import connect, images, tensor
from tests.conftest import ROOT, SHIPPED, encode
from tests.live.server import Server

CARD = read_image_card(SHIPPED / "card.toml")
STONE, CHURN, SENSORS = "kidney-stone", "churn", "machine-anomaly"
CUSTOMER = {
    "age": 42.0,
    "income": 52_000.0,
    "tenure_days": 420.0,
    "num_purchases": 9.0,
    "avg_transaction_value": 63.5,
    "days_since_last_purchase": 95.0,
}


@pytest.fixture(params=[triton_http, triton_grpc], ids=["http", "grpc"])
def triton(request: pytest.FixtureRequest) -> ModuleType:
    """Triton's client library for HTTP, then the one for gRPC."""
    module: ModuleType = request.param
    return module


@pytest.fixture
def client(server: Server, triton: ModuleType) -> Iterator[Any]:
    """Triton's client over HTTP, then over gRPC."""
    with connect(triton, server.url.removeprefix("http://"), server.grpc) as connected:
        yield connected


def predicted(server: Server, data: bytes) -> list[float]:
    """Return the probabilities that `/predict` gives of one picture."""
    answer = requests.post(f"{server.url}/predict", data=data, timeout=60)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["probabilities"].values())


def test_every_client_and_form_of_a_picture_gives_the_same_probabilities(server: Server, pictures: list[bytes]) -> None:
    data = pictures[3]
    image = decode(data, CARD.limits)
    url = f"{server.url}/v2/models/{STONE}/infer"
    text = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
    body = {"inputs": [{**text, "data": [base64.b64encode(data).decode()]}]}
    bare = {"Inference-Header-Content-Length": "0"}
    answers = [requests.post(url, json=body, timeout=60), requests.post(url, data=data, headers=bare, timeout=60)]
    probabilities = [answer.json()["outputs"][0]["data"] for answer in answers]
    for triton in (triton_http, triton_grpc):
        with connect(triton, server.url.removeprefix("http://"), server.grpc) as client:
            for sent in (
                images(triton, data),
                tensor(triton, "pixels", image[None], "UINT8"),
                tensor(triton, "tensor", transform(image, CARD.input).tensor[None], "FP32"),
            ):
                probabilities.append(client.infer(STONE, [sent]).as_numpy("probabilities")[0])

    async def infer_by_aio() -> Any:
        async with triton_aio.InferenceServerClient(server.grpc) as client:
            return (await client.infer(STONE, [images(triton_grpc, data)])).as_numpy("probabilities")[0]

    probabilities.append(asyncio.run(infer_by_aio()))
    with bentoml.SyncHTTPClient(server.url) as bento:
        probabilities.append(list(bento.predict(data)["probabilities"].values()))
    assert np.abs(np.array(probabilities) - predicted(server, data)).max() <= 1e-6


def test_pictures_of_one_request_are_answered_as_each_is_alone(
    client: Any, triton: ModuleType, server: Server, pictures: list[bytes]
) -> None:
    answer = client.infer(STONE, [images(triton, *pictures[:4])])
    alone = np.array([predicted(server, data) for data in pictures[:4]])
    assert np.abs(answer.as_numpy("probabilities") - alone).max() <= 1e-6


def test_rows_are_answered_as_their_json_is(client: Any, triton: ModuleType, server: Server) -> None:
    answer = requests.post(f"{server.url}/models/{CHURN}/predict", json={"features": CUSTOMER}, timeout=30).json()
    rows = np.array([list(CUSTOMER.values())], np.float32)
    inferred = client.infer(CHURN, [tensor(triton, "rows", rows, "FP32")])
    assert inferred.as_numpy("probabilities")[0] == pytest.approx(list(answer["probabilities"].values()), abs=1e-6)
    assert inferred.as_numpy("label").tolist() == [answer["prediction"].encode()]


def test_a_map_is_that_of_the_explain_route(client: Any, triton: Any, server: Server, pictures: list[bytes]) -> None:
    deadline = time.monotonic() + 60
    while requests.get(f"{server.url}/health", timeout=10).json()["explanations"][STONE] != "ready":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    answer = requests.post(f"{server.url}/explain?output=map", data=pictures[1], timeout=60).json()
    pixels = decode(pictures[1], CARD.limits)[None]
    for sent in (images(triton, pictures[1]), tensor(triton, "pixels", pixels, "UINT8")):
        maps = client.infer(STONE, [sent], outputs=[triton.InferRequestedOutput("map")]).as_numpy("map")
        assert maps[0] == pytest.approx(np.array(answer["explanation"]["map"]), rel=1e-4, abs=1e-6)


def test_the_index_also_lists_models_that_are_not_installed(client: Any) -> None:
    index = client.get_model_repository_index()
    rows = index if isinstance(index, list) else [{"name": row.name, "state": row.state} for row in index.models]
    assert {row["name"]: row["state"] for row in rows} == {
        **dict.fromkeys((STONE, f"{STONE}.pixels", f"{STONE}.tensor"), "READY"),
        **dict.fromkeys((CHURN, f"{CHURN}.columns", SENSORS, f"{SENSORS}.columns"), "READY"),
        **{name + suffix: "UNAVAILABLE" for name in ("cifar10", "imagenet") for suffix in ("", ".pixels", ".tensor")},
    }


def test_tritons_image_client_sends_what_is_listed_and_reads_the_classes(
    client: Any, triton: ModuleType, server: Server, pictures: list[bytes]
) -> None:
    for name in (f"{STONE}.pixels", f"{STONE}.tensor"):
        listed = check_image_model(*described(client, name))
        assert sorted(listed.shape) == [3, 224, 224]
        batch = np.stack([prepared(data, listed, inception=listed.datatype == "FP32") for data in pictures[:2]])
        answer = client.infer(name, **request(triton, listed, batch, classes=2))
        rows = ranked(answer.as_numpy(listed.output))
        assert [sorted(label for _, _, label in row) for row in rows] == [["no_stone", "stone"]] * 2
        assert [sum(value for value, _, _ in row) for row in rows] == pytest.approx([1, 1], abs=1e-5)
        if name.endswith(".pixels"):  # the program's own resizing aside, these are predicted as files are
            files = [encode(pixels, "PNG") for pixels in batch]
            expected = [max(predicted(server, file)) for file in files]
            assert [row[0][0] for row in rows] == pytest.approx(expected, abs=1e-5)


def test_a_message_of_20_mb_goes_through_and_one_over_the_limit_is_refused(
    client: Any, triton: ModuleType, server: Server
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 2600, 2600, 3), np.uint8)
    assert noise.nbytes > 20_000_000
    answer = client.infer(STONE, [tensor(triton, "pixels", noise, "UINT8")])
    assert np.abs(answer.as_numpy("probabilities")[0] - predicted(server, encode(noise[0], "BMP"))).max() <= 1e-6
    with pytest.raises(InferenceServerException) as refused:
        client.infer(STONE, [tensor(triton, "pixels", np.repeat(noise, 2, axis=0), "UINT8")])
    assert refused.value.status() in ("413", "StatusCode.RESOURCE_EXHAUSTED")


def test_kserves_client_works_unmodified(server: Server, pictures: list[bytes], tmp_path: Path) -> None:
    python = ROOT / ".venv-kserve" / "bin" / "python"
    assert python.exists(), "KServe's client is missing: `make test` installs it"
    (tmp_path / "ct.png").write_bytes(pictures[0])
    command = [python, ROOT / "tests" / "live" / "kserve_client.py", server.url, server.grpc, tmp_path / "ct.png"]
    completed = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert completed.returncode == 0, completed.stderr
    answers = json.loads(completed.stdout.splitlines()[-1])
    assert answers["ready"] == [True] * 6
    assert answers["ids"] == ["rest-1", "grpc-1"]
    assert answers["v1 ready"] is True
    for protocol in ("rest", "grpc", "v1"):
        assert np.abs(np.array(answers[protocol]).ravel() - predicted(server, pictures[0])).max() <= 1e-6
    churn = requests.post(f"{server.url}/models/{CHURN}/predict", json={"features": CUSTOMER}, timeout=30).json()
    assert np.ravel(answers["churn"]) == pytest.approx(list(churn["probabilities"].values()), abs=1e-6)
