"""Podman for the tests, with a storage and a base image of its own.

What this machine needs to reach its package indexes (certificates, a mirror) is mounted while images are built, and is
in none of them.
"""

import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.conftest import ROOT
from tests.deploy.rootfs import CACHE, Bootstrap
from tests.live.server import free_ports

INSTALL = (
    "apt-get install --no-install-recommends buildah podman runc netavark aardvark-dns iptables catatonit mmdebstrap"
)
BASE = "localhost/python:3.11-slim"
"""Podman finds it before any registry's, so that the Dockerfiles name the base that they are shipped with."""
START_S = 300.0
"""Seconds that a container may take to be ready, or to do what a test waits for."""
COPY_BUSY = "sealing memfd copy: Device or resource busy"
"""Error of an engine that could not start: the kernel could not seal the copy that it runs from, this one time."""

CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
volumes = {volumes}
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{cache}/storage"
runroot = "{cache}/run"
"""
BASE_DOCKERFILE = """\
FROM scratch
ADD rootfs.tar /
RUN rm -f /usr/lib/python3*/EXTERNALLY-MANAGED && ln -sf python3 /usr/bin/python
"""


@dataclass(frozen=True)
class Container:
    """A running container: its id, and the ports that it answers on."""

    podman: "Podman"
    id: str
    port: int
    grpc_port: int

    @property
    def url(self) -> str:
        """Its HTTP address."""
        return f"http://127.0.0.1:{self.port}"

    def logs(self) -> str:
        """Return what it has printed."""
        ran = subprocess.run(
            ["podman", "logs", self.id],
            env=os.environ | self.podman.running,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return ran.stdout

    def run(self, *command: str) -> str:
        """Run a command inside and return what it printed."""
        return self.podman("exec", self.id, *command)

    def state(self) -> dict[str, object]:
        """Return Status, ExitCode, OOMKilled and so on."""
        state: dict[str, object] = json.loads(self.podman("inspect", "--format", "json", self.id))[0]["State"]
        return state

    def wait_ready(self) -> None:
        """Return once it is ready; fail with its log if it ends, or is not ready in time."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                    return
            except (requests.ConnectionError, requests.Timeout):
                assert self.state()["Status"] == "running", self.logs()
            time.sleep(0.2)
        raise AssertionError(f"not ready in {START_S} s:\n{self.logs()}")

    def wait_ended(self, within_s: float) -> int:
        """Wait until it has ended, and return its exit code."""
        deadline = time.monotonic() + within_s
        while (state := self.state())["Status"] not in ("exited", "stopped"):
            assert time.monotonic() < deadline, f"still {state['Status']} after {within_s} s:\n{self.logs()}"
            time.sleep(0.2)
        return int(str(state["ExitCode"]))


class Podman:
    """The command `podman`, with settings that work inside a container; `building` and `running` are its variables."""

    def __init__(self, folder: Path) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        (folder / "storage.conf").write_text(STORAGE.format(cache=CACHE))
        certificates = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
        mounts = {certificates: "/etc/ssl/certs/ca-certificates.crt"} if certificates else {}
        (folder / "uv.toml").write_text("native-tls = true\n")
        mounts[str(folder / "uv.toml")] = "/etc/uv/uv.toml"
        (folder / "pip.conf").write_text("[global]\n" + "\n".join(_index_settings()))
        mounts[str(folder / "pip.conf")] = "/etc/pip.conf"
        volumes = [f"{source}:{target}:ro" for source, target in mounts.items()]
        (folder / "build.conf").write_text(CONFIGURATION.format(volumes=json.dumps(volumes)))
        (folder / "run.conf").write_text(CONFIGURATION.format(volumes=[]))
        common = {"CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"), "BUILDAH_ISOLATION": "chroot"}
        self.building = common | {"CONTAINERS_CONF": str(folder / "build.conf")}
        self.running = common | {"CONTAINERS_CONF": str(folder / "run.conf")}

    def __call__(self, *arguments: str, build: bool = False) -> str:
        """Run podman and return what it printed."""
        # Not in the repository: out of memory, a container's monitor leaves a file `oom` in its working folder.
        return checked("podman", *arguments, env=self.building if build else self.running, cwd=self.folder)

    @contextmanager
    def serving(
        self, image: str, *options: str, arguments: tuple[str, ...] = (), **settings: str
    ) -> Iterator[Container]:
        """Run an image on free ports of the host, with nothing but /tmp to write to, until the block ends."""
        port, grpc_port = free_ports(2)
        settings = {
            "VITRINE_PORT": str(port),
            "BENTOML_PORT": str(port),  # for an image of `bentoml containerize`
            "VITRINE_GRPC_PORT": str(grpc_port),
            "VITRINE_ALLOW_ANONYMOUS": "true",
        } | settings
        variables = [f"--env={key}={value}" for key, value in settings.items()]
        hardened = ["--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges"]
        name = self("run", "--detach", "--network=host", *hardened, *variables, *options, image, *arguments).strip()
        try:
            yield Container(self, name, port, grpc_port)
        finally:
            self("rm", "--force", "--time=0", name)


def checked(*command: str, env: dict[str, str], cwd: Path = ROOT) -> str:
    """Run a command and return what it printed, or fail with that. An engine that could not start is run again."""
    for _ in range(3):
        ran = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True)
        if COPY_BUSY not in ran.stderr:
            break
    assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def missing_programs() -> list[str]:
    """Return the names of the programs that images cannot be built or run without, and that are not here."""
    return [program for program in ("podman", "buildah", "runc", "mmdebstrap") if not shutil.which(program)]


def find_podman(folder: Path, bootstrap: Bootstrap | None) -> Podman:
    """Return Podman with the base image; skip the test where that cannot be, or fail it in CI.

    Args:
        folder: takes its settings.
        bootstrap: makes the root file system of the base image, if it is made already.
    """
    missing = missing_programs()
    if missing or os.geteuid():
        reason = f"needs {', '.join(missing)}: `{INSTALL}`" if missing else "runs containers with limits: needs root"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    podman = Podman(folder)
    if not podman("images", "--quiet", BASE).strip():
        rootfs = (bootstrap or Bootstrap()).wait()
        (rootfs.parent / "Dockerfile").write_text(BASE_DOCKERFILE)
        podman("build", "--format=docker", "--timestamp=0", "--tag", BASE, str(rootfs.parent), build=True)
    return podman


def _index_settings() -> list[str]:
    """Return the lines of a pip.conf that name this machine's package index; no build can reach a folder of it."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    settings = []
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in ("index-url", "extra-index-url", "trusted-host") and "file:" not in value:
            settings.append(f"{name} = {value.strip(chr(39))}")
    return settings
