"""The messages of gRPC calls while they come: in time, and only as many as there is memory for.

gRPC hands a message over once it is whole. So its rate is not known, and of a stream not even whether one is under way:
it has no deadline, but where too many wait for a message, the oldest are given up.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc

from api.bodies import Bodies, Body
from api.grants import charge_bytes
from api.oip.auth import Context, Handler, quota_metadata, record_refusal, request_id_of
from api.oip.grpc_service import status_of
from errors import BodyTimeout, InvalidInput, QueueFull, Unavailable, VitrineError


class TimedServer:
    """Registers services with a server so that the message of each of their calls has to come in time, streams aside.

    Args:
        server: the server.
        bodies: the bodies of all requests of the process.
        log: whether the log has a line for each call that is refused.
    """

    def __init__(self, server: grpc.aio.Server, bodies: Bodies, *, log: bool) -> None:
        self._server, self._bodies, self._log = server, bodies, log

    def add_generic_rpc_handlers(self, services: Any) -> None:
        """Register services as a server does."""
        self._server.add_generic_rpc_handlers(tuple(_TimedService(service, self._timed) for service in services))

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Handler]) -> None:
        """Register handlers as a server does."""
        timed = {name: self._timed(handler) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, timed)

    def _timed(self, handler: Handler) -> Handler:
        """Return a handler that reads the messages of a call itself; where there is one, within the time for it."""
        if handler.request_streaming:
            return self._watched_stream(handler)
        behaviour: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary

        async def receive_and_answer(requests: Any, context: Context) -> Any:
            body = Body(self._bodies, size_is_known=False)
            try:
                request = await self._receive(body, context)
                return await behaviour(request, context)
            finally:
                body.release()

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(receive_and_answer, handler.request_deserializer, handler.response_serializer)

    def _watched_stream(self, handler: Handler) -> Handler:
        """Return a handler of a stream which gives up waiting for a message where too many do."""
        behaviour: Any = handler.stream_stream

        async def receive_and_answer(requests: Any, context: Context) -> AsyncIterator[Any]:
            async with aclosing(behaviour(self._messages(context), context)) as answers:
                async for answer in answers:
                    yield answer

        return grpc.stream_stream_rpc_method_handler(
            receive_and_answer, handler.request_deserializer, handler.response_serializer
        )

    async def _messages(self, context: Context) -> AsyncIterator[Any]:
        """Yield the messages of a stream as they come."""
        while True:
            body = Body(self._bodies, size_is_known=False, is_in_stream=True)
            try:
                request = await body.wait_for(context.read())
            except BodyTimeout as error:
                await self._refuse(error, context)
            if request is grpc.aio.EOF:
                self._bodies.trim_soon()  # so ends a stream, too, whose client hung up in the middle of a message
                return
            yield request

    async def _receive(self, body: Body, context: Context) -> Any:
        """Return the message of a call, or refuse the call."""
        try:
            self._bodies.check_size(1)  # before it is read
            request = await body.wait_for(context.read())
            if request is grpc.aio.EOF:
                self._bodies.trim_soon()  # half of it may have come
                raise InvalidInput("The call has no message.")
            if isinstance(request, bytes):
                body.hold(len(request))
                await charge_bytes(len(request))
            return request
        except (BodyTimeout, QueueFull, Unavailable, InvalidInput) as error:
            await self._refuse(error, context)

    async def _refuse(self, error: VitrineError, context: Context) -> NoReturn:
        """End a call with the code of an error, and record it."""
        request_id = request_id_of(context)
        code, detail = status_of(error, request_id)
        record_refusal(context, code, request_id, error, log=self._log)
        metadata = [("x-request-id", request_id)]
        if isinstance(error, QueueFull | Unavailable):
            metadata.append(("retry-after", str(error.retry_after_s)))
        await context.abort(code, detail, (*metadata, *quota_metadata()))
        raise RuntimeError("abort raises")


class _TimedService(grpc.GenericRpcHandler):
    """One service, whose handlers are timed."""

    def __init__(self, service: grpc.GenericRpcHandler, timed: Callable[[Handler], Handler]) -> None:
        self._service, self._timed = service, timed

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | None":
        """Return the handler of a call."""
        handler = self._service.service(handler_call_details)
        return self._timed(handler) if handler is not None else None
