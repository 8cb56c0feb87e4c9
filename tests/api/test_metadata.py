"""Health, cards and statistics, and what is said of several versions of one model."""

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api.state_schemas import ModelFacts
from models.asked_models import AskedModels
from models.card import read_card
from models.package import MANIFEST, StoredModel, file_digests
from tests.api.conftest import MakeClient
from tests.tiny import plain, seal, tiny_package


def stored(folder: Path, name: str, version: str) -> StoredModel:
    """Return a tiny model of a version that the test chooses."""
    package = tiny_package(folder / version, name)
    (package / MANIFEST).write_text(json.dumps({"version": version, "files": file_digests(package)}))
    return StoredModel(read_card(package / "card.toml"), version, package)


def test_health_lists_every_version_that_is_served_and_models_names_them(
    make_client: MakeClient, tmp_path: Path
) -> None:
    client = make_client(
        stored(tmp_path, "tiny", "1a"), stored(tmp_path, "tiny", "2b"), stored(tmp_path, "other", "3c")
    )
    health = client.get("/health").json()
    versions = {name: state["version"] for name, state in health["models"].items()}
    assert versions == {"tiny": "1a", "tiny:2b": "2b", "other": "3c"}
    assert {state["state"] for state in health["models"].values()} == {"ready"}
    assert set(health["explanations"]) == set(versions)
    details = {model["name"]: model for model in client.get("/models").json()["models"]}
    assert (details["tiny"]["versions"], details["other"]["versions"]) == (["1a", "2b"], ["3c"])
    assert details["tiny"]["variant"] == "fp32"
    assert client.get("/models").json()["default"] == "tiny"
    assert client.get("/models/tiny/versions/2b").json()["version"] == "2b"
    assert client.get("/models/tiny?version=2b").json()["version"] == "2b"
    assert client.get("/models/tiny/versions/2b/stats").json()["version"] == "2b"


@pytest.mark.parametrize(
    "path", ["/health", "/health/ready", "/readyz", "/health/live", "/livez", "/healthz/", "/health/"]
)
def test_health_answers_under_every_name(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200
    assert client.head(path).status_code == 200


def test_health_says_what_is_loaded(client: TestClient) -> None:
    health = client.get("/health").json()
    assert (health["status"], health["detail"], health["device"], health["model_loaded"]) == (
        "healthy",
        "",
        "cpu",
        True,
    )
    assert health["models"]["tiny"]["state"] == "ready"
    assert health["model_version"] == health["models"]["tiny"]["version"]
    assert health["uptime_seconds"] >= 0 and health["explanations"]["tiny"] == "ready"


def test_health_and_readiness_tell_how_a_server_starts_and_drains(make_client: MakeClient, tmp_path: Path) -> None:
    def states() -> tuple[int, str, int, str]:
        ready, health = client.get("/readyz"), client.get("/health")
        return ready.status_code, ready.json()["status"], health.status_code, health.json()["detail"]

    package = seal(tiny_package(tmp_path / "tiny"))
    client = make_client(package, loaded=False)
    assert states() == (503, "starting", 200, f"{package.tag}: waiting to be loaded")
    repository = client.app_state["repository"]
    repository.start()
    repository.wait_loaded(60)
    assert states() == (200, "ready", 200, "")
    repository.lock_problems = ["The lock cannot be read."]  # it costs the server no request
    assert states() == (200, "ready", 200, "The lock cannot be read.")
    assert client.get("/health").json()["status"] == "degraded"
    repository.drain()
    assert states() == (503, "draining", 200, "finishing what is in flight; send nothing new")
    assert client.post("/predict", content=plain(200)).status_code == 200  # it is still in time
    assert repository.close(20)
    response = client.post("/predict", content=plain(200))
    assert response.status_code == 503 and "shutting down" in response.json()["detail"]
    assert client.get("/livez").status_code == 200


def test_a_damaged_model_stops_with_a_message_and_the_others_answer(make_client: MakeClient, tmp_path: Path) -> None:
    damaged = seal(tiny_package(tmp_path / "other", "other"))
    graph = bytearray(damaged.graph.read_bytes())
    graph[30] ^= 1
    damaged.graph.write_bytes(graph)
    client = make_client(seal(tiny_package(tmp_path / "tiny")), damaged)
    assert client.post("/predict", content=plain(200)).json()["prediction"] == "bright"
    response = client.post("/models/other/predict", content=plain(200))
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert "predict.onnx is damaged" in response.json()["detail"]
    health = client.get("/readyz")
    assert (health.status_code, health.json()["status"], health.json()["detail"]) == (200, "ready", "a model failed")
    assert client.get("/health").json()["status"] == "degraded"


def test_a_model_that_is_not_installed_is_listed_and_says_how_to_get_it(
    make_client: MakeClient, tmp_path: Path
) -> None:
    card = read_card(tiny_package(tmp_path / "absent", "absent") / "card.toml")
    missing = {"absent": (card, "not installed; install it with `vitrine models import absent`")}
    client = make_client(seal(tiny_package(tmp_path / "tiny")), missing=missing, default="absent")
    health = client.get("/readyz")
    assert (health.status_code, health.json()["status"]) == (503, "degraded")
    assert health.json()["models"]["absent"]["state"] == "missing" and health.json()["model_loaded"] is False
    response = client.post("/predict", content=plain(200))
    assert response.status_code == 503 and "vitrine models import absent" in response.json()["detail"]
    assert client.get("/model-info").json()["version"] is None
    assert client.get("/health/stats").json()["state"] == "missing"
    assert client.post("/models/tiny/predict", content=plain(200)).status_code == 200


@pytest.mark.parametrize("path", ["/models/churn", "/model-info", "/model/info", "/predict/info"])
def test_the_card_is_there_with_its_measured_quality(rows_client: TestClient, path: str) -> None:
    details = rows_client.get(path).json()
    assert (details["name"], details["parameters"], details["labels"]) == ("churn", 4738, ["class_0", "class_1"])
    low, high = details["metrics"]["auc_ci95"]
    assert 0.85 < low <= details["metrics"]["auc"] <= high
    assert details["metrics"]["data"] == "synthetic customers"
    assert set(details["sha256"]) >= {"card.toml", "predict.onnx", "weights.safetensors"}
    assert details["limits"]["max_items"] == 1000 and details["explain"]["methods"] == ["shapley", "shapley-sampled"]
    more = {"model_version", "feature_names", "num_features"}
    assert set(details) == set(ModelFacts.model_fields) - {"assumed", "outputs"} | more


def test_statistics_add_up(client: TestClient) -> None:
    before = client.get("/models/tiny/stats").json()
    for level in (1, 2, 3):
        client.post("/predict", content=plain(level))
    client.post("/predict", content=b"nothing")
    after = client.get("/health/stats").json()
    assert after["succeeded"] - before["succeeded"] == 3
    assert after["failed"].get("InvalidImage", 0) - before["failed"].get("InvalidImage", 0) == 1
    assert after["infer_seconds"] > before["infer_seconds"]
    assert after["waiting"] == after["running"] == 0 and after["explain"] is None


def test_a_model_that_was_asked_for_and_is_not_there_keeps_readiness_false_and_says_why(
    make_client: MakeClient, tmp_path: Path
) -> None:
    asked = AskedModels((("tiny", ""), ("othr", "")), frozenset(("tiny", "other")))
    client = make_client(seal(tiny_package(tmp_path / "tiny")), asked=asked)
    for path in ("/readyz", "/v2/health/ready"):
        assert client.get(path).status_code == 503
    health = client.get("/health")
    assert health.status_code == 200 and health.json()["status"] == client.get("/readyz").json()["status"] == "degraded"
    for body in (health.json(), client.get("/readyz").json()):
        assert "VITRINE_MODELS asks for othr" in body["detail"] and body["detail"].endswith("Did you mean other?")
    assert client.post("/predict", content=plain(1)).status_code == 200  # what is there answers


def test_a_default_model_that_is_not_known_is_told_with_the_nearest(make_client: MakeClient, tmp_path: Path) -> None:
    asked = AskedModels((), frozenset(("tiny",)))
    client = make_client(seal(tiny_package(tmp_path / "tiny")), asked=asked, default="tin")
    body = client.get("/readyz")
    assert body.status_code == 503
    assert body.json()["detail"].startswith("VITRINE_DEFAULT_MODEL=tin: There is no such model. Known models: tiny.")


def test_a_card_that_is_not_valid_is_listed_with_what_is_wrong(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(seal(tiny_package(tmp_path / "tiny")), invalid={"broken": "broken/card.toml: size is missing"})
    assert client.get("/models").json()["unreadable"] == {"broken": "broken/card.toml: size is missing"}
    health = client.get("/health").json()
    assert health["status"] == "degraded" and "size is missing" in health["detail"]
    assert health["models"]["broken"]["state"] == "failed" and "size is missing" in health["models"]["broken"]["detail"]
    assert client.get("/readyz").status_code == 200  # nobody asked for it


def test_a_version_that_is_misspelt_in_the_query_is_refused(client: TestClient) -> None:
    for path in ("/models/tiny?verson=1", "/models/tiny/stats?Version=1"):
        refused = client.get(path)
        assert refused.status_code == 400 and "Did you mean version?" in refused.json()["detail"]
    assert client.get("/models/tiny?v=1").status_code == 200
