"""What stands around the pods points at them: Services, policies, scalers, monitors, and KServe's own objects."""

import re

import pytest
import yaml
from prometheus_client import generate_latest

from models import registry
from runners.metrics import metrics
from settings import Settings
from tests.deploy.kustomize import KUBERNETES, named, of_kind, pods, server

OWN = ("cpu", "cuda", "dev", "everything", "keda")
"""The sets whose Service, NetworkPolicy and so on are ours; KServe makes its own."""


@pytest.mark.parametrize("name", OWN)
def test_whatever_points_at_pods_points_at_the_right_ones(name: str) -> None:
    by_owner = {pod.owner: pod for pod in pods(name)}
    for deployment in of_kind(name, "Deployment"):
        own = deployment["metadata"]["name"]
        assert selected(deployment["spec"]["selector"]["matchLabels"], name) == [own]
        for spread in by_owner[own].spec.get("topologySpreadConstraints", ()):
            assert selected(spread["labelSelector"]["matchLabels"], name) == [own]
    for kind, field in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        objects = {item["metadata"]["name"]: item["spec"][field]["matchLabels"] for item in of_kind(name, kind)}
        assert {key: selected(labels, name) for key, labels in objects.items()} == {own: [own] for own in by_owner}
    for service in of_kind(name, "Service"):
        own = service["metadata"]["name"].removesuffix("-pods")
        assert selected(service["spec"]["selector"], name) == [own]
        for port in service["spec"]["ports"]:
            assert by_owner[own].ports[port["targetPort"]] == port["port"]
    for scaler in of_kind(name, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        scaled = named(name, target["kind"], target["name"])
        assert scaled["apiVersion"] == target["apiVersion"]
        assert "replicas" not in scaled["spec"]  # an apply would set the scaler's number back
        assert "cpu" in by_owner[target["name"]].container["resources"]["requests"]


def selected(labels: dict[str, str], name: str) -> list[str]:
    """Return the owners of the pods that have these labels."""
    return [pod.owner for pod in pods(name) if labels.items() <= pod.labels.items()]


@pytest.mark.parametrize("name", OWN)
def test_networks_are_closed_but_for_the_servers_ports(name: str) -> None:
    for policy in of_kind(name, "NetworkPolicy"):
        own = policy["metadata"]["name"]
        spec, pod = policy["spec"], next(pod for pod in pods(name) if pod.owner == own)
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
    service = named("everything", "Service", "vitrine-gradcam")
    (port,) = service["spec"]["ports"]
    assert url == f"http://{service['metadata']['name']}:{port['port']}"
    assert len({pod.container["image"] for pod in pods("everything")}) == 1
    assert "VITRINE_EXPLAIN_URL" not in server("cpu").environment


def test_the_queues_metric_is_made_from_one_that_the_server_exports() -> None:
    folder = KUBERNETES / "components" / "queue-seconds"
    (rule,) = yaml.safe_load((folder / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    (scaler,) = of_kind("everything", "HorizontalPodAutoscaler")
    scaled_by = [metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods"]
    assert scaled_by == [rule["name"]["as"]]
    metrics().queue.labels("any", "1", "predict").observe(0.1)
    exported = set(re.findall(r"^(\w+)\{", generate_latest().decode(), re.MULTILINE))
    for query in (rule["seriesQuery"], rule["metricsQuery"]):
        assert set(re.findall(r"vitrine_\w+", query)) <= exported


@pytest.mark.parametrize("name", OWN)
def test_prometheus_is_sent_to_the_port_of_the_metrics(name: str) -> None:
    deployment = named(name, "Deployment", "vitrine")
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert int(annotations["prometheus.io/port"]) == server(name).ports["http"]
    for monitor in of_kind(name, "ServiceMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = [item for item in of_kind(name, "Service") if labels <= item["metadata"]["labels"].items()]
        ports = {port["name"] for port in service["spec"]["ports"]}
        for endpoint in monitor["spec"]["endpoints"]:
            assert endpoint["port"] in ports and endpoint["path"] == annotations["prometheus.io/path"] == "/metrics"


def test_a_kserve_service_serves_the_model_it_is_named_for() -> None:
    (service,) = of_kind("kserve", "InferenceService")
    (runtime,) = of_kind("kserve", "ServingRuntime")
    name = service["metadata"]["name"]
    assert name in registry.bundled_cards() and registry.has_weights(name)
    environment = server("kserve").environment
    assert environment["VITRINE_MODELS"] == environment["VITRINE_DEFAULT_MODEL"] == name
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in [known["name"] for known in runtime["spec"]["supportedModelFormats"]]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert set(runtime["spec"]["protocolVersions"]) == {"v2", "grpc-v2"}
    # Only without Knative may a pod have two ports; the first becomes the Service's port 80.
    assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "RawDeployment"
    assert list(server("kserve").ports.values()) == [Settings().port, Settings().grpc_port]
