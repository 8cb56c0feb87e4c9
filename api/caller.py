"""The HTTP client as whoever waits for an answer, and what its headers say of the time that took."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runners.runner import Answer
from serving.answer_fields import total_times_ms


class HttpCaller:
    """The client of one request whose body has been read."""

    def __init__(self, request: Request) -> None:
        self._request = request

    async def gone(self) -> None:
        """Return as soon as the client has hung up."""
        while (await self._request.receive())["type"] != "http.disconnect":
            pass


def timing_headers(answers: Sequence[Answer[Any]]) -> dict[str, str]:
    """Return the Server-Timing header: the longest wait, and the sums of decoding and inference, in milliseconds.

    Where all answers came from the cache, RFC 9211's Cache-Status header says so too.
    """
    queue, decode, infer = total_times_ms(answers)
    timing = {"Server-Timing": f"queue;dur={queue:.2f}, decode;dur={decode:.2f}, infer;dur={infer:.2f}"}
    if answers and all(answer.cached for answer in answers):
        timing["Cache-Status"] = "vitrine; hit"
    return timing


class TimedJson(Response):
    """An answer in JSON with the headers of `timing_headers`, which are written without Starlette's way to them.

    Args:
        body: the JSON.
        answers: of the Runner, whose times are told.
    """

    def __init__(self, body: str | bytes, answers: Sequence[Answer[Any]]) -> None:
        self.status_code, self.background = 200, None
        self.body = body if isinstance(body, bytes) else body.encode()
        own = ((b"content-length", b"%d" % len(self.body)), (b"content-type", b"application/json"))
        self.raw_headers = [(name.lower().encode(), text.encode()) for name, text in timing_headers(answers).items()]
        self.raw_headers += own
