"""What a server adds to the application: BentoML's own routes, metrics of all processes, and a log on its output."""

import json
import re

import requests

from tests.live.server import Server, wait_until


def get(server: Server, path: str, **headers: str) -> requests.Response:
    return requests.get(server.url + path, headers=headers, timeout=30)


def test_the_shipped_model_is_there_with_its_measured_quality(server: Server) -> None:
    details = get(server, "/model-info").json()
    names = (details["name"], details["parameters"], details["labels"])
    assert names == ("kidney-stone", 18_471_242, ["no_stone", "stone"])
    assert details["metrics"]["data"].startswith("CT KIDNEY DATASET") and details["metrics"]["scans"] == 34
    low, high = details["metrics"]["auc_ci95"]
    assert low <= details["metrics"]["auc"] <= high
    assert set(details["sha256"]) >= {"card.toml", "predict.onnx", "explain.onnx", "weights.safetensors"}
    assert details["explain"]["method"] in details["explain"]["methods"]


def test_bundled_models_without_weights_are_listed_as_missing(server: Server) -> None:
    health = get(server, "/health").json()
    assert health["models"]["kidney-stone"]["state"] == "ready"
    assert health["models"]["imagenet"]["state"] == health["models"]["cifar10"]["state"] == "missing"


def test_metrics_count_requests_and_strangers_make_no_series(server: Server, pictures: list[bytes]) -> None:
    def counted(text: str, model: str, status: int) -> float:
        lines = re.findall(rf'vitrine_requests_total\{{model="{model}",.*status="{status}",.*\}} (\S+)', text)
        return sum(map(float, lines))

    before = text = get(server, "/metrics").text
    requests.post(f"{server.url}/predict", data=pictures[0], timeout=30)
    for index in range(5):
        requests.post(f"{server.url}/models/stranger{index}/predict", timeout=30)

    def all_counted() -> bool:  # after an answer's last byte has gone, so perhaps after it was read here
        nonlocal text
        text = get(server, "/metrics").text
        return counted(text, "unknown", 404) - counted(before, "unknown", 404) >= 5

    wait_until(all_counted)
    assert counted(text, "kidney-stone", 200) - counted(before, "kidney-stone", 200) == 1
    for name in ("request", "queue", "decode", "infer"):
        assert re.search(rf'vitrine_{name}_seconds_count\{{model="kidney-stone",.*\}} [1-9]', text)
    assert "vitrine_batch_size_bucket" in text and "stranger" not in text


def test_each_request_is_one_json_line_in_the_log(server: Server) -> None:
    def lines() -> list[str]:
        written = server.log.read_text().splitlines(keepends=True)
        return [line for line in written if "line-of-my-own" in line and line.endswith("\n")]

    get(server, "/models", **{"X-Request-ID": "line-of-my-own"})
    wait_until(lambda: bool(lines()))
    (line,) = map(json.loads, lines())
    assert (line["method"], line["path"], line["status"]) == ("GET", "/models", 200)


def test_every_line_of_every_process_is_json_with_its_time_and_the_closing_one_says_where(server: Server) -> None:
    def ready() -> list[str]:
        return [line for line in server.log.read_text().splitlines() if '"message":"Vitrine' in line]

    wait_until(lambda: bool(ready()))
    lines = [json.loads(line) for line in server.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    assert all({"time", "level", "logger", "process", "pid"} <= line.keys() for line in lines)
    assert {"vitrine", "gradcam"} <= {line["process"] for line in lines}
    (line,) = map(json.loads, ready())
    assert line["addresses"] == {"page": f"{server.url}/", "HTTP": server.url, "gRPC": server.grpc}
    assert line["profile"] == "development" and "production" not in server.log.read_text()
    assert {tag.partition(":")[0] for tag in line["models"]} == {"kidney-stone", "churn", "machine-anomaly"}
    assert 0 < line["seconds"] < 90 and line["explanations"] == "ready"
    assert list(line["not_served"]) == ["cifar10", "imagenet"]


def test_bentomls_own_schema_is_still_there(server: Server) -> None:
    assert get(server, "/schema.json").json()["name"] == "vitrine"
    assert get(server, "/nowhere").status_code == 404
