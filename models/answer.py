"""How a model's answers are written: further names for their fields, and the forms that other clients read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from preprocessing.row_spec import FeatureName, RowInput, RowLimits
from preprocessing.spec import Frozen, ImageInput, ImageLimits

LabelForm = Literal["name", "index"]
Source = Annotated[str, Field(pattern=r"^[^.]+(\.[^.]+)*$", max_length=200)]
Alias = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=60)]
Aliases = Mapping[Alias, Source | Mapping[Alias, Source]]
"""Further name → the field that it repeats, or an object of such. A part of a field is reached with dots, such as
`metrics.auc`; of a list, `count` is its length, and any other part is that of every entry."""

Tree = Mapping[str, Any]
"""The fields of an answer: a field's parts are a Tree, or a list of one; `...` stands for parts not known before."""

COUNT = "count"
_ORIGIN = ("model", "version", "warnings", "device", "inference_time_ms", "request_id")
_DETECTION = (*_ORIGIN, "is_anomaly", "anomaly_score", "threshold", "confidence")
_CLASSIFICATION = (*_ORIGIN, "prediction", "predicted_class_id", "confidence", "threshold", "timestamp")
_REGRESSION = (*_ORIGIN, "timestamp")
_PICTURE = (*_CLASSIFICATION, "gradcam_heatmap", "answered_by")
_SOMETIMES = ("gradcam_heatmap", "explanation", "explanation_error", "filename", "error")
"""Fields of some predictions, which nothing can repeat."""
_BATCH = ("model", "version", "batch_size", "errors", "inference_time_ms")
_MODEL = (
    *("name", "title", "description", "task", "architecture", "parameters", "labels", "positive_label", "threshold"),
    *("temperature", "head_activation", "assumed"),
    *("licence", "data", "warnings", "state", "detail", "version", "variant", "versions", "service_version"),
)
_STATS = (
    *("model", "version", "state", "model_loaded", "device", "parameters", "load_seconds", "succeeded", "executions"),
    *("inferences", "mean_batch", "queue_seconds", "decode_seconds", "infer_seconds", "waited_seconds"),
    *("mean_inference_time_ms", "last_inference", "waiting", "running"),
    *("evaluations", "evaluation_seconds", "expected_seconds", "item_seconds", "gathered"),
)


class OutputValue(Frozen):
    """One number that a regressor answers.

    Attributes:
        name: its key in the answer.
        unit: its unit, repeated in the answer.
        description: for documentation.
    """

    name: FeatureName
    unit: str = ""
    description: str = ""


class Answer(Frozen):
    """How the answers of a model are written.

    Attributes:
        label: whether `prediction` is a label's name or its index, where a request does not ask for either.
        batch: whether a batch is an object, whose `predictions` are its entries, or the list of these alone.
        also: further names in every prediction, those of a batch too.
        batch_also: further names in the object of a batch.
        model_also: further names in the answer about the model.
        stats_also: further names in its statistics.
    """

    label: LabelForm = "name"
    batch: Literal["object", "list"] = "object"
    also: Aliases = Field(default_factory=dict)
    batch_also: Aliases = Field(default_factory=dict)
    model_also: Aliases = Field(default_factory=dict)
    stats_also: Aliases = Field(default_factory=dict)


class ImageAnswer(Answer):
    """How the answers of a model of pictures are written.

    Attributes:
        heatmap: whether a prediction comes with a heatmap, where a request does not ask for or against it.
    """

    heatmap: bool = False


def value_at(value: Any, source: str) -> Any:
    """Return what stands at a source in an answer, None where there is nothing."""
    for key in source.split("."):
        if isinstance(value, BaseModel):
            value = vars(value).get(key)
        elif isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list | tuple):
            value = len(value) if key == COUNT else [value_at(entry, key) for entry in value]
        else:
            return None
    return value


def answer_fields(
    task: str,
    labels: Sequence[str],
    entry: ImageInput | RowInput,
    limits: ImageLimits | RowLimits,
    outputs: Sequence[OutputValue] = (),
) -> dict[str, Tree]:
    """Return the fields of each of a model's answers that may get further names, by the key of the card for these."""
    prediction: dict[str, Any]
    if isinstance(entry, RowInput) and task == "anomaly-detection":
        prediction = dict.fromkeys(_DETECTION)
        prediction["contributions"] = dict.fromkeys(feature.name for feature in entry.features)
    elif task == "tabular-regression":
        prediction = dict.fromkeys((*_REGRESSION, "prediction") if len(outputs) == 1 else _REGRESSION)
        prediction["values"] = dict.fromkeys(output.name for output in outputs)
        prediction["units"] = dict.fromkeys(output.name for output in outputs if output.unit)
    else:
        prediction = dict.fromkeys(_CLASSIFICATION if isinstance(entry, RowInput) else _PICTURE)
        prediction["probabilities"] = dict.fromkeys(labels) if labels else ...  # a graph brings its own labels
        prediction["top"] = [{"label": None, "probability": None}]
    batch: dict[str, Any] = dict.fromkeys((*_BATCH, "total_samples") if isinstance(entry, RowInput) else _BATCH)
    model: dict[str, Any] = dict.fromkeys(_MODEL) | dict.fromkeys(("sha256", "metrics", "parity", "explain"), ...)
    model["outputs"] = [output.model_dump() for output in outputs]
    stats: dict[str, Any] = dict.fromkeys(_STATS) | dict.fromkeys(("failed", "batches", "explain"), ...)
    return {
        "also": prediction,
        "batch_also": batch | {"predictions": [prediction]},
        "model_also": model | {"labels": labels, "input": entry.model_dump(), "limits": limits.model_dump()},
        "stats_also": stats,
    }


def check_answer(
    answer: Answer,
    task: str,
    labels: Sequence[str],
    entry: ImageInput | RowInput,
    limits: ImageLimits | RowLimits,
    outputs: Sequence[OutputValue] = (),
) -> None:
    """Check that the further names of a model's answers are free, and that they repeat what these answers have.

    Raises:
        ValueError: one is taken or repeats nothing; the message says what is allowed.
    """
    if answer.batch == "list" and answer.batch_also:
        raise ValueError("answer.batch_also: with batch = 'list' there is no object for further names")
    if answer.label == "index" and task in ("anomaly-detection", "tabular-regression"):
        answerer = "a detector" if task == "anomaly-detection" else "a regressor"
        raise ValueError(f"answer.label: {answerer} answers with no label; leave it out")
    identifiers = [identifier.name for identifier in entry.identifiers] if isinstance(entry, RowInput) else []
    sometimes = (*_SOMETIMES, "prediction") if outputs else _SOMETIMES  # which only a regressor of one value gives
    for section, fields in answer_fields(task, labels, entry, limits, outputs).items():
        taken = {*fields, *((*sometimes, *identifiers) if section == "also" else ())}
        for name, source in getattr(answer, section).items():
            if name in taken:
                names = ", ".join(sorted(taken))
                raise ValueError(f"answer.{section}: {name!r} is taken; choose a name other than {names}")
            for path in [source] if isinstance(source, str) else source.values():
                _check_source(f"answer.{section}.{name}", path, fields)


def _check_source(alias: str, source: str, fields: Tree) -> None:
    node: Any = fields
    for key in source.split("."):
        if node is ...:
            return
        if isinstance(node, list | tuple):
            if key == COUNT:
                node = None
                continue
            node = node[0] if node else None
        allowed: Iterable[str] = node if isinstance(node, Mapping) else ()
        if key not in allowed:
            listed = ", ".join(sorted(allowed)) or "nothing, for it has no parts"
            raise ValueError(f"{alias} = {source!r}: there is no {key!r}; allowed in its place: {listed}")
        node = node[key]
