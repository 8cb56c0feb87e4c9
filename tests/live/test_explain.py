"""Explanations by the process of their own: right, never in the way of predictions, and back by themselves."""

import base64
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import cv2
import numpy as np
import psutil
import pytest
import requests

from explain.autograd import AutogradExplainer
from explain.base import NO_CONTRAST
from models.checkpoint import load_network, read_checkpoint
from preprocessing.decode import decode
from preprocessing.transform import transform
from tests.conftest import SHIPPED, encode
from tests.live.server import Server, install, serving, wait_until
from tests.live.test_predictions import CARD, post
from tests.tiny import bright_square, map_of, tiny_package

EXPLANATIONS, CLIENTS = 800, 16


@pytest.fixture(scope="module")
def shipped(server: Server) -> Server:
    server.wait_explaining("kidney-stone")
    return server


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the tiny model, whose maps NumPy works out."""
    folder = tmp_path_factory.mktemp("tiny")
    install(tiny_package(folder / "tiny", explained=True), folder / "home")
    with serving(folder / "home", folder / "log", VITRINE_DEFAULT_MODEL="tiny") as running:
        running.wait_ready()
        running.wait_explaining("tiny")
        yield running


@pytest.mark.parametrize(
    ("target", "contrast", "method"),
    [("stone", "", "layercam"), ("0", "", "gradcam++"), ("stone", "no_stone", "gradcam")],
)
def test_the_map_is_that_of_autograd_on_the_shipped_weights(
    shipped: Server, pictures: list[bytes], target: str, contrast: str, method: str
) -> None:
    assert CARD.explain
    network = load_network(CARD, read_checkpoint(SHIPPED / "weights.safetensors").weights)
    explainer = AutogradExplainer(network, CARD.explain.layer)
    class_ids, contrasts = np.array([1 if target == "stone" else 0]), np.array([0 if contrast else NO_CONTRAST])
    query = f"output=map&target={target}&method={method.replace('+', '%2B')}"
    query += f"&contrast={contrast}" if contrast else ""
    for data in pictures[:3]:
        body = post(shipped, data, f"/explain?{query}").json()
        tensor = transform(decode(data, CARD.limits), CARD.input).tensor[None]
        expected = explainer.run(tensor, class_ids, frozenset({method}), contrasts).maps[method][0]
        assert np.abs(np.array(body["explanation"]["map"]) - expected).max() <= 1e-4 * expected.max()
        predicted = post(shipped, data).json()
        assert body["probabilities"]["stone"] == pytest.approx(predicted["probabilities"]["stone"], abs=1e-5)
        assert (body["prediction"], body["warnings"]) == (predicted["prediction"], predicted["warnings"])
        assert body["gradcam_heatmap"] is None


def test_a_prediction_with_a_heatmap_is_one_answer_with_both(shipped: Server, pictures: list[bytes]) -> None:
    predicted = post(shipped, pictures[1]).json()
    body = post(shipped, pictures[1], "/predict?include_gradcam=true").json()
    assert body["explanation_error"] is None
    drawn = cv2.imdecode(np.frombuffer(base64.b64decode(body["gradcam_heatmap"]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert drawn is not None and drawn.shape[:2] == decode(pictures[1], CARD.limits).shape[:2]
    assert body["probabilities"]["stone"] == pytest.approx(predicted["probabilities"]["stone"], abs=1e-5)


def test_many_explanations_at_16_clients_are_right_without_one_failure(tiny: Server) -> None:
    squares = [np.roll(bright_square(), 4 * place, axis=(0, 1)) for place in range(4)]
    squares += [np.ascontiguousarray(pixels[..., ::-1]) for pixels in squares]
    inputs = [encode(pixels) for pixels in squares]

    def explain(index: int) -> int:
        place, class_id = index % len(squares), index % 2
        answer = post(tiny, inputs[place], f"/explain?output=map&target={class_id}")
        if answer.status_code == 200:
            expected = map_of(squares[place], class_id, "layercam")
            assert np.allclose(answer.json()["explanation"]["map"], expected, rtol=1e-4, atol=1e-4)
        return answer.status_code

    def succeeded() -> int:
        stats = requests.get(f"{tiny.url}/models/tiny/stats", timeout=10).json()["explain"]
        return int(stats["succeeded"]) if stats else 0

    before = succeeded()
    with ThreadPoolExecutor(CLIENTS) as pool:
        assert Counter(pool.map(explain, range(EXPLANATIONS))) == {200: EXPLANATIONS}
    wait_until(lambda: succeeded() - before >= EXPLANATIONS)  # the process tells its counts twice a second


def test_killed_under_load_it_comes_back_and_no_prediction_notices(tiny: Server) -> None:
    data = encode(bright_square())
    expected = post(tiny, data).json()["probabilities"]
    done = threading.Event()
    predicted, with_map, explained = Counter[str](), Counter[str](), Counter[int]()

    def predict() -> None:
        answer = post(tiny, data)
        right = answer.status_code == 200 and answer.json()["probabilities"] == expected
        predicted["right" if right else f"{answer.status_code} {answer.text[:100]}"] += 1

    def predict_with_map() -> None:
        answer = post(tiny, data, "/predict?include_gradcam=1")
        body = answer.json()
        right = answer.status_code == 200 and body["probabilities"] == pytest.approx(expected, abs=1e-5)
        outcome = "with a reason" if body.get("explanation_error") else "with a map"
        with_map[outcome if right else f"{answer.status_code} {answer.text[:100]}"] += 1

    def explain() -> None:
        explained[post(tiny, data, "/explain").status_code] += 1

    def repeat(request: Callable[[], None]) -> None:
        while not done.is_set():
            request()

    clients = (predict, predict, predict_with_map, explain, explain)
    threads = [threading.Thread(target=repeat, args=(request,)) for request in clients]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: explained[200] > 0 and with_map["with a map"] > 0)
        children = psutil.Process(tiny.process.pid).children(recursive=True)
        next(child for child in children if "gradcam" in child.cmdline()).kill()
        wait_until(lambda: explained[503] > 0 and with_map["with a reason"] > 0)
        tiny.wait_explaining("tiny")
        before = explained[200]
        wait_until(lambda: explained[200] > before)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert set(explained) == {200, 503}
    assert set(predicted) == {"right"}
    assert set(with_map) == {"with a reason", "with a map"}


def test_sigterm_answers_the_explanations_that_are_in_flight(tiny: Server) -> None:
    """It ends the server, so it is the last test of this file."""
    large = encode(np.random.default_rng(7).integers(0, 256, (1500, 1500, 3)).astype(np.uint8), compress_level=1)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(post, tiny, large, "/explain?format=png") for _ in range(8)]
        wait(answers, return_when=FIRST_COMPLETED)  # by then the others wait, or are drawn on
        tiny.terminate()
        assert {answer.result().status_code for answer in answers} == {200}
    assert tiny.process.wait(40) == 0
