"""API keys of gRPC calls."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from api.keys import add_key
from tests.api.oip.served import Served, images, serving, until
from tests.tiny import logits_of_plain, plain, seal, tiny_package

KEYS = "keys.toml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def key(folder: Path) -> str:
    return add_key(folder / KEYS, "reader-7")


@pytest.fixture(scope="module")
def guarded(folder: Path, key: str) -> Iterator[Served]:
    with serving([seal(tiny_package(folder / "tiny"))], api_keys_file=folder / KEYS) as served:
        yield served


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}])
def test_a_call_without_a_known_key_is_refused(
    guarded: Served, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vitrine.access")
    with triton.InferenceServerClient(guarded.grpc) as client:
        with pytest.raises(InferenceServerException, match="Authorization: Bearer KEY") as refused:
            client.infer("tiny", [images(triton, plain(1))], headers=headers)
        assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
        with pytest.raises(InferenceServerException, match="Authorization: Bearer KEY"):
            client.get_model_metadata("tiny", headers=headers)

    def errors() -> list[str]:
        return [json.loads(record.message)["error"] for record in caplog.records if record.name == "vitrine.access"]

    until(lambda: errors() == ["KeyRefused"] * 2)


@pytest.mark.parametrize("method", ["/inference.GRPCInferenceService/NoSuchMethod", "/no.Service/Method"])
def test_a_call_that_does_not_exist_is_refused_alike(guarded: Served, method: str) -> None:
    with grpc.insecure_channel(guarded.grpc) as channel:
        call: Any = channel.unary_unary(method)
        with pytest.raises(grpc.RpcError) as refused:
            call(b"")
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_health_needs_no_key(guarded: Served) -> None:
    with grpc.insecure_channel(guarded.grpc) as channel, triton.InferenceServerClient(guarded.grpc) as client:
        assert client.is_server_live() and client.is_server_ready()
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=""))


def test_a_key_opens_every_call_and_the_log_names_it(
    guarded: Served, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vitrine.access")
    with triton.InferenceServerClient(guarded.grpc) as client:
        for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
            answer = client.infer("tiny", [images(triton, plain(200))], headers=headers)
            assert answer.as_numpy("logits")[0] == pytest.approx(logits_of_plain(200), abs=1e-5)

    def key_names() -> list[str]:
        return [json.loads(record.message)["key"] for record in caplog.records if record.name == "vitrine.access"]

    until(lambda: key_names() == ["reader-7"] * 2)
    assert key not in caplog.text
