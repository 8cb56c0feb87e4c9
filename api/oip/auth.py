"""API keys of gRPC calls: inference, health and reflection, also of calls that the server does not have."""

import contextvars
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from api.auth import HEALTH_CALLS, Authenticator
from api.grants import GRANT
from api.middleware import SANE_ID, new_request_id
from api.request_meter import RequestMeter
from errors import KeyRefused, QuotaReached, Unavailable
from serving.answer_fields import log_fields
from serving.logs import AccessLines, json_object, quoted
from serving.request_record import RequestRecord, trace_id_of

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context = grpc.aio.ServicerContext[Any, Any]

UNCOUNTED_CALLS = HEALTH_CALLS | {"/inference.GRPCInferenceService/ModelStreamInfer"}
"""Calls that cost a key none of its requests; of a stream, each message does."""

access_log = logging.getLogger("vitrine.access")

CALLS = RequestMeter("grpc")
"""Counts the calls of this process."""
KEY_NAME: contextvars.ContextVar[str | None] = contextvars.ContextVar("key_name", default=None)
"""The name of the key that came with the call which the current task answers; None where no keys are asked for."""


def request_id_of(context: Context) -> str:
    """Return the caller's own `x-request-id` if it has a harmless form, else a new one."""
    metadata = context.invocation_metadata() or ()
    request_id = next((value for key, value in metadata if key == "x-request-id"), "")
    return request_id if isinstance(request_id, str) and SANE_ID.fullmatch(request_id) else new_request_id()


def call_trace_id(context: Context) -> str:
    """Return the id of the trace that a call belongs to, from its `traceparent`; empty for none."""
    traceparent = next((value for key, value in context.invocation_metadata() or () if key == "traceparent"), "")
    return trace_id_of(traceparent) if isinstance(traceparent, str) else ""


def log_call(
    context: Context, record: RequestRecord, code: grpc.StatusCode, seconds: float, model: str, key_name: str | None
) -> None:
    """Log a call that has ended; `key_name` is None where no keys are asked for."""
    line = json_object({"request_id": record.request_id, "method": "gRPC", "status": code.name})[:-1]
    client = f',"ms":{seconds * 1e3:.2f},"model":{quoted(model[:60])},"client":{quoted(context.peer())}'
    key = "" if key_name is None else f',"key":{quoted(key_name)}'
    access_log.info(AccessLines([f"{line}{client}{log_fields(record)}{key}}}"]))


def record_refusal(context: Context, code: grpc.StatusCode, request_id: str, error: Exception, *, log: bool) -> None:
    """Count, and log if it is wanted, a call that is refused with an error before its message has come."""
    CALLS.count("", "", "", code.name, 0.0)
    if log:
        record = RequestRecord(request_id, call_trace_id(context), error=type(error).__name__)
        log_call(context, record, code, 0.0, "", key_name=KEY_NAME.get())


def quota_metadata() -> list[tuple[str, str]]:
    """Return the `RateLimit` fields of the call under way, as HTTP has them; none for a key that is not restricted."""
    grant = GRANT.get()
    return [(name.decode(), value.decode()) for name, value in grant.headers()] if grant is not None else []


class KeyInterceptor(grpc.aio.ServerInterceptor):
    """Lets calls with a key pass, and refuses the others before their first message is read."""

    def __init__(self, authenticator: Authenticator, *, log: bool) -> None:
        self._authenticator, self._log = authenticator, log

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the call's own handler, or one that refuses it."""
        try:
            metadata = handler_call_details.invocation_metadata or ()
            key_name = self._authenticator.authenticate_grpc(handler_call_details.method, metadata)
            KEY_NAME.set(key_name)
            GRANT.set(grant := self._authenticator.grant_of(key_name))
            if grant is not None and handler_call_details.method not in UNCOUNTED_CALLS:
                await grant.charge_request()
        except KeyRefused as error:
            return self._refusal(grpc.StatusCode.UNAUTHENTICATED, error, "")
        except QuotaReached as error:
            code, fields = grpc.StatusCode.RESOURCE_EXHAUSTED, quota_metadata()
            return self._refusal(code, error, key_name, ("retry-after", str(error.retry_after_s)), *fields)
        except Unavailable as error:
            retry_after = "retry-after", str(error.retry_after_s)
            return self._refusal(grpc.StatusCode.UNAVAILABLE, error, key_name, retry_after)
        return await continuation(handler_call_details)

    def _refusal(self, code: grpc.StatusCode, error: Exception, key_name: str, *metadata: tuple[str, str]) -> "Handler":
        """Return a handler that refuses a call, of whichever kind it is, before a message has come."""

        async def refuse(requests: Any, context: Context) -> AsyncIterator[Any]:
            request_id = request_id_of(context)
            KEY_NAME.set(key_name)
            record_refusal(context, code, request_id, error, log=self._log)
            await context.abort(code, str(error), (("x-request-id", request_id), *metadata))
            yield  # makes this the handler of a stream, which is called before a message has come

        return grpc.stream_stream_rpc_method_handler(refuse)
