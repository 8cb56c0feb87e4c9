"""Podman for the tests: a storage of its own, and a base image of Debian's packages, as no registry may be at hand.

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
from tests.live.server import free_ports

PACKAGES = "buildah podman runc netavark aardvark-dns iptables catatonit mmdebstrap"
INSTALL = f"apt-get install --no-install-recommends {PACKAGES}"
BASE = "localhost/python:3.11-slim"
"""Podman finds it before any registry's, so that the Dockerfiles name the base that they are shipped with."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitrine-tests"
"""Where the base and the layers stay between two runs of the tests."""
START_S = 300.0
COPY_BUSY = "sealing memfd copy: Device or resource busy"
"""An engine starts from a sealed copy of itself, which a kernel still holding its pages refuses to seal, for once."""

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
    """A running container: its id and where it answers."""

    podman: "Podman"
    id: str
    port: int
    grpc_port: int

    @property
    def url(self) -> str:
        """Its HTTP address."""
        return f"http://127.0.0.1:{self.port}"

    def logs(self) -> str:
        """What it has printed."""
        ran = subprocess.run(
            ["podman", "logs", self.id],
            env=os.environ | self.podman.running,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return ran.stdout

    def run(self, *command: str) -> str:
        """Run a command inside; gives what it printed."""
        return self.podman("exec", self.id, *command)

    def state(self) -> dict[str, object]:
        """Status, ExitCode, OOMKilled and so on."""
        found: dict[str, object] = json.loads(self.podman("inspect", "--format", "json", self.id))[0]["State"]
        return found

    def wait_ready(self) -> None:
        """Return once it is ready; fail with its log if it is not in time, or ends."""
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
        """Return its exit code once it has ended."""
        deadline = time.monotonic() + within_s
        while (state := self.state())["Status"] not in ("exited", "stopped"):
            assert time.monotonic() < deadline, f"still {state['Status']} after {within_s} s:\n{self.logs()}"
            time.sleep(0.2)
        return int(str(state["ExitCode"]))


class Podman:
    """`podman` with settings that work in a container, too; `building` and `running` are its variables."""

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
        volumes = [f"{here}:{there}:ro" for here, there in mounts.items()]
        (folder / "build.conf").write_text(CONFIGURATION.format(volumes=json.dumps(volumes)))
        (folder / "run.conf").write_text(CONFIGURATION.format(volumes=[]))
        common = {"CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"), "BUILDAH_ISOLATION": "chroot"}
        self.building = common | {"CONTAINERS_CONF": str(folder / "build.conf")}
        self.running = common | {"CONTAINERS_CONF": str(folder / "run.conf")}

    def __call__(self, *arguments: str, build: bool = False) -> str:
        """Run podman; gives what it printed."""
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
        given = [f"--env={key}={value}" for key, value in settings.items()]
        hardened = ["--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges"]
        name = self("run", "--detach", "--network=host", *hardened, *given, *options, image, *arguments).strip()
        try:
            yield Container(self, name, port, grpc_port)
        finally:
            self("rm", "--force", "--time=0", name)


def checked(*command: str, env: dict[str, str], cwd: Path = ROOT) -> str:
    """Run a command; gives what it printed, and fails with all of it. An engine that could not start is run again."""
    for _ in range(3):
        ran = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True)
        if COPY_BUSY not in ran.stderr:
            break
    assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def find_podman(folder: Path) -> Podman:
    """Podman with the base image; skips where it cannot be, unless this is CI, which has to."""
    missing = [each for each in ("podman", "buildah", "runc", "mmdebstrap") if not shutil.which(each)]
    if missing or os.geteuid():
        reason = f"needs {', '.join(missing)}: `{INSTALL}`" if missing else "runs containers with limits: needs root"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    podman = Podman(folder)
    if not podman("images", "--quiet", BASE).strip():
        make_base(podman)
    return podman


def make_base(podman: Podman) -> None:
    """The base image of the tests, from the sources that this machine's own packages come from."""
    folder = CACHE / "base"
    folder.mkdir(exist_ok=True)
    if not (folder / "rootfs.tar").exists():
        sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("debian.*")]
        listed = "\n".join(path.read_text() for path in sources if path.exists())
        part = folder / "part.tar"
        command = ["mmdebstrap", "--quiet", "--variant=minbase"]
        command += ["--include=usr-is-merged,ca-certificates,python3-venv,python3-pip"]  # usrmerge would bring Perl
        command += ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]
        command += [
            f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "man", "info", "locale")
        ]  # as slim
        ran = subprocess.run([*command, "bookworm", str(part), "-"], input=listed, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        part.rename(folder / "rootfs.tar")
    (folder / "Dockerfile").write_text(BASE_DOCKERFILE)
    podman("build", "--format=docker", "--timestamp=0", "--tag", BASE, str(folder), build=True)


def _index_settings() -> list[str]:
    """Which index pip asks on this machine, as lines of a pip.conf; a folder of its own is of no use in a build."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    found = []
    for line in said.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in ("index-url", "extra-index-url", "trusted-host") and "file:" not in value:
            found.append(f"{name} = {value.strip(chr(39))}")
    return found
