"""The pods of the manifests agree with the server, its settings, and what was measured."""

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import build_app
from runners.cores import CoreShare
from serving.options import RunnerOptions
from serving.predictor import Predictor
from serving.repository import ModelRepository
from settings import PREFIX, Settings
from tests.conftest import ROOT
from tests.deploy.kustomize import SETS, Pod, of_kind, pods, server
from tests.tiny import seal, tiny_package

MIB = 2**20


@pytest.mark.parametrize("name", SETS)
def test_probes_ask_for_what_the_server_answers_and_only_readiness_waits_for_models(name: str, tmp_path: Path) -> None:
    served, client = loading(tmp_path)
    for pod in pods(name):
        if pod.owner == "vitrine-gradcam":  # BentoML's own routes: tests/live/test_explain_apart.py
            assert {probe["httpGet"]["path"] for probe in probes(pod).values()} == {"/livez", "/readyz"}
            continue
        while_loading = {kind: client.get(probe["httpGet"]["path"]).status_code for kind, probe in probes(pod).items()}
        assert while_loading == {"startupProbe": 200, "readinessProbe": 503, "livenessProbe": 200}
    for model in served.every:
        model.load(RunnerOptions(), CoreShare(1))
    for probe in probes(server(name)).values():
        assert client.get(probe["httpGet"]["path"]).status_code == 200
    served.drain()
    while_draining = {
        kind: client.get(probe["httpGet"]["path"]).status_code for kind, probe in probes(server(name)).items()
    }
    assert while_draining["readinessProbe"] == 503 and while_draining["livenessProbe"] == 200
    assert served.close(5)


def loading(folder: Path) -> tuple[ModelRepository, TestClient]:
    """Return the real app over a model that has not been loaded."""
    served = ModelRepository([seal(tiny_package(folder / "tiny"))], RunnerOptions(), default="tiny")
    return served, TestClient(build_app(served, Predictor(30_000), Settings(), "0"))


def probes(pod: Pod) -> dict[str, Any]:
    """Return the three probes of a pod's container."""
    return {kind: pod.container[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}


@pytest.mark.parametrize("name", SETS)
def test_a_slow_start_and_a_busy_pod_are_given_their_time(name: str) -> None:
    for pod in pods(name):
        for kind, at_least_s in (("startupProbe", 300), ("livenessProbe", 60)):
            probe = probes(pod)[kind]
            assert probe["periodSeconds"] * probe["failureThreshold"] >= at_least_s
        for deployment in of_kind(name, "Deployment"):
            assert deployment["spec"]["progressDeadlineSeconds"] > 300


@pytest.mark.parametrize("name", SETS)
def test_every_variable_is_a_setting_and_every_value_allowed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for pod in pods(name):
        for variable, value in pod.environment.items():
            assert variable.startswith(PREFIX)
            assert variable.removeprefix(PREFIX).lower() in Settings.model_fields
            monkeypatch.setenv(variable, value)
        settings = Settings()
        ports = {"http": settings.port} | ({"grpc": settings.grpc_port} if settings.grpc_port else {})
        assert dict(zip(("http", "grpc"), pod.ports.values(), strict=False)) == ports
        assert settings.host == "0.0.0.0"
        for probe in probes(pod).values():
            assert probe["httpGet"]["port"] in ("http", settings.port)
        for variable in pod.environment:
            monkeypatch.delenv(variable)


@pytest.mark.parametrize("name", SETS)
def test_a_pod_drains_before_it_is_killed(name: str) -> None:
    for pod in pods(name):
        sleeps = pod.container["lifecycle"]["preStop"]["sleep"]["seconds"]
        drains = float(pod.environment["VITRINE_DRAIN_SECONDS"])
        assert sleeps >= 5  # kube-proxies and ingress controllers hear of it within a few seconds
        assert pod.spec["terminationGracePeriodSeconds"] >= sleeps + drains + 10
        longest_ms = Settings().explain_timeout_ms if pod.owner == "vitrine-gradcam" else Settings().timeout_ms
        assert drains > longest_ms / 1000  # nothing that was let in is cut off


@pytest.mark.parametrize("name", SETS)
def test_requests_are_limits_in_whole_cores_and_memory_is_above_what_was_measured(name: str) -> None:
    measured = re.search(
        r"^all models: .* (\d+) MiB proportional$", (ROOT / "docs" / "performance.md").read_text(), re.MULTILINE
    )
    assert measured
    for pod in pods(name):
        amounts = pod.container["resources"]
        assert amounts["requests"] == amounts["limits"]
        assert re.fullmatch("[1-9]", amounts["limits"]["cpu"])
        gib = re.fullmatch(r"(\d+)Gi", amounts["limits"]["memory"])
        assert gib
        # Each core's lane, and where explanations share the pod, theirs, may hold a decoded picture of 50 megapixels.
        pictures = 150 * 10**6 * int(amounts["limits"]["cpu"]) * (1 if name == "everything" else 2)
        assert int(gib[1]) * 1024 * MIB >= int(measured[1]) * MIB + pictures


@pytest.mark.parametrize("name", SETS)
def test_pods_are_restricted_as_the_pod_security_standard_has_it(name: str) -> None:
    for pod in pods(name):
        own, inside = pod.spec["securityContext"], pod.container["securityContext"]
        assert own["runAsNonRoot"] is True and own["runAsUser"] > 0 and own["runAsGroup"] > 0
        assert own["seccompProfile"] == {"type": "RuntimeDefault"}
        assert inside["allowPrivilegeEscalation"] is False and inside["readOnlyRootFilesystem"] is True
        assert inside["capabilities"] == {"drop": ["ALL"]}
        assert pod.spec["automountServiceAccountToken"] is False
        assert not pod.spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        kinds = {key for volume in pod.spec["volumes"] for key in volume if key != "name"}
        assert kinds <= {"emptyDir", "persistentVolumeClaim", "secret"}
        assert all(volume["emptyDir"]["sizeLimit"] for volume in pod.spec["volumes"] if "emptyDir" in volume)


@pytest.mark.parametrize("name", SETS)
def test_what_kubernetes_puts_into_the_environment_is_not_taken_for_settings(name: str) -> None:
    # For a Service `vitrine` every pod of the namespace would get VITRINE_PORT=tcp://10.…:3000.
    for pod in pods(name):
        assert pod.spec["enableServiceLinks"] is False


@pytest.mark.parametrize("name", SETS)
def test_keys_are_asked_for_except_in_development_and_behind_the_servers(name: str) -> None:
    for pod in pods(name):
        mounts = {mount["mountPath"]: mount["name"] for mount in pod.container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        assert set(mounts.values()) == set(volumes)
        file = pod.environment.get("VITRINE_API_KEYS_FILE")
        anonymous = pod.environment.get("VITRINE_ALLOW_ANONYMOUS") == "true"
        assert anonymous == (name == "dev" or pod.owner == "vitrine-gradcam") == (not file)
        if file:
            secret = volumes[mounts[str(Path(file).parent)]]["secret"]
            assert (secret["secretName"], Path(file).name) == ("vitrine-keys", "keys")
            # Root's, for the pod's group to read: 0440.
            assert secret["defaultMode"] == 0o440 and pod.spec["securityContext"]["fsGroup"] > 0


@pytest.mark.parametrize("name", SETS)
def test_images_have_a_tag_that_does_not_move(name: str) -> None:
    for pod in pods(name):
        assert re.fullmatch(r"(registry\.example\.com/)?vitrine:[\w.-]+", pod.container["image"])
        assert not pod.container["image"].endswith(":latest")


def test_the_gpu_overlay_asks_for_one_gpu_and_never_for_two_at_once() -> None:
    pod = server("cuda")
    assert pod.container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod.environment["VITRINE_DEVICE"] == "cuda" and pod.container["image"].endswith("-cuda")
    (deployment,) = of_kind("cuda", "Deployment")
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert not of_kind("cuda", "HorizontalPodAutoscaler")


def test_models_of_ones_own_are_read_from_one_volume_in_servers_and_grad_cam_pods() -> None:
    for pod in pods("everything"):
        (volume,) = [volume for volume in pod.spec["volumes"] if "persistentVolumeClaim" in volume]
        (mount,) = [mount for mount in pod.container["volumeMounts"] if mount["name"] == volume["name"]]
        assert volume["persistentVolumeClaim"] == {"claimName": "vitrine-models", "readOnly": True}
        assert pod.container["env"] == [{"name": f"{PREFIX}MODELS_DIR", "value": mount["mountPath"]}]
    assert {pod.owner for pod in pods("everything")} == {"vitrine", "vitrine-gradcam"}
