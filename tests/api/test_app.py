"""What the application answers beside predictions: its root, the page, and what BentoML answers behind it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from api.auth import Authenticator
from api.keys import add_key
from tests.api.conftest import MakeClient, client_maker, keys_of
from tests.tiny import plain, seal, tiny_package


async def bentoml_stand_in(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every path with its name."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})


@pytest.fixture
def client(make_client: MakeClient, tmp_path: Path) -> TestClient:
    """An application that was not loaded, with a stand-in for BentoML behind it."""
    return make_client(seal(tiny_package(tmp_path / "tiny")), behind=bentoml_stand_in, loaded=False)


def test_the_root_is_a_page_for_a_browser_and_json_for_everyone_else(client: TestClient) -> None:
    answer = client.get("/").json()
    assert (answer["name"], answer["models"]) == ("vitrine", {"tiny": "loading"})
    assert {"/models/{name}/predict", "/docs", "/v2"} <= set(answer["endpoints"])
    page = client.get("/", headers={"Accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert "unsafe" not in page.headers["content-security-policy"]
    links = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    assert links
    for link in links:
        response = client.get(link)
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-cache"  # a new server brings new files
        again = client.get(link, headers={"If-None-Match": response.headers["etag"]})
        assert (again.status_code, again.headers["cache-control"]) == (304, "no-cache")


def test_only_the_paths_that_are_bentomls_reach_it(client: TestClient) -> None:
    assert client.get("/schema.json").text == "/schema.json"
    response = client.get("/schema.json/more")
    assert response.status_code == 404 and "GET / lists" in response.json()["detail"]


def test_a_websocket_is_closed(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect):
        with client.websocket_connect("/predict"):
            pass


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.toml"


@pytest.fixture(scope="module")
def key(key_file: Path) -> str:
    return add_key(key_file, "reader-7")


@pytest.fixture(scope="module")
def guarded(key_file: Path, key: str) -> Iterator[TestClient]:
    """An application that asks for keys, but for health."""
    with client_maker() as make:
        yield make(
            seal(tiny_package(key_file.with_name("tiny"))),
            behind=bentoml_stand_in,
            authenticator=Authenticator(keys_of(key_file), ("health",)),
        )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/predict"),
        ("POST", "/predict/"),
        ("POST", "//predict"),
        ("POST", "/models/tiny/predict"),
        ("POST", "/models/unknown/predict"),
        ("POST", "/v2/models/tiny/infer"),
        ("GET", "/"),
        ("GET", "/models"),
        ("GET", "/health/stats"),
        ("GET", "/metrics"),
        ("GET", "/schema.json"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/nothing"),
        ("GET", "/%2e%2e/models"),
        ("OPTIONS", "/predict"),
        ("HEAD", "/models"),
    ],
)
def test_without_a_key_every_route_says_the_same(guarded: TestClient, method: str, path: str) -> None:
    response = guarded.request(method, f"http://testserver{path}")
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == "application/problem+json"
    if method != "HEAD":
        body = response.json()
        assert body["request_id"] == response.headers["x-request-id"]
        assert body["detail"].startswith("A key is needed here")
        assert "tiny" not in response.text


@pytest.mark.parametrize("path", ["/health", "/health/ready/", "/livez", "/healthz", "/readyz", "/v2/health/live"])
def test_probes_need_no_key(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code == 200


@pytest.mark.parametrize("name", ["Authorization", "X-API-Key"])
def test_a_key_opens_our_routes_and_bentomls(guarded: TestClient, key: str, name: str) -> None:
    headers = {name: f"BEARER {key}" if name == "Authorization" else key}
    for path in ("/models", "/metrics", "/schema.json", "/openapi.json"):
        assert guarded.get(path, headers=headers).status_code == 200
    assert guarded.get("/nothing", headers=headers).status_code == 404
    assert guarded.post("/predict", content=plain(200), headers=headers).json()["prediction"] == "bright"
    assert guarded.get("/models", headers={name: headers[name][:-1]}).status_code == 401


def test_the_files_of_the_page_are_open_and_nothing_else_is_beside_them(guarded: TestClient) -> None:
    for method, path, status in (
        ("GET", "/static/page.js", 200),
        ("GET", "/static/nothing", 404),
        ("GET", "/static/%2e%2e/app.py", 404),
        ("POST", "/static/page.js", 405),
    ):
        assert guarded.request(method, f"http://testserver{path}").status_code == status


def test_the_page_comes_without_a_key_and_has_a_place_for_one(guarded: TestClient) -> None:
    page = guarded.get("/", headers={"Accept": "text/html"})
    assert page.status_code == 200 and 'id="key"' in page.text and "tiny" not in page.text
    assert "sessionStorage" in guarded.get("/static/api.js").text
