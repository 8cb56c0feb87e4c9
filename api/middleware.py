"""The ASGI app in front of everything: request ids, limits, the access line, metrics, the last resort for errors."""

import json
import logging
import random
import re
import time

from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import Gate
from api.problems import CLIENT_GONE, problem_response
from errors import TooLarge, VitrineError
from runners.stats import metrics

access = logging.getLogger("vitrine.access")

SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_MODEL = re.compile(r"(?:/v2)?/models/([a-z0-9-]{1,60})(/|$)")
_DEFAULT = ("/predict", "/predict/batch", "/infer", "/explain")
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")


class Front:
    """Wraps the application; every answer of this process goes through here.

    Args:
        app: what answers.
        max_body_bytes: a longer body is a 413, whether its length was announced or not.
        default_model: the model that routes without a name mean; for the metrics.
        known: names of the models; other names are counted together, so that strangers cannot make series.
        log: whether to write a JSON line for each request.
        gate: what checks keys; None where none is asked.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_body_bytes: int,
        default_model: str,
        known: frozenset[str],
        *,
        log: bool,
        gate: Gate | None = None,
    ) -> None:
        self._app, self._limit, self._default, self._known, self._log = app, max_body_bytes, default_model, known, log
        self._gate = gate
        self._meters = dict[tuple[str, int], tuple[Counter, Histogram]]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on what is not HTTP."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # of one that was sent twice the first
        wanted = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = wanted if SANE_ID.fullmatch(wanted) else new_id()
        status, size, received, holder = 0, 0, 0, ""
        scope = dict(
            scope, path=scope["path"].rstrip("/") or "/", state={**scope.get("state", {}), "request_id": request_id}
        )
        method = scope["method"]
        if method == "HEAD":  # the server sends no body for it whatever the app says
            scope["method"] = "GET"

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                self._check(received)
            return message

        async def marked(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":  # none of the apps behind sets either header
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode()), _NO_SNIFFING]
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            if self._gate is not None:  # before the body: who has no key has none read
                holder = self._gate.http(scope["path"], wants_page(scope), scope["headers"])
            announced = headers.get(b"content-length", b"")
            if announced.isdigit():
                self._check(int(announced))
            await self._app(scope, counted, marked)
        except Exception as error:
            if status == 0:
                await problem_response(error, request_id)(scope, receive, marked)
            elif not isinstance(error, VitrineError) and status != 500:
                logging.getLogger("vitrine.api").error(
                    "request %s failed after its answer began", request_id, exc_info=error
                )
        finally:
            seconds = time.perf_counter() - started
            self._record(scope, method, status or CLIENT_GONE, size, seconds, request_id, holder)

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise TooLarge(f"The body has more than {self._limit:,} bytes, the limit here. Send less at a time.")

    def _record(
        self, scope: Scope, method: str, status: int, size: int, seconds: float, request_id: str, holder: str
    ) -> None:
        path = scope["path"]
        match = _MODEL.match(path)
        model = match[1] if match else self._default if path in _DEFAULT else ""
        requests, request = self._meters_of(model if model in self._known or not model else "unknown", status)
        requests.inc()
        request.observe(seconds)
        if self._log:
            client = scope.get("client") or ("", 0)
            line = {"request_id": request_id, "method": method, "path": path, "status": status, "bytes": size}
            line |= {"ms": round(seconds * 1e3, 2), "model": model, "client": client[0]}
            access.info(json.dumps(line if self._gate is None else line | {"key": holder}))

    def _meters_of(self, label: str, status: int) -> tuple[Counter, Histogram]:
        """The metrics of such requests; to look them up takes longer than to count."""
        if (label, status) not in self._meters:
            self._meters[label, status] = (
                metrics().requests.labels(label, str(status)),
                metrics().request.labels(label),
            )
        return self._meters[label, status]


def new_id() -> str:
    """32 hex digits. They tell requests apart, no more: for the system's randomness a thread lets go of Python."""
    return f"{random.getrandbits(128):032x}"


def wants_page(scope: Scope) -> bool:
    """Whether a browser asks for the web page."""
    return scope["path"] == "/" and scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")
