"""The protocol before the tiny model of pictures, one with an early exit, and the models of rows that are shipped."""

import shutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from tests.api.oip.served import Served, connect, serving
from tests.conftest import ROOT
from tests.tiny import seal, tiny_package

EXPLAIN = '\n[explain]\nlayer = "none of this graph\'s"\nmethod = "gradcam"\n'


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("oip")
    explained = tiny_package(folder / "explained", "explained", exits=True)
    card = explained / "card.toml"
    card.write_text(card.read_text() + EXPLAIN)
    stored = [seal(tiny_package(folder / "tiny")), seal(explained)]
    stored += [seal(shutil.copytree(ROOT / "models" / name, folder / name)) for name in ("churn", "machine_anomaly")]
    with serving(stored, max_body_bytes=2_000_000) as running:
        assert all(model.state == "ready" for model in running.repository.every)
        yield running


@pytest.fixture(params=[triton_http, triton_grpc], ids=["http", "grpc"])
def triton(request: pytest.FixtureRequest) -> ModuleType:
    """Triton's client library for HTTP, then the one for gRPC."""
    module: ModuleType = request.param
    return module


@pytest.fixture
def client(served: Served, triton: Any) -> Iterator[Any]:
    """Triton's client over HTTP, then over gRPC."""
    with connect(triton, served.http, served.grpc) as connected:
        yield connected
