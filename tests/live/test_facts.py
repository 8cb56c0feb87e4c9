"""Health, cards, statistics, metrics, documentation and the page."""

import json
import re
import time

import pytest
import requests

from tests.live.server import Server


def get(server: Server, path: str, **headers: str) -> requests.Response:
    return requests.get(server.url + path, headers=headers, timeout=30)


@pytest.mark.parametrize(
    "path", ["/health", "/health/ready", "/readyz", "/health/live", "/livez", "/healthz/", "/health/"]
)
def test_health_answers_under_every_name(server: Server, path: str) -> None:
    assert get(server, path).status_code == 200
    assert requests.head(server.url + path, timeout=30).status_code == 200


def test_health_says_what_is_loaded(server: Server) -> None:
    health = get(server, "/health").json()
    assert (health["status"], health["device"], health["model_loaded"]) == ("ok", "cpu", True)
    assert health["models"]["kidney-stone"]["state"] == "ready"
    assert health["model_version"] == health["models"]["kidney-stone"]["version"]


@pytest.mark.parametrize("path", ["/models/kidney-stone", "/model-info", "/model/info", "/predict/info"])
def test_the_card_is_there_with_its_measured_quality(server: Server, path: str) -> None:
    card = get(server, path).json()
    assert (card["name"], card["parameters"], card["labels"]) == ("kidney-stone", 18_471_242, ["no_stone", "stone"])
    assert card["metrics"]["data"] == "synthetic phantoms"
    low, high = card["metrics"]["auc_ci95"]
    assert low <= card["metrics"]["auc"] <= high
    assert set(card["sha256"]) >= {"card.toml", "predict.onnx", "explain.onnx", "weights.safetensors"}
    assert card["explain"]["method"] in card["explain"]["methods"]


def test_statistics_add_up(server: Server, pictures: list[bytes]) -> None:
    before = get(server, "/models/kidney-stone/stats").json()
    for data in pictures[:3]:
        requests.post(f"{server.url}/predict", data=data, timeout=30)
    requests.post(f"{server.url}/predict", data=b"nothing", timeout=30)
    after = get(server, "/health/stats").json()
    assert after["succeeded"] - before["succeeded"] == 3
    assert after["failed"].get("InvalidImage", 0) - before["failed"].get("InvalidImage", 0) == 1
    assert after["infer_seconds"] > before["infer_seconds"]
    assert after["waiting"] == after["running"] == 0


def test_metrics_count_requests_by_model_and_status_and_strangers_make_no_series(
    server: Server, pictures: list[bytes]
) -> None:
    def counted(text: str, model: str, status: int) -> float:
        found = re.search(rf'vitrine_requests_total\{{model="{model}",status="{status}"\}} (\S+)', text)
        return float(found[1]) if found else 0.0

    before = get(server, "/metrics").text
    requests.post(f"{server.url}/predict", data=pictures[0], timeout=30)
    for index in range(5):
        requests.post(f"{server.url}/models/stranger{index}/predict", timeout=30)
        get(server, f"/{index}/nowhere")
    # Counted after the answer's last byte has gone, so perhaps after it was read here.
    deadline, text = time.monotonic() + 20, before
    while counted(text, "unknown", 404) - counted(before, "unknown", 404) < 5 and time.monotonic() < deadline:
        text = get(server, "/metrics").text
    assert counted(text, "kidney-stone", 200) - counted(before, "kidney-stone", 200) == 1
    assert counted(text, "unknown", 404) - counted(before, "unknown", 404) == 5
    for name in ("request", "queue", "decode", "infer"):
        assert re.search(rf'vitrine_{name}_seconds_count\{{model="kidney-stone"\}} [1-9]', text)
    assert "vitrine_batch_size_bucket" in text
    assert "stranger" not in text
    assert "nowhere" not in text


def test_each_request_is_one_json_line_in_the_log(server: Server) -> None:
    get(server, "/models", **{"X-Request-ID": "line-of-my-own"})
    lines, deadline = list[str](), time.monotonic() + 20  # written after the answer's last byte has gone
    while not lines and time.monotonic() < deadline:
        lines = [line for line in server.log.read_text().splitlines(keepends=True) if "line-of-my-own" in line]
        lines = [line for line in lines if line.endswith("\n")]
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert (line["method"], line["path"], line["status"]) == ("GET", "/models", 200)


def test_the_documentation_loads_nothing_from_elsewhere(server: Server) -> None:
    for path in ("/docs", "/redoc"):
        page = get(server, path)
        assert page.status_code == 200
        assert page.headers["content-security-policy"].startswith("default-src 'self' ")
        assert "http" not in page.headers["content-security-policy"]
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert links
        for link in links:
            assert link.startswith(("/", "data:")), link
            if link.startswith("/"):
                assert get(server, link).status_code == 200


def test_openapi_names_every_route_of_the_contract(server: Server) -> None:
    document = get(server, "/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) >= {
        *("/", "/health", "/health/live", "/health/ready", "/health/stats", "/models", "/models/{name}"),
        *(
            "/models/{name}/stats",
            "/models/kidney-stone/predict",
            "/models/kidney-stone/predict/batch",
            "/predict",
            "/predict/batch",
            "/models/kidney-stone/explain",
            "/models/churn/predict",
            "/models/{name}/versions/{version}",
            "/explain",
        ),
    }
    assert "422" not in json.dumps(document["paths"])


def test_the_root_is_a_page_for_a_browser_and_json_for_everyone_else(server: Server) -> None:
    assert get(server, "/").json()["name"] == "vitrine"
    page = get(server, "/", Accept="text/html,*/*")
    assert page.headers["content-type"].startswith("text/html")
    assert "unsafe" not in page.headers["content-security-policy"]
    for link in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text):
        assert get(server, link).status_code == 200


def test_bentomls_own_schema_is_still_there(server: Server) -> None:
    assert get(server, "/schema.json").json()["name"] == "vitrine"
