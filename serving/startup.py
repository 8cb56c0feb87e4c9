"""What a server's processes agree on before they serve: environment, shared folders, ports and logging."""

import logging
import os
import socket
import sys
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


def prepare_environment() -> None:
    """Set what BentoML, ONNX Runtime and the client of Prometheus read when they are imported."""
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


def prepare_supervisor(settings: Settings) -> None:
    """Prepare in the supervisor what its workers inherit: absolute paths, a free gRPC port, a shared folder.

    It will watch them, too.
    """
    if RUN_FOLDER not in os.environ:
        remove_stale_folders()
        os.environ[RUN_FOLDER] = temporary_folder("run")
    if SUPERVISOR not in os.environ:
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


def log_to_stdout(level: str) -> None:
    """Write the log, and the access log as bare lines, to the standard output of this process."""
    logger.setLevel(level.upper())
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    bare_lines = logging.StreamHandler(sys.stdout)
    bare_lines.setFormatter(logging.Formatter("%(message)s"))
    access_log = logging.getLogger("vitrine.access")
    access_log.addHandler(bare_lines)
    access_log.propagate = False


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
