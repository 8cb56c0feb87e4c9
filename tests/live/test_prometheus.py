"""A real Prometheus scrapes a served load: the rules evaluate, and the dashboard has something to show."""

import math
import shutil
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from loadtests.prometheus import Prometheus, dashboard_panels, scraping
from tests.live.server import Server, wait_until

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")


def load(server: Server, pictures: list[bytes], ended: threading.Event) -> None:
    """Ask for a bit of everything, again and again: predictions, explanations, rows, and what is wrong."""
    example = requests.get(f"{server.url}/models/churn", timeout=30).json()["input"]["features"]
    row = {feature["name"]: feature["example"] for feature in example}
    place = 0
    while not ended.is_set():
        for path in ("/models/kidney-stone/predict", "/predict"):
            requests.post(server.url + path, data=pictures[place % len(pictures)], timeout=60)
        requests.post(f"{server.url}/models/churn/predict", json=row, timeout=60)
        requests.post(f"{server.url}/predict", data=b"no picture", timeout=60)
        requests.post(f"{server.url}/explain", data=pictures[0], timeout=60)
        place += 1


def values(prometheus: Prometheus, expression: str) -> list[float]:
    return [float(series["value"][1]) for series in prometheus.query(expression)]


def test_every_expression_of_the_dashboard_has_data_and_no_alert_fires(
    server: Server, pictures: list[bytes], tmp_path: Path
) -> None:
    server.wait_explaining("kidney-stone")
    ended = threading.Event()
    loading = threading.Thread(target=load, args=(server, pictures, ended))
    with scraping(tmp_path, urlsplit(server.url).netloc) as prometheus:
        loading.start()
        try:
            panels = dashboard_panels("20s")
            open_ones = {(title, target.expression) for title, targets in panels.items() for target in targets}
            assert len(open_ones) > 25

            def answered() -> bool:
                for title, expression in [*open_ones]:
                    if any(map(math.isfinite, values(prometheus, expression))):
                        open_ones.remove((title, expression))
                return not open_ones

            try:
                wait_until(answered, 60)
            except AssertionError:
                pytest.fail(f"no data of {sorted(open_ones)}")
            (target,) = prometheus.targets()
            assert (target["health"], target["lastError"]) == ("up", "")
            assert not prometheus.query('ALERTS{alertstate="firing"}')
            counted = values(prometheus, 'sum(vitrine_requests_total{model="kidney-stone",status="200"})')
            assert counted[0] > 0
            labelled = prometheus.query('{__name__=~"vitrine_.+",model!~"|unknown"}')
            assert labelled and all(series["metric"].get("version") for series in labelled)
        finally:
            ended.set()
            loading.join()
