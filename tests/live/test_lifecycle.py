"""Starting, draining, stopping, building: with servers of their own."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
import yaml

from tests.conftest import ROOT
from tests.live.server import Server, environment, install, serving, wait_until
from tests.tiny import plain, tiny_package


@pytest.fixture(scope="module")
def own(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the first test sees starting, and that a later one ends."""
    with serving(home, tmp_path_factory.mktemp("own") / "log") as running:
        running.wait_listening()
        yield running


def test_while_starting_it_lives_and_says_503_with_what_it_is_doing(own: Server, pictures: list[bytes]) -> None:
    details = set[str]()
    while (ready := requests.get(f"{own.url}/readyz", timeout=10)).status_code != 200:
        details.add(ready.json()["detail"])
        answer = requests.post(f"{own.url}/predict", data=pictures[0], timeout=30)
        if answer.status_code != 200:
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.json()["detail"].startswith("kidney-stone is ")
        assert requests.get(f"{own.url}/livez", timeout=10).status_code == 200
    assert all(re.match(r"(kidney-stone|churn|machine-anomaly):", detail) for detail in details)
    assert requests.post(f"{own.url}/predict", data=pictures[0], timeout=30).status_code == 200


def test_a_second_server_of_the_same_store_leaves_the_firsts_metrics_alone(
    home: Path, tmp_path: Path, server: Server
) -> None:
    def counted(at: Server) -> float:
        text = requests.get(f"{at.url}/metrics", timeout=10).text
        match = re.search(
            r'vitrine_requests_total\{model="kidney-stone",route="/models/\{name\}",status="200",.*\} (\S+)', text
        )
        return float(match[1]) if match else 0.0

    def ask() -> None:
        assert requests.get(f"{server.url}/models/kidney-stone", timeout=10).status_code == 200

    ask()
    wait_until(lambda: counted(server) >= 1)
    before = counted(server)
    with serving(home, tmp_path / "second", VITRINE_EXPLAIN="false") as second:
        second.wait_ready()
        ask()
        wait_until(lambda: counted(server) > before)
        assert counted(second) == 0


def test_sigterm_answers_what_is_in_flight_and_then_ends(own: Server, pictures: list[bytes]) -> None:
    with ThreadPoolExecutor(16) as pool:
        files = [("files", (str(index), data)) for index, data in enumerate(pictures)]
        batches = [pool.submit(requests.post, f"{own.url}/predict/batch", files=files, timeout=60) for _ in range(3)]
        wait_until(lambda: requests.get(f"{own.url}/health/stats", timeout=10).json()["running"] > 0)
        own.terminate()
        for batch in batches:
            answer = batch.result()
            assert answer.status_code == 200
            assert answer.json()["errors"] == 0
        own.process.wait(30)


def test_after_sigterm_it_ends_within_its_deadline_even_if_something_is_stuck(home: Path, tmp_path: Path) -> None:
    with serving(home, tmp_path / "log", VITRINE_DRAIN_SECONDS="2") as server:
        server.wait_ready()
        place = server.url.removeprefix("http://").split(":")
        with socket.create_connection((place[0], int(place[1]))) as stuck:  # a request whose body never ends
            head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
            stuck.sendall(head.encode() + b"abc")
            stuck.settimeout(30)
            assert stuck.recv(4096).startswith(b"HTTP/1.1 100 ")  # its body is being read
            server.terminate()
            server.process.wait(30)
        assert "Not drained after 2 s" in server.log.read_text()


def test_without_any_model_it_starts_and_says_how_to_get_one(tmp_path: Path) -> None:
    with serving(tmp_path / "home", tmp_path / "log") as server:
        server.wait_listening()
        answer = requests.post(f"{server.url}/predict", data=b"x", timeout=30)
        assert answer.status_code == 503
        assert "vitrine models import kidney-stone" in answer.json()["detail"]


@pytest.mark.slow
def test_a_built_bento_serves_from_another_folder_exactly_the_version_it_packed(tmp_path: Path) -> None:
    home, package = tmp_path / "home", tiny_package(tmp_path / "tiny")
    packed = install(package, home)
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    built = subprocess.run(
        [bentoml, "build", "-o", "tag"], env=environment(home), cwd=ROOT, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    tag = built.stdout.strip().removeprefix("__tag__:").splitlines()[-1].removeprefix("__tag__:")
    description = home / "bentos" / tag.replace(":", "/") / "bento.yaml"
    assert [model["tag"] for model in yaml.safe_load(description.read_text())["services"][0]["models"]] == [packed]
    source = description.parent / "src"
    assert {path.name for path in source.iterdir()} >= {"service.py", "settings.py", "api", "models", "requirements"}
    assert not list(source.rglob("*.safetensors")) + list(source.rglob("tests"))
    (package / "weights.safetensors").write_bytes(b"newer")
    assert install(package, home) != packed
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with serving(home, tmp_path / "log", tag, cwd=elsewhere, VITRINE_DEFAULT_MODEL="tiny") as server:
        server.wait_ready()
        body = requests.post(f"{server.url}/predict", data=plain(200), timeout=30).json()
        assert f"tiny:{body['version']}" == packed
        assert body["prediction"] == "bright"
