"""What scales pods and runs jobs: KEDA's and KubeRay's objects, and the rule for the queue's metric."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from prometheus_client import generate_latest
from pydantic import ValidationError

from models import registry
from runners.metrics import metrics
from tests.conftest import ROOT
from tests.deploy.kustomize import JOBS, KUBERNETES, SETS, missing, named, of_kind, rendered, server
from tests.deploy.scaling_schemas import RayJob, Rules, ScaledObject
from tests.deploy.test_manifest_schemas import validated

RULE = KUBERNETES / "components" / "queue-seconds" / "prometheus-adapter.yaml"


def test_the_scaled_object_has_only_fields_that_keda_knows() -> None:
    (scaled,) = of_kind("keda", "ScaledObject")
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    ScaledObject.model_validate(scaled["spec"])
    # Its behaviour becomes that of a HorizontalPodAutoscaler.
    behaviour = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    target = {key: scaled["spec"]["scaleTargetRef"][key] for key in ("apiVersion", "kind", "name")}
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 1}},
    }
    spec = {"scaleTargetRef": target, "maxReplicas": 1, "metrics": [metric], "behavior": behaviour}
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "x"},
        "spec": spec,
    }
    validated(scaler, "1.37")
    for wrong in ({"minReplicas": 0}, {"pollingInterval": "15"}):
        with pytest.raises(ValidationError):
            ScaledObject.model_validate(scaled["spec"] | wrong)


def test_keda_scales_the_deployment_alone_and_by_metrics_that_exist() -> None:
    assert not of_kind("keda", "HorizontalPodAutoscaler")  # two would fight
    (scaled,) = of_kind("keda", "ScaledObject")
    target = scaled["spec"]["scaleTargetRef"]
    deployment = named("keda", target["kind"], target["name"])
    assert deployment["apiVersion"] == target["apiVersion"] and "replicas" not in deployment["spec"]
    queue, requests = (trigger["metadata"] for trigger in scaled["spec"]["triggers"])
    metrics().queue.labels("any", "1", "predict").observe(0.1)
    exported = set(re.findall(r"^(\w+)\{", generate_latest().decode(), re.MULTILINE))
    assert set(re.findall(r"vitrine_\w+", queue["query"])) <= exported
    assert queue["threshold"] == server("keda").container["resources"]["limits"]["cpu"]
    # tests/deploy/test_fleet.py looks whether HAProxy exports it.
    assert re.findall(r"(\w+)\{", requests["query"]) == ["haproxy_frontend_http_requests_total"]
    assert requests["activationThreshold"] == "0"


def test_the_ray_job_has_only_fields_that_kuberay_knows() -> None:
    (job,) = of_kind("bulk-ray", "RayJob")
    assert job["apiVersion"] == "ray.io/v1"
    known = RayJob.model_validate(job["spec"])
    for wrong in ({"entryPoint": "x"}, {"backoffLimit": "2"}):
        with pytest.raises(ValidationError):
            RayJob.model_validate(job["spec"] | wrong)
    locked = re.findall(r"(?m)^ray==(\S+)", (ROOT / "requirements" / "scale.txt").read_text())
    assert [known.ray_cluster_spec.ray_version] == locked
    assert known.ray_cluster_spec.auth_options and known.ray_cluster_spec.auth_options.mode == "token"


@pytest.mark.parametrize("name", JOBS)
def test_jobs_are_restricted_ask_for_whole_cores_and_run_the_image(name: str) -> None:
    for spec in pod_specs(name):
        own, (container,) = spec["securityContext"], spec["containers"]
        assert own["runAsNonRoot"] is True and own["runAsUser"] > 0
        assert own["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
        amounts = container["resources"]
        assert amounts["requests"] == amounts["limits"] and re.fullmatch("[1-9]", amounts["limits"]["cpu"])
        assert re.fullmatch(r"vitrine:[\w.-]+", container["image"]) and not container["image"].endswith("latest")
        assert container["workingDir"] == "/app/bento/src"  # where the image has the code
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in spec["volumes"]} == {"data", "tmp"}
    assert "COPY app /app" in (ROOT / "deploy" / "container" / "Dockerfile").read_text()


def pod_specs(name: str) -> list[dict[str, Any]]:
    """Return the specs of all pods that a job starts."""
    (job,) = rendered(name)
    if job["kind"] == "Job":
        return [job["spec"]["template"]["spec"]]
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("name", JOBS)
def test_a_job_goes_on_where_another_was_killed_with_a_model_that_ships(name: str) -> None:
    (job,) = rendered(name)
    words = shlex.split(job["spec"].get("entrypoint", ""))
    if not words:
        (container,) = pod_specs(name)[0]["containers"]
        words = [*container["command"], *container["args"]]
    assert words[:3] == ["python", "-m", "bulk"]
    model = words[words.index("--model") + 1]
    assert model in registry.bundled_cards() and registry.has_weights(model)
    assert "--resume" in words and job["spec"]["backoffLimit"] > 0
    assert ("--address" in words) == (job["kind"] == "RayJob")
    command = pytest.importorskip("bulk.command").score
    assert isinstance(command, click.Command)
    command.make_context("score", words[3:], resilient_parsing=False)


@pytest.mark.parametrize("name", [name for name in SETS if name not in ("cuda", "kserve")])
def test_a_roll_out_starts_a_pod_before_it_ends_one_and_a_node_takes_one_at_a_time(name: str) -> None:
    """As `make fleet` replaces replicas: no request is lost where capacity never falls."""
    for deployment in of_kind(name, "Deployment"):
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    for budget in of_kind(name, "PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] == 1


def test_the_rule_is_one_that_the_adapter_reads() -> None:
    rules = Rules.model_validate(yaml.safe_load(RULE.read_text())["rules"])
    (rule,) = rules.custom
    assert {label: resource.resource for label, resource in rule.resources.overrides.items()} == {
        "namespace": "namespace",
        "pod": "pod",
    }


def test_the_rule_gives_how_many_items_wait_in_each_pod(tmp_path: Path) -> None:
    """Prometheus computes it of made-up series: seconds waited that grow by 3 and by 6 a second over two models."""
    if not shutil.which("promtool"):
        missing("promtool", "Install Prometheus: apt-get install prometheus")
    (rule,) = yaml.safe_load(RULE.read_text())["rules"]["custom"]
    query = (
        rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="n",pod=~"a|b"').replace("<<.GroupBy>>", "pod")
    )
    assert "<<" not in query
    metric = re.findall(r"vitrine_\w+", query)[0]
    series = [
        {"series": f'{metric}{{namespace="{namespace}",pod="{pod}",model="{model}"}}', "values": f"0+{15 * rate}x20"}
        for namespace, pod, model, rate in (
            ("n", "a", "x", 1),
            ("n", "a", "y", 2),
            ("n", "b", "x", 6),
            ("o", "a", "x", 9),
        )
    ]
    samples = [{"labels": f'{{pod="{pod}"}}', "value": value} for pod, value in (("a", 3), ("b", 6))]
    expected = [{"expr": query, "eval_time": "4m", "exp_samples": samples}]
    file = tmp_path / "test.yaml"
    file.write_text(
        yaml.safe_dump({"tests": [{"interval": "15s", "input_series": series, "promql_expr_test": expected}]})
    )
    ran = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
