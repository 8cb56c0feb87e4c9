"""What one worker serves, over HTTP and gRPC, from its start to its end."""

import asyncio
import logging
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import click
from starlette.types import ASGIApp

from api.announcement import Announcement, http_address
from api.app import build_app
from api.auth import authenticator_for, check_listening
from api.bodies import Bodies
from api.connections import Connections, serve_through
from api.control import ModelControl
from api.keys import file_warnings
from api.limits import ReachedLimits, tick
from api.oip.grpc_server import GrpcServer
from api.second_port import SecondPort
from errors import KeysError, StoreError
from models.followed import FollowedFolders
from models.package import StoredModel
from models.served_versions import ServedVersions
from serving.process import PredictionProcess
from serving.startup import run_folder
from settings import Settings, warnings_of

if TYPE_CHECKING:
    from serving.shared_redis import SharedRedis

logger = logging.getLogger("vitrine")

VERSION = "0.1.0"

LONGEST_INTEGER_DIGITS = 640
"""The least that Python allows; to read a long number in JSON takes time by the square of its digits."""


class Server:
    """The models of one worker behind HTTP and gRPC.

    Args:
        settings: what the operator set.
        stored: the versions to serve.
        followed: where others come from while the server runs; None where nothing changes.
    """

    def __init__(
        self, settings: Settings, stored: Sequence[StoredModel], followed: FollowedFolders | None = None
    ) -> None:
        self._settings = settings
        self._redis = _shared_redis(settings)
        self._process = PredictionProcess(settings, stored, followed, self._redis)
        self._authenticator = authenticator_for(settings, self._redis)
        keys = self._authenticator.keys if self._authenticator is not None else None
        self._control = ModelControl(
            self._process.follower, keys, is_open=settings.model_control, origins=settings.origins
        )
        self._limits = ReachedLimits()
        self._bodies = Bodies.of_settings(settings, self._limits)
        self._connections = Connections.of_settings(settings, self._limits)
        self._ticking: asyncio.Task[None] | None = None
        self._grpc: GrpcServer | None = None
        self._second_port: SecondPort | None = None
        self._announcing: asyncio.Task[None] | None = None

    def application(self, behind: ASGIApp, behind_paths: Collection[str]) -> ASGIApp:
        """Return the ASGI application, with BentoML's behind it, which answers `behind_paths`."""
        serve_through(self._connections)
        sys.set_int_max_str_digits(LONGEST_INTEGER_DIGITS)
        process = self._process
        application = build_app(
            process.repository,
            process.predictor,
            self._settings,
            VERSION,
            behind,
            behind_paths,
            self._authenticator,
            self._connections,
            self._bodies,
            self._control,
        )
        if self._settings.torchserve_port:
            self._second_port = SecondPort(
                application,
                self._settings.host,
                self._settings.torchserve_port,
                self._settings.drain_seconds,
                lambda: process.repository.closing,
            )
        return application

    async def start(self, gradcam: Any) -> None:
        """Read the keys, and begin to load the models in the background, to watch the clients, and to listen for gRPC.

        Args:
            gradcam: BentoML's client of the Grad-CAM process; None where explanations are switched off.
        """
        for warning in await asyncio.to_thread(self._warnings):
            logger.warning("%s", warning)
        sweeps = [self._bodies.sweep, self._connections.sweep]
        if self._redis is not None:
            await self._redis.start()
        if self._authenticator is not None:
            await asyncio.to_thread(self._authenticator.keys.start)
            sweeps.append(self._authenticator.keys.check_reading)
        self._ticking = asyncio.create_task(tick(*sweeps))
        process = self._process
        await process.start(gradcam)
        if self._settings.grpc_port:
            self._grpc = GrpcServer(
                process.repository,
                process.predictor,
                self._settings,
                VERSION,
                self._bodies,
                self._limits,
                self._authenticator,
                self._control,
            )
            await self._grpc.start()
        if self._second_port is not None:
            self._second_port.start()
        announcement = Announcement(
            process.repository, process.predictor.explainer, self._settings, VERSION, run_folder()
        )
        self._announcing = asyncio.create_task(announcement.make(self._addresses()))

    async def stop(self) -> None:
        """Drain within the time that the operator set, after which the process ends whatever is stuck."""
        if self._second_port is not None:
            await self._second_port.stop()
        if self._grpc is not None:
            await self._grpc.stop(self._settings.drain_seconds)
        for task in (self._ticking, self._announcing):
            if task is not None:
                task.cancel()
        if self._authenticator is not None:
            self._authenticator.keys.stop()
        await self._process.stop()
        if self._redis is not None:
            await self._redis.stop()

    def _addresses(self) -> dict[str, str]:
        """Return where the server answers, by the name of what answers there."""
        http, settings = http_address(self._settings), self._settings
        addresses = {"page": f"{http}/", "HTTP": http}
        if self._grpc is not None and self._grpc.address:
            addresses["gRPC"] = self._grpc.address
        if self._second_port is not None:
            addresses["second port"] = f"{http.rpartition(':')[0]}:{settings.torchserve_port}"
        return addresses

    def _warnings(self) -> list[str]:
        return warnings_of(self._settings) + file_warnings(self._settings.api_keys_file)


def _shared_redis(settings: Settings) -> "SharedRedis | None":
    """Return what asks Redis, or None where the settings name none."""
    if settings.redis_url is None:
        return None
    from serving.shared_redis import SharedRedis  # its library takes a while to import

    return SharedRedis(settings.redis_url.get_secret_value(), settings.redis_ms / 1000)


def check_serve_command(settings: Settings, served: ServedVersions, default_host: str) -> None:
    """Refuse a `bentoml serve` that would open the service to anyone, or serve two models of one name.

    Any other command passes.

    Args:
        settings: what the operator set.
        served: the models.
        default_host: where BentoML listens if the command names no host.

    Raises:
        click.ClickException: one sentence with the cure.
    """
    context = click.get_current_context(silent=True)
    if context is None or "host" not in context.params:  # a build, or a worker
        return
    has_own_ports = bool(settings.grpc_port or settings.torchserve_port)
    hosts = [context.params["host"] or default_host, *([settings.host] if has_own_ports else [])]
    try:
        check_listening(settings, *hosts)
        served.check()
    except (KeysError, StoreError) as error:
        raise click.ClickException(str(error)) from error
