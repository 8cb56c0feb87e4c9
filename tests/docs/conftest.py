"""What a reader has: a clone, an environment, a picture, a graph of their own, and a running server."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.conftest import ROOT, encode
from tests.export.graphs import graph_file
from tests.live.server import Server, serving, vitrine

SHIPPED = ("kidney-stone", "churn", "machine-anomaly")
LEFT_OUT = (".git", ".venv*", ".env", ".*_cache", "__pycache__", "runs", "*.egg-info")


@pytest.fixture(scope="session")
def person(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The HOME of who runs all this, empty at first."""
    folder = tmp_path_factory.mktemp("person")
    return {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / ".cache"), "EDITOR": "true"}


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as `make serve` leaves it."""
    folder = tmp_path_factory.mktemp("bentoml")
    for name in SHIPPED:
        vitrine(folder, "models", "import", name)
    return folder


@pytest.fixture(scope="session")
def server(home: Path, person: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The one server of every document, ready to explain too."""
    log, cache = tmp_path_factory.mktemp("log") / "server.log", person["XDG_CACHE_HOME"]
    with serving(home, log, HOME=person["HOME"], XDG_CACHE_HOME=cache) as running:
        running.wait_ready()
        running.wait_explaining("kidney-stone")
        yield running


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes]) -> Path:
    """A copy of the repository in which blocks are run, with the files that the documents take for granted."""
    folder = tmp_path_factory.mktemp("clone") / "vitrine"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for environment in (".venv", ".venv-dev"):
        binaries = folder / environment / "bin"
        binaries.mkdir(parents=True)
        for program in ("vitrine", "bentoml", "python"):
            real = Path(sys.executable).with_name(program)
            (binaries / program).write_text(f'#!/bin/sh\nexec "{real}" "$@"\n')
            (binaries / program).chmod(0o755)
    (folder / "ct.png").write_bytes(pictures[0])
    graph_file(folder / "model.onnx", classes=3)
    (folder / "labels.txt").write_text("arterial\nvenous\nexcretory\n")
    examples = folder / "examples"
    examples.mkdir()
    timm_network = timm.create_model("resnet18", num_classes=3)
    torch.save(timm_network.state_dict(), folder / "best_model.pth")
    rows_of_their_own(folder)
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        (examples / f"{index}.png").write_bytes(encode(noise))
    return folder


def rows_of_their_own(folder: Path) -> None:
    """Write a fitted pipeline, and rows such as it was fitted on."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"age": rng.uniform(18, 80, 200), "country": rng.choice(["CH", "DE", "FR"], 200)})
    columns = ColumnTransformer([("numbers", StandardScaler(), ["age"]), ("texts", OneHotEncoder(), ["country"])])
    pipeline = make_pipeline(columns, LogisticRegression())
    joblib.dump(pipeline.fit(rows, np.where(rows["age"] > 50, "stays", "leaves")), folder / "pipeline.joblib")
    rows.head(20).to_csv(folder / "customers.csv", index=False)
