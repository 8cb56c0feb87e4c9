"""Calls over gRPC: streams, cancelled calls, hostile messages, health, reflection, TLS, and the end of the server."""

import logging
import queue
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
import tritonclient.grpc as triton
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from serving.options import RunnerOptions
from tests.api.oip.served import PATIENCE_S, Served, images, serving, tensor, until
from tests.tiny import logits_of_plain, plain, seal, tiny_package


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    with triton.InferenceServerClient(served.grpc) as connected:
        yield connected


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Served]:
    """A server that a test may stop."""
    with serving([seal(tiny_package(tmp_path / "tiny"))]) as running:
        yield running


def infer_plain(client: Any, answers: queue.Queue[Any]) -> Any:
    """Send a grey picture; its answer, or the error, will be in the queue."""

    def put(result: Any, error: Any) -> None:
        answers.put((result, error))

    return client.async_infer("tiny", [images(triton, plain(200))], put)


def check_answers(answers: queue.Queue[Any], count: int) -> None:
    """Check that so many answers to the grey picture come, and no error."""
    for _ in range(count):
        result, error = answers.get(timeout=PATIENCE_S)
        assert error is None
        assert result.as_numpy("logits")[0] == pytest.approx(logits_of_plain(200), abs=1e-5)


def waiting(served: Served) -> int:
    stats = served.repository.get().stats()
    return stats.waiting + stats.running if stats else 0


def cancelled(served: Served) -> int:
    stats = served.repository.get().stats()
    return stats.failed.get("cancelled", 0) if stats else 0


def test_messages_of_errors_are_short_enough_for_every_client(client: Any) -> None:
    emoji = [triton.InferInput(f"{chr(0x1F600) * 190}{index}", [1], "FP32") for index in range(6)]
    for sent in emoji:
        sent._raw_content = bytes(4)  # the client would not send names that are too long by itself
    with pytest.raises(InferenceServerException, match="is unknown") as refused:
        client.infer("churn", [tensor(triton, "age", np.zeros(1, np.float32), "FP32"), *emoji])
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    for model, datatype, shape in (
        ("n" * 20_000, "FP32", [1]),
        ("churn", "F" * 20_000, [1]),
        ("churn", "FP32", [1] * 5000),
    ):
        sent = triton.InferInput("rows", shape, datatype)
        sent._raw_content = b""
        with pytest.raises(InferenceServerException) as refused:
            client.infer(model, [sent])
        assert refused.value.status() in ("StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND")


def test_a_message_over_the_limit_is_refused(client: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 700, 700, 3), np.uint8)
    assert client.infer("tiny", [tensor(triton, "pixels", pixels, "UINT8")]).as_numpy("logits").shape == (1, 2)
    with pytest.raises(InferenceServerException) as refused:
        client.infer("tiny", [tensor(triton, "pixels", np.tile(pixels, (2, 1, 1, 1)), "UINT8")])
    assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_the_transports_own_deadline_is_kept(client: Any, served: Served) -> None:
    with served.brake.pulled(), pytest.raises(InferenceServerException, match=r"(?i)deadline") as late:
        client.infer("tiny", [images(triton, plain(10))], client_timeout=0.01)
    assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_cancelled_calls_leave_the_queue_and_the_others_are_answered(client: Any, served: Served) -> None:
    before, answers = cancelled(served), queue.Queue[Any]()
    with served.brake.pulled():
        calls = [infer_plain(client, answers) for _ in range(16)]
        until(lambda: waiting(served) == len(calls))
        for call in calls[1::2]:
            call.cancel()
        errors = [answers.get(timeout=PATIENCE_S)[1] for _ in calls[1::2]]
    assert {error.status() for error in errors} == {"StatusCode.CANCELLED"}
    check_answers(answers, len(calls[::2]))
    until(lambda: cancelled(served) > before)


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    queue_size, answers = 4, queue.Queue[Any]()
    message = service_pb2.ModelInferRequest(model_name="tiny", raw_input_contents=[b"\1\0\0\0x"])
    message.inputs.add(name="image", datatype="BYTES", shape=[1])
    bare = {"Inference-Header-Content-Length": "0"}
    with serving([seal(tiny_package(tmp_path / "tiny"))], RunnerOptions(queue_size=queue_size)) as served:
        with served.brake.pulled(), triton.InferenceServerClient(served.grpc) as client:
            for _ in range(64):  # more than the queue and the lanes hold
                infer_plain(client, answers)
            refused = answers.get(timeout=PATIENCE_S)[1]
            assert refused.status() == "StatusCode.RESOURCE_EXHAUSTED"
            with grpc.insecure_channel(served.grpc) as channel, pytest.raises(grpc.RpcError) as full:
                service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message)
            trailing: Any = full.value
            assert int(dict(trailing.trailing_metadata())["retry-after"]) >= 1
            answer = requests.post(f"{served.url}/v2/models/tiny/infer", b"x", headers=bare, timeout=PATIENCE_S)
            assert answer.status_code == 429 and int(answer.headers["Retry-After"]) >= 1


def test_cancelled_and_late_calls_are_not_logged_as_errors(
    client: Any, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    answers = queue.Queue[Any]()
    with served.brake.pulled():
        call = infer_plain(client, answers)
        until(lambda: waiting(served) == 1)
        call.cancel()
        assert answers.get(timeout=PATIENCE_S)[1].status() == "StatusCode.CANCELLED"
        with pytest.raises(InferenceServerException, match=r"(?i)deadline"):
            client.infer("tiny", [images(triton, plain(10))], timeout=1000)
    assert client.infer("tiny", [images(triton, plain(10))]).as_numpy("logits").shape == (1, 2)
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_stream_answers_each_request_and_outlives_a_bad_one(client: Any) -> None:
    answers = queue.Queue[Any]()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for data in (plain(10), b"no picture", plain(240)):
        client.async_stream_infer("tiny", [images(triton, data)])
    first, second, third = (answers.get(timeout=PATIENCE_S) for _ in range(3))
    client.stop_stream()
    assert "image[0]" in str(second[1])
    for (result, error), level in ((first, 10), (third, 240)):
        assert error is None
        assert result.as_numpy("logits")[0] == pytest.approx(logits_of_plain(level), abs=1e-5)


def test_the_health_service_knows_the_server_and_every_model(served: Served) -> None:
    with grpc.insecure_channel(served.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("inference.GRPCInferenceService", "", "churn"):
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=name))
            assert any(answer.status == health_pb2.HealthCheckResponse.SERVING for answer in watch)
            watch.cancel()
        with pytest.raises(grpc.RpcError) as unknown:
            stub.Check(health_pb2.HealthCheckRequest(service="nope"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_service(served: Served) -> None:
    with grpc.insecure_channel(served.grpc) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        services = next(iter(stub.ServerReflectionInfo(iter([request])))).list_services_response.service
    assert "inference.GRPCInferenceService" in {service.name for service in services}


def test_the_callers_request_id_comes_back_and_is_logged(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vitrine.access")
    with grpc.insecure_channel(served.grpc) as channel:
        server_live: Any = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        answer, call = server_live.with_call(b"", metadata=(("x-request-id", "mine-7"),))
        trailing = dict(call.trailing_metadata())
        _, call = server_live.with_call(b"", metadata=(("x-request-id", "two words"),))
    assert answer == b"\x08\x01"  # field 1, `live`, is true
    assert trailing["x-request-id"] == "mine-7"
    assert len(dict(call.trailing_metadata())["x-request-id"]) == 32
    until(lambda: any('"mine-7"' in record.message for record in caplog.records))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_no_message_makes_the_server_fail(served: Served, data: bytes) -> None:
    with grpc.insecure_channel(served.grpc) as channel:
        infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as refused:
            infer(data, timeout=PATIENCE_S)
    assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


def test_a_certificate_and_its_key_make_the_port_speak_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stored = [seal(tiny_package(tmp_path / "tiny"))]
    with serving(stored, grpc_tls_cert=tmp_path / "cert.pem", grpc_tls_key=tmp_path / "key.pem") as served:
        with triton.InferenceServerClient(served.grpc, ssl=True, root_certificates=str(tmp_path / "ca.pem")) as client:
            logits = client.infer("tiny", [images(triton, plain(200))]).as_numpy("logits")[0]
            assert logits == pytest.approx(logits_of_plain(200), abs=1e-5)
        with triton.InferenceServerClient(served.grpc) as client, pytest.raises(InferenceServerException):
            client.is_server_live(client_timeout=PATIENCE_S)


def test_calls_in_flight_are_answered_at_the_end_and_the_port_is_free_again(own: Served) -> None:
    host, port = own.grpc.split(":")

    def is_refused() -> bool:
        with socket.socket() as connection:
            return connection.connect_ex((host, int(port))) != 0

    answers = queue.Queue[Any]()
    with triton.InferenceServerClient(own.grpc) as client:
        with own.brake.pulled():
            for _ in range(8):
                infer_plain(client, answers)
            until(lambda: waiting(own) == 8)
            own.stop()
            until(is_refused)
        check_answers(answers, 8)
    until(lambda: not own.is_running())
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections linger for a minute
        candidate.bind((host, int(port)))


def test_open_streams_and_watchers_do_not_hold_up_the_end(own: Served) -> None:
    with grpc.insecure_channel(own.grpc) as channel, triton.InferenceServerClient(own.grpc) as client:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert next(watch).status in health_pb2.HealthCheckResponse.ServingStatus.values()
        answers = queue.Queue[Any]()
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("tiny", [images(triton, plain(200))])
        assert answers.get(timeout=PATIENCE_S)[1] is None
        own.stop()
        # The grace period, which calls in flight would get, is longer than this waits.
        until(lambda: not own.is_running())
