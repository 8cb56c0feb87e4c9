"""What wraps the API: request ids, keys, the limits of bodies, problem details, metrics and the access log."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import PATHS, Authenticator, is_counted
from api.bodies import Bodies, Body
from api.grants import GRANT, Grant
from api.problems import CALLER_GONE, problem_response
from api.refusals import refuse
from api.request_meter import RequestMeter
from errors import QueueFull, Unavailable, VitrineError
from runners.admission import asked_by
from serving.answer_fields import log_fields
from serving.loaded_model import LoadedModel
from serving.logs import AccessLines, quoted
from serving.request_record import REQUEST, RequestRecord, trace_id_of

logger = logging.getLogger("vitrine.api")
access_log = logging.getLogger("vitrine.access")

SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
ONLY_HEALTH = "only_health"
"""The key in a request's state which says that its connection is one too many, so that only health is answered."""
_MODEL_PATH = re.compile(
    r"(?:(?:/v[12])?/models|/predictions|/explanations)/([a-z0-9-]{1,60})(?:\.[a-z]{1,20}|:[a-z]{1,20})?(/|$)"
)
_DEFAULT_MODEL_PATHS = ("/predict", "/predict/batch", "/infer", "/explain", "/explain/batch")
_LINE = '{"request_id":"%s","method":%s,"path":%s,"status":%d,"bytes":%d,"ms":%.2f,"model":%s,"client":%s%s%s}'
_HARDENING = ((b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY"))


@dataclass(kw_only=True, slots=True)
class Exchange(RequestRecord):
    """One request and its answer over HTTP, as they are recorded."""

    method: str
    path: str
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    sent_bytes: int = 0
    key_name: str = ""
    grant: Grant | None = None

    @classmethod
    def of(cls, headers: Mapping[bytes, bytes], method: str, path: str) -> "Exchange":
        """Return the record of a request that begins, with its ids."""
        own_id = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = own_id if own_id and SANE_ID.fullmatch(own_id) else new_request_id()
        exchange = cls(request_id=request_id, method=method, path=path)
        if traceparent := headers.get(b"traceparent"):
            exchange.trace_id = trace_id_of(traceparent.decode("latin-1"))
        return exchange

    def seconds(self) -> float:
        """Return the time since the request came."""
        return time.perf_counter() - self.started

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that every answer has; nothing behind the middleware sets any of them."""
        took = b"%.6f" % self.seconds()
        return [(b"x-request-id", self.request_id.encode()), (b"x-process-time", took), *_HARDENING]


class Middleware:
    """Wraps the application; every request and every answer of this process goes through here.

    Args:
        app: what answers.
        bodies: the bodies of all requests, with their limits.
        default_model: the model that routes without a name mean; for the metrics.
        models: what each name means; other names are counted together, so that strangers make no series.
        logs_access: whether the log has a line for each request.
        authenticator: checks keys; None where none is asked for.
    """

    def __init__(
        self,
        app: ASGIApp,
        bodies: Bodies,
        default_model: str,
        models: Mapping[str, LoadedModel | str],
        *,
        logs_access: bool,
        authenticator: Authenticator | None = None,
    ) -> None:
        self._app, self._bodies = app, bodies
        self._default_model, self._models = default_model, models
        self._logs_access, self._authenticator = logs_access, authenticator
        self._meter, self._lines = RequestMeter("http"), AccessLines()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on what is not HTTP."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].rstrip("/") or "/"
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # the first one counts if a header came twice
        exchange = Exchange.of(headers, scope["method"], path)
        REQUEST.set(exchange)
        body = Body(self._bodies)
        incoming: Receive = partial(body.receive, receive)
        announced = announced_bytes(headers.get(b"content-length", b""))
        # The connections of a proxy are shared by clients, and an address that it passes on may be that of many.
        asked_by.set(None if b"x-forwarded-for" in headers else scope.get("client"))
        state = {**scope.get("state", {}), "request_id": exchange.request_id, "body": body}
        scope = dict(scope, path=path, state=state)
        if exchange.method == "HEAD":  # the server sends no body for it whatever the application does
            scope["method"] = "GET"

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status, exchange.request_id = message["status"], state["request_id"]
                message["headers"] = [*message.get("headers", ()), *exchange.headers()]
                if exchange.grant is not None:
                    message["headers"] += exchange.grant.headers()
            else:
                exchange.sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            if ONLY_HEALTH in state and path not in PATHS["health"]:
                raise Unavailable("There are more connections than this server takes. Send the request again later.")
            if self._authenticator is not None:  # before the body is read
                exchange.key_name = self._authenticator.authenticate_http(path, wants_page(scope), scope["headers"])
                state["key_name"] = exchange.key_name
                exchange.grant = self._authenticator.grant_of(exchange.key_name)
            if announced:
                self._bodies.check_size(announced)
            GRANT.set(exchange.grant)
            if exchange.grant is not None and is_counted(path):
                await exchange.grant.charge_request(announced)
                if not announced:
                    incoming = exchange.grant.metered(incoming)
            await self._app(scope, incoming, send_with_id)
        except Exception as error:
            exchange.error = type(error).__name__
            if exchange.status == 0:
                response = problem_response(error, state["request_id"])
                if isinstance(error, QueueFull) and not body.is_complete:
                    await refuse(response, headers, announced, scope, receive, send_with_id)
                else:
                    await response(scope, receive, send_with_id)
            elif not isinstance(error, VitrineError):
                logger.error("request %s failed after its answer began", exchange.request_id, exc_info=error)
        finally:
            if exchange.grant is not None:
                GRANT.set(None)
            body.release()
            self.record(exchange, scope.get("client"), state.get("model"), state.get("route", ""))

    def record(
        self, exchange: Exchange, client: tuple[str, int] | None, model: LoadedModel | None = None, route: str = ""
    ) -> None:
        """Count, and log, a request that is over, at the end of this turn of the event loop.

        Args:
            exchange: the request; it lets go of what was answered, which may be large while timers hold the record.
            client: its address.
            model: the model that the request came to; None for none.
            route: the template of the path; empty where there is nothing at the path.
        """
        seconds, status = exchange.seconds(), exchange.status or CALLER_GONE
        answered_by: LoadedModel | str
        if model is not None:
            name, answered_by = model.name, model
        else:  # it came to no model, for whatever reason
            match = _MODEL_PATH.match(exchange.path)
            name = match[1] if match else self._default_model if exchange.path in _DEFAULT_MODEL_PATHS else ""
            answered_by = self._models.get(name, "unknown" if name else "")
        self._meter.count(answered_by, route, exchange.method, status, seconds)
        if self._logs_access:
            if not self._lines:
                asyncio.get_running_loop().call_soon(self._log_turn)
            exact = exchange.request_id, quoted(exchange.method), quoted(exchange.path), status, exchange.sent_bytes
            key = f',"key":{quoted(exchange.key_name)}' if self._authenticator is not None else ""
            address = quoted(client[0] if client else "")
            self._lines.append(_LINE % (*exact, seconds * 1e3, quoted(name), address, log_fields(exchange), key))
        exchange.answered = None

    def _log_turn(self) -> None:
        """Log the requests that ended in this turn together: one by one takes as long as a small model."""
        lines, self._lines = self._lines, AccessLines()
        access_log.info(lines)


def announced_bytes(content_length: bytes) -> int:
    """Return the length that a request announces, 0 where it announces none; of a longer number its first 20 digits."""
    return int(content_length.lstrip(b"0")[:20] or b"0") if content_length.isdigit() else 0


def new_request_id() -> str:
    """Return 32 hexadecimal digits that tell requests apart; they need none of the system's own randomness."""
    return f"{random.getrandbits(128):032x}"


def wants_page(scope: Scope) -> bool:
    """Return whether a browser asks for the web page."""
    return scope["path"] == "/" and scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")
