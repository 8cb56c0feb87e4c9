"""Floods of large JSON through the real server: how many bodies are read at a time, where, and who is refused."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

import api.rows
from runners.admission import ServiceTime
from tests.api.conftest import bundled
from tests.api.serving import PATIENCE_S, Served, post, serving
from tests.api.test_refusals import check_refusal
from tests.api.test_rows import CUSTOMER
from tests.live.server import wait_until

BATCH = "/models/churn/predict/batch"


class Reader:
    """Parses as the server does, once it is let, and notes how many parse at a time and in which threads."""

    def __init__(self) -> None:
        self.let, self._lock, self.at_once, self.most = threading.Event(), threading.Lock(), 0, 0
        self.threads = list[str]()

    def parse(self, data: bytes) -> Any:
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            self.threads.append(threading.current_thread().name)
        assert len(data) < 1000 or self.let.wait(PATIENCE_S)
        with self._lock:
            self.at_once -= 1
        return json.loads(data)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    reader = Reader()
    monkeypatch.setattr(api.rows, "parse_json", reader.parse)
    yield reader
    reader.let.set()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(bundled(tmp_path_factory.mktemp("rows"), "churn")) as served:
        yield served


def ask(served: Served, rows: int) -> requests.Response:
    return requests.post(f"{served.url}{BATCH}", json={"samples": [CUSTOMER] * rows}, timeout=PATIENCE_S)


def expected_s(served: Served) -> float:
    stats = requests.get(f"{served.url}/models/churn/stats", timeout=PATIENCE_S).json()
    return float(stats["expected_seconds"] + stats["running"])


def test_large_batches_are_read_one_at_a_time_while_small_requests_go_on(served: Served, reader: Reader) -> None:
    with ThreadPoolExecutor(8) as clients:
        flood = [clients.submit(ask, served, 1000) for _ in range(8)]
        wait_until(lambda: len(reader.threads) == 1)
        small = ask(served, 2)  # which waits for none of them
        assert small.status_code == 200 and not any(answer.done() for answer in flood)
        reader.let.set()
        answers = [answer.result(PATIENCE_S) for answer in flood]
    assert all(answer.status_code == 200 and answer.json()["batch_size"] == 1000 for answer in answers)
    small_answer = small.json()["predictions"][0]["probabilities"]
    assert all(answer.json()["predictions"][999]["probabilities"] == small_answer for answer in answers)
    assert reader.most == 2 and reader.threads.count("large-json") == 8  # the other one is the small request's


def test_a_batch_that_would_wait_too_long_is_refused_before_its_body_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Reader
) -> None:
    monkeypatch.setattr(ServiceTime, "add", lambda service, work, seconds: setattr(service, "item_s", 1000.0))
    reader.let.set()
    with serving(bundled(tmp_path, "churn")) as served:
        assert ask(served, 1000).status_code == 200  # which measures
        wait_until(lambda: expected_s(served) == 0)  # a lane ends its turn a little after the answer
        reader.let.clear()
        with ThreadPoolExecutor(1) as clients:
            first = clients.submit(ask, served, 1000)
            wait_until(lambda: reader.at_once == 1)
            with served.connect(post(100_000, b"", BATCH)) as wire:
                answer = b""
                while not answer.endswith(b"}"):  # its head may come before its body
                    answer += wire.recv(65_536)
                check_refusal(answer, closes=False)
            assert ask(served, 1000).status_code == 429
            assert ask(served, 2).status_code == 200  # a small one is read elsewhere
            reader.let.set()
            assert first.result(PATIENCE_S).status_code == 200
        wait_until(lambda: expected_s(served) == 0)
        assert ask(served, 1000).status_code == 200


def test_wrong_rows_of_a_large_batch_fail_alone(served: Served) -> None:
    rows: list[Any] = [CUSTOMER] * 400
    rows[3], rows[399] = CUSTOMER | {"age": "old"}, {"features": CUSTOMER}
    answer = requests.post(f"{served.url}{BATCH}", json={"samples": rows}, timeout=PATIENCE_S).json()
    assert answer["errors"] == 1 and answer["batch_size"] == 400
    assert "age" in answer["predictions"][3]["error"]["detail"]
    assert answer["predictions"][399]["probabilities"] == answer["predictions"][0]["probabilities"]
    broken = requests.post(f"{served.url}{BATCH}", data=b'{"samples": [' + b"{}," * 20_000, timeout=PATIENCE_S)
    assert broken.status_code == 400 and "not JSON" in broken.json()["detail"]
