"""The JSON in which the service and its models tell of themselves."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class ModelHealth(BaseModel):
    """One model's state: missing, loading, checking, ready, failed or draining; and why."""

    state: str
    version: str | None
    device: str | None
    detail: str


class Liveness(BaseModel):
    """What a process answers as long as it runs."""

    status: Literal["alive"] = "alive"


class Health(BaseModel):
    """The service as a whole; `status` is `healthy`, `starting`, `draining` or `degraded`, of readiness `ready`."""

    status: str
    detail: str
    device: str | None
    model_loaded: bool
    model_version: str | None
    uptime_seconds: float
    models: dict[str, ModelHealth] = Field(
        description="The models by name, and by name:version each further version, also one that failed to replace it."
    )
    explanations: dict[str, str] = Field(
        description="By the same names: `ready`, or the reason why there are no explanations now."
    )
    timestamp: str


class Stats(BaseModel):
    """What a model has done since the start; times are sums, in seconds."""

    model_config = ConfigDict(extra="allow")

    model: str
    version: str | None
    state: str
    model_loaded: bool
    device: str | None
    parameters: int | None
    load_seconds: float | None
    succeeded: int = 0
    failed: dict[str, int] = {}
    executions: int = 0
    inferences: int = Field(0, description="Pictures or rows that were computed.")
    mean_batch: float = 0.0
    queue_seconds: float = 0.0
    decode_seconds: float = 0.0
    infer_seconds: float = 0.0
    waited_seconds: float = Field(
        0.0,
        description="The inference time of all items, each with the time of its whole batch.",
    )
    mean_inference_time_ms: float = Field(0.0, description="The mean of what answers call `inference_time_ms`.")
    batches: dict[int, tuple[int, float]] = Field({}, description="By batch size: how many, and their seconds in all.")
    last_inference: float = Field(0.0, description="Unix time of the latest batch; 0 before the first.")
    waiting: int = 0
    running: int = 0
    evaluations: int = Field(
        0, description="Pictures or rows computed for explanations, which no counter above has; see `explain`, too."
    )
    evaluation_seconds: float = Field(0.0, description="The time that was spent on those.")
    expected_seconds: float = Field(
        0.0, description="How long an item that came now would wait for its turn; of several workers the longest."
    )
    item_seconds: float = Field(
        0.0, description="How long a lane takes for an item of usual size, as was measured; 0 before that."
    )
    gathered: bool = Field(
        False,
        description="Whether quick items run on the event loop, all of one of its turns together, without a lane.",
    )
    explain: dict[str, Any] | None = Field(
        None, description="The same counters for its explanations, while the Grad-CAM process answers."
    )


class ModelFacts(BaseModel):
    """A card, its measured quality, and what is installed of it."""

    model_config = ConfigDict(extra="allow")

    name: str
    title: str
    description: str
    metrics: dict[str, Any] = Field(description="Figures, with an interval under NAME_ci95; of what, and by stratum.")
    task: str
    architecture: str
    parameters: int | None
    labels: list[str]
    positive_label: str | None
    threshold: float | None
    temperature: float | None = Field(None, description="What logits are divided by before softmax.")
    head_activation: str | None = Field(None, description="The activation of the head, where the card says it.")
    assumed: list[str] = Field(
        [],
        description="Keys of the card whose values are usual ones, which nobody has confirmed for this model.",
        exclude_if=lambda assumed: not assumed,
    )
    outputs: list[dict[str, Any]] = Field(
        [], description="What a regressor answers: names and units.", exclude_if=lambda outputs: not outputs
    )
    input: dict[str, Any]
    limits: dict[str, Any]
    licence: str
    data: str
    warnings: list[str]
    state: str
    detail: str
    version: str | None
    variant: str | None = Field(description="Of the CPU's graph: fp32, the plain one; or fp16, int8, early-exit.")
    versions: list[str] = Field([], description="Those served, the one that the name alone means first.")
    service_version: str = Field(description="Vitrine's own.")
    sha256: dict[str, str]
    parity: dict[str, Any] = Field(description="What import measured of the served graph against its reference.")
    explain: dict[str, Any] | None = Field(
        description="Layer, methods, way, measured quality and cost of explanations; of rows their background; null "
        "where there are none."
    )
