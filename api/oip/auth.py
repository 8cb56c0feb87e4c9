"""The gate in front of every gRPC call: inference, health and reflection, whether there is such a call or not."""

import contextvars
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from api.auth import Gate
from api.middleware import SANE_ID, new_id
from errors import KeyRefused
from runners.stats import metrics

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context = grpc.aio.ServicerContext[Any, Any]

access = logging.getLogger("vitrine.access")

HOLDER: contextvars.ContextVar[str | None] = contextvars.ContextVar("holder", default=None)
"""Whose key the call that this task answers has; None where no key is asked of anyone."""


def request_id_of(context: Context) -> str:
    """The caller's own `x-request-id` where it is a sane one, else a new one."""
    metadata = context.invocation_metadata() or ()
    wanted = next((value for key, value in metadata if key == "x-request-id"), "")
    return wanted if isinstance(wanted, str) and SANE_ID.fullmatch(wanted) else new_id()


class KeyInterceptor(grpc.aio.ServerInterceptor):
    """Lets calls with a key pass; the others are refused before their first message is read."""

    def __init__(self, gate: Gate, *, log: bool) -> None:
        self._gate, self._log = gate, log

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The call's own handler, or one that refuses it."""
        try:
            metadata = handler_call_details.invocation_metadata or ()
            HOLDER.set(self._gate.grpc(handler_call_details.method, metadata))
        except KeyRefused as error:
            return self._refusal(str(error))
        return await continuation(handler_call_details)

    def _refusal(self, detail: str) -> "Handler":
        async def refuse(requests: Any, context: Context) -> AsyncIterator[Any]:
            code, request_id = grpc.StatusCode.UNAUTHENTICATED, request_id_of(context)
            metrics().requests.labels("", code.name).inc()
            if self._log:
                line = {"request_id": request_id, "method": "gRPC", "status": code.name, "ms": 0.0, "model": ""}
                access.info(json.dumps(line | {"client": context.peer(), "key": ""}))
            await context.abort(code, detail, (("x-request-id", request_id),))
            yield  # a stream's handler, of any kind of call, is called before a message has come

        return grpc.stream_stream_rpc_method_handler(refuse)
