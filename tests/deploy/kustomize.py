"""What `kubectl kustomize` makes of deploy/kubernetes, and the pods in it."""

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
COMPONENTS = ("gradcam", "queue-seconds", "servicemonitor")
SETS = ("cpu", "cuda", "dev", "everything", "kserve")
"""The overlays; `everything` is cpu with every component."""


def missing(what: str, cure: str) -> None:
    """Skip the test, and say what would let it run; in CI it has to."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is missing. {cure}")


@cache
def kubectl() -> str:
    """Where kubectl is; Kubernetes 1.30 wants 1.29 or newer anyway."""
    found = shutil.which("kubectl")
    if found is None:
        missing("kubectl", "Install 1.29 or newer: https://kubernetes.io/docs/tasks/tools (Debian 12's is 1.20).")
    return str(found)


@cache
def rendered(name: str) -> tuple[dict[str, Any], ...]:
    """The objects of one of `SETS`."""
    if name != "everything":
        return _render(KUBERNETES / "kserve" if name == "kserve" else KUBERNETES / "overlays" / name)
    with tempfile.TemporaryDirectory() as folder:
        near = Path(os.path.relpath(KUBERNETES, Path(folder).resolve()))
        wanted = {
            "resources": [str(near / "overlays" / "cpu")],
            "components": [str(near / "components" / each) for each in COMPONENTS],
            "images": [{"name": "vitrine", "newName": "registry.example.com/vitrine", "newTag": "1.2.3"}],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
        return _render(Path(folder))


def _render(folder: Path) -> tuple[dict[str, Any], ...]:
    ran = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr, ran.stderr  # of deprecated fields
    return tuple(yaml.safe_load_all(ran.stdout))


def of_kind(name: str, kind: str) -> list[dict[str, Any]]:
    """The objects of one kind."""
    return [each for each in rendered(name) if each["kind"] == kind]


@dataclass(frozen=True)
class Pod:
    """A pod that would run: what makes it, its labels, its spec, and the environment of its one container."""

    owner: str
    labels: dict[str, str]
    spec: dict[str, Any]
    environment: dict[str, str]

    @property
    def container(self) -> dict[str, Any]:
        """The container."""
        (only,) = self.spec["containers"]
        return dict(only)

    @property
    def ports(self) -> dict[str, int]:
        """The container's ports by name."""
        return {each["name"]: each["containerPort"] for each in self.container["ports"]}


@cache
def pods(name: str) -> tuple[Pod, ...]:
    """The pods of one of `SETS`; KServe's is put together as KServe does, out of predictor and runtime."""
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(name, "ConfigMap")}
    found = []
    for deployment in of_kind(name, "Deployment"):
        template = deployment["spec"]["template"]
        (container,) = template["spec"]["containers"]
        sources = [maps[each["configMapRef"]["name"]] for each in container["envFrom"]]
        environment = {key: value for each in sources for key, value in each.items()}
        labels = template["metadata"]["labels"]
        found.append(Pod(deployment["metadata"]["name"], labels, template["spec"], environment))
    for service in of_kind(name, "InferenceService"):
        (runtime,) = of_kind(name, "ServingRuntime")
        theirs = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "model"}
        spec = {key: value for key, value in service["spec"]["predictor"].items() if key not in theirs}
        spec |= {key: runtime["spec"][key] for key in ("containers", "volumes")}
        (container,) = spec["containers"]
        named = {each["name"]: each["value"] for each in container["env"]}
        environment = {
            key: re.sub(r"\{\{ *\.Name *\}\}", service["metadata"]["name"], value) for key, value in named.items()
        }
        found.append(Pod(service["metadata"]["name"], {}, spec, environment))
    assert found
    return tuple(found)


def server(name: str) -> Pod:
    """The pod that answers clients."""
    return next(each for each in pods(name) if each.owner != "vitrine-gradcam")
