"""`vitrine serve`: check the settings and the ports, import the shipped models, and go on as `bentoml serve`."""

import errno
import logging
import os
import sys
from pathlib import Path

import click

from api.auth import check_listening
from api.keys import file_warnings
from errors import VitrineError
from serving.logs import write_log
from serving.startup import check_port_free, prepare_environment
from settings import Settings, load_settings, warnings_of

logger = logging.getLogger("vitrine")

HOME = Path(__file__).resolve().parent.parent
"""The folder of service.py, in which `bentoml serve` is started and a relative path in a setting begins,
but for VITRINE_MODELS_DIR in the environment."""


@click.command()
def serve() -> None:
    """Import the shipped models unless you brought other weights, then start the server; Ctrl-C stops it."""
    keep_models_dir()
    os.chdir(HOME)
    prepare_environment()
    settings = load_settings()
    check_listening(settings, settings.host)
    write_log(settings.log_format, settings.log_level)
    for warning in warnings_of(settings) + file_warnings(settings.api_keys_file):
        logger.warning("%s", warning)
    check_ports(settings)
    import_shipped(settings.models_dir)
    logger.info("Starting on http://%s:%d/ (Ctrl-C stops it)", settings.host, settings.port)
    from bentoml_cli.cli import cli

    # In this very process, which has imported BentoML already.
    sys.argv = ["bentoml", "serve", "--host", settings.host, "--port", str(settings.port)]
    cli()


def keep_models_dir() -> None:
    """Make VITRINE_MODELS_DIR absolute where the environment sets it: it begins where the command is typed."""
    if folder := os.environ.get("VITRINE_MODELS_DIR"):
        os.environ["VITRINE_MODELS_DIR"] = str(Path(folder).absolute())


def check_ports(settings: Settings) -> None:
    """Bind every port for a moment, so that one that is taken is found before models are loaded.

    Raises:
        click.ClickException: the server could not listen on one of them; the message says how to help it.
    """
    ports = {
        "VITRINE_PORT": settings.port,
        "VITRINE_GRPC_PORT": settings.grpc_port,
        "VITRINE_TORCHSERVE_PORT": settings.torchserve_port,
    }
    for variable, port in ports.items():
        if port == 0:
            continue
        neighbours = (port + 1, port + 2) if 1024 <= port < 65_533 else ()
        free = next(candidate for candidate in (*neighbours, 3002, 3003, 3004) if candidate not in ports.values())
        try:
            check_port_free(settings.host, port)
        except OSError as error:
            reason = f"VITRINE_HOST={settings.host} is no address of this machine ({error.strerror})."
            if error.errno == errno.EADDRINUSE:
                reason = f"Port {port} is taken: stop what listens there, or choose another with {variable}={free}."
            elif error.errno == errno.EACCES:
                reason = f"You may not listen on port {port}: choose another with {variable}={free}."
            raise click.ClickException(reason) from error


def import_shipped(own_folder: Path | None = None) -> list[str]:
    """Import the models that ship with weights, except where an operator's own weights are in service.

    Args:
        own_folder: the operator's own models; what is in service there is not imported.

    Returns:
        The names of the models that could not be imported; the log says why, and which damaged ones were repaired.
    """
    # BentoML takes a second to import, which no wrong setting should wait for.
    from export.explanation_cost import measure_cost
    from models import registry, served_versions, store
    from models.store_folder import StoreFolder

    failed, own_names = [], StoreFolder.own(own_folder).read_lock() if own_folder else {}
    for name in registry.bundled_cards():
        if name not in own_names and registry.has_weights(name) and not served_versions.serves_own_weights(name):
            before = dict(served_versions.served_tags()).get(name)
            try:
                stored, _ = store.import_package(registry.package_folder(name))
            except VitrineError as error:
                logger.warning("%s was not imported: %s", name, error)
                failed.append(name)
            else:
                if stored.version != before:
                    logger.info("Imported %s%s", stored.tag, f", in place of {before}" if before else "")
                    if problem := measure_cost(stored):
                        logger.warning("%s", problem)
    return failed
