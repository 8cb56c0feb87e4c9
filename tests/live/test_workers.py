"""Several worker processes on one socket answer as one service."""

from collections.abc import Iterator

import psutil
import pytest
import requests
import tritonclient.grpc

from tests.conftest import ROOT
from tests.live.server import Server, install, serving, wait_until
from tests.tiny import plain, tiny_package

WORKERS = 2


def workers_of(server: Server) -> list[psutil.Process]:
    """The processes that answer."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if any("worker" in word for word in child.cmdline())]


def predict(server: Server) -> requests.Response:
    """One picture over a connection of its own, which any worker may take."""
    return requests.post(f"{server.url}/predict", data=plain(200), timeout=30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("workers")
    home = folder / "home"
    install(tiny_package(folder / "tiny"), home)
    chosen = {"VITRINE_WORKERS": str(WORKERS), "VITRINE_DEFAULT_MODEL": "tiny", "VITRINE_EXPLAIN": "false"}
    with serving(home, folder / "server.log", cwd=ROOT, **chosen) as running:
        running.wait_ready()
        yield running


def test_any_worker_tells_what_all_of_them_did(server: Server) -> None:
    assert len(workers_of(server)) == WORKERS
    processes = psutil.Process(server.process.pid).children(recursive=True)
    assert not [process for process in processes if "gradcam" in process.cmdline()]  # explanations are off
    before = requests.get(f"{server.url}/models/tiny/stats", timeout=30).json()
    assert all(predict(server).status_code == 200 for _ in range(40))
    for _ in range(8):  # a connection each, so that every worker is asked
        after = requests.get(f"{server.url}/models/tiny/stats", timeout=30).json()
        assert after["succeeded"] - before["succeeded"] == 40
        assert after["inferences"] - before["inferences"] == 40
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        assert client.is_server_ready()
        statistics = client.get_inference_statistics("tiny", as_json=True)["model_stats"][0]
        assert int(statistics["inference_stats"]["success"]["count"]) == after["succeeded"]


def scraped(server: Server, name: str) -> float:
    """Return the sum of the series of a name; of requests only those that predicted."""
    lines = requests.get(f"{server.url}/metrics", timeout=30).text.splitlines()
    own = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
    return sum(float(line.split()[-1]) for line in own if name != PREDICTED or 'route="/predict"' in line)


PREDICTED = "vitrine_requests_total"


def test_a_killed_worker_is_replaced_and_no_later_request_fails(server: Server) -> None:
    killed, *others = workers_of(server)
    wait_until(lambda: scraped(server, "vitrine_workers") == WORKERS)
    counted, lanes = scraped(server, PREDICTED), scraped(server, "vitrine_lanes")
    killed.kill()
    killed.wait(10)

    def replaced() -> bool:
        answer = predict(server)
        assert answer.status_code == 200, answer.text
        assert requests.get(f"{server.url}/readyz", timeout=30).status_code == 200
        return len(set(workers_of(server)) - {killed, *others}) == 1

    wait_until(replaced)
    counts = [requests.get(f"{server.url}/models/tiny/stats", timeout=30).json()["succeeded"] for _ in range(4)]
    # What the dead worker had counted is still there, and what was the case with it is not.
    wait_until(lambda: scraped(server, "vitrine_workers") == WORKERS)
    assert scraped(server, PREDICTED) >= counted > 0 and scraped(server, "vitrine_lanes") == lanes
    assert counts == sorted(counts) and all(predict(server).status_code == 200 for _ in range(20))
