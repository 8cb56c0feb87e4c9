"""Pages of other origins: those that the operator names may call the API and read its answers, no others."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api.auth import Authenticator
from api.keys import add_key
from errors import SettingsError
from settings import Settings, load_settings
from tests.api.conftest import MakeClient, keys_of
from tests.tiny import plain, seal, tiny_package

ALLOWED, STRANGER = "https://viewer.example", "https://elsewhere.example"
ASKING = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key, content-type"}


@pytest.fixture
def client(make_client: MakeClient, tmp_path: Path) -> TestClient:
    """The application behind keys, which pages of two origins may call."""
    key = add_key(tmp_path / "keys.toml", "viewer")
    authenticator = Authenticator(keys_of(tmp_path / "keys.toml"), ("health",))
    origins = f"{ALLOWED}, http://127.0.0.1:8080"
    client = make_client(seal(tiny_package(tmp_path / "tiny")), authenticator=authenticator, cors_origins=origins)
    client.headers["X-API-Key"] = key
    return client


def test_a_browser_learns_before_it_has_a_key_what_a_page_may_send(client: TestClient) -> None:
    del client.headers["X-API-Key"]
    response = client.options("/predict", headers={"Origin": ALLOWED, **ASKING})
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == ALLOWED
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    assert "x-api-key" in response.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in response.headers


def test_a_page_of_an_origin_on_the_list_may_read_the_answer_and_its_headers(client: TestClient) -> None:
    for origin in (ALLOWED, "http://127.0.0.1:8080"):
        response = client.post("/predict", content=plain(200), headers={"Origin": origin})
        assert response.status_code == 200 and response.headers["Access-Control-Allow-Origin"] == origin
        assert "X-Request-ID" in response.headers["Access-Control-Expose-Headers"] and response.headers["X-Request-ID"]
        assert "Origin" in response.headers["Vary"]


def test_a_page_may_read_why_it_was_refused(client: TestClient) -> None:
    del client.headers["X-API-Key"]
    response = client.post("/predict", content=plain(200), headers={"Origin": ALLOWED})
    assert (response.status_code, response.headers["Access-Control-Allow-Origin"]) == (401, ALLOWED)


def test_a_page_of_any_other_origin_may_not(client: TestClient) -> None:
    for origin in (STRANGER, "http://viewer.example", f"{ALLOWED}.{STRANGER.removeprefix('https://')}", "null"):
        response = client.post("/predict", content=plain(200), headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in response.headers
        asking = client.options("/predict", headers={"Origin": origin, **ASKING})
        assert asking.status_code == 400 and "Access-Control-Allow-Origin" not in asking.headers


def test_without_a_list_no_page_of_another_origin_may(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(seal(tiny_package(tmp_path / "tiny")))
    response = client.post("/predict", content=plain(200), headers={"Origin": ALLOWED})
    assert response.status_code == 200 and not [name for name in response.headers if name.startswith("access-control")]
    assert client.options("/predict", headers={"Origin": ALLOWED, **ASKING}).status_code == 405


@pytest.mark.parametrize("origin", ["*", "viewer.example", "https://viewer.example/", "https://VIEWER.example", "null"])
def test_what_is_no_origin_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("VITRINE_CORS_ORIGINS", f"{ALLOWED},{origin}")
    load_settings.cache_clear()
    with pytest.raises(SettingsError, match=r"VITRINE_CORS_ORIGINS.*is no origin: name it by scheme, host and port"):
        load_settings()
    load_settings.cache_clear()


def test_origins_are_read_as_they_are_written() -> None:
    origins = "https://viewer.example,http://[::1]:8080 , http://127.0.0.1:8080"
    expected = ("https://viewer.example", "http://[::1]:8080", "http://127.0.0.1:8080")
    assert Settings(_env_file=None, cors_origins=origins).origins == expected
