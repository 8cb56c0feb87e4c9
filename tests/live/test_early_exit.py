"""Over HTTP and the Open Inference Protocol, a model with an early exit says who answered."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
import requests
import tritonclient.http
from PIL import Image

from tests.conftest import ROOT
from tests.live.server import Server, install, serving
from tests.serving.test_early_exit import LATER, SOONER
from tests.tiny import plain, tiny_package


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("exits")
    install(tiny_package(folder / "tiny"), folder / "home")
    install(tiny_package(folder / "exits", "tiny-exits", 1, exits=True), folder / "home")
    chosen = {"VITRINE_DEFAULT_MODEL": "tiny-exits", "VITRINE_EXPLAIN": "false"}
    with serving(folder / "home", folder / "server.log", cwd=ROOT, **chosen) as running:
        running.wait_ready()
        yield running


def test_an_answer_names_who_gave_it(server: Server) -> None:
    for level in (*SOONER, *LATER):
        body = requests.post(f"{server.url}/predict", data=plain(level), timeout=30).json()
        assert body["answered_by"] == ("early_exit" if level in SOONER else "network")
    files = [("files", (f"{level}.png", plain(level), "image/png")) for level in (SOONER[0], LATER[0])]
    batch = requests.post(f"{server.url}/predict/batch", files=files, timeout=30).json()
    assert [row["answered_by"] for row in batch["predictions"]] == ["early_exit", "network"]
    without = requests.post(f"{server.url}/models/tiny/predict", data=plain(0), timeout=30).json()
    assert "answered_by" not in without
    facts = requests.get(f"{server.url}/models/tiny-exits", timeout=30).json()
    assert facts["variant"] == "early-exit"


def test_an_early_answer_warns_of_a_threshold_that_its_exit_was_not_chosen_for(server: Server) -> None:
    def warned(level: int, threshold: float) -> bool:
        url = f"{server.url}/predict?threshold={threshold}"
        said = " ".join(requests.post(url, data=plain(level), timeout=30).json()["warnings"])
        return f"meant for thresholds from 0.02 to 0.98: at {threshold:g}" in said

    assert warned(SOONER[0], 0.99) and warned(SOONER[-1], 0.01)
    assert not warned(SOONER[0], 0.98) and not warned(LATER[0], 0.99)


def test_so_does_the_open_inference_protocol(server: Server) -> None:
    levels = (SOONER[0], LATER[0], SOONER[1])
    client = tritonclient.http.InferenceServerClient(server.url.removeprefix("http://"))
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(plain(level))).convert("RGB")) for level in levels])
    given = tritonclient.http.InferInput("pixels", list(pixels.shape), "UINT8")
    given.set_data_from_numpy(pixels)
    answer = client.infer("tiny-exits", [given]).get_response()
    assert answer["parameters"]["answered_by"] == "early_exit,network,early_exit"
    assert "thresholds from" not in answer["parameters"]["warnings"]
    strict = client.infer("tiny-exits", [given], parameters={"threshold": 0.99}).get_response()
    assert strict["parameters"]["warnings"].count("meant for thresholds from 0.02 to 0.98: at 0.99") == 1
    assert "answered_by" not in client.infer("tiny", [given]).get_response()["parameters"]
    client.close()
