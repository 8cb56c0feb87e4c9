"""The second port for HTTP of a worker, through the whole server."""

import socket
from pathlib import Path

import pytest
import requests

from settings import Settings
from tests.api.serving import serving
from tests.live.server import free_ports
from tests.tiny import plain, seal, tiny_package


def test_the_second_port_answers_as_the_first_until_the_server_stops(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with serving(seal(tiny_package(tmp_path / "tiny")), torchserve_port=port, max_body_bytes=2048) as served:
        assert requests.get(f"{url}/ping", timeout=30).json() == {"status": "Healthy"}
        answers = [
            requests.post(f"{at}/predictions/tiny", data=plain(200), timeout=30).json() for at in (url, served.url)
        ]
        assert answers[0] == answers[1] and set(answers[0]) == {"bright", "dark"}
        assert requests.post(f"{url}/predictions/tiny", data=bytes(3000), timeout=30).status_code == 413
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/ping", timeout=5)


def test_a_second_port_that_is_taken_costs_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(seal(tiny_package(tmp_path / "tiny")), torchserve_port=port) as served:
            assert requests.get(f"{served.url}/ping", timeout=30).status_code == 200
    assert f"does not listen on the second port 127.0.0.1:{port}" in caplog.text


@pytest.mark.parametrize("port", [3000, 3001])
def test_the_second_port_is_one_of_its_own(port: int) -> None:
    with pytest.raises(ValueError, match="VITRINE_TORCHSERVE_PORT"):
        Settings(_env_file=None, torchserve_port=port)
