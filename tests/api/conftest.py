"""The real application in this process, over a real tiny model: what a client sees without a server to start."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from api.app import build_app
from api.auth import Authenticator
from api.keys import Keys
from models.asked_models import AskedModels
from models.card import Card
from models.package import StoredModel
from serving.cache import NO_CACHE, ResponseCache
from serving.gradcam.client import ExplainerClient
from serving.options import RunnerOptions
from serving.predictor import Predictor
from serving.repository import ASKED_FOR_NONE, ModelRepository
from settings import Settings
from tests.conftest import ROOT
from tests.tiny import seal, tiny_package

MakeClient = Callable[..., TestClient]
MAX_BODY_BYTES = 4 * 2**20


def keys_of(path: Path) -> Keys:
    """Return the keys of a file, which has been looked at once."""
    keys = Keys(path)
    keys.reload()
    return keys


@contextmanager
def client_maker() -> Iterator[MakeClient]:
    """Give a function that starts applications over stored models; all models are closed at the end."""
    repositories = list[ModelRepository]()

    def make(
        *stored: StoredModel,
        options: RunnerOptions | None = None,
        explainer: ExplainerClient | None = None,
        authenticator: Authenticator | None = None,
        cache: ResponseCache = NO_CACHE,
        missing: dict[str, tuple[Card, str]] | None = None,
        default: str | None = None,
        behind: ASGIApp | None = None,
        loaded: bool = True,
        asked: AskedModels = ASKED_FOR_NONE,
        invalid: dict[str, str] | None = None,
        **settings: Any,
    ) -> TestClient:
        repository = ModelRepository(
            stored,
            options or RunnerOptions(),
            default=stored[0].card.name if default is None else default,
            cache=cache,
            missing=missing,
            asked=asked,
            invalid=invalid,
        )
        repositories.append(repository)
        if loaded:
            repository.start()
            repository.wait_loaded(60)
        chosen = Settings(_env_file=None, **settings)
        application = build_app(
            repository,
            Predictor(chosen.timeout_ms, explainer, chosen.top_k),
            chosen,
            "0.1.0",
            behind=behind,
            behind_paths=("/schema.json",),
            authenticator=authenticator,
        )
        client = TestClient(application, raise_server_exceptions=True)
        client.app_state = {"repository": repository}
        return client

    yield make
    for repository in repositories:
        assert repository.close(20)


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    """Start applications over stored models; all models are closed after the test."""
    with client_maker() as make:
        yield make


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The application over the tiny model, without keys or explanations, for all tests of a file."""
    with client_maker() as make:
        yield make(seal(tiny_package(tmp_path_factory.mktemp("tiny") / "tiny")), max_body_bytes=MAX_BODY_BYTES)


def bundled(folder: Path, name: str) -> StoredModel:
    """Copy a bundled model and open it as the store does."""
    return seal(Path(shutil.copytree(ROOT / "models" / name, folder / name)))


@pytest.fixture(scope="module")
def rows_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The application over the two bundled models of rows, for all tests of a file."""
    folder = tmp_path_factory.mktemp("rows")
    with client_maker() as make:
        yield make(bundled(folder, "churn"), bundled(folder, "machine_anomaly"))
