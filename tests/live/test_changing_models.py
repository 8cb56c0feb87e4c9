"""Models that come and go under load: every worker and the Grad-CAM process follow, and no request is lost."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import tritonclient.grpc
import tritonclient.http

from models.store import Store
from tests.conftest import ROOT
from tests.live.server import Server, install, serving, wait_until
from tests.tiny import plain, tiny_package

CLIENTS = 4


def add(store: Store, folder: Path, name: str, threshold: float, *, broken: bool = False) -> str:
    """Import a model whose answers show its threshold; a broken one fails its self-check. Return its version."""
    package = tiny_package(folder / f"{name}-{threshold}", name, explained=True)
    card, goldens = package / "card.toml", package / "goldens" / "goldens.json"
    card.write_text(card.read_text().replace("threshold = 0.5", f"threshold = {threshold}"))
    if broken:
        entries = json.loads(goldens.read_text())
        entries["goldens"][0]["logits"] = [9.0, 9.0]
        goldens.write_text(json.dumps(entries))
    return store.import_package(package)[0].version


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A folder with the model `mine`."""
    store = Store.own(tmp_path_factory.mktemp("own"))
    add(store, tmp_path_factory.mktemp("first"), "mine", 0.5)
    return store


@pytest.fixture(scope="module")
def server(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers and the Grad-CAM process before the models `tiny`, of BentoML's store, and `mine`."""
    folder = tmp_path_factory.mktemp("changing")
    install(tiny_package(folder / "tiny"), folder / "home")
    chosen = {"VITRINE_MODELS_DIR": str(store.models), "VITRINE_DEFAULT_MODEL": "tiny", "VITRINE_WORKERS": "2"}
    chosen |= {"VITRINE_MODEL_CONTROL": "true", "VITRINE_TIMEOUT_MS": "20000", "VITRINE_BODY_SECONDS": "5"}
    with serving(folder / "home", folder / "server.log", cwd=ROOT, **chosen) as running:
        running.wait_ready()
        running.wait_explaining("mine")
        yield running


@contextmanager
def load_on(server: Server, explaining: bool) -> Iterator[list[Any]]:
    """Ask for predictions, or explanations, without a pause until the block ends; give all answers."""
    answers, over = list[Any](), threading.Event()
    path = "explain?output=map" if explaining else "predict"

    def ask() -> None:
        while not over.is_set():
            answers.append(requests.post(f"{server.url}/models/mine/{path}", data=plain(200), timeout=60))

    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(ask) for _ in range(CLIENTS)]
        try:
            yield answers
        finally:
            over.set()
    for client in asking:
        client.result()


def versions(server: Server, name: str = "mine") -> set[str | None]:
    """The versions that several connections, each to any worker, find in service."""
    urls = [f"{server.url}/health"] * 12
    return {requests.get(url, timeout=30).json()["models"].get(name, {}).get("version") for url in urls}


@pytest.mark.parametrize(("explaining", "threshold"), [(False, 0.6), (True, 0.7)])
def test_a_version_is_replaced_under_load_and_no_request_is_lost(
    server: Server, store: Store, tmp_path: Path, explaining: bool, threshold: float
) -> None:
    (before,) = versions(server)
    with load_on(server, explaining) as answers:
        wait_until(lambda: len(answers) > 20)
        after = add(store, tmp_path, "mine", threshold)
        wait_until(lambda: versions(server) == {after})
        enough = len(answers) + 20
        wait_until(lambda: len(answers) > enough)
    assert {answer.status_code for answer in answers} == {200}, [a.text for a in answers if a.status_code != 200][:3]
    shown = {(answer.json()["version"], answer.json()["threshold"]) for answer in answers}
    assert {version for version, _ in shown} == {before, after} and (after, threshold) in shown
    assert len(shown) == 2  # each version with its own card


def test_one_that_fails_leaves_the_old_one_serving_and_a_new_name_is_served_and_goes(
    server: Server, store: Store, tmp_path: Path
) -> None:
    (before,) = versions(server)
    broken = add(store, tmp_path, "mine", 0.8, broken=True)

    def failed() -> bool:
        health = requests.get(f"{server.url}/health", timeout=30).json()
        return bool(health["models"].get(f"mine:{broken}", {}).get("state") == "failed")

    with load_on(server, explaining=False) as answers:
        wait_until(lambda: all(failed() for _ in range(8)))
        other = add(store, tmp_path, "other", 0.5)
        wait_until(lambda: versions(server, "other") == {other})
        answer = requests.post(f"{server.url}/models/other/predict", data=plain(9), timeout=30)
        assert answer.status_code == 200 and "/models/other/predict" in requests.get(f"{server.url}/openapi.json").text
        store.remove("other")
        wait_until(lambda: versions(server, "other") == {None})
        assert requests.post(f"{server.url}/models/other/predict", data=plain(9), timeout=30).status_code == 404
    assert {answer.status_code for answer in answers} == {200} and versions(server) == {before}
    assert requests.get(f"{server.url}/readyz", timeout=30).status_code == 200
    assert "golden" in server.log.read_text()
    store.remove(f"mine:{broken}")


def test_tritons_clients_unload_and_load_in_every_worker(server: Server) -> None:
    def answered() -> set[int]:
        posts = [requests.post(f"{server.url}/models/mine/predict", data=plain(9), timeout=30) for _ in range(12)]
        return {answer.status_code for answer in posts}

    with tritonclient.http.InferenceServerClient(server.url.removeprefix("http://")) as over_http:
        with tritonclient.grpc.InferenceServerClient(server.grpc) as over_grpc:
            for client in (over_http, over_grpc):
                client.unload_model("mine")
                assert answered() == {503}
                client.load_model("mine")
                assert answered() == {200}
