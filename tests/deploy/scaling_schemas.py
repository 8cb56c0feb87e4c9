"""The fields that KEDA's and KubeRay's objects, and the rules of prometheus-adapter, may have.

Their schemas are on no package index that this project installs from, so they are written down here, from KEDA 2.17's
and KubeRay 1.6's references of the API and from prometheus-adapter's pkg/config/config.go. What is Kubernetes' own in
them is a `Template`, to be validated by its own schema.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Template = dict[str, Any]
"""A pod template or what else is Kubernetes' own, which is validated by its own schema."""


class Strict(BaseModel):
    """A mapping with no other fields, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class ScaleTargetRef(Strict):
    name: str
    kind: str = ""
    api_version: str = ""
    env_source_container_name: str = ""


class AuthenticationRef(Strict):
    name: str
    kind: str = ""


class PrometheusMetadata(Strict):
    """The fields of the scaler `prometheus`; each is a string."""

    server_address: str
    query: str
    threshold: Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")]
    activation_threshold: Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")] = "0"
    namespace: str = ""
    ignore_null_values: Literal["true", "false"] = "true"
    unsafe_ssl: Literal["true", "false"] = "false"


class Trigger(Strict):
    type: Literal["prometheus"]
    metadata: PrometheusMetadata
    name: str = ""
    metric_type: Literal["AverageValue", "Value", "Utilization"] = "AverageValue"
    use_cached_metrics: bool = False
    authentication_ref: AuthenticationRef | None = None


class AutoscalerConfig(Strict):
    name: str = ""
    behavior: Template = {}


class Advanced(Strict):
    horizontal_pod_autoscaler_config: AutoscalerConfig | None = None
    restore_to_original_replica_count: bool = False


class ScaledObject(Strict):
    scale_target_ref: ScaleTargetRef
    triggers: Annotated[list[Trigger], Field(min_length=1)]
    polling_interval: Annotated[int, Field(ge=1)] = 30
    cooldown_period: Annotated[int, Field(ge=0)] = 300
    initial_cooldown_period: Annotated[int, Field(ge=0)] = 0
    idle_replica_count: Annotated[int, Field(ge=0)] | None = None
    min_replica_count: Annotated[int, Field(ge=0)] = 0
    max_replica_count: Annotated[int, Field(ge=1)] = 100
    advanced: Advanced | None = None


class Group(Strict):
    """What head and workers of a Ray cluster have in common."""

    ray_start_params: dict[str, str]
    template: Template


class Workers(Group):
    group_name: str
    replicas: Annotated[int, Field(ge=0)]
    min_replicas: Annotated[int, Field(ge=0)]
    max_replicas: Annotated[int, Field(ge=1)]
    num_of_hosts: int = 1
    idle_timeout_seconds: int = 0
    suspend: bool = False


class Head(Group):
    enable_ingress: bool = False
    service_type: str = ""


class AuthOptions(Strict):
    mode: Literal["disabled", "token"]


class RayCluster(Strict):
    head_group_spec: Head
    worker_group_specs: list[Workers]
    ray_version: str
    enable_in_tree_autoscaling: bool = False
    auth_options: AuthOptions | None = None


class RayJob(Strict):
    entrypoint: str
    ray_cluster_spec: RayCluster
    backoff_limit: Annotated[int, Field(ge=0)] = 0
    shutdown_after_job_finishes: bool = False
    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] = 0
    active_deadline_seconds: Annotated[int, Field(ge=1)] | None = None
    submission_mode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] = "K8sJobMode"
    runtime_env: Annotated[str, Field(alias="runtimeEnvYAML")] = ""
    suspend: bool = False


class GroupResource(Strict):
    resource: str
    group: str = ""


class ResourceMapping(Strict):
    overrides: dict[str, GroupResource] = {}
    template: str = ""


class NameMapping(Strict):
    matches: str = ""
    as_: Annotated[str, Field(alias="as")]


class Rule(Strict):
    """`DiscoveryRule` of prometheus-adapter's pkg/config/config.go."""

    series_query: str
    resources: ResourceMapping
    name: NameMapping
    metrics_query: str
    series_filters: list[dict[Literal["is", "isNot"], str]] = []


class Rules(Strict):
    """`rules` in the values of the chart prometheus-adapter."""

    custom: list[Rule]
    default: bool = True
