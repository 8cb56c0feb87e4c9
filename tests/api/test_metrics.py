"""`/metrics`: what follows from what was counted, what is the case, and that no client can make it grow."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message

from api.exposition import counted_families
from api.metrics import gauge_families
from api.request_meter import METHODS
from runners.metrics import OTEL_SECONDS
from serving.gauges import add_gauges
from tests.api.conftest import client_maker
from tests.conftest import ROOT
from tests.tiny import plain, seal, tiny_package

Labels = dict[str, str]
BRIGHT, DARK = plain(200), plain(20)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """An application over a model that no other test has, so that its series begin at 0."""
    with client_maker() as make:
        yield make(seal(tiny_package(tmp_path / "tiny", "tiny-measured")))


def scrape(client: TestClient) -> dict[str, list[tuple[Labels, float]]]:
    """Return the series of each name; the text is read by Prometheus' own client."""
    response = client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    series = dict[str, list[tuple[Labels, float]]]()
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            series.setdefault(sample.name, []).append((sample.labels, sample.value))
    return series


def of_model(series: dict[str, list[tuple[Labels, float]]], name: str, **labels: str) -> list[float]:
    """Return the values of the series of a name that are of the tests' model and have these labels."""
    labels |= {"model": "tiny-measured"}
    every = series.get(name) or series[f"{name}_total"]  # as that client calls Triton's counters
    return [value for own, value in every if own.items() >= labels.items()]


def test_requests_answers_and_work_are_counted_under_the_version_the_route_and_the_status(client: TestClient) -> None:
    version = client.get("/models/tiny-measured").json()["version"]
    for picture in (BRIGHT, BRIGHT, DARK):
        assert client.post("/models/tiny-measured/predict", content=picture).status_code == 200
    assert client.post("/predict", content=b"no picture").status_code == 400
    files = [("files", ("a.png", BRIGHT, "image/png")), ("files", ("b.png", DARK, "image/png"))]
    assert client.post(f"/models/tiny-measured/versions/{version}/predict/batch", files=files).status_code == 200
    series, stats = scrape(client), client.get("/models/tiny-measured/stats").json()
    by_route = {
        (labels["route"], labels["status"]): value
        for labels, value in series["vitrine_requests_total"]
        if labels["model"] == "tiny-measured" and labels["version"] == version
    }
    assert by_route == {
        ("/models/{name}", "200"): 1,
        ("/models/{name}/predict", "200"): 3,
        ("/predict", "400"): 1,
        ("/models/{name}/versions/{version}/predict/batch", "200"): 1,
    }
    assert of_model(series, "vitrine_request_seconds_count", route="/models/{name}/predict") == [3]
    counts = {
        labels["label"]: value for labels, value in series["vitrine_predictions_total"] if "tiny-m" in labels["model"]
    }
    assert counts == {"bright": 3, "dark": 2}
    (confidence,) = of_model(series, "vitrine_prediction_confidence_total", label="dark")
    answered = client.post("/predict", content=DARK).json()["confidence"]
    assert confidence == pytest.approx(2 * answered, rel=1e-6)
    assert of_model(series, "vitrine_failures_total", reason="InvalidImage", runner="predict") == [1]
    assert of_model(series, "vitrine_image_pixels_count") == [5]
    triton = {name: of_model(series, f"nv_inference_{name}") for name in ("request_success", "count", "exec_count")}
    assert triton == {"request_success": [5], "count": [5], "exec_count": [stats["executions"]]}
    assert of_model(series, "nv_inference_request_failure", reason="OTHER") == [1]
    parts = {"queue": "queue", "compute_input": "decode", "compute_infer": "waited"}
    durations = [of_model(series, f"nv_inference_{name}_duration_us")[0] for name in parts]
    assert durations == pytest.approx([stats[f"{name}_seconds"] * 1e6 for name in parts.values()], abs=2)
    assert of_model(series, "nv_inference_request_duration_us") == [pytest.approx(sum(durations))]
    assert of_model(series, "nv_inference_compute_output_duration_us") == [0]
    for name, every in series.items():
        if name.startswith(("vitrine_", "nv_")):
            assert all(labels["version"] == version for labels, _ in every if labels.get("model") == "tiny-measured"), (
                name
            )


def test_http_requests_are_there_as_opentelemetry_calls_them(client: TestClient) -> None:
    def durations() -> dict[tuple[tuple[str, str], ...], float]:
        name = "http_server_request_duration_seconds_bucket"
        return {tuple(sorted(labels.items())): value for labels, value in scrape(client).get(name, ())}

    before = durations()
    client.post("/models/tiny-measured/predict", content=BRIGHT)
    client.get("/nothing/here")
    client.request("BREW", "/coffee")
    after = durations()
    more = [(dict(labels), value - before.get(labels, 0)) for labels, value in after.items()]
    more = [(labels, value) for labels, value in more if value and labels.get("http_route") != "/metrics"]
    attributes = [labels for labels, value in more if labels.pop("le") == "+Inf"]
    common = {"url_scheme": "http", "http_response_status_code": "404"}
    predicted = {"http_request_method": "POST", "http_route": "/models/{name}/predict"}
    for expected in (
        common | predicted | {"http_response_status_code": "200"},
        common | {"http_request_method": "GET"},
        common | {"http_request_method": "_OTHER"},
    ):
        assert attributes.count(expected) == 1
    bounds = {dict(labels)["le"] for labels in after}
    assert bounds == {"+Inf", *map(str, OTEL_SECONDS)}


def test_what_is_the_case_now_is_of_every_process(client: TestClient) -> None:
    series = scrape(client)
    for name, value in (("vitrine_model_ready", 1), ("vitrine_golden_check", 1), ("vitrine_queue_depth", 0)):
        assert of_model(series, name, runner="predict") == [value]
    assert of_model(series, "vitrine_model_info", device="cpu", runtime="onnx", task="image-classification") == [1]
    assert series["vitrine_ready"] == series["vitrine_workers"] == [({}, 1)]
    repository = client.app_state["repository"]
    (model,) = repository.every
    lanes = model.gauges()["lanes"]
    other = {"ready": 0.0, "golden_check": 0.0, "queue_depth": 3.0, "lanes": lanes, "lanes_busy": 1.0}
    news = {"gauges": {model.tag: other}, "ready": False, "open_breakers": []}
    families = {family.name: family.samples for family in gauge_families(repository, None, [news])}
    values = {name: samples[0][2] for name, samples in families.items() if samples}
    assert (values["vitrine_model_ready"], values["vitrine_golden_check"], values["vitrine_ready"]) == (0, 0, 0)
    assert (values["vitrine_queue_depth"], values["vitrine_lanes"], values["vitrine_workers"]) == (3, 2 * lanes, 2)
    assert values["nv_inference_pending_request_count"] == 3 and values["vitrine_lanes_busy"] == 1
    assert add_gauges([]) == {} and add_gauges([{"ready": 1.0}, {}]) == {"ready": 1.0}


def test_a_golden_that_is_off_shows(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny", "tiny-broken")
    with client_maker() as make:
        good = seal(folder)
        repository = make(good, loaded=False).app_state["repository"]
        (model,) = repository.every
        assert "golden_check" not in model.gauges()
        model.state, model.detail = "checking", "replaying its goldens"
        model.fail(RuntimeError("as it fails where an output is off"))
        assert model.gauges()["golden_check"] == 0
        repository.start()


TEXT = "abcdefghijklmnopqrstuvwxyz0123456789-_./%:"


def strange_scopes(count: int) -> Iterator[dict[str, Any]]:
    """Yield requests whose paths, methods, models, versions, keys and hosts were never there before."""
    rng = random.Random(0)
    places = (
        "/{}",
        "/models/{}/predict",
        "/v2/models/{}/infer",
        "/models/tiny-measured/versions/{}/predict",
        "/static/{}",
    )
    for index in range(count):
        text = "".join(rng.choices(TEXT, k=12)) + str(index)
        headers = [(name, text.encode()) for name in (b"x-api-key", b"x-request-id", b"host", b"user-agent")]
        method = "POST" if index % 3 else f"M{index}"
        path = places[index % len(places)].format(text)
        yield {"type": "http", "method": method, "path": path, "headers": headers, "query_string": text.encode()}


async def ask(app: ASGIApp, scopes: Iterator[dict[str, Any]]) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        pass

    for scope in scopes:
        await app(scope | {"raw_path": scope["path"].encode(), "root_path": "", "http_version": "1.1"}, receive, send)


def test_ten_thousand_paths_methods_keys_and_labels_later_there_are_as_many_series(client: TestClient) -> None:
    def count() -> int:
        return sum(map(len, scrape(client).values()))

    asyncio.run(ask(client.app, strange_scopes(100)))
    count()  # the scrape makes series of its own
    before = count()
    asyncio.run(ask(client.app, strange_scopes(10_000)))
    assert count() == before
    assert "BREW" not in METHODS


PROCESS = """
import os, sys
from prometheus_client import Gauge
from runners.metrics import write_all
from runners.stats import Series, StatsKeeper
keeper = StatsKeeper(Series("shared", "1"))
keeper.executed(4, 0.25)
keeper.answered_together([0.1] * 4, [0.01] * 4, 0.25)
Gauge("wrong", "Is left behind.", multiprocess_mode="livesum").set(7)
write_all()
print("written", flush=True)
sys.stdin.read()
"""


def test_the_counts_of_a_process_that_died_stay_and_its_gauges_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))

    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", PROCESS]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "written\n"
        return process

    def counted() -> dict[str, float]:
        samples = [sample for family in counted_families() for sample in family.samples]
        return {name: value for name, labels, value in samples if "le" not in labels}

    processes = [start(), start()]
    try:
        both = counted()
        assert (both["vitrine_queue_seconds_count"], both["vitrine_batch_size_sum"], both["wrong"]) == (8, 8, 14)
        assert both["vitrine_waited_seconds_total"] == pytest.approx(2)
        processes[0].kill()
        processes[0].wait(20)
        one = counted()
        assert one == both | {"wrong": 7}
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=20)
    assert "wrong" not in counted()
