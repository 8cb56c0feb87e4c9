"""The JSON that clients read."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from backends.base import AnsweredBy

Cost = Literal["one pass", "many predictions"]
"""What an explanation takes, beside a prediction."""


def timestamp() -> str:
    """Return the time now, in UTC, as ISO 8601 with milliseconds."""
    milliseconds = time.time_ns() // 1_000_000
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(1)
def _second(seconds: int) -> str:
    """Return a second since 1970 as ISO 8601; a thousand answers a second share it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


class TopLabel(BaseModel):
    """One of the most probable labels."""

    label: str
    probability: float


class RowPrediction(BaseModel):
    """What a classifier answers; `confidence` is the probability of the label given.

    Fields of a row that identify it, such as `machine_id`, are repeated as they were sent.
    """

    model_config = ConfigDict(extra="allow")

    model: str
    version: str
    prediction: str | int = Field(description="The label given; its index with label=index, or where the card says so.")
    predicted_class_id: int
    confidence: float
    probabilities: dict[str, float] = Field(description="By label, in label-index order.")
    top: list[TopLabel]
    threshold: float | None = None
    warnings: list[str]
    device: str
    inference_time_ms: float
    request_id: str
    timestamp: str


class Prediction(RowPrediction):
    """What an image classifier answers."""

    gradcam_heatmap: str | None = None
    explanation_error: str | None = Field(None, description="Why there is no heatmap though one was asked for.")
    answered_by: AnsweredBy | None = Field(
        None,
        description="The part of the network that gave the probabilities, where the model has an early exit.",
        exclude_if=lambda by: by is None,
    )
    filename: str | None = Field(
        None,
        description="Of the picture's file, if it was sent with one; at most 255 characters.",
        exclude_if=lambda name: name is None,
    )


class ExplanationFacts(BaseModel):
    """What was explained and how; a heatmap shows where the model looked, it does not outline a lesion."""

    method: str
    target: str = Field(description="The class that was explained.")
    target_class_id: int
    contrast: str | None = Field(
        None, description="The class that the target was set against.", exclude_if=lambda label: label is None
    )
    layer: str | None = Field(description="Whose activations the map is of; null with method=rise, which asks none.")
    output: str
    alpha: float | None = Field(description="Opacity of the overlay at its peak.")
    size: list[int] = Field(description="Width and height of the picture in pixels.")
    input_box: list[float] | None = Field(
        None,
        description="Left, top, right and bottom of the network's input, which the map covers, in pixels of the "
        "picture; only where that is not the whole picture. Padding lies outside of it.",
        exclude_if=lambda box: box is None,
    )
    map: list[list[float]] | None = Field(None, description="The map itself, row by row, with output=map.")
    peak: float | None = Field(
        None,
        description="Of rise: by how much seeing the map's peak raises the probability, or with `contrast` the "
        "logarithm of the ratio, above its mean over all masks.",
        exclude_if=lambda peak: peak is None,
    )
    standard_error: float | None = Field(
        None, description="Of `peak`, over other draws of the masks.", exclude_if=lambda error: error is None
    )
    cost: Cost = Field("one pass", description="What it takes: a prediction and the way back to the layer, or many.")
    evaluations: int | None = Field(
        None,
        description="Of rise: how many masked pictures the model computed, for all classes together.",
        exclude_if=lambda evaluations: evaluations is None,
    )
    time_ms: float = Field(description="The time of all of it: decoding, predictions, map and drawing.")


class ClassExplanation(ExplanationFacts):
    """The explanation of one of several classes, with its own heatmap."""

    gradcam_heatmap: str | None


class ExplainedPrediction(Prediction):
    """A prediction and its explanation; `gradcam_heatmap` is a PNG in base64, unless the map was asked for."""

    explanation: ExplanationFacts
    explanations: list[ClassExplanation] | None = Field(
        None,
        description="Of every class that was explained, in order, if several were asked for; `explanation` and "
        "`gradcam_heatmap` are those of the first.",
        exclude_if=lambda explanations: explanations is None,
    )


QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"


class Problem(BaseModel):
    """RFC 9457 problem details; `error` repeats the detail for clients of the Open Inference Protocol."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    error: str
    request_id: str


class QuotaProblem(Problem):
    """Problem details of a request that a quota of its key refuses, which they name."""

    violated_policies: list[str] = Field(serialization_alias="violated-policies")

    @classmethod
    def of(cls, problem: Problem, quota: str) -> "QuotaProblem":
        """Return a problem as that of a quota.

        Source: draft-ietf-httpapi-ratelimit-headers-10, which registers the type.
        """
        fields = problem.model_dump() | {"type": QUOTA_EXCEEDED, "title": "Quota Exceeded"}
        return cls(**fields, violated_policies=[quota])


class BatchError(BaseModel):
    """One item of a batch that got no prediction."""

    filename: str | None = None
    error: Problem


class BatchPrediction(Prediction):
    """One item of a batch that got its prediction."""

    filename: str | None = None


class ExplainedBatchPrediction(ExplainedPrediction, BatchPrediction):
    """One item of a batch that got its prediction and its explanation."""


class BatchAnswer(BaseModel):
    """An answer an item, in the order sent; `errors` counts those that failed."""

    model_config = ConfigDict(extra="allow")

    model: str
    version: str
    batch_size: int
    errors: int
    inference_time_ms: float
    predictions: Sequence[BatchPrediction | BatchError]


class ExplainedBatchAnswer(BatchAnswer):
    """An answer an item with its explanation, in the order sent; `errors` counts those that failed."""

    predictions: Sequence[ExplainedBatchPrediction | BatchError]


class AnomalyPrediction(BaseModel):
    """What a detector answers; what identifies the row (`machine_id`, `timestamp`) is repeated as it was sent."""

    model_config = ConfigDict(extra="allow")

    model: str
    version: str
    is_anomaly: bool
    anomaly_score: float = Field(description="Mean of the squared reconstruction errors.")
    threshold: float
    confidence: float = Field(description="min(|score - threshold| / threshold, 1)")
    contributions: dict[str, float] = Field(description="The squared error of each feature, in scaled units.")
    warnings: list[str]
    device: str
    inference_time_ms: float
    request_id: str


class Regression(BaseModel):
    """What a regressor answers; `prediction` is the value of a model that gives only one.

    Fields of a row that identify it are repeated as they were sent.
    """

    model_config = ConfigDict(extra="allow")

    model: str
    version: str
    prediction: float | None = Field(None, exclude_if=lambda value: value is None)
    values: dict[str, float] = Field(description="By name, in the order of the card's outputs.")
    units: dict[str, str] = Field(
        {}, description="The unit of each value whose card names one.", exclude_if=lambda units: not units
    )
    warnings: list[str]
    device: str
    inference_time_ms: float
    request_id: str
    timestamp: str


class RowError(BaseModel):
    """One row of a batch that got no prediction."""

    error: Problem


class RowBatchAnswer(BaseModel):
    """An answer a row, in the order sent; `errors` counts those that were wrong."""

    model_config = ConfigDict(extra="allow")

    model: str
    version: str
    batch_size: int
    total_samples: int
    errors: int
    inference_time_ms: float
    predictions: list[RowPrediction | Regression | AnomalyPrediction | RowError]


class ExplainedRowBatchAnswer(RowBatchAnswer):
    """An answer a row with its explanation, in the order sent; `errors` counts those that were wrong."""
