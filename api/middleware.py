"""What wraps the API: request ids, keys, the limits of bodies, problem details, metrics and the access log."""

import asyncio
import json
import logging
import random
import re
import time
from collections.abc import Container
from dataclasses import dataclass
from functools import partial

from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import PATHS, Authenticator
from api.bodies import Bodies, Body
from api.problems import CALLER_GONE, problem_response
from api.refusals import refuse
from errors import QueueFull, Unavailable, VitrineError
from runners.admission import asked_by
from runners.stats import metrics, observe_all

logger = logging.getLogger("vitrine.api")
access_log = logging.getLogger("vitrine.access")

SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
ONLY_HEALTH = "only_health"
"""The key in a request's state which says that its connection is one too many, so that only health is answered."""
_MODEL_PATH = re.compile(
    r"(?:(?:/v[12])?/models|/predictions|/explanations)/([a-z0-9-]{1,60})(?:\.[a-z]{1,20}|:[a-z]{1,20})?(/|$)"
)
_DEFAULT_MODEL_PATHS = ("/predict", "/predict/batch", "/infer", "/explain", "/explain/batch")
_json = json.JSONEncoder().encode
_HARDENING = ((b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY"))


@dataclass
class _Exchange:
    """One request and its answer, as they are recorded."""

    request_id: str
    method: str
    path: str
    started: float
    status: int = 0
    sent_bytes: int = 0
    key_name: str = ""

    def seconds(self) -> float:
        """Return the time since the request came."""
        return time.perf_counter() - self.started


class Middleware:
    """Wraps the application; every request and every answer of this process goes through here.

    Args:
        app: what answers.
        bodies: the bodies of all requests, with their limits.
        default_model: the model that routes without a name mean; for the metrics.
        known_models: the names of the models; other names are counted together, so that strangers make no series.
        logs_access: whether to write a line of JSON for each request.
        authenticator: checks keys; None where none is asked for.
    """

    def __init__(
        self,
        app: ASGIApp,
        bodies: Bodies,
        default_model: str,
        known_models: Container[str],
        *,
        logs_access: bool,
        authenticator: Authenticator | None = None,
    ) -> None:
        self._app, self._bodies = app, bodies
        self._default_model, self._known_models = default_model, known_models
        self._logs_access, self._authenticator = logs_access, authenticator
        self._meters = dict[tuple[str, int], tuple[Counter, Histogram]]()
        self._ended = dict[tuple[str, int], list[float]]()
        """The seconds of the requests that ended in this turn of the event loop, by model and status."""
        self._lines = list[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on what is not HTTP."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # the first one counts if a header came twice
        own_id = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = own_id if SANE_ID.fullmatch(own_id) else new_request_id()
        path = scope["path"].rstrip("/") or "/"
        exchange = _Exchange(request_id, scope["method"], path, started)
        body = Body(self._bodies)
        announced = announced_bytes(headers.get(b"content-length", b""))
        # The connections of a proxy are shared by clients, and an address that it passes on may be that of many.
        asked_by.set(None if b"x-forwarded-for" in headers else scope.get("client"))
        state = {**scope.get("state", {}), "request_id": request_id, "body": body}
        scope = dict(scope, path=path, state=state)
        if exchange.method == "HEAD":  # the server sends no body for it whatever the application does
            scope["method"] = "GET"

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":  # nothing behind this sets any of these headers
                exchange.status, exchange.request_id = message["status"], state["request_id"]
                own = [
                    (b"x-request-id", exchange.request_id.encode()),
                    (b"x-process-time", b"%.6f" % exchange.seconds()),
                ]
                message["headers"] = [*message.get("headers", ()), *own, *_HARDENING]
            else:
                exchange.sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            if ONLY_HEALTH in state and path not in PATHS["health"]:
                raise Unavailable("There are more connections than this server takes. Send the request again later.")
            if self._authenticator is not None:  # before the body is read
                exchange.key_name = self._authenticator.authenticate_http(path, wants_page(scope), scope["headers"])
                state["key_name"] = exchange.key_name
            if announced:
                self._bodies.check_size(announced)
            await self._app(scope, partial(body.receive, receive), send_with_id)
        except Exception as error:
            if exchange.status == 0:
                response = problem_response(error, state["request_id"])
                if isinstance(error, QueueFull) and not body.is_complete:
                    await refuse(response, headers, announced, scope, receive, send_with_id)
                else:
                    await response(scope, receive, send_with_id)
            elif not isinstance(error, VitrineError):
                logger.error("request %s failed after its answer began", exchange.request_id, exc_info=error)
        finally:
            body.release()
            self._record(exchange, scope.get("client"))

    def _record(self, exchange: _Exchange, client: tuple[str, int] | None) -> None:
        seconds, status = exchange.seconds(), exchange.status or CALLER_GONE
        match = _MODEL_PATH.match(exchange.path)
        model = match[1] if match else self._default_model if exchange.path in _DEFAULT_MODEL_PATHS else ""
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._record_turn)
        self._ended.setdefault((model if model in self._known_models or not model else "unknown", status), []).append(
            seconds
        )
        if self._logs_access:
            line = {
                "request_id": exchange.request_id,
                "method": exchange.method,
                "path": exchange.path,
                "status": status,
                "bytes": exchange.sent_bytes,
                "ms": round(seconds * 1e3, 2),
                "model": model,
                "client": client[0] if client else "",
            }
            self._lines.append(_json(line if self._authenticator is None else line | {"key": exchange.key_name}))

    def _record_turn(self) -> None:
        """Count, and log, the requests that ended in this turn together: one by one takes as long as a small model."""
        ended, self._ended = self._ended, {}
        lines, self._lines = self._lines, []
        for (model, status), seconds in ended.items():
            requests, duration = self._meters_of(model, status)
            requests.inc(len(seconds))
            observe_all(duration, seconds)
        if lines:
            access_log.info("\n".join(lines))

    def _meters_of(self, model: str, status: int) -> tuple[Counter, Histogram]:
        """Return the metrics of such requests, which take longer to look up than to count."""
        if (model, status) not in self._meters:
            requests = metrics().requests.labels(model, str(status))
            self._meters[model, status] = requests, metrics().request.labels(model)
        return self._meters[model, status]


def announced_bytes(content_length: bytes) -> int:
    """Return the length that a request announces, 0 where it announces none; of a longer number its first 20 digits."""
    return int(content_length.lstrip(b"0")[:20] or b"0") if content_length.isdigit() else 0


def new_request_id() -> str:
    """Return 32 hexadecimal digits that tell requests apart; they need none of the system's own randomness."""
    return f"{random.getrandbits(128):032x}"


def wants_page(scope: Scope) -> bool:
    """Return whether a browser asks for the web page."""
    return scope["path"] == "/" and scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")
