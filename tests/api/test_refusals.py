"""Requests that would wait too long are refused before their bodies are read, and their clients can read why."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
import requests

from api.refusals import DRAINED_BYTES
from preprocessing.transform import Transformed
from runners.admission import ServiceTime
from serving.pipeline import ImageOutputs, ImagePipeline
from tests.api.serving import PATIENCE_S, Served, get, post, read_to_end, serving
from tests.live.server import wait_until
from tests.tiny import plain, seal, tiny_package


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose model is held up, and is expected to be so for longer than anybody may wait."""
    held, infer, patch = threading.Event(), ImagePipeline.infer, pytest.MonkeyPatch()
    held.set()

    def held_infer(pipeline: ImagePipeline, batch: Sequence[Transformed]) -> list[ImageOutputs]:
        assert held.wait(PATIENCE_S)
        return infer(pipeline, batch)

    patch.setattr(ImagePipeline, "infer", held_infer)
    patch.setattr(ServiceTime, "add", lambda service, work, seconds: setattr(service, "item_s", 1000.0))
    stored, picture = seal(tiny_package(tmp_path_factory.mktemp("tiny") / "tiny")), plain(200)
    with serving(stored, gather=False) as served, ExitStack() as stack:
        held.clear()
        stack.callback(held.set)

        stack.enter_context(served.connect(post(len(picture), picture)))
        wait_until(lambda: stats_of(served)["running"] == 1)
        yield served
    patch.undo()


def stats_of(served: Served) -> dict[str, Any]:
    stats: dict[str, Any] = requests.get(f"{served.url}/models/tiny/stats", timeout=PATIENCE_S).json()
    return stats


def check_refusal(answer: bytes, *, closes: bool) -> None:
    head, _, body = answer.lower().partition(b"\r\n\r\n")
    assert head.startswith(b"http/1.1 429") and b"retry-after: " in head and b"x-request-id: " in head
    assert b"seconds of work waiting" in body
    assert (b"connection: close" in head) is closes


@pytest.mark.parametrize(
    "path",
    ["/predict", "/models/tiny/predict/batch", "/v2/models/tiny/infer", "/v1/models/tiny:predict", "/predictions/tiny"],
)
def test_nothing_of_the_body_has_to_come_before_the_answer(full: Served, path: str) -> None:
    with full.connect(post(25_000, b"", path)) as wire:
        answer = b""
        while b"seconds of work" not in answer:
            answer += wire.recv(65_536)
        check_refusal(answer, closes=False)
        wire.sendall(bytes(25_000) + get("/health"))  # the connection goes on
        assert b"HTTP/1.1 200" in read_to_end(wire)


def test_whoever_sends_before_reading_can_read_the_answer(full: Served) -> None:
    check_refusal(full.ask(post(900_000, bytes(900_000), "/predict", "Connection: close")), closes=True)
    check_refusal(full.ask(post(None, bytes(900_000)) + b"0\r\n\r\n"), closes=True)


def test_a_long_body_is_taken_in_part_and_then_the_connection_closed(full: Served) -> None:
    with full.connect(post(30_000_000, bytes(DRAINED_BYTES // 2))) as wire:
        answer = b""
        while b"seconds of work" not in answer:
            answer += wire.recv(65_536)
        check_refusal(answer, closes=True)
        with pytest.raises(OSError, match=r"reset|[Bb]roken"):
            wire.sendall(bytes(30_000_000))


def test_a_chunked_body_that_does_not_end_is_not_waited_for_long(full: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.refusals.DRAIN_S", 0.1)
    check_refusal(full.ask(post(None, b"the beginning")), closes=True)


def test_a_client_that_asks_first_sends_no_body(full: Served) -> None:
    answer = full.ask(post(5_000_000, b"", "/predict", "Expect: 100-continue"))
    check_refusal(answer, closes=True)
    assert b"100 Continue" not in answer


def test_others_are_answered_meanwhile(full: Served) -> None:
    assert full.ask(get("/health")).startswith(b"HTTP/1.1 200")
    stats = stats_of(full)
    assert stats["failed"]["rejected"] > 0 and stats["expected_seconds"] > 100
