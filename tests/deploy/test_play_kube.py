"""The pod of the CPU overlay, really run: its user, its read-only root, its limits, its settings, its Secret.

Probes and Services have no effect in `podman play kube`, and its pods share the host's network here.
"""

import copy
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import SHIPPED
from tests.deploy.engine import START_S, Container, Podman
from tests.deploy.kustomize import rendered, server
from tests.live.server import free_ports, vitrine

PICTURE = (SHIPPED / "goldens" / "01-coronal-stone.png").read_bytes()
SECRET = "vitrine-keys"
NOT_PLAYED = ("ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle")
"""No ports can be published on the host's network, and podman 4 makes of a probe a `curl`, which the image lacks."""


@contextmanager
def playing(podman: Podman, image: str, folder: Path, keys: str) -> Iterator[Container]:
    """Run the pod of the CPU overlay with an image and a file of keys, on free ports, until the block ends."""
    port, grpc_port = free_ports(2)
    played: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": {"keys": keys}}
    ]
    for item in copy.deepcopy(rendered("cpu")):
        if item["kind"] == "ConfigMap":
            item["data"] |= {"VITRINE_PORT": str(port), "VITRINE_GRPC_PORT": str(grpc_port)}
            played.append(item)
        if item["kind"] == "Deployment":
            (container,) = item["spec"]["template"]["spec"]["containers"]
            for field in NOT_PLAYED:
                del container[field]
            container |= {"image": image, "imagePullPolicy": "Never"}
            played.append(item)
    # Podman 4.3 leaves stringData out and does not decode data, so the Secret's volume gets its file beforehand.
    clear(podman)
    podman("volume", "create", SECRET)
    mounted = podman("volume", "inspect", "--format={{.Mountpoint}}", SECRET).strip()
    (Path(mounted) / "keys").write_text(keys)
    file = folder / "played.yaml"
    file.write_text("\n---\n".join(map(json.dumps, played)))
    try:
        podman("play", "kube", "--network=host", str(file))
        yield Container(podman, "vitrine-pod-0-vitrine", port, grpc_port)
    finally:
        clear(podman)


def clear(podman: Podman) -> None:
    """Remove the pod and what it was given, also what a run that was cut off has left."""
    podman("pod", "rm", "--force", "--ignore", "--time=0", "vitrine-pod-0")
    for kind in ("volume", "secret"):
        if SECRET in podman(kind, "ls", "--format={{.Name}}").split():
            podman(kind, "rm", SECRET)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A key, and the file that it is let in by."""
    folder = tmp_path_factory.mktemp("keys")
    printed = vitrine(folder, "keys", "add", "test", "--file", folder / "keys")
    return printed.split()[0], (folder / "keys").read_text()


@pytest.fixture(scope="module")
def pod(
    podman: Podman, image: str, key: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    """The pod, ready to predict and to explain."""
    with playing(podman, image, tmp_path_factory.mktemp("pod"), key[1]) as running:
        running.wait_ready()
        deadline = time.monotonic() + START_S  # explanations come later: readiness does not wait for them
        while requests.get(f"{running.url}/health", timeout=10).json()["explanations"]["kidney-stone"] != "ready":
            assert time.monotonic() < deadline, running.logs()
            time.sleep(0.2)
        yield running


def test_it_predicts_and_explains_for_whoever_has_a_key(pod: Container, key: tuple[str, str]) -> None:
    with_key = {"Authorization": f"Bearer {key[0]}"}
    for path in ("/predict", "/explain"):
        assert requests.post(pod.url + path, data=PICTURE, timeout=60).status_code == 401
        answer = requests.post(pod.url + path, data=PICTURE, headers=with_key, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["prediction"] == "stone"
    for path in ("/livez", "/readyz", "/metrics"):  # the kubelet and Prometheus have none
        assert requests.get(pod.url + path, timeout=30).status_code == 200
    with grpc.insecure_channel(f"127.0.0.1:{pod.grpc_port}") as channel:
        checked = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert checked.status == health_pb2.HealthCheckResponse.SERVING


def test_it_is_confined_as_the_manifest_says(pod: Container) -> None:
    manifest = server("cpu")
    code = "import os; print(os.getuid(), os.getgid())"
    assert pod.run("python", "-c", code).split() == [str(manifest.spec["securityContext"]["runAsUser"])] * 2
    code = "import pathlib; pathlib.Path('/tmp/x').touch(); pathlib.Path('/app/x').touch()"
    with pytest.raises(AssertionError, match="Read-only file system: '/app/x'"):
        pod.run("python", "-c", code)
    status = dict(line.split(":", 1) for line in pod.run("cat", "/proc/1/status").splitlines())
    assert int(status["CapBnd"], 16) == 0 and status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2"


def test_lanes_are_planned_for_the_limit_and_not_for_the_machine(pod: Container) -> None:
    limits = server("cpu").container["resources"]["limits"]
    code = "import sys; sys.path.insert(0, '/app/bento/src'); import runners.cores as p; print(p.cgroup_quota())"
    assert float(pod.run("python", "-c", code)) == float(limits["cpu"])
    configured = json.loads(pod.podman("inspect", "--format", "json", pod.id))[0]["HostConfig"]
    assert configured["Memory"] == int(limits["memory"].removesuffix("Gi")) * 2**30


def test_it_ends_by_itself_when_it_is_told_to(pod: Container) -> None:
    grace = server("cpu").spec["terminationGracePeriodSeconds"]
    pod.podman("stop", f"--time={grace}", pod.id)  # SIGTERM, and SIGKILL after that time, which would show as 137
    assert pod.state()["ExitCode"] == 0, pod.logs()
