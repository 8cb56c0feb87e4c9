"""The gRPC server of one process: its port, and the services for inference, health and reflection."""

import asyncio
import logging
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from api.auth import Authenticator
from api.bodies import Bodies
from api.connections import most_connections
from api.control import ModelControl
from api.limits import ReachedLimits
from api.oip.auth import Context, KeyInterceptor
from api.oip.grpc_service import SERVICE, Servicer
from api.oip.inference import Inference
from api.oip.names import names_of
from api.oip.occupancy import watch_occupancy
from api.oip.reception import TimedServer
from regular_file import read_within
from serving.predictor import Predictor
from serving.repository import ModelRepository
from settings import Settings

logger = logging.getLogger("vitrine.grpc")

MAX_STREAMS = 256
"""The most calls at a time over one connection."""
IDLE_WAITS = 3
"""A connection without a call for so many times what a new one may be silent is closed, by default after 30 seconds;
clients open it again with the next call. Until then it keeps others out, since gRPC lets no connection give way."""
MOST_MS = 2**31 - 1
"""The longest time that gRPC takes, in milliseconds."""
POLL_S = 0.25
"""How often the health service takes note of the models' states, in seconds."""


class _HealthServicer(health.aio.HealthServicer):
    """The standard health service, except that its watchers do not hold up a shutdown."""

    def __init__(self, closing: asyncio.Event) -> None:
        super().__init__()
        self._closing = closing

    async def Watch(self, request: Any, context: Context) -> None:  # noqa: N802
        """Send the state and every change of it until the server shuts down."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({watching, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            watching.cancel()


class GrpcServer:
    """Serves inference, health and reflection over gRPC.

    Args:
        repository: the models.
        predictor: the core.
        settings: address, limits and TLS.
        version: Vitrine's own.
        bodies: the bodies of all requests of the process.
        limits: notes that there are too many connections.
        authenticator: checks keys; None where no keys are asked for.
        control: loads and unloads models for clients; None refuses all.
    """

    def __init__(
        self,
        repository: ModelRepository,
        predictor: Predictor,
        settings: Settings,
        version: str,
        bodies: Bodies,
        limits: ReachedLimits,
        authenticator: Authenticator | None = None,
        control: ModelControl | None = None,
    ) -> None:
        self._repository, self._settings, self._limits = repository, settings, limits
        self._most_connections = most_connections(settings)
        silent_ms = int(settings.header_seconds * 1000)
        self._server = grpc.aio.server(
            interceptors=[KeyInterceptor(authenticator, log=settings.access_log)] if authenticator is not None else [],
            options=[
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 1),
                ("grpc.max_allowed_incoming_connections", self._most_connections),
                ("grpc.max_concurrent_streams", MAX_STREAMS),
                ("grpc.server_handshake_timeout_ms", min(silent_ms, MOST_MS)),
                ("grpc.max_connection_idle_ms", min(IDLE_WAITS * silent_ms, MOST_MS)),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ],
        )
        self.address = ""
        """Where it listens; empty as long as it does not."""
        self._closing = asyncio.Event()
        self._watching = list[asyncio.Task[None]]()
        servicer = Servicer(
            repository,
            Inference(predictor),
            version,
            self._closing,
            bodies,
            control or ModelControl(),
            log=settings.access_log,
        )
        timed = TimedServer(self._server, bodies, log=settings.access_log)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, timed)
        timed.add_registered_method_handlers(SERVICE, _unparsed_handlers(servicer))
        self._health = _HealthServicer(self._closing)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, timed)
        reflected = reflection.aio.ReflectionServicer((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, timed)

    async def start(self) -> None:
        """Listen on the port; if that fails, the log says so and HTTP goes on without gRPC."""
        host, port = self._settings.host, self._settings.grpc_port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._settings.grpc_tls_cert and self._settings.grpc_tls_key:
                key = await asyncio.to_thread(read_within, self._settings.grpc_tls_key)
                certificate = await asyncio.to_thread(read_within, self._settings.grpc_tls_cert)
                self._server.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
            else:
                self._server.add_insecure_port(address)
            await self._server.start()
        except (OSError, RuntimeError) as error:
            logger.error("gRPC does not listen on %s: %s", address, error)
            return
        self.address = address
        logger.info("gRPC listens on %s", address)
        counting = watch_occupancy(port, self._most_connections, self._limits)
        self._watching = [asyncio.create_task(self._watch()), asyncio.create_task(counting)]

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, end streams, and give the calls in flight `grace_s` seconds to end."""
        if self._watching:
            for task in self._watching:
                task.cancel()
            await self._health.enter_graceful_shutdown()
        self._closing.set()
        await self._server.stop(grace_s)

    async def _watch(self) -> None:
        """Keep the health service informed: of the server under "" and the service's name, of models under theirs."""
        status = health_pb2.HealthCheckResponse
        known = dict[str, bool]()
        while True:
            await self._repository.refresh(max_age_s=4 * POLL_S)
            ready = self._repository.ready
            current = {"": ready, SERVICE: ready}
            for model in self._repository.models.values():
                current |= {named.name: model.state == "ready" for named in names_of(model)}
            for name in known.keys() - current.keys():
                await self._health.set(name, status.SERVICE_UNKNOWN)
            for name, is_ready in current.items():
                if known.get(name) != is_ready:
                    await self._health.set(name, status.SERVING if is_ready else status.NOT_SERVING)
            known = current
            await asyncio.sleep(POLL_S)


def _unparsed_handlers(servicer: Servicer) -> dict[str, Any]:
    """Return handlers that hand on messages unparsed, in place of the generated ones of the same names."""
    return {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(
            servicer.ModelInfer, response_serializer=service_pb2.ModelInferResponse.SerializeToString
        ),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
            servicer.ModelStreamInfer, response_serializer=service_pb2.ModelStreamInferResponse.SerializeToString
        ),
    }
