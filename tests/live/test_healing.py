"""Processes that are stopped or killed are replaced, and none outlives its supervisor."""

import signal
from collections.abc import Iterator

import psutil
import pytest
import requests

from tests.conftest import encode
from tests.live.server import Server, install, serving, wait_until
from tests.tiny import bright_square, tiny_package

PICTURE = encode(bright_square())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("healing")
    home = folder / "home"
    install(tiny_package(folder / "tiny", explained=True), home)
    with serving(home, folder / "log", VITRINE_DEFAULT_MODEL="tiny", VITRINE_HANG_SECONDS="3") as running:
        running.wait_ready()
        running.wait_explaining("tiny")
        yield running


def answers(server: Server, path: str) -> bool:
    try:
        return requests.post(server.url + path, data=PICTURE, timeout=5).status_code == 200
    except (requests.ConnectionError, requests.Timeout):
        return False


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_the_only_worker_is_replaced(server: Server, fault: signal.Signals) -> None:
    worker = server.process_of("vitrine")
    worker.send_signal(fault)
    wait_until(lambda: answers(server, "/predict"), 90)
    assert not worker.is_running()
    server.wait_ready()
    health = requests.get(f"{server.url}/health", timeout=10).json()
    assert (health["status"], health["models"]["tiny"]["state"]) == ("healthy", "ready")


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_the_grad_cam_process_is_replaced_while_predictions_go_on(server: Server, fault: signal.Signals) -> None:
    process = server.process_of("gradcam")
    process.send_signal(fault)

    def explains() -> bool:
        assert requests.post(f"{server.url}/predict", data=PICTURE, timeout=60).status_code == 200
        return not process.is_running() and answers(server, "/explain")

    wait_until(explains, 90)
    server.wait_explaining("tiny")


def test_the_grad_cam_process_does_not_hold_the_ports_of_the_worker(server: Server) -> None:
    """While it did, who came after a worker had closed its port waited for an answer that nobody gave."""
    listening = [
        one.laddr.port for one in server.process_of("gradcam").net_connections("tcp") if one.status == "LISTEN"
    ]
    assert listening == []
    assert int(server.url.rpartition(":")[2]) in {
        one.laddr.port for one in server.process_of("vitrine").net_connections("tcp") if one.status == "LISTEN"
    }


def test_every_process_ends_with_its_supervisor(server: Server) -> None:
    """It ends the server, so it is the last test of this file."""
    processes = psutil.Process(server.process.pid).children(recursive=True)
    assert len(processes) == 4  # a worker, the Grad-CAM process, and a decoding process beside each
    server.process.kill()
    wait_until(lambda: not any(process.is_running() for process in processes), 90)
