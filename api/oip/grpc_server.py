"""One process's gRPC server: inference, health, reflection; and its port."""

import asyncio
import logging
import socket
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tritonclient.grpc import service_pb2, service_pb2_grpc

from api.auth import Gate
from api.oip.auth import KeyInterceptor
from api.oip.grpc_service import Context, Servicer
from api.oip.inference import Inference
from serving.repository import ServedModels
from settings import Settings

logger = logging.getLogger("vitrine.grpc")

SERVICE = "inference.GRPCInferenceService"
POLL_S = 0.25
"""How often the health service is told of a change."""


class _Health(health.aio.HealthServicer):
    """The standard health service, whose watchers do not hold up a shutdown."""

    def __init__(self, closing: asyncio.Event) -> None:
        super().__init__()
        self._closing = closing

    async def Watch(self, request: Any, context: Context) -> None:  # noqa: N802
        """Send the state and every change of it, until the server shuts down."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({watching, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            watching.cancel()


class GrpcServer:
    """One process's gRPC server: inference, health, reflection.

    Args:
        served: the models.
        inference: answers what is to be inferred.
        settings: address, limits and TLS.
        version: Vitrine's own.
        gate: what checks keys; None where none is asked.
    """

    def __init__(
        self, served: ServedModels, inference: Inference, settings: Settings, version: str, gate: Gate | None = None
    ) -> None:
        self._served, self._settings = served, settings
        limit = settings.max_body_bytes
        self._server = grpc.aio.server(
            interceptors=[KeyInterceptor(gate, log=settings.access_log)] if gate is not None else [],
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 1),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ],
        )
        self._closing = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        servicer = Servicer(served, inference, version, self._closing, log=settings.access_log)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        self._server.add_registered_method_handlers(SERVICE, _unread(servicer))
        self._health = _Health(self._closing)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self) -> None:
        """Listen; where that cannot be, the log says so and HTTP goes on without it."""
        host, port = self._settings.host, self._settings.grpc_port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._settings.grpc_tls_cert and self._settings.grpc_tls_key:
                pair = (self._settings.grpc_tls_key.read_bytes(), self._settings.grpc_tls_cert.read_bytes())
                self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                self._server.add_insecure_port(address)
            await self._server.start()
        except (OSError, RuntimeError) as error:
            logger.error("gRPC does not listen on %s: %s", address, error)
            return
        logger.info("gRPC listens on %s", address)
        self._watching = asyncio.create_task(self._watch())

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, end streams, and give what is in flight `grace_s` to end."""
        if self._watching is not None:
            self._watching.cancel()
            await self._health.enter_graceful_shutdown()
        self._closing.set()
        await self._server.stop(grace_s)

    async def _watch(self) -> None:
        """Keep the health service told: of the whole under "" and the service's name, of each model under its own."""
        known = dict[str, bool]()
        while True:
            await self._served.refresh(at_most_s=4 * POLL_S)
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
    """Raise OSError if the port is taken; to be asked before any worker listens.

    The workers of one service share a port, and so would, silently, those of two.
    """
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)


def _unread(servicer: Servicer) -> dict[str, Any]:
    """The calls whose messages are handed on as they came, in place of those of the same names."""
    return {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(
            servicer.ModelInfer, response_serializer=service_pb2.ModelInferResponse.SerializeToString
        ),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
            servicer.ModelStreamInfer, response_serializer=service_pb2.ModelStreamInferResponse.SerializeToString
        ),
    }
