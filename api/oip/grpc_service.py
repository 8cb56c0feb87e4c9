"""The calls of the Open Inference Protocol over gRPC, answered by the same core as HTTP."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2, service_pb2_grpc

from api.bodies import Bodies, Body
from api.control import ModelControl
from api.grants import GRANT, check_scope
from api.oip import metadata
from api.oip.auth import CALLS, KEY_NAME, Context, call_trace_id, log_call, quota_metadata, request_id_of
from api.oip.inference import Inference
from api.oip.items import header_check
from api.oip.messages import MAX_ID, MAX_NAME, InferRequest
from api.oip.names import NamedModel, named_model
from api.oip.protobuf import LARGE_MESSAGE_BYTES, parse_message, read_message, write_message
from api.problems import log_failure, problem_of
from errors import NotFound, QueueFull, Unavailable
from serving.loaded_model import LoadedModel
from serving.repository import ModelRepository
from serving.request_record import REQUEST, RequestRecord

SERVICE = "inference.GRPCInferenceService"
STATUS_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,  # clients retry UNAVAILABLE, which would triple the load
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""gRPC's codes for the HTTP statuses of `api.problems`; every other status is our fault: INTERNAL, without detail."""
MAX_DETAIL = 1000
"""The most characters of an error message, which travels in the metadata, whose size clients limit."""


@dataclass(kw_only=True)
class _CallRecord(RequestRecord):
    """One call, as the log and the metrics will note it."""

    model: str
    id: str = ""
    code: grpc.StatusCode = grpc.StatusCode.OK
    answered_by: LoadedModel | None = None


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers every call; what only Triton has, such as shared memory and tracing, is UNIMPLEMENTED.

    Args:
        repository: the models.
        inference: answers inference requests.
        version: Vitrine's own.
        closing: is set when the server shuts down, which ends streams.
        bodies: the bodies of all requests of the process.
        control: loads and unloads models for clients that may.
        log: whether the log has a line for each call.
    """

    def __init__(
        self,
        repository: ModelRepository,
        inference: Inference,
        version: str,
        closing: asyncio.Event,
        bodies: Bodies,
        control: ModelControl,
        *,
        log: bool,
    ) -> None:
        self._repository, self._inference, self._version = repository, inference, version
        self._closing, self._bodies, self._control, self._log = closing, bodies, control, log

    async def ServerLive(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Return that the process answers."""
        return await self._answer(context, "ServerLive", "", lambda: service_pb2.ServerLiveResponse(live=True))

    async def ServerReady(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Return whether the default model predicts and no other is still loading."""
        await self._repository.refresh(max_age_s=metadata.READINESS_MAX_AGE_S)
        return await self._answer(
            context, "ServerReady", "", lambda: service_pb2.ServerReadyResponse(ready=self._repository.ready)
        )

    async def ModelReady(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Return whether a model answers; an unknown one does not."""

        def readiness() -> Message:
            try:
                ready = self._named(request).model.state == "ready"
            except NotFound:
                ready = False
            return service_pb2.ModelReadyResponse(ready=ready)

        return await self._answer(context, "ModelReady", request.name, readiness)

    async def ServerMetadata(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Return the server's name, version and extensions."""
        fields = metadata.server_metadata(self._version)
        return await self._answer(
            context, "ServerMetadata", "", lambda: ParseDict(fields, service_pb2.ServerMetadataResponse())
        )

    async def ModelMetadata(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Return a model's versions, inputs and outputs."""

        def message() -> Message:
            fields = metadata.model_metadata(self._repository, self._named(request))
            return ParseDict(fields, service_pb2.ModelMetadataResponse())

        return await self._answer(context, "ModelMetadata", request.name, message)

    async def ModelConfig(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Return a model's configuration in Triton's words."""

        def message() -> Message:
            config = metadata.model_config(self._named(request))
            return ParseDict({"config": config}, service_pb2.ModelConfigResponse())

        return await self._answer(context, "ModelConfig", request.name, message)

    async def ModelStatistics(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Return the counts and times of one model, or of all."""

        def message() -> Message:
            named = self._named(request) if request.name else None
            return ParseDict(metadata.model_statistics(self._repository, named), service_pb2.ModelStatisticsResponse())

        await self._repository.refresh()
        return await self._answer(context, "ModelStatistics", request.name, message)

    async def RepositoryIndex(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Return every version of every model with its state."""

        def message() -> Message:
            models = metadata.repository_index(self._repository, ready_only=request.ready)
            return ParseDict({"models": models}, service_pb2.RepositoryIndexResponse())

        return await self._answer(context, "RepositoryIndex", "", message)

    async def RepositoryModelLoad(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Serve a model in its newest version, and answer once every process does."""

        async def work(record: _CallRecord) -> Message:
            await self._control.load(request.model_name, KEY_NAME.get(), request.parameters)
            return service_pb2.RepositoryModelLoadResponse()

        return await self._answer_recorded(context, "RepositoryModelLoad", request.model_name, work)

    async def RepositoryModelUnload(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Take a model out of service, and answer once no process serves it."""

        async def work(record: _CallRecord) -> Message:
            await self._control.unload(request.model_name, KEY_NAME.get())
            return service_pb2.RepositoryModelUnloadResponse()

        return await self._answer_recorded(context, "RepositoryModelUnload", request.model_name, work)

    async def ModelInfer(self, request: bytes, context: Context) -> Message:  # noqa: N802
        """Infer tensors. The message comes unparsed: it may be invalid, and parsing it may take a while."""
        return await self._answer_recorded(
            context, "ModelInfer", "", lambda record: self._infer(request, context, record)
        )

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Message]:  # noqa: N802
        """Infer a stream's requests one by one, whose errors are their own; a shutdown ends it after an answer."""
        closing = asyncio.ensure_future(self._closing.wait())
        iterator = aiter(requests)
        arriving = asyncio.ensure_future(anext(iterator, None))
        try:
            while True:
                await asyncio.wait({arriving, closing}, return_when=asyncio.FIRST_COMPLETED)
                if not arriving.done():
                    return
                if (request := arriving.result()) is None:
                    return
                yield await self._infer_streamed(request, context)
                arriving = asyncio.ensure_future(anext(iterator, None))
        finally:
            arriving.cancel()
            closing.cancel()

    async def _unimplemented(self, request: Any, context: Context) -> None:
        """Refuse what only Triton has."""
        detail = "There is no shared memory, tracing or log setting here; send tensors in the request."
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, detail)

    SystemSharedMemoryStatus = SystemSharedMemoryRegister = SystemSharedMemoryUnregister = _unimplemented
    CudaSharedMemoryStatus = CudaSharedMemoryRegister = CudaSharedMemoryUnregister = _unimplemented
    TraceSetting = LogSettings = _unimplemented

    def _named(self, request: Any) -> NamedModel:
        return named_model(self._repository, request.name, request.version or None)

    async def _infer_streamed(self, request: bytes, context: Context) -> Message:
        with self._recorded(context, "ModelStreamInfer", "") as record:
            body = Body(self._bodies)
            try:
                body.hold(len(request))
                if (grant := GRANT.get()) is not None:
                    await grant.charge_request(len(request))
                response = await self._infer(request, context, record)
                return service_pb2.ModelStreamInferResponse(infer_response=response)
            except Exception as error:
                record.error = type(error).__name__
                record.code, detail = status_of(error, record.request_id)
                failed = service_pb2.ModelInferResponse(model_name=record.model[:MAX_NAME], id=record.id)
                return service_pb2.ModelStreamInferResponse(error_message=detail, infer_response=failed)
            finally:
                body.release()

    async def _infer(self, data: bytes, context: Context, record: _CallRecord) -> Message:
        since, remaining_s = time.monotonic(), context.time_remaining()
        if self._repository.closing:
            raise Unavailable("The server is shutting down. Send the request to another one, or later.")
        if len(data) > LARGE_MESSAGE_BYTES:
            # Reading a large message takes a while, and no other request should wait for it.
            named, request = await asyncio.to_thread(self._read, data, record)
        else:
            named, request = self._read(data, record)
        deadline = self._inference.deadline(request, since, remaining_s)
        return write_message(await self._inference.infer(named, request, deadline), request.id)

    def _read(self, data: bytes, record: _CallRecord) -> tuple[NamedModel, InferRequest]:
        message = parse_message(data)
        record.model, record.id = message.model_name, message.id[:MAX_ID]
        named = named_model(self._repository, message.model_name, message.model_version or None)
        record.answered_by = named.model
        check_scope(named.model.name)
        named.check_room()  # before the tensors are read
        return named, read_message(message, header_check(named))

    async def _answer(self, context: Context, call: str, model: str, message: Callable[[], Message]) -> Message:
        """Answer with the message that a function returns at once."""

        async def work(record: _CallRecord) -> Message:
            return message()

        return await self._answer_recorded(context, call, model, work)

    async def _answer_recorded(
        self, context: Context, call: str, model: str, work: Callable[[_CallRecord], Awaitable[Message]]
    ) -> Message:
        """Await an answer, and record the call; an error ends the call with gRPC's code for it."""
        with self._recorded(context, call, model) as record:
            trailing_metadata = [("x-request-id", record.request_id)]
            try:
                answer = await work(record)
                trailing_metadata += quota_metadata()
                context.set_trailing_metadata(tuple(trailing_metadata))
                return answer
            except Exception as error:
                record.error = type(error).__name__
                record.code, detail = status_of(error, record.request_id)
                if isinstance(error, QueueFull | Unavailable):
                    trailing_metadata.append(("retry-after", str(error.retry_after_s)))
                trailing_metadata += quota_metadata()
        await context.abort(record.code, detail, tuple(trailing_metadata))
        raise RuntimeError("abort raises")

    @contextlib.contextmanager
    def _recorded(self, context: Context, call: str, model: str) -> Iterator[_CallRecord]:
        """Count and log a call once it has ended."""
        started = time.perf_counter()
        record = _CallRecord(request_id=request_id_of(context), trace_id=call_trace_id(context), model=model)
        REQUEST.set(record)
        try:
            yield record
        except asyncio.CancelledError:
            record.code = grpc.StatusCode.CANCELLED
            raise
        finally:
            seconds = time.perf_counter() - started
            name = record.model.partition(".")[0]  # whatever name the model was asked by
            answered_by = record.answered_by or self._repository.models.get(name)
            CALLS.count(answered_by or (name and "unknown"), f"/{SERVICE}/{call}", "", record.code.name, seconds)
            if self._log:
                log_call(context, record, record.code, seconds, record.model, KEY_NAME.get())
            record.answered = None  # it may be large, and timers of this call still hold the record


def status_of(error: BaseException, request_id: str) -> tuple[grpc.StatusCode, str]:
    """Return gRPC's code for an error, and the message that HTTP gives too, short enough for every client."""
    problem = problem_of(error, request_id)
    code = STATUS_CODES.get(problem.status, grpc.StatusCode.INTERNAL)
    log_failure(error, request_id)
    detail = problem.detail[:MAX_DETAIL]
    return code, detail if len(quote(detail)) <= 3 * MAX_DETAIL else ascii(detail)[:MAX_DETAIL]
