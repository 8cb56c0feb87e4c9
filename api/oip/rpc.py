"""The Open Inference Protocol over gRPC, on the very same Runners as HTTP."""

import asyncio
import contextlib
import json
import logging
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tritonclient.grpc import service_pb2, service_pb2_grpc

from api.front import SANE_ID
from api.oip.facts import index_of, model_config, model_facts, server_facts, statistics_of
from api.oip.infer import Inference
from api.oip.proto import read_request, write_answer
from errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    QueueFull,
    TooLarge,
    Unavailable,
    VitrineError,
)
from runners.served import ServedModels
from runners.stats import metrics
from settings import Settings

logger = logging.getLogger("vitrine.grpc")
access = logging.getLogger("vitrine.access")

STATUS: tuple[tuple[type[VitrineError], grpc.StatusCode], ...] = (
    (TooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED),  # before InvalidInput, which it is one of
    (InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (QueueFull, grpc.StatusCode.RESOURCE_EXHAUSTED),  # clients retry UNAVAILABLE, which would triple the load
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
)
"""Everything else is ours: INTERNAL, without detail."""
SERVICE = "inference.GRPCInferenceService"
POLL_S = 0.25
"""How often the health service is told of a change."""

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers every call; what it does not have (shared memory, tracing) is UNIMPLEMENTED."""

    def __init__(self, served: ServedModels, inference: Inference, version: str, *, log: bool) -> None:
        self._served, self._inference, self._version, self._log = served, inference, version, log

    async def ServerLive(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Whether the process answers."""
        return await self._simple(context, "", lambda: service_pb2.ServerLiveResponse(live=True))

    async def ServerReady(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Whether the default model predicts and no other is still loading."""
        return await self._simple(context, "", lambda: service_pb2.ServerReadyResponse(ready=self._served.ready))

    async def ModelReady(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Whether a model answers."""

        def said() -> Message:
            model = self._served.get(request.name or None, request.version or None)
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

        return await self._facts(context, request.name, service_pb2.ModelStatisticsResponse, said)

    async def RepositoryIndex(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Every version of every model with its state."""
        return await self._facts(
            context,
            "",
            service_pb2.RepositoryIndexResponse,
            lambda: {"models": index_of(self._served, ready_only=request.ready)},
        )

    async def ModelInfer(self, request: Any, context: Context) -> Message:  # noqa: N802
        """Infer tensors."""
        return await self._guarded(context, request.model_name, self._infer(request, context.time_remaining()))

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Message]:  # noqa: N802
        """Infer one request of a stream after the other; an error is that one's answer and the stream goes on."""
        request_id = _request_id(context)
        async for request in requests:
            try:
                answer = await self._infer(request, context.time_remaining())
                yield service_pb2.ModelStreamInferResponse(infer_response=answer)
            except Exception as error:
                _, detail = _status_of(error, request_id)
                failed = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
                yield service_pb2.ModelStreamInferResponse(error_message=detail, infer_response=failed)

    async def _infer(self, request: Any, left_s: float | None) -> Message:
        if self._served.closing:
            raise Unavailable("The server is shutting down. Send the request to another one, or later.")
        model = self._served.get(request.model_name, request.model_version or None)
        asked = read_request(request)
        deadline = self._inference.deadline(asked, left_s)
        work = self._inference.infer(model, asked, deadline)
        try:
            found = await asyncio.wait_for(work, max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            raise DeadlineExceeded(
                "The answer was not there before the deadline. Allow more time, or retry."
            ) from error
        return write_answer(found.answer, request.id)

    async def _simple(self, context: Context, model: str, said: Callable[[], Message]) -> Message:
        async def work() -> Message:
            return said()

        return await self._guarded(context, model, work())

    async def _facts(
        self, context: Context, model: str, kind: Callable[[], Message], said: Callable[[], dict[str, Any]]
    ) -> Message:
        return await self._simple(context, model, lambda: ParseDict(said(), kind()))

    async def _guarded(self, context: Context, model: str, work: Awaitable[Message]) -> Message:
        """Await an answer; errors become gRPC's, every call is counted and logged."""
        started, request_id = time.perf_counter(), _request_id(context)
        code, size, failed = grpc.StatusCode.OK, 0, ""
        try:
            answer = await work
            size = answer.ByteSize() if self._log else 0
            context.set_trailing_metadata((("x-request-id", request_id),))
            return answer
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            code, failed = _status_of(error, request_id)
            retry = error.retry_after_s if isinstance(error, QueueFull | Unavailable) else None
        finally:
            self._record(context, model, code, size, time.perf_counter() - started, request_id)
        trailing = (("x-request-id", request_id), *((("retry-after", str(retry)),) if retry else ()))
        await context.abort(code, failed, trailing)
        raise RuntimeError("abort raises")

    def _record(
        self, context: Context, model: str, code: grpc.StatusCode, size: int, seconds: float, request_id: str
    ) -> None:
        label = model if model in self._served.models or not model else "unknown"
        metrics().requests.labels(label, code.name).inc()
        metrics().request.labels(label).observe(seconds)
        if self._log:
            line = {"request_id": request_id, "method": "gRPC", "status": code.name, "bytes": size}
            peer = {"ms": round(seconds * 1e3, 2), "model": model[:60], "client": context.peer()}
            access.info(json.dumps(line | peer))


class GrpcServer:
    """One process's gRPC server: inference, health, reflection.

    Args:
        served: the models.
        inference: answers what is to be inferred.
        settings: address, limits and TLS.
        version: Vitrine's own.
    """

    def __init__(self, served: ServedModels, inference: Inference, settings: Settings, version: str) -> None:
        self._served, self._settings = served, settings
        limit = settings.max_body_bytes
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 1),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ]
        )
        servicer = Servicer(served, inference, version, log=settings.access_log)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self) -> bool:
        """Listen; False, with a line in the log, where that cannot be: HTTP goes on without it."""
        host, port = self._settings.host, self._settings.grpc_port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            probe(host, port)
            if self._settings.grpc_tls_cert and self._settings.grpc_tls_key:
                pair = (self._settings.grpc_tls_key.read_bytes(), self._settings.grpc_tls_cert.read_bytes())
                self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                self._server.add_insecure_port(address)
            await self._server.start()
        except (OSError, RuntimeError) as error:
            logger.error("gRPC does not listen on %s: %s. Choose another with VITRINE_GRPC_PORT.", address, error)
            return False
        logger.info("gRPC listens on %s", address)
        self._watching = asyncio.create_task(self._watch())
        return True

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, and give those in flight `grace_s` to end."""
        if hasattr(self, "_watching"):
            self._watching.cancel()
        with contextlib.suppress(Exception):
            await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    async def _watch(self) -> None:
        """Keep the health service told: of the whole under "" and the service's name, of each model under its own."""
        known = dict[str, bool]()
        while True:
            ready = self._served.ready
            now = {"": ready, SERVICE: ready}
            now |= {name: model.state == "ready" for name, model in self._served.models.items()}
            states = health_pb2.HealthCheckResponse
            for name, well in now.items():
                if known.get(name) != well:
                    await self._health.set(name, states.SERVING if well else states.NOT_SERVING)
            known = now
            await asyncio.sleep(POLL_S)


def probe(host: str, port: int) -> None:
    """Raise OSError if the port is taken: gRPC's own servers share a port silently, also with a stranger's."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)


def _request_id(context: Context) -> str:
    metadata = context.invocation_metadata() or ()
    wanted = next((value for key, value in metadata if key == "x-request-id"), "")
    return wanted if isinstance(wanted, str) and SANE_ID.fullmatch(wanted) else uuid.uuid4().hex


def _status_of(error: BaseException, request_id: str) -> tuple[grpc.StatusCode, str]:
    """The code and a message; what is not the client's or the load's fault gives no detail."""
    for kind, code in STATUS:
        if isinstance(error, kind):
            return code, str(error)
    logger.error("request %s failed", request_id, exc_info=error)
    return grpc.StatusCode.INTERNAL, f"Something failed on our side. The log has it under {request_id}."
