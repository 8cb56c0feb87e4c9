"""What is said of several versions of one model."""

import json
from pathlib import Path

from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.metadata import Facts
from models.card import read_card
from models.package import MANIFEST, StoredModel, files_of
from runners.plan import CoreShare
from serving.loaded_model import RunnerOptions
from serving.repository import ServedModels
from tests.tiny import tiny_package


def stored(folder: Path, name: str, version: str) -> StoredModel:
    """A version of a tiny model."""
    package = tiny_package(folder / version, name)
    (package / MANIFEST).write_text(json.dumps({"version": version, "files": files_of(package)}))
    return StoredModel(read_card(package / "card.toml"), version, package)


def test_health_lists_every_version_that_is_served_and_models_names_them(tmp_path: Path) -> None:
    versions = [stored(tmp_path, "tiny", "1a"), stored(tmp_path, "tiny", "2b"), stored(tmp_path, "other", "3c")]
    served = ServedModels(versions, {}, "tiny", RunnerOptions())
    for model in served.every:
        model.load(RunnerOptions(), CoreShare(1))
    application = FastAPI()
    application.include_router(Facts(served, None).routes())
    client = TestClient(application)
    health = client.get("/health").json()
    listed = {name: each["version"] for name, each in health["models"].items()}
    assert listed == {"tiny": "1a", "tiny:2b": "2b", "other": "3c"}
    assert {each["state"] for each in health["models"].values()} == {"ready"}
    assert set(health["explanations"]) == set(listed)
    facts = {each["name"]: each for each in client.get("/models").json()["models"]}
    assert (facts["tiny"]["versions"], facts["other"]["versions"]) == (["1a", "2b"], ["3c"])
    assert facts["tiny"]["variant"] == "fp32"
    assert served.close(5)
