"""Refusing requests whose bodies are still on their way: their clients can read why, and send little in vain."""

import asyncio
import contextlib
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

DRAINED_BYTES = 2**20
"""The most bytes of a body that are taken after it was refused. Of longer ones curl sends none before it is asked to,
and other clients may find the connection closed before they read the answer; to take more would cost more than to
answer."""
DRAIN_S = 5.0
"""The longest time that the rest of a refused body is waited for."""


async def refuse(
    response: Response, headers: Mapping[bytes, bytes], announced: int, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send a response to a request whose body has not been read to its end.

    A connection that stays open passes over the rest of the body by itself. One that is closed while its client sends
    would be reset, so that the client might never read the response; so the rest is taken first, or `DRAINED_BYTES`.

    Args:
        response: the response.
        headers: of the request.
        announced: the length of its body; 0 where the client said none.
        scope: of the request.
        receive: returns what comes of the body.
        send: sends the response.
    """
    if announced > DRAINED_BYTES or b"transfer-encoding" in headers or b"expect" in headers:
        response.headers["Connection"] = "close"
    elif headers.get(b"connection", b"").lower() != b"close" and scope["http_version"] != "1.0":
        await response(scope, receive, send)
        return

    if b"expect" in headers:  # nothing is on its way, and nothing was asked for
        await response(scope, receive, send)
        return

    async def send_unfinished(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await response(scope, receive, send_unfinished)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            drained = 0
            while drained <= DRAINED_BYTES and (message := await receive()).get("more_body", False):
                drained += len(message["body"])
    await send({"type": "http.response.body", "body": b"", "more_body": False})
