"""With VITRINE_CACHE_MB the same picture is computed once."""

import re
from collections.abc import Iterator

import pytest
import requests

from tests.conftest import ROOT
from tests.live.server import Server, install, serving
from tests.tiny import plain, tiny_package


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("cache")
    install(tiny_package(folder / "tiny"), folder / "home")
    chosen = {"VITRINE_CACHE_MB": "1", "VITRINE_DEFAULT_MODEL": "tiny", "VITRINE_EXPLAIN": "false"}
    with serving(folder / "home", folder / "server.log", cwd=ROOT, **chosen) as running:
        running.wait_ready()
        yield running


def test_the_second_time_an_answer_comes_from_the_cache_and_says_so(server: Server) -> None:
    def ask(query: str = "") -> requests.Response:
        return requests.post(f"{server.url}/predict{query}", data=plain(77), timeout=30)

    first, second, other = ask(), ask(), ask("?threshold=0.999")
    assert "Cache-Status" not in first.headers
    assert second.headers["Cache-Status"] == other.headers["Cache-Status"] == "vitrine; hit"
    assert first.json()["probabilities"] == second.json()["probabilities"] == other.json()["probabilities"]
    assert first.json()["request_id"] != second.json()["request_id"]
    assert other.json()["threshold"] == 0.999
    metrics = requests.get(f"{server.url}/metrics", timeout=30).text
    hits = re.search(r'vitrine_cache_requests_total\{model="tiny",outcome="hit"\} (\S+)', metrics)
    assert hits is not None and float(hits[1]) >= 2


def test_a_batch_is_a_hit_when_all_of_it_is_and_an_error_is_told_anew(server: Server) -> None:
    def ask(*levels: int) -> requests.Response:
        files = [("files", (f"{level}.png", plain(level), "image/png")) for level in levels]
        return requests.post(f"{server.url}/predict/batch", files=files, timeout=30)

    assert "Cache-Status" not in ask(10, 20).headers
    assert "Cache-Status" not in ask(20, 30).headers
    assert ask(10, 20, 30).headers["Cache-Status"] == "vitrine; hit"
    for _ in range(2):
        assert requests.post(f"{server.url}/predict", data=b"no picture", timeout=30).status_code == 400
