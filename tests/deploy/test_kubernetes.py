"""The manifests: valid, and in agreement with the server, with each other, and with what was measured."""

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import generate_latest

from api.app import build_app
from models import registry
from models.card import read_card
from models.package import MANIFEST, StoredModel, files_of
from runners.plan import CoreShare
from runners.stats import metrics
from serving.loaded_model import RunnerOptions
from serving.repository import ServedModels
from settings import PREFIX, Settings
from tests.conftest import ROOT
from tests.deploy.kustomize import KUBERNETES, SETS, Pod, missing, of_kind, pods, rendered, server
from tests.tiny import tiny_package

VERSIONS = ("1.30", "1.37")
"""The oldest that knows `preStop.sleep` without a feature gate, and the newest whose schemas we have."""
CUSTOM = {"ServiceMonitor", "ServingRuntime", "InferenceService"}
"""Kinds that a cluster learns from others, which kubernetes-validate does not know."""
ALL_PODS = [pytest.param(each, id=f"{each}") for each in SETS]
OWN = ("cpu", "cuda", "dev", "everything")
"""The sets whose Service, NetworkPolicy and so on are ours; KServe makes its own."""
MIB = 2**20


def validated(document: dict[str, Any], version: str) -> None:
    """Raise unless it is valid; a field that Kubernetes does not know is an error."""
    try:
        import kubernetes_validate
    except ImportError:
        missing("kubernetes-validate", "Install it: pip install kubernetes-validate==1.37.0")
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SETS)
def test_every_object_is_what_kubernetes_knows(name: str, version: str) -> None:
    documents = [each for each in rendered(name) if each["kind"] not in CUSTOM]
    for pod in pods(name):  # KServe's too
        documents.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod.spec})
    for document in documents:
        validated(document, version)


def test_a_misspelt_field_would_be_found() -> None:
    (deployment,) = copy.deepcopy(of_kind("cpu", "Deployment"))
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(Exception, match="readynessProbe"):
        validated(deployment, VERSIONS[-1])


def test_kserves_own_classes_have_every_field_of_its_manifests(tmp_path: Path) -> None:
    assert kserve_problems(list(rendered("kserve")), tmp_path) == []
    wrong = copy.deepcopy(list(rendered("kserve")))
    runtime = next(each for each in wrong if each["kind"] == "ServingRuntime")["spec"]
    runtime["protocolVersion"] = runtime.pop("protocolVersions")
    runtime["containers"][0]["resources"]["limits"]["cpu"] = 4
    assert [each.split(":")[0] for each in kserve_problems(wrong, tmp_path)] == [
        "ServingRuntime.spec.protocolVersion",
        "ServingRuntime.spec.containers[0].resources.limits.cpu",
    ]


def kserve_problems(documents: list[dict[str, Any]], folder: Path) -> list[str]:
    """What `kserve_schema.py` finds, run where KServe's client is."""
    python = ROOT / ".venv-kserve" / "bin" / "python"
    if not python.exists():
        missing("KServe's client", "`make test` installs it.")
    (folder / "manifests.json").write_text(json.dumps(documents))
    command = [str(python), str(ROOT / "tests" / "deploy" / "kserve_schema.py"), str(folder / "manifests.json")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


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


def loading(folder: Path) -> tuple[ServedModels, TestClient]:
    """The real app over a model that has not been loaded."""
    package = tiny_package(folder / "tiny", "tiny")
    (package / MANIFEST).write_text(json.dumps({"version": "1a", "files": files_of(package)}))
    served = ServedModels([StoredModel(read_card(package / "card.toml"), "1a", package)], {}, "tiny", RunnerOptions())
    return served, TestClient(build_app(served, Settings(), "0"))


def probes(pod: Pod) -> dict[str, Any]:
    """The three of them."""
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
        read = Settings()
        ports = {"http": read.port} | ({"grpc": read.grpc_port} if read.grpc_port else {})
        ports_said = dict(zip(("http", "grpc"), pod.ports.values(), strict=False))
        assert ports_said == ports
        assert read.host == "0.0.0.0"
        for probe in probes(pod).values():
            assert probe["httpGet"]["port"] in ("http", read.port)
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
        assert kinds <= {"emptyDir", "secret"}
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


@pytest.mark.parametrize("name", OWN)
def test_whatever_points_at_pods_points_at_the_right_ones(name: str) -> None:
    by_owner = {pod.owner: pod for pod in pods(name)}
    for deployment in of_kind(name, "Deployment"):
        own = deployment["metadata"]["name"]
        assert selected(deployment["spec"]["selector"]["matchLabels"], name) == [own]
        for spread in by_owner[own].spec.get("topologySpreadConstraints", ()):
            assert selected(spread["labelSelector"]["matchLabels"], name) == [own]
    for kind, field in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        objects = {each["metadata"]["name"]: each["spec"][field]["matchLabels"] for each in of_kind(name, kind)}
        assert {key: selected(labels, name) for key, labels in objects.items()} == {own: [own] for own in by_owner}
    for service in of_kind(name, "Service"):
        own = service["metadata"]["name"].removesuffix("-pods")
        assert selected(service["spec"]["selector"], name) == [own]
        for port in service["spec"]["ports"]:
            assert by_owner[own].ports[port["targetPort"]] == port["port"]
    for scaler in of_kind(name, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        (scaled,) = [each for each in of_kind(name, target["kind"]) if each["metadata"]["name"] == target["name"]]
        assert scaled["apiVersion"] == target["apiVersion"]
        assert "replicas" not in scaled["spec"]  # an apply would set the scaler's number back
        assert "cpu" in by_owner[target["name"]].container["resources"]["requests"]


def selected(labels: dict[str, str], name: str) -> list[str]:
    """Whose pods have these labels."""
    return [pod.owner for pod in pods(name) if labels.items() <= pod.labels.items()]


@pytest.mark.parametrize("name", OWN)
def test_networks_are_closed_but_for_the_servers_ports(name: str) -> None:
    for policy in of_kind(name, "NetworkPolicy"):
        own = policy["metadata"]["name"]
        spec, pod = policy["spec"], next(each for each in pods(name) if each.owner == own)
        assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
        assert all(rule["from"] and rule["ports"] for rule in spec["ingress"])
        assert {port["port"] for rule in spec["ingress"] for port in rule["ports"]} == set(pod.ports.values())
        if own == "vitrine-gradcam":
            (rule,) = spec["ingress"]
            (source,) = rule["from"]
            assert selected(source["podSelector"]["matchLabels"], name) == ["vitrine"] and len(source) == 1
        out = [rule for rule in spec.get("egress", ()) if rule["ports"][0]["port"] != 53]
        assert len(out) == (name == "everything" and own == "vitrine")
        for rule in out:
            assert selected(rule["to"][0]["podSelector"]["matchLabels"], name) == ["vitrine-gradcam"]


def test_servers_ask_the_grad_cam_service_where_it_listens() -> None:
    url = server("everything").environment["VITRINE_EXPLAIN_URL"]
    (service,) = [each for each in of_kind("everything", "Service") if "gradcam" in each["metadata"]["name"]]
    (port,) = service["spec"]["ports"]
    assert url == f"http://{service['metadata']['name']}:{port['port']}"
    assert len({pod.container["image"] for pod in pods("everything")}) == 1
    assert "VITRINE_EXPLAIN_URL" not in server("cpu").environment


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


def test_the_queues_metric_is_made_from_one_that_the_server_exports() -> None:
    import yaml

    folder = KUBERNETES / "components" / "queue-seconds"
    (rule,) = yaml.safe_load((folder / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    (scaler,) = of_kind("everything", "HorizontalPodAutoscaler")
    asked = [each["pods"]["metric"]["name"] for each in scaler["spec"]["metrics"] if each["type"] == "Pods"]
    assert asked == [rule["name"]["as"]]
    metrics().queue.labels("any").observe(0.1)
    exported = set(re.findall(r"^(\w+)\{", generate_latest().decode(), re.MULTILINE))
    for query in (rule["seriesQuery"], rule["metricsQuery"]):
        assert set(re.findall(r"vitrine_\w+", query)) <= exported


@pytest.mark.parametrize("name", OWN)
def test_prometheus_is_sent_to_the_port_of_the_metrics(name: str) -> None:
    (deployment,) = [each for each in of_kind(name, "Deployment") if each["metadata"]["name"] == "vitrine"]
    said = deployment["spec"]["template"]["metadata"]["annotations"]
    assert int(said["prometheus.io/port"]) == server(name).ports["http"]
    for monitor in of_kind(name, "ServiceMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = [each for each in of_kind(name, "Service") if labels <= each["metadata"]["labels"].items()]
        ports = {port["name"] for port in service["spec"]["ports"]}
        for endpoint in monitor["spec"]["endpoints"]:
            assert endpoint["port"] in ports and endpoint["path"] == said["prometheus.io/path"] == "/metrics"


def test_a_kserve_service_serves_the_model_it_is_named_for() -> None:
    (service,) = of_kind("kserve", "InferenceService")
    (runtime,) = of_kind("kserve", "ServingRuntime")
    name = service["metadata"]["name"]
    assert name in registry.bundled() and registry.has_weights(name)
    environment = server("kserve").environment
    assert environment["VITRINE_MODELS"] == environment["VITRINE_DEFAULT_MODEL"] == name
    asked = service["spec"]["predictor"]["model"]
    assert asked["runtime"] == runtime["metadata"]["name"]
    assert asked["modelFormat"]["name"] in [each["name"] for each in runtime["spec"]["supportedModelFormats"]]
    assert asked["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert set(runtime["spec"]["protocolVersions"]) == {"v2", "grpc-v2"}
    # Only without Knative may a pod have two ports; the first becomes the Service's port 80.
    assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "RawDeployment"
    assert list(server("kserve").ports.values()) == [Settings().port, Settings().grpc_port]
