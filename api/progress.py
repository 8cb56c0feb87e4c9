"""Answers that take their time: lines of JSON say how far the work is, and the last of them is the answer."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.problems import problem_of
from errors import CallerGone, VitrineError
from serving.request_record import REQUEST
from serving.rise import Progress

logger = logging.getLogger("vitrine.api")

NDJSON = "application/x-ndjson"
Work = Callable[[Progress], Awaitable[Response]]
"""Makes the answer, and says in between how far it is."""


def wants_progress(request: Request) -> bool:
    """Return whether a client asks for lines of JSON."""
    return NDJSON in request.headers.get("accept", "").lower()


class ProgressResponse(Response):
    """Streams `{"progress": 0.25}` as the work goes on, and then its answer, a line each.

    Work that fails before it has said anything fails the request as ever. What fails later is told in the last line, as
    problem details. A client that takes its lines slowly is told the latest share only.

    Args:
        work: begins once the response is sent; it is cancelled if that ends early.
        request_id: of the HTTP request.
    """

    media_type = NDJSON

    def __init__(self, work: Work, request_id: str) -> None:
        self._work, self._request_id = work, request_id
        self._share, self._news = 0.0, asyncio.Event()
        self.status_code, self.background = 200, None
        self.init_headers({"X-Accel-Buffering": "no"})  # nginx would keep the lines until it has a page of them

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do the work and send the lines, as an ASGI application."""
        task = asyncio.ensure_future(self._work(self._tell))
        task.add_done_callback(lambda done: self._news.set())
        try:
            await self._news.wait()
            if task.done():
                task.result()  # or its error, before anything is sent
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while not task.done():
                self._news.clear()
                line = json.dumps({"progress": round(self._share, 4)}).encode()
                await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})
                await self._news.wait()
            await send({"type": "http.response.body", "body": self._last_line(task) + b"\n"})
        finally:
            task.cancel()

    def _tell(self, share: float) -> None:
        self._share = share
        self._news.set()

    def _last_line(self, task: "asyncio.Future[Response]") -> bytes:
        error = task.exception()
        if error is None:
            return bytes(task.result().body)
        if isinstance(error, CallerGone):
            raise error
        if (record := REQUEST.get()) is not None:
            record.error = type(error).__name__
        if not isinstance(error, VitrineError):
            logger.error("request %s failed after its answer began", self._request_id, exc_info=error)
        return problem_of(error, self._request_id).model_dump_json().encode()
