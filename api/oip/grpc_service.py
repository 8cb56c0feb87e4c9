"""The calls of the Open Inference Protocol over gRPC, on the very same Runners as HTTP."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2, service_pb2_grpc

from api.body import LARGE
from api.oip.auth import HOLDER, request_id_of
from api.oip.inference import Inference
from api.oip.items import checker
from api.oip.messages import MAX_ID, MAX_NAME, InferRequest
from api.oip.metadata import index_of, model_config, model_facts, server_facts, statistics_of
from api.oip.protobuf import parse, read_request, write_answer
from api.problems import problem_of
from errors import (
    DeadlineExceeded,
    NotFound,
    QueueFull,
    Unavailable,
)
from runners.stats import metrics
from serving.loaded_model import ServedModel
from serving.repository import ServedModels

logger = logging.getLogger("vitrine.grpc")
access = logging.getLogger("vitrine.access")

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,  # clients retry UNAVAILABLE, which would triple the load
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""gRPC's codes for HTTP's, which `api.problems` chooses; everything else is ours: INTERNAL, without detail."""
LONGEST = 1000
"""Of a message, in characters: it travels in the metadata, which clients limit."""
Context = grpc.aio.ServicerContext[Any, Any]


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers every call; what it does not have (shared memory, tracing) is UNIMPLEMENTED. `closing` ends streams."""

    def __init__(
        self, served: ServedModels, inference: Inference, version: str, closing: asyncio.Event, *, log: bool
    ) -> None:
        self._served, self._inference, self._version = served, inference, version
        self._closing, self._log = closing, log

    async def ServerLive(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Whether the process answers."""
        return await self._simple(context, "", lambda: service_pb2.ServerLiveResponse(live=True))

    async def ServerReady(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Whether the default model predicts and no other is still loading."""
        await self._served.refresh(at_most_s=0.5)
        return await self._simple(context, "", lambda: service_pb2.ServerReadyResponse(ready=self._served.ready))

    async def ModelReady(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Whether a model answers; one that is not known does not."""

        def said() -> Message:
            try:
                model = self._served.get(request.name or None, request.version or None)
            except NotFound:
                return service_pb2.ModelReadyResponse(ready=False)
            return service_pb2.ModelReadyResponse(ready=model.state == "ready")

        return await self._simple(context, request.name, said)

    async def ServerMetadata(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Name, version and extensions."""
        return await self._facts(context, "", service_pb2.ServerMetadataResponse, lambda: server_facts(self._version))

    async def ModelMetadata(self, request: Any, context: Context) -> Message:  # noqa: N802
        """A model's versions, inputs and outputs."""
        return await self._facts(
            context,
            request.name,
            service_pb2.ModelMetadataResponse,
            lambda: model_facts(self._served, self._served.get(request.name, request.version or None)),
        )

    async def ModelConfig(self, request: Any, context: Context) -> Message:  # noqa: N802
        """A model's configuration in Triton's words."""
        return await self._facts(
            context,
            request.name,
            service_pb2.ModelConfigResponse,
            lambda: {"config": model_config(self._served.get(request.name, request.version or None))},
        )

    async def ModelStatistics(self, request: Any, context: Context) -> Message:  # noqa: N802
        """The counts and times of one model, or of all."""

        def said() -> dict[str, Any]:
            model = self._served.get(request.name, request.version or None) if request.name else None
            return statistics_of(self._served, model)

        await self._served.refresh()
        return await self._facts(context, request.name, service_pb2.ModelStatisticsResponse, said)

    async def RepositoryIndex(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Every version of every model with its state."""
        return await self._facts(
            context,
            "",
            service_pb2.RepositoryIndexResponse,
            lambda: {"models": index_of(self._served, ready_only=request.ready)},
        )

    async def ModelInfer(self, request: bytes, context: Context) -> Message:  # noqa: N802
        """Infer tensors. The message comes unread: reading it may take its time, and it may be none."""
        return await self._guarded(context, "", lambda call: self._infer(request, context, call))

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Message]:  # noqa: N802
        """Infer one request of a stream after the other; an error is that one's answer, and the stream goes on.

        A server that shuts down ends the stream after the answer that is under way.
        """
        closing = asyncio.ensure_future(self._closing.wait())
        arriving = aiter(requests)
        try:
            while True:
                coming = asyncio.ensure_future(anext(arriving, None))
                await asyncio.wait({coming, closing}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    return
                if (request := coming.result()) is None:
                    return
                yield await self._streamed(request, context)
        finally:
            closing.cancel()

    async def _streamed(self, request: bytes, context: Context) -> Message:
        with self._recorded(context, "") as call:
            try:
                answer = await self._infer(request, context, call)
                return service_pb2.ModelStreamInferResponse(infer_response=answer)
            except Exception as error:
                call.code, detail = _status_of(error, call.request_id)
                failed = service_pb2.ModelInferResponse(model_name=call.model[:MAX_NAME], id=call.id)
                return service_pb2.ModelStreamInferResponse(error_message=detail, infer_response=failed)

    async def _loads(self, request: Any, context: Context) -> None:
        """Models are not loaded or unloaded by clients."""
        said = "Clients load no models here; `vitrine models import` does."
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, said)

    async def _absent(self, request: Any, context: Context) -> None:
        """What only Triton has."""
        said = "There is no shared memory, tracing or log setting here; send tensors in the request."
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, said)

    RepositoryModelLoad = RepositoryModelUnload = _loads
    SystemSharedMemoryStatus = SystemSharedMemoryRegister = SystemSharedMemoryUnregister = _absent
    CudaSharedMemoryStatus = CudaSharedMemoryRegister = CudaSharedMemoryUnregister = _absent
    TraceSetting = LogSettings = _absent

    async def _infer(self, data: bytes, context: Context, call: "_Call") -> Message:
        began, left_s = time.monotonic(), context.time_remaining()
        if self._served.closing:
            raise Unavailable("The server is shutting down. Send the request to another one, or later.")
        if len(data) > LARGE:
            # What is large takes its time, which no other request should wait for.
            model, asked = await asyncio.to_thread(self._read, data, call)
        else:
            model, asked = self._read(data, call)
        deadline = self._inference.deadline(asked, began, left_s)
        work = self._inference.infer(model, asked, deadline)
        try:
            found = await asyncio.wait_for(work, max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            raise DeadlineExceeded(
                "The answer was not there before the deadline. Allow more time, or retry."
            ) from error
        return write_answer(found.answer, asked.id)

    def _read(self, data: bytes, call: "_Call") -> tuple[ServedModel, InferRequest]:
        request = parse(data)
        call.model, call.id = request.model_name, request.id[:MAX_ID]
        model = self._served.get(request.model_name, request.model_version or None)
        model.check_ready()
        return model, read_request(request, checker(model.card, model.queue_size))

    async def _simple(self, context: Context, model: str, said: Callable[[], Message]) -> Message:
        async def work(call: _Call) -> Message:
            return said()

        return await self._guarded(context, model, work)

    async def _facts(
        self, context: Context, model: str, kind: Callable[[], Message], said: Callable[[], dict[str, Any]]
    ) -> Message:
        return await self._simple(context, model, lambda: ParseDict(said(), kind()))

    async def _guarded(self, context: Context, model: str, work: "Callable[[_Call], Awaitable[Message]]") -> Message:
        """Await an answer; errors become gRPC's, every call is counted and logged."""
        with self._recorded(context, model) as call:
            trailing = [("x-request-id", call.request_id)]
            try:
                answer = await work(call)
                context.set_trailing_metadata(tuple(trailing))
                return answer
            except Exception as error:
                call.code, detail = _status_of(error, call.request_id)
                if isinstance(error, QueueFull | Unavailable):
                    trailing.append(("retry-after", str(error.retry_after_s)))
        await context.abort(call.code, detail, tuple(trailing))
        raise RuntimeError("abort raises")

    @contextlib.contextmanager
    def _recorded(self, context: Context, model: str) -> "Iterator[_Call]":
        """Count and log a call when it has ended."""
        started, call = time.perf_counter(), _Call(request_id_of(context), model)
        try:
            yield call
        except asyncio.CancelledError:
            call.code = grpc.StatusCode.CANCELLED
            raise
        finally:
            seconds = time.perf_counter() - started
            label = call.model if call.model in self._served.models or not call.model else "unknown"
            metrics().requests.labels(label, call.code.name).inc()
            metrics().request.labels(label).observe(seconds)
            if self._log:
                line = {"request_id": call.request_id, "method": "gRPC", "status": call.code.name}
                peer = {"ms": round(seconds * 1e3, 2), "model": call.model[:60], "client": context.peer()}
                holder = HOLDER.get()
                access.info(json.dumps(line | peer | ({} if holder is None else {"key": holder})))


@dataclass
class _Call:
    """One call, as it will be recorded."""

    request_id: str
    model: str
    id: str = ""
    code: grpc.StatusCode = grpc.StatusCode.OK


def _status_of(error: BaseException, request_id: str) -> tuple[grpc.StatusCode, str]:
    """The code and a message, the same as HTTP's."""
    problem = problem_of(error, request_id)
    code = CODES.get(problem.status, grpc.StatusCode.INTERNAL)
    if code is grpc.StatusCode.INTERNAL:
        logger.error("request %s failed", request_id, exc_info=error)
    said = problem.detail[:LONGEST]
    return code, said if len(quote(said)) <= 3 * LONGEST else ascii(said)[:LONGEST]
