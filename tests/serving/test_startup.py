"""What a supervisor prepares for its workers."""

import errno
import os
import socket
from pathlib import Path

import pytest

from serving import startup
from serving.startup import check_port_free, prepare_environment, prepare_supervisor, run_folder
from serving.temporary import temporary_folder
from settings import Settings

OURS = (
    "_VITRINE_SUPERVISOR",
    "_VITRINE_RUN",
    "VITRINE_API_KEYS_FILE",
    "VITRINE_GRPC_PORT",
    "VITRINE_MODELS_DIR",
    "PROMETHEUS_MULTIPROC_DIR",
)


@pytest.fixture(autouse=True)
def fresh_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OURS:
        monkeypatch.setenv(name, "")  # so that the test's own changes are undone
        monkeypatch.delenv(name)


@pytest.fixture
def taken() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_a_port_that_another_server_has_is_told_from_a_free_one(taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    with taken, pytest.raises(OSError) as caught:
        check_port_free("127.0.0.1", port)
    assert caught.value.errno == errno.EADDRINUSE
    check_port_free("127.0.0.1", port)


def test_a_grpc_port_that_is_taken_turns_grpc_off_for_the_workers(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["bentoml", "serve"])
    with taken:
        prepare_supervisor(Settings(_env_file=None, grpc_port=taken.getsockname()[1]))
    assert os.environ["VITRINE_GRPC_PORT"] == "0"
    assert "gRPC is off" in caplog.text and "VITRINE_GRPC_PORT" in caplog.text


def test_a_process_that_finds_no_room_for_its_metrics_counts_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full, other = tmp_path / "full", tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(startup, "OTHERS", (full, other))
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(full))  # where nothing can be written
    prepare_environment()
    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(full)  # which the supervisor leaves as it is
    monkeypatch.setenv("_VITRINE_SUPERVISOR", "1")
    prepare_environment()
    assert Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).parent == other and "counts from zero" in caplog.text
    before = os.environ["PROMETHEUS_MULTIPROC_DIR"]
    prepare_environment()
    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == before


def test_the_processes_get_one_folder_to_share_and_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys, models = Path("keys.toml"), Path("models")
    settings = Settings(_env_file=None, workers=2, api_keys_file=keys, models_dir=models, grpc_port=0)
    prepare_supervisor(settings)
    folder = run_folder()
    assert folder.is_dir() and os.environ["VITRINE_API_KEYS_FILE"] == str(tmp_path / "keys.toml")
    assert os.environ["VITRINE_MODELS_DIR"] == str(tmp_path / "models")
    prepare_supervisor(settings)  # as a worker does, which inherits the environment
    assert run_folder() == folder


def test_telemetry_is_off_unless_the_operator_wants_it_and_dead_workers_are_replaced_in_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("BENTOML_DO_NOT_TRACK", raising=False)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.setenv("BENTOML_CONTAINERIZED", "1")
    prepare_environment()
    assert (os.environ["BENTOML_DO_NOT_TRACK"], os.environ["ORT_DISABLE_TELEMETRY"]) == ("True", "0")
    assert "BENTOML_CONTAINERIZED" not in os.environ
    assert Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).is_dir()


def test_a_temporary_folder_is_this_process_alone() -> None:
    first, second = temporary_folder("test"), temporary_folder("test")
    assert first != second and Path(first).is_dir() and os.stat(first).st_mode & 0o077 == 0
