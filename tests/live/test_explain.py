"""Explanations over the wire: right, never in the way of predictions, and back by themselves."""

import base64
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import requests
from PIL import Image

from explain.autograd import AutogradExplainer
from explain.overlay import grey, heatmap, overlay
from models.checkpoint import load_network, read_checkpoint
from preprocessing.decode import decode
from preprocessing.transform import transform
from tests.conftest import SHIPPED, encode
from tests.explain.package import coloured, small_net, small_package, tensor_of
from tests.live.server import Server, install, serving
from tests.live.test_predictions import CARD, post


def explaining(server: Server, name: str) -> None:
    """Return once the Grad-CAM runner answers for a model."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = requests.get(f"{server.url}/health", timeout=10).json()["explanations"][name]
        if state == "ready":
            return
        time.sleep(0.1)
    raise AssertionError(f"no explanations in 60 s: {state}\n{server.log.read_text()[-3000:]}")


def picture_of(data: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return picture


@pytest.fixture(scope="module")
def shipped(server: Server) -> Server:
    explaining(server, "kidney-stone")
    return server


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server of the small network, and its package."""
    folder = tmp_path_factory.mktemp("small")
    package = small_package(folder / "small")
    install(package, folder / "home")
    with serving(folder / "home", folder / "log", VITRINE_DEFAULT_MODEL="small") as running:
        running.wait_ready()
        explaining(running, "small")
        yield running, package


@pytest.mark.parametrize(("target", "method"), [("stone", "layercam"), ("0", "gradcam++")])
def test_the_map_is_that_of_autograd_on_the_shipped_weights(
    shipped: Server, pictures: list[bytes], target: str, method: str
) -> None:
    assert CARD.explain
    network = load_network(CARD, read_checkpoint(SHIPPED / "weights.safetensors").weights)
    explainer = AutogradExplainer(network, CARD.explain.layer)
    for data in pictures[:3]:
        body = post(shipped, data, f"/explain?output=map&target={target}&method={method.replace('+', '%2B')}").json()
        tensor = transform(decode(data, CARD.limits), CARD.input).tensor[None]
        wanted = explainer.run(tensor, np.array([1 if target == "stone" else 0]), frozenset({method})).maps[method][0]
        assert np.abs(np.array(body["explanation"]["map"]) - wanted).max() <= 1e-4 * wanted.max()
        plain = post(shipped, data).json()
        assert body["probabilities"]["stone"] == pytest.approx(plain["probabilities"]["stone"], abs=1e-5)
        assert (body["prediction"], body["warnings"]) == (plain["prediction"], plain["warnings"])
        assert body["gradcam_heatmap"] is None


def test_the_overlay_has_the_uploads_size_and_is_where_the_map_is(small: tuple[Server, Path]) -> None:
    server, package = small
    data = coloured(4)
    explainer = AutogradExplainer(small_net(), "middle")
    cam = explainer.run(tensor_of(data, package), np.array([-1]), frozenset({"layercam"})).maps["layercam"][0]
    image = picture_of(data)[..., ::-1]
    heat = heatmap(cam, image.shape[:2])
    wanted = overlay(np.ascontiguousarray(image), heat, 0.5)
    body = post(server, data, "/models/small/explain").json()
    got = picture_of(base64.b64decode(body["gradcam_heatmap"]))[..., ::-1]
    assert got.shape == image.shape == wanted.shape
    assert np.abs(got.astype(int) - wanted).max() <= 2
    facts = body["explanation"]
    assert (facts["method"], facts["layer"], facts["size"]) == ("layercam", "middle", [80, 60])
    assert facts["target"] == body["prediction"]
    assert np.array_equal(picture_of(post(server, data, "/explain?format=png").content)[..., ::-1], got)
    bare = picture_of(post(server, data, "/explain?format=png&output=heatmap").content)
    assert np.abs(bare.astype(int) - grey(heat)).max() <= 2
    small_one = picture_of(post(server, data, "/explain?format=png&size=input").content)
    assert small_one.shape == (32, 48, 3)


def test_a_turned_photograph_gets_its_overlay_upright(small: tuple[Server, Path]) -> None:
    upright = np.zeros((40, 90, 3), np.uint8)
    upright[:, 60:, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees: a viewer turns it back clockwise
    stored = encode(Image.fromarray(np.rot90(upright).copy()), "JPEG", exif=exif.tobytes(), quality=95)
    got = picture_of(post(small[0], stored, "/explain?format=png&alpha=0").content)[..., ::-1]
    assert got.shape == upright.shape
    assert np.abs(got.astype(int) - upright).mean() < 8


def test_predict_with_a_heatmap_is_one_answer_with_both(shipped: Server, pictures: list[bytes]) -> None:
    plain = post(shipped, pictures[1]).json()
    body = post(shipped, pictures[1], "/predict?include_gradcam=true").json()
    assert body["explanation_error"] is None
    assert picture_of(base64.b64decode(body["gradcam_heatmap"])).shape[:2] == decode(pictures[1], CARD.limits).shape[:2]
    assert body["probabilities"]["stone"] == pytest.approx(plain["probabilities"]["stone"], abs=1e-5)


def test_a_batch_with_heatmaps_fails_only_where_it_must(small: tuple[Server, Path]) -> None:
    files = [("files", (f"{index}.png", coloured(index))) for index in range(6)]
    files[2] = ("files", ("broken.png", b"\x89PNG\r\n\x1a\n but no more"))
    answer = requests.post(f"{small[0].url}/predict/batch?include_gradcam=1", files=files, timeout=60)
    rows = answer.json()["predictions"]
    assert (answer.status_code, answer.json()["errors"]) == (200, 1)
    assert rows[2]["error"]["status"] == 400
    assert all(row["gradcam_heatmap"] for index, row in enumerate(rows) if index != 2)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("target=kidney", "red, green, blue"),
        ("target=3", "0 to 2"),
        ("method=magic", "gradcam, gradcam++, layercam, hirescam"),
        ("format=gif", "json, png"),
        ("output=mask", "overlay, heatmap, map"),
        ("size=huge", "original, input"),
        ("alpha=1.5", "0 to 1"),
        ("alpha=nan", "0 to 1"),
        ("format=png&output=map", "numbers"),
    ],
)
def test_a_parameter_that_is_not_allowed_lists_what_is(small: tuple[Server, Path], query: str, says: str) -> None:
    answer = post(small[0], coloured(0), f"/explain?{query}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff\xe0 truncated"])
def test_what_is_no_picture_is_refused_as_by_predict(small: tuple[Server, Path], data: bytes) -> None:
    explained, predicted = post(small[0], data, "/explain"), post(small[0], data, "/predict")
    assert explained.status_code == predicted.status_code == 400
    assert explained.json()["detail"] == predicted.json()["detail"]
    with_map = post(small[0], data, "/predict?include_gradcam=1")
    assert (with_map.status_code, with_map.json()["detail"]) == (400, predicted.json()["detail"])


def test_1500_explanations_at_16_clients_without_one_failure(small: tuple[Server, Path]) -> None:
    server, package = small
    explainer = AutogradExplainer(small_net(), "middle")
    inputs = [coloured(seed) for seed in range(12)]
    wanted = [
        explainer.run(tensor_of(data, package), np.array([-1]), frozenset({"layercam"})).maps["layercam"][0]
        for data in inputs
    ]

    def one(index: int) -> int:
        answer = post(server, inputs[index % 12], "/explain?output=map")
        if answer.status_code == 200:
            off = np.abs(np.array(answer.json()["explanation"]["map"]) - wanted[index % 12]).max()
            assert off <= 1e-4 * wanted[index % 12].max()
        return answer.status_code

    with ThreadPoolExecutor(16) as pool:
        assert Counter(pool.map(one, range(1500))) == {200: 1500}
    time.sleep(1.5)  # the runner tells its counts twice a second
    assert requests.get(f"{server.url}/models/small/stats", timeout=10).json()["explain"]["succeeded"] >= 1500


def test_a_model_without_a_layer_on_its_card_says_why(tmp_path: Path) -> None:
    from tests.tiny import plain, tiny_package

    install(tiny_package(tmp_path / "tiny"), tmp_path / "home")
    with serving(tmp_path / "home", tmp_path / "log", VITRINE_DEFAULT_MODEL="tiny", VITRINE_EXPLAIN="false") as server:
        server.wait_ready()
        answer = post(server, plain(200), "/explain")
        assert answer.status_code == 400
        assert "names no layer" in answer.json()["detail"]
        body = post(server, plain(200), "/predict?include_gradcam=1").json()
        assert (body["prediction"], body["gradcam_heatmap"]) == ("bright", None)
        assert "names no layer" in body["explanation_error"]
        assert not [each for each in psutil.Process(server.process.pid).children() if "gradcam" in each.cmdline()]


def test_killed_under_load_it_comes_back_and_no_prediction_notices(tmp_path: Path) -> None:
    install(small_package(tmp_path / "small"), tmp_path / "home")
    with serving(tmp_path / "home", tmp_path / "log", VITRINE_DEFAULT_MODEL="small") as server:
        server.wait_ready()
        explaining(server, "small")
        data = coloured(1)
        wanted = post(server, data).json()["probabilities"]
        done = threading.Event()
        predicted, with_map, explained = Counter[str](), Counter[str](), Counter[int]()

        def predict() -> None:
            while not done.is_set():
                answer = post(server, data)
                right = answer.status_code == 200 and answer.json()["probabilities"] == wanted
                predicted["right" if right else f"{answer.status_code} {answer.text[:100]}"] += 1

        def predict_with_map() -> None:
            while not done.is_set():
                answer = post(server, data, "/predict?include_gradcam=1")
                body = answer.json()
                close = answer.status_code == 200 and all(
                    abs(body["probabilities"][label] - chance) < 1e-5 for label, chance in wanted.items()
                )
                missing = "with a reason" if body.get("explanation_error") else "with a map"
                with_map[missing if close else f"{answer.status_code} {answer.text[:100]}"] += 1

        def explain() -> None:
            while not done.is_set():
                explained[post(server, data, "/explain").status_code] += 1

        threads = [threading.Thread(target=each) for each in (predict, predict, predict_with_map, explain, explain)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        before = explained[200]
        runner = next(
            each for each in psutil.Process(server.process.pid).children(recursive=True) if "gradcam" in each.cmdline()
        )
        runner.kill()
        deadline = time.monotonic() + 60
        while explained[503] == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        explaining(server, "small")
        after = explained[200]
        while explained[200] <= after and time.monotonic() < deadline:
            time.sleep(0.05)
        done.set()
        for thread in threads:
            thread.join()
        assert before > 0
        assert explained[200] > after
        assert set(explained) == {200, 503}
        assert set(predicted) == {"right"}
        assert set(with_map) == {"with a reason", "with a map"}


def test_sigterm_answers_the_explanations_that_are_in_flight(home: Path, tmp_path: Path, pictures: list[bytes]) -> None:
    with serving(home, tmp_path / "log") as server:
        server.wait_ready()
        explaining(server, "kidney-stone")
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(post, server, data, "/explain?format=png") for data in pictures[:8]]
            time.sleep(0.2)
            server.terminate()
            assert {answer.result().status_code for answer in answers} == {200}
        assert server.process.wait(40) == 0
