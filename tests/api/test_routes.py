"""Which model a prediction's route means."""

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from models.card import read_card
from models.package import MANIFEST, StoredModel, file_digests
from tests.api.conftest import MakeClient, bundled
from tests.api.test_rows import CUSTOMER, READING
from tests.tiny import plain, seal, tiny_package


@pytest.fixture
def two_versions(make_client: MakeClient, tmp_path: Path) -> tuple[TestClient, str, str]:
    """Two versions of a model of rows, the second with another threshold and with an identifier."""
    first = bundled(tmp_path / "first", "churn")
    changed = bundled(tmp_path / "second", "churn").path
    text = (changed / "card.toml").read_text().replace("threshold = 0.5", "threshold = 0.01")
    identifier = '[[input.identifiers]]\nname = "customer"\nkind = "text"\nexample = "c-1"\n\n[limits]'
    (changed / "card.toml").write_text(text.replace("[limits]", identifier))
    for golden in (changed / "goldens").glob("[0-9].json"):
        golden.write_text(json.dumps(json.loads(golden.read_text()) | {"customer": "c-1"}))
    second = seal(changed)
    assert first.version != second.version
    return make_client(first, second), first.version, second.version


def test_two_versions_of_a_model_are_served_side_by_side(two_versions: tuple[TestClient, str, str]) -> None:
    client, first, second = two_versions
    assert client.post("/predict", json=CUSTOMER).json()["version"] == first
    for version, threshold in ((first, 0.5), (second, 0.01)):
        row = CUSTOMER if version == first else CUSTOMER | {"customer": "c-77"}
        for path in ("predict", "predict/batch"):
            body = row if path == "predict" else {"samples": [row]}
            response = client.post(f"/models/churn/versions/{version[:5]}/{path}", json=body)
            answer = response.json()
            prediction = answer if path == "predict" else answer["predictions"][0]
            assert (answer["version"], prediction["threshold"]) == (version, threshold)
            assert prediction.get("customer") == row.get("customer")
        details = client.get(f"/models/churn/versions/{version}").json()
        assert details["version"] == version and details["versions"] == [first, second]
    response = client.post("/models/churn/versions/0000/predict", json=CUSTOMER)
    assert response.status_code == 404 and first in response.json()["detail"]


def test_the_beginning_of_two_versions_names_neither(make_client: MakeClient, tmp_path: Path) -> None:
    def version(name: str) -> StoredModel:
        package = tiny_package(tmp_path / name)
        (package / MANIFEST).write_text(json.dumps({"version": name, "files": file_digests(package)}))
        return StoredModel(read_card(package / "card.toml"), name, package)

    client = make_client(version("ab1"), version("ab2"))
    response = client.post("/models/tiny/versions/ab/predict", content=plain(1))
    assert response.status_code == 404 and "means several versions" in response.json()["detail"]


def test_models_of_pictures_and_of_rows_answer_side_by_side(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(
        seal(tiny_package(tmp_path / "tiny")), bundled(tmp_path, "churn"), bundled(tmp_path, "machine_anomaly")
    )
    assert client.post("/models/tiny/predict", content=plain(200)).json()["prediction"] == "bright"
    assert client.post("/models/churn/predict", json=CUSTOMER).json()["model"] == "churn"
    assert client.post("/models/machine-anomaly/predict", json=READING).json()["is_anomaly"] in (True, False)
    listed = client.get("/models").json()["models"]
    assert {model["name"]: model["state"] for model in listed} == dict.fromkeys(
        ("churn", "machine-anomaly", "tiny"), "ready"
    )
    response = client.post("/models/tiny/predict", json=CUSTOMER)
    assert response.status_code == 400 and "takes pictures, not JSON" in response.json()["detail"]


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/explain", "/infer"])
def test_a_default_model_that_is_not_there_is_a_404_that_lists_the_known(
    make_client: MakeClient, tmp_path: Path, path: str
) -> None:
    client = make_client(seal(tiny_package(tmp_path / "tiny")), default="absent", loaded=False)
    response = client.post(path, content=plain(1))
    assert response.status_code == 404 and "Known models: tiny" in response.json()["detail"]
