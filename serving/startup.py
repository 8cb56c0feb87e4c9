"""What a server's processes agree on before they serve: environment, shared folders, ports and logging."""

import logging
import os
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from serving.forking import fork_processes
from serving.heartbeat import SUPERVISOR
from serving.supervisor import watch_processes
from serving.temporary import OTHERS, has_room, remove_stale_folders, temporary_folder
from settings import Settings, load_settings

logger = logging.getLogger("vitrine")

METRICS_BYTES = 8 * 2**20
"""How much the files of metrics of one process may take, which begin with a megabyte each."""
RUN_FOLDER = "_VITRINE_RUN"
"""The variable in which the supervisor tells the server's processes the folder that they share while it runs."""

STARTED = "_VITRINE_STARTED"
"""The variable in which the supervisor tells the server's processes when it started, by the monotonic clock."""


def prepare_environment() -> None:
    """Set what BentoML, ONNX Runtime and the client of Prometheus read when they are imported."""
    os.environ.setdefault(STARTED, str(time.monotonic()))
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its official builds report to Microsoft unless this is set
    os.environ.pop("BENTOML_CONTAINERIZED", None)  # BentoML's images set it, and then a dead worker stays dead
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        # BentoML keeps one folder for all servers of a store, and each that starts wipes the counters of the others.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = temporary_folder("metrics")
    elif SUPERVISOR in os.environ:
        _keep_metrics_where_there_is_room()


def _keep_metrics_where_there_is_room() -> None:
    """Have this process count elsewhere if the disk of the folder of metrics is full.

    Prometheus's client maps its files into memory, and to write to one of them on a full disk ends the process at once.
    """
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    if has_room(folder, METRICS_BYTES):
        return
    other = next((parent for parent in OTHERS if has_room(parent, METRICS_BYTES)), None)
    if other is None:
        logger.error("there is no room for metrics in %s, %s or %s", folder, *OTHERS)
        return
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = temporary_folder("metrics", other)
    logger.error("%s is full: this process counts from zero, in %s", folder, os.environ["PROMETHEUS_MULTIPROC_DIR"])


def seconds_since_start() -> float:
    """Return for how long the server has been running, its supervisor included; the clock is the whole machine's."""
    return time.monotonic() - float(os.environ.get(STARTED, time.monotonic()))


def is_serving() -> bool:
    """Return whether this is a process of a server, and not a build or a test that imports its services."""
    return SUPERVISOR in os.environ or "serve" in sys.argv[1:]


def prepare_supervisor(settings: Settings, problems: Iterable[str] = ()) -> None:
    """Prepare in the supervisor what its workers inherit: absolute paths, a free gRPC port, a shared folder.

    It will watch them, too, and logs `problems` once for all of them.
    """
    if RUN_FOLDER not in os.environ:
        remove_stale_folders()
        os.environ[RUN_FOLDER] = temporary_folder("run")
    if SUPERVISOR not in os.environ:
        for problem in problems:
            logger.error("%s", problem)
        watch_processes(run_folder(), settings.hang_seconds)
        if "--reload" not in sys.argv:  # what is forked has the code that was imported before somebody changed it
            fork_processes(forget=load_settings.cache_clear)
        if settings.api_keys_file is not None:  # the workers start in another folder
            os.environ["VITRINE_API_KEYS_FILE"] = str(settings.api_keys_file)
        if settings.models_dir is not None:
            os.environ["VITRINE_MODELS_DIR"] = str(settings.models_dir)
        if settings.grpc_port and sys.argv[1:2] == ["serve"]:
            _turn_grpc_off_if_taken(settings.host, settings.grpc_port)


def run_folder() -> Path:
    """Return the folder that a server's processes share, which `prepare_supervisor` made; else a new one."""
    return Path(os.environ.get(RUN_FOLDER) or temporary_folder("run"))


def check_port_free(host: str, port: int) -> None:
    """Return if a server can listen on a port; to be asked before any worker listens.

    The workers of one service share a port, and so would, silently, those of two services.

    Raises:
        OSError: the port is taken or forbidden, or the host is no address of this machine.
    """
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _turn_grpc_off_if_taken(host: str, port: int) -> None:
    try:
        check_port_free(host, port)
    except OSError as error:
        message = "gRPC is off: port %d of %s cannot be had (%s). Choose another with VITRINE_GRPC_PORT."
        logger.error(message, port, host, error.strerror)
        os.environ["VITRINE_GRPC_PORT"] = "0"
