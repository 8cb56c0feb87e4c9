"""What every answer carries, whatever is behind the front."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from api.middleware import Front


async def app(scope: Scope, _: Receive, send: Send) -> None:
    body = scope["state"]["request_id"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


def ask(headers: list[tuple[bytes, bytes]]) -> tuple[list[tuple[bytes, bytes]], str]:
    """Headers of the answer, and the id that the application saw."""
    front = Front(app, 1000, "tiny", frozenset(("tiny",)), log=False)
    scope = {"type": "http", "method": "POST", "path": "/predict/", "headers": headers}
    sent = list[Message]()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(front(scope, receive, send))
    return list(sent[0]["headers"]), sent[1]["body"].decode()


def test_an_answer_without_a_sane_id_gets_one_of_its_own() -> None:
    for wanted in (b"", b"two words", b"\xff", b"a" * 129):
        answered, seen = ask([(b"x-request-id", wanted)])
        assert len(seen) == 32 and set(seen) <= set("0123456789abcdef")
        assert answered == [
            (b"content-type", b"text/plain"),
            (b"x-request-id", seen.encode()),
            (b"x-content-type-options", b"nosniff"),
        ]
    assert len({ask([])[1] for _ in range(20)}) == 20


def test_of_an_id_that_was_sent_twice_the_first_counts() -> None:
    answered, seen = ask([(b"x-request-id", b"first"), (b"x-request-id", b"second")])
    assert seen == "first" and answered.count((b"x-request-id", b"first")) == 1


@pytest.mark.parametrize("length", [b"1001", b"99999999999999999999"])
def test_a_body_that_is_announced_too_long_never_reaches_the_application(length: bytes) -> None:
    _, body = ask([(b"content-length", length)])
    assert '"status":413' in body
