"""The second port of a real server with two workers: it answers, and stops when the server does."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from tests.live.server import free_ports, install, serving, wait_until
from tests.tiny import plain, tiny_package


def test_torchserves_port_is_shared_by_workers_and_ends_with_them(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    install(tiny_package(tmp_path / "tiny"), tmp_path / "home")
    log = tmp_path / "log"
    with serving(
        tmp_path / "home",
        log,
        VITRINE_DEFAULT_MODEL="tiny",
        VITRINE_EXPLAIN="false",
        VITRINE_WORKERS="2",
        VITRINE_TORCHSERVE_PORT=str(port),
    ) as server:
        server.wait_ready()  # which one worker of the two may answer
        wait_until(lambda: log.read_text().count(f"HTTP listens on 127.0.0.1:{port}, too") == 2)
        assert requests.get(f"{url}/ping", timeout=30).json() == {"status": "Healthy"}

        def predict(_: int) -> set[str]:
            return set(requests.post(f"{url}/predictions/tiny", data=plain(200), timeout=60).json())

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(predict, range(32))) == [{"dark", "bright"}] * 32
        server.terminate()
        server.process.wait(60)
        assert "Traceback" not in log.read_text()
