"""Bodies that come slowly, or too many at a time: over HTTP in every form, and over gRPC."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from api.bodies import Bodies, Body
from api.limits import ReachedLimits, ticks
from errors import BodyTimeout, QueueFull
from models.package import StoredModel
from settings import Settings
from tests.api.serving import PATIENCE_S, Served, chunk, get, post, read_to_end, serving
from tests.live.server import wait_until
from tests.tiny import plain, seal, tiny_package

FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
FORMS = {"raw": 25_000, "chunked": None, "form": 25_000}
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    return seal(tiny_package(tmp_path_factory.mktemp("tiny") / "tiny"))


@pytest.fixture(scope="module")
def hasty(stored: StoredModel) -> Iterator[Served]:
    """A server that waits a second for a body."""
    with serving(stored, body_seconds=1.0) as served:
        yield served


@pytest.fixture(scope="module")
def small(stored: StoredModel) -> Iterator[Served]:
    """A server with memory for the bytes of a body and a half."""
    with serving(stored, max_body_bytes=100_000, body_budget_bytes=150_000) as served:
        yield served


def beginning(form: str, data: bytes) -> bytes:
    """Return the beginning of an upload in one of the forms."""
    if form == "form":
        return post(FORMS[form], FORM + data, "/predict", "Content-Type: multipart/form-data; boundary=b")
    return post(FORMS[form], data)


def status_of(answer: bytes) -> int:
    """Return the status of an answer."""
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("sent", [b"", b"a few bytes"], ids=["nothing", "the beginning"])
@pytest.mark.parametrize("form", FORMS)
def test_a_body_that_never_ends_is_a_408_and_its_connection_closed(hasty: Served, form: str, sent: bytes) -> None:
    answer = hasty.ask(beginning(form, sent))
    assert status_of(answer) == 408
    assert b"connection: close" in answer.lower() and b"Send it faster" in answer


def test_a_body_that_comes_a_byte_at_a_time_is_given_up_before_its_time_is_over(stored: StoredModel) -> None:
    with serving(stored, body_seconds=3.0) as served, served.connect(post(25_000_000)) as wire:
        stop = threading.Event()

        def trickle() -> None:
            while not stop.wait(0.02):
                try:
                    wire.sendall(b"x")
                except OSError:
                    return

        sender = threading.Thread(target=trickle)
        sender.start()
        answer = read_to_end(wire)
        stop.set()
        sender.join()
    assert status_of(answer) == 408 and b"less than 1,024 bytes a second" in answer


def test_a_body_that_is_answered_before_it_is_there_has_no_more_time_than_others(hasty: Served) -> None:
    answer = hasty.ask(post(25_000, b"", "/nowhere"))  # which reads no body
    assert status_of(answer) == 404


def test_a_slow_body_costs_the_others_nothing(hasty: Served) -> None:
    with ExitStack() as stack:
        for form in FORMS:
            stack.enter_context(hasty.connect(beginning(form, b"a few bytes")))
        assert status_of(hasty.ask(post(len(plain(200)), plain(200), "/predict", "Connection: close"))) == 200


def test_bodies_over_the_budget_are_a_429_while_others_hold_it(small: Served) -> None:
    with small.connect(beginning("chunked", bytes(99_000))):
        refused = post(90_000, b"", "/predict", "Connection: close")  # nothing of it is sent
        wait_until(lambda: status_of(small.ask(refused)) == 429)  # the bytes of the holder are still on their way
        answer = small.ask(refused)
        assert b"retry-after: 5" in answer.lower() and b"Send this one again later" in answer
        picture = plain(200)
        assert status_of(small.ask(post(len(picture), picture, "/predict", "Connection: close"))) == 200
        assert status_of(small.ask(get("/health"))) == 200
    whole = post(90_000, bytes(90_000), "/predict", "Connection: close")
    wait_until(lambda: status_of(small.ask(whole)) == 400)  # once the server has noticed that the holder hung up


def test_a_chunked_body_that_meets_the_budget_on_its_way_is_a_429(small: Served) -> None:
    with small.connect(beginning("chunked", bytes(99_000))) as holder:
        wait_until(lambda: status_of(small.ask(post(90_000, b"", "/predict", "Connection: close"))) == 429)
        answer = small.ask(post(None, bytes(60_000), "/predict", "Connection: close"))
        assert status_of(answer) == 429
        holder.sendall(chunk(b"more") + b"0\r\n\r\n")
        assert status_of(holder.recv(4096)) == 400  # it was no picture


@pytest.mark.parametrize("announced", [10, 99_999])
def test_a_body_that_is_not_as_long_as_announced_ends_its_connection(hasty: Served, announced: int) -> None:
    picture = plain(200)
    answer = hasty.ask(post(announced, picture))
    assert status_of(answer) == (400 if announced < len(picture) else 408)


@pytest.mark.parametrize(
    "method", [INFER, "/inference.GRPCInferenceService/ServerLive", "/grpc.health.v1.Health/Check"]
)
def test_a_message_of_grpc_that_does_not_come_is_deadline_exceeded(hasty: Served, method: str) -> None:
    over = threading.Event()

    def never() -> Iterator[bytes]:
        over.wait(PATIENCE_S)
        yield from ()

    with grpc.insecure_channel(hasty.grpc) as channel:
        call: Any = channel.stream_unary(method)
        with pytest.raises(grpc.RpcError) as late:
            call(never(), timeout=PATIENCE_S)
    over.set()
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "not there after 1 seconds" in (late.value.details() or "")


def code_of_nonsense(served: Served) -> grpc.StatusCode:
    """Return how a call ends whose message is no request."""
    with grpc.insecure_channel(served.grpc) as channel:
        call: Any = channel.unary_unary(INFER)
        with pytest.raises(grpc.RpcError) as refused:
            call(b"no message", timeout=PATIENCE_S)
    code = refused.value.code()
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        trailing: Any = refused.value.trailing_metadata()
        assert ("retry-after", "5") in [tuple(entry) for entry in trailing]
    return code


def test_a_message_of_grpc_is_refused_while_bodies_hold_the_budget(stored: StoredModel) -> None:
    with serving(stored, max_body_bytes=100_000, body_budget_bytes=100_000) as served:
        with served.connect(beginning("chunked", bytes(100_000))):
            wait_until(lambda: code_of_nonsense(served) is grpc.StatusCode.RESOURCE_EXHAUSTED)
        wait_until(lambda: code_of_nonsense(served) is grpc.StatusCode.INVALID_ARGUMENT)


def test_the_oldest_messages_of_grpc_give_way_if_those_under_way_might_fill_the_memory() -> None:
    given_up = list[int]()

    async def run() -> None:
        bodies = Bodies(100, 250, 1e6, ReachedLimits())

        async def receive(index: int) -> None:
            try:
                await Body(bodies, size_is_known=False).wait_for(asyncio.Event().wait())
            except BodyTimeout:
                given_up.append(index)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(receive(index)) for index in range(5)]
            for _ in range(ticks(1.0) - 1):
                await asyncio.sleep(0)
                bodies.sweep()
            assert given_up == []  # they are too young, and might be whole in a moment
            bodies.sweep()
            await asyncio.sleep(0)
            assert given_up == [0, 1, 2]  # there is memory for two
            bodies.sweep()
            for task in tasks:
                task.cancel()

    asyncio.run(run())
    assert given_up == [0, 1, 2]


@pytest.mark.parametrize(
    "method",
    [
        "/inference.GRPCInferenceService/ModelStreamInfer",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_the_oldest_streams_of_grpc_give_way_if_their_messages_might_fill_the_memory(
    stored: StoredModel, method: str
) -> None:
    over = threading.Event()

    def never() -> Iterator[bytes]:
        over.wait(PATIENCE_S)
        yield from ()

    with serving(stored, max_body_bytes=100_000, body_budget_bytes=250_000) as served, ExitStack() as stack:
        calls = list[Any]()
        for _ in range(5):
            channel: Any = stack.enter_context(grpc.insecure_channel(served.grpc))
            calls.append(channel.stream_stream(method)(never()))
        wait_until(lambda: sum(call.done() for call in calls) == 3)  # there is memory for two
        given_up = [call for call in calls if call.done()]
        assert {call.code() for call in given_up} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        assert {"too many others are open" in call.details() for call in given_up} == {True}
        over.set()


def test_a_stream_may_wait_as_long_as_it_likes_and_what_it_held_is_given_back_when_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trimmed = threading.Event()
    monkeypatch.setattr("api.bodies.trim_memory", trimmed.set)

    async def run() -> None:
        bodies = Bodies(100, 250, 1.0, ReachedLimits())
        message = Body(bodies, size_is_known=False, is_in_stream=True)
        task = asyncio.create_task(message.wait_for(asyncio.Event().wait()))
        for _ in range(ticks(60.0)):
            await asyncio.sleep(0)
            bodies.sweep()
        assert not task.done() and not trimmed.is_set()
        task.cancel()  # as when its client hangs up
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(ticks(10.0)):
            bodies.sweep()

    asyncio.run(run())
    assert trimmed.is_set()


def test_what_a_stream_held_that_ends_without_a_whole_message_is_given_back(
    stored: StoredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed = threading.Event()
    monkeypatch.setattr("api.bodies.trim_memory", trimmed.set)
    with serving(stored) as served, grpc.insecure_channel(served.grpc) as channel:
        call: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        assert len(list(call(iter([b"no request"]), timeout=PATIENCE_S))) == 1
        assert trimmed.wait(PATIENCE_S)


@pytest.mark.parametrize(("budget", "share"), [(400_000, 100_000), (100_000, 50_000)], ids=["a part", "one body"])
def test_workers_share_the_budget_and_each_has_memory_for_a_body(budget: int, share: int) -> None:
    settings = Settings(_env_file=None, workers=4, max_body_bytes=50_000, body_budget_bytes=budget)
    bodies = Bodies.of_settings(settings, ReachedLimits())
    bodies.hold(share - 50_000)
    bodies.check_size(50_000)
    bodies.hold(1)
    with pytest.raises(QueueFull):
        bodies.check_size(50_000)
