"""The objects that `kubectl kustomize` renders from deploy/kubernetes, and the pods among them."""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
COMPONENTS = ("gradcam", "models-dir", "queue-seconds", "servicemonitor")
COMBINED = {"everything": COMPONENTS, "keda": ("keda",)}
"""Sets that are the overlay cpu with components; KEDA's takes the autoscaler away that others change."""
SETS = ("cpu", "cuda", "dev", "everything", "keda", "kserve")
"""The overlays and what is combined of them."""
JOBS = ("bulk", "bulk-ray")


def missing(what: str, cure: str) -> None:
    """Skip the test and say what would let it run; in CI fail it."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is missing. {cure}")


@cache
def kubectl() -> str:
    """Return the path of kubectl; Kubernetes 1.30 needs 1.29 or newer anyway."""
    path = shutil.which("kubectl")
    if path is None:
        missing("kubectl", "Install 1.29 or newer: https://kubernetes.io/docs/tasks/tools (Debian 12's is 1.20).")
    return str(path)


@cache
def rendered(name: str) -> tuple[dict[str, Any], ...]:
    """Return the objects of one of `SETS` or `JOBS`."""
    if name not in COMBINED:
        return _render(KUBERNETES / name if name in ("kserve", *JOBS) else KUBERNETES / "overlays" / name)
    with tempfile.TemporaryDirectory() as folder:
        near = Path(os.path.relpath(KUBERNETES, Path(folder).resolve()))
        kustomization = {
            "resources": [str(near / "overlays" / "cpu")],
            "components": [str(near / "components" / name) for name in COMBINED[name]],
            "images": [{"name": "vitrine", "newName": "registry.example.com/vitrine", "newTag": "1.2.3"}],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return _render(Path(folder))


def _render(folder: Path) -> tuple[dict[str, Any], ...]:
    ran = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr, ran.stderr  # warnings about deprecated fields
    return tuple(yaml.safe_load_all(ran.stdout))


def of_kind(name: str, kind: str) -> list[dict[str, Any]]:
    """Return the objects of one kind."""
    return [item for item in rendered(name) if item["kind"] == kind]


def named(name: str, kind: str, own: str) -> dict[str, Any]:
    """Return the object of one kind and name."""
    (only,) = [item for item in of_kind(name, kind) if item["metadata"]["name"] == own]
    return only


@dataclass(frozen=True)
class Pod:
    """A pod that would run: what makes it, its labels, its spec, and the environment of its one container."""

    owner: str
    labels: dict[str, str]
    spec: dict[str, Any]
    environment: dict[str, str]

    @property
    def container(self) -> dict[str, Any]:
        """The only container."""
        (only,) = self.spec["containers"]
        return dict(only)

    @property
    def ports(self) -> dict[str, int]:
        """The container's ports by name."""
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}


@cache
def pods(name: str) -> tuple[Pod, ...]:
    """Return the pods of one of `SETS`; KServe's is merged from predictor and runtime as KServe does it."""
    maps = {item["metadata"]["name"]: item["data"] for item in of_kind(name, "ConfigMap")}
    all_pods = []
    for deployment in of_kind(name, "Deployment"):
        template = deployment["spec"]["template"]
        (container,) = template["spec"]["containers"]
        sources = [maps[source["configMapRef"]["name"]] for source in container["envFrom"]]
        environment = {key: value for source in sources for key, value in source.items()}
        labels = template["metadata"]["labels"]
        all_pods.append(Pod(deployment["metadata"]["name"], labels, template["spec"], environment))
    for service in of_kind(name, "InferenceService"):
        (runtime,) = of_kind(name, "ServingRuntime")
        theirs = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "model"}
        spec = {key: value for key, value in service["spec"]["predictor"].items() if key not in theirs}
        spec |= {key: runtime["spec"][key] for key in ("containers", "volumes")}
        (container,) = spec["containers"]
        variables = {item["name"]: item["value"] for item in container["env"]}
        environment = {
            key: re.sub(r"\{\{ *\.Name *\}\}", service["metadata"]["name"], value) for key, value in variables.items()
        }
        all_pods.append(Pod(service["metadata"]["name"], {}, spec, environment))
    assert all_pods
    return tuple(all_pods)


def server(name: str) -> Pod:
    """Return the pod that answers clients."""
    return next(pod for pod in pods(name) if pod.owner != "vitrine-gradcam")
