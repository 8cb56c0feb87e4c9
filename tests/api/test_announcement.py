"""What the log says once a server is ready, or why it is not."""

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

import pytest

from api.announcement import Announcement, http_address
from models.asked_models import AskedModels
from models.package import StoredModel
from serving.options import RunnerOptions
from serving.repository import ModelRepository
from settings import Settings
from tests.tiny import seal, tiny_package

SETTINGS = Settings(_env_file=None, profile="development")
ADDRESSES = {"page": "http://127.0.0.1:3000/", "gRPC": "127.0.0.1:3001"}


def announce(repository: ModelRepository, folder: Path, seconds: float = 60.0) -> None:
    """Announce as one worker, until that ends by itself; TimeoutError says that it had not after so many seconds."""

    async def scene() -> None:
        async with asyncio.timeout(seconds):
            await Announcement(repository, None, SETTINGS, "0.1.0", folder).make(ADDRESSES)

    asyncio.run(scene())


def loaded(*models: StoredModel, **more: Any) -> ModelRepository:
    """Return models that have been loaded."""
    repository = ModelRepository(models, RunnerOptions(), **more)
    repository.start()
    repository.wait_loaded(60)
    return repository


def test_one_worker_says_that_all_is_ready_and_where(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_VITRINE_STARTED", "0")
    stored = seal(tiny_package(tmp_path / "tiny"))
    repository = loaded(stored, default="tiny", invalid={"broken": "size is missing"})
    with caplog.at_level(logging.INFO, "vitrine"):
        for _ in range(2):  # as two workers do
            announce(repository, tmp_path)
    problem, ready = (record for record in caplog.records if record.name == "vitrine")
    assert problem.getMessage() == "broken is not served: size is missing"
    message, fields = ready.getMessage(), vars(ready)["fields"]
    assert f"models {stored.tag} (default); explanations switched off" in message and "profile development" in message
    assert "page http://127.0.0.1:3000/, gRPC 127.0.0.1:3001" in message
    assert fields["models"] == [stored.tag] and fields["seconds"] > 0 and fields["addresses"] == ADDRESSES
    assert repository.close(10)


@pytest.mark.parametrize(
    ("default", "chosen", "reason"),
    [
        ("tin", (), "VITRINE_DEFAULT_MODEL=tin: There is no such model. Known models: other, tiny. Did you mean tiny?"),
        ("tiny", (("tiny", ""), ("othr", "")), "VITRINE_MODELS asks for othr"),
    ],
)
def test_what_keeps_a_server_from_being_ready_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, default: str, chosen: Any, reason: str
) -> None:
    asked = AskedModels(chosen, frozenset(("tiny", "other")))
    repository = loaded(seal(tiny_package(tmp_path / "tiny")), default=default, asked=asked)
    for _ in range(2):  # as two workers do
        with pytest.raises(TimeoutError):
            announce(repository, tmp_path, seconds=0.2)
    (record,) = (record for record in caplog.records if record.name == "vitrine")
    assert record.getMessage().startswith(f"Vitrine is not ready: {reason}") and record.levelno == logging.ERROR
    assert repository.close(10)


def test_the_address_is_that_of_the_socket_that_the_supervisor_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    assert http_address(SETTINGS) == "http://127.0.0.1:3000"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setattr("sys.argv", ["worker", "--fd", str(listening.fileno()), "--ssl-certfile", "x.pem"])
        assert http_address(SETTINGS) == f"https://127.0.0.1:{listening.getsockname()[1]}"
