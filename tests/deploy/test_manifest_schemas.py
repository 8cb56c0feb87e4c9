"""The manifests are valid by the schemas of Kubernetes and of KServe."""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.deploy.kustomize import JOBS, SETS, missing, of_kind, pods, rendered

VERSIONS = ("1.30", "1.37")
"""The oldest that knows `preStop.sleep` without a feature gate, and the newest whose schemas we have."""
CUSTOM = {"ServiceMonitor", "ServingRuntime", "InferenceService", "ScaledObject", "RayJob"}
"""Kinds that other projects define, which kubernetes-validate does not know."""
POD = {"apiVersion": "v1", "kind": "Pod"}


def validated(document: dict[str, Any], version: str) -> None:
    """Raise unless a document is valid; a field that Kubernetes does not know is an error."""
    try:
        import kubernetes_validate
    except ImportError:
        missing("kubernetes-validate", "Install it: pip install kubernetes-validate==1.37.0")
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SETS)
def test_every_object_is_what_kubernetes_knows(name: str, version: str) -> None:
    documents = [document for document in rendered(name) if document["kind"] not in CUSTOM]
    for pod in pods(name):  # KServe's too
        documents.append(POD | {"metadata": {"name": "pod"}, "spec": pod.spec})
    for document in documents:
        validated(document, version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", JOBS)
def test_every_job_is_what_kubernetes_knows(name: str, version: str) -> None:
    for document in rendered(name):
        if document["kind"] == "RayJob":
            cluster = document["spec"]["rayClusterSpec"]
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                template = group["template"]
                validated(POD | {"metadata": {"name": "pod"} | template["metadata"], "spec": template["spec"]}, version)
        else:
            validated(document, version)


def test_a_misspelt_field_would_be_found() -> None:
    (deployment,) = copy.deepcopy(of_kind("cpu", "Deployment"))
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(Exception, match="readynessProbe"):
        validated(deployment, VERSIONS[-1])


def test_kserves_own_classes_have_every_field_of_its_manifests(tmp_path: Path) -> None:
    assert kserve_problems(list(rendered("kserve")), tmp_path) == []
    misspelt = copy.deepcopy(list(rendered("kserve")))
    runtime = next(document for document in misspelt if document["kind"] == "ServingRuntime")["spec"]
    runtime["protocolVersion"] = runtime.pop("protocolVersions")
    runtime["containers"][0]["resources"]["limits"]["cpu"] = 4
    assert [problem.split(":")[0] for problem in kserve_problems(misspelt, tmp_path)] == [
        "ServingRuntime.spec.protocolVersion",
        "ServingRuntime.spec.containers[0].resources.limits.cpu",
    ]


def kserve_problems(documents: list[dict[str, Any]], folder: Path) -> list[str]:
    """Return what `kserve_schema.py` prints, run in the environment of KServe's client."""
    python = ROOT / ".venv-kserve" / "bin" / "python"
    if not python.exists():
        missing("KServe's client", "`make test` installs it.")
    (folder / "manifests.json").write_text(json.dumps(documents))
    command = [str(python), str(ROOT / "tests" / "deploy" / "kserve_schema.py"), str(folder / "manifests.json")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()
