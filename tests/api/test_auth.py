"""Which requests are let in: by header, by path, by call."""

from pathlib import Path
from typing import Any

import pytest

from api.auth import PATHS, Authenticator, authenticator_for, check_listening, find_key
from api.keys import add_key
from errors import KeyRefused, KeysError
from settings import Settings
from tests.api.conftest import keys_of


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.toml"


@pytest.fixture(scope="module")
def key(file: Path) -> bytes:
    return add_key(file, "ci").encode()


def authenticator(file: Path, *exempt: str) -> Authenticator:
    return Authenticator(keys_of(file), exempt)


def is_refused(chosen: Authenticator, path: str, *headers: tuple[bytes, bytes], page: bool = False) -> bool:
    try:
        chosen.authenticate_http(path, page, headers)
    except KeyRefused:
        return True
    return False


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer KEY")],
        [(b"authorization", b"bearer  KEY ")],
        [(b"x-api-key", b"KEY")],
        [(b"x-api-key", b"KEY"), (b"authorization", b"Bearer KEY")],
        [(b"x-api-key", b"KEY"), (b"authorization", b"Basic dXNlcjpwYXNz")],
    ],
)
def test_a_key_is_taken_from_either_header(file: Path, key: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    sent = [(name, value.replace(b"KEY", key)) for name, value in headers]
    assert authenticator(file).authenticate_http("/predict", False, sent) == "ci"
    metadata = [(name.decode(), value.decode()) for name, value in sent]
    assert authenticator(file).authenticate_grpc("/inference.GRPCInferenceService/ModelInfer", metadata) == "ci"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"KEY")],
        [(b"authorization", b"Basic KEY")],
        [(b"authorization", b"Bearer KEY, Bearer KEY")],
        [(b"authorization", b"Bearer KEY"), (b"authorization", b"Bearer vk_other")],
        [(b"x-api-key", b"KEY"), (b"authorization", b"Bearer vk_other")],
        [(b"x-api-key", b"KEY"), (b"x-api-key", b"")],
        [(b"x-api-key", b"")],
        [(b"x-api-key", b"\xff\xfe KEY")],
        [(b"x_api_key", b"KEY")],
        [(b"cookie", b"x-api-key=KEY")],
    ],
)
def test_no_key_two_keys_or_half_a_key_is_refused(file: Path, key: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    assert is_refused(authenticator(file), "/predict", *((name, value.replace(b"KEY", key)) for name, value in headers))


def test_only_what_is_exempt_passes_without_a_key(file: Path) -> None:
    every = {path for paths in PATHS.values() for path in paths} | {"/docs/files/swagger-ui.css"}
    never = {"/", "/predict", "/models", "/health/stats", "/v2", "/v2/models/tiny/ready", "/schema.json", "/nothing"}
    never |= {"//health", "/health/../predict", "/static", "/docs/files", "/healthz2", "/HEALTH", "/v2/health", ""}
    for exempt in ((), ("health",), ("metrics", "docs"), ("health", "metrics", "docs")):
        chosen = authenticator(file, *exempt)
        passing = {path for path in every | never if not is_refused(chosen, path)}
        expected = {path for word in exempt for path in PATHS[word]}
        assert passing == expected | ({"/docs/files/swagger-ui.css"} if "docs" in exempt else set())


def test_the_page_where_a_key_is_typed_is_open_to_a_browser(file: Path) -> None:
    assert not is_refused(authenticator(file), "/", page=True)
    assert not is_refused(authenticator(file), "/static/page.js")


def test_a_key_is_named_where_none_is_asked_for(file: Path, key: bytes) -> None:
    assert authenticator(file, "health").authenticate_http("/health", False, [(b"x-api-key", key)]) == "ci"
    assert authenticator(file, "health").authenticate_http("/health", False, [(b"x-api-key", b"wrong")]) == ""


def test_health_over_grpc_is_exempt_like_that_of_http(file: Path) -> None:
    asked = (
        "/grpc.health.v1.Health/Watch",
        "/grpc.health.v1.Health/Check",
        "/inference.GRPCInferenceService/ServerReady",
    )
    for method in asked:
        assert authenticator(file, "health").authenticate_grpc(method, ()) == ""
        with pytest.raises(KeyRefused):
            authenticator(file, "metrics").authenticate_grpc(method, ())
    closed = "/inference.GRPCInferenceService/ModelReady", "/grpc.reflection.v1alpha.ServerReflection/X", ""
    for method in (*closed, "/grpc.health.v1.Health/Nothing", "/grpc.health.v1.Health/"):
        with pytest.raises(KeyRefused):
            authenticator(file, "health", "metrics", "docs").authenticate_grpc(method, ())


def test_metadata_that_is_bytes_or_no_text_is_read_as_well(key: bytes) -> None:
    assert find_key([("x-api-key", key)]) == key
    assert find_key([("x-api-key", "\udcff")]) == b"\xff"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
def test_listening_wide_needs_keys_or_the_word_that_anyone_may_come(file: Path, key: bytes, host: str) -> None:
    def settings(**values: Any) -> Settings:
        return Settings(_env_file=None, **values)

    with pytest.raises(KeysError, match=f"Other machines reach {host}, so keys are needed"):
        check_listening(settings(), "127.0.0.1", host)
    check_listening(settings(allow_anonymous=True), host)
    check_listening(settings(api_keys_file=file), host)
    for inside in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        check_listening(settings(), inside)
    with pytest.raises(KeysError, match="cannot be read"):
        check_listening(settings(api_keys_file=file / "nowhere", allow_anonymous=True), "127.0.0.1")


def test_without_a_file_of_keys_nothing_is_checked(file: Path, key: bytes) -> None:
    assert authenticator_for(Settings(_env_file=None)) is None
    chosen = authenticator_for(Settings(_env_file=None, api_keys_file=file, api_keys_exempt="metrics"))
    assert chosen is not None
    assert is_refused(chosen, "/health") and not is_refused(chosen, "/metrics")
