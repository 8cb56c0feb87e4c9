"""What one worker serves, over HTTP and gRPC, from its start to its end."""

import logging
import sys
from collections.abc import Collection, Sequence
from typing import Any

import click
from starlette.types import ASGIApp

from api.app import build_app
from api.auth import authenticator_for, check_listening
from api.header_limit import limit_headers
from api.keys import file_warnings
from api.oip.grpc_server import GrpcServer
from errors import KeysError
from models.package import StoredModel
from serving.process import PredictionProcess
from settings import Settings, warnings_of

logger = logging.getLogger("vitrine")

VERSION = "0.1.0"

LONGEST_INTEGER_DIGITS = 640
"""The least that Python allows; to read a long number in JSON takes time by the square of its digits."""


class Server:
    """The models of one worker behind HTTP and gRPC.

    Args:
        settings: what the operator set.
        stored: the versions to serve.
    """

    def __init__(self, settings: Settings, stored: Sequence[StoredModel]) -> None:
        self._settings = settings
        self._process = PredictionProcess(settings, stored)
        self._authenticator = authenticator_for(settings)
        self._grpc: GrpcServer | None = None

    def application(self, behind: ASGIApp, behind_paths: Collection[str]) -> ASGIApp:
        """Return the ASGI application, with BentoML's behind it, which answers `behind_paths`."""
        limit_headers()
        sys.set_int_max_str_digits(LONGEST_INTEGER_DIGITS)
        process = self._process
        return build_app(
            process.repository,
            process.predictor,
            self._settings,
            VERSION,
            behind,
            behind_paths,
            self._authenticator,
        )

    async def start(self, gradcam: Any) -> None:
        """Begin to load the models in the background, and to listen for gRPC.

        Args:
            gradcam: BentoML's client of the Grad-CAM process; None where explanations are switched off.
        """
        for warning in warnings_of(self._settings) + file_warnings(self._settings.api_keys_file):
            logger.warning("%s", warning)
        process = self._process
        await process.start(gradcam)
        if self._settings.grpc_port:
            self._grpc = GrpcServer(process.repository, process.predictor, self._settings, VERSION, self._authenticator)
            await self._grpc.start()

    async def stop(self) -> None:
        """Drain within the time that the operator set, after which the process ends whatever is stuck."""
        if self._grpc is not None:
            await self._grpc.stop(self._settings.drain_seconds)
        await self._process.stop()


def check_serve_command(settings: Settings, default_host: str) -> None:
    """Refuse a `bentoml serve` that would open the service to anyone; any other command passes.

    Args:
        settings: what the operator set.
        default_host: where BentoML listens if the command names no host.

    Raises:
        click.ClickException: one sentence with the cure.
    """
    context = click.get_current_context(silent=True)
    if context is None or "host" not in context.params:  # a build, or a worker
        return
    hosts = [context.params["host"] or default_host, *([settings.host] if settings.grpc_port else [])]
    try:
        check_listening(settings, *hosts)
    except KeysError as error:
        raise click.ClickException(str(error)) from error
