"""What has been counted as Prometheus reads it: ours, Triton's names beside them, and OpenTelemetry's for HTTP."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import NamedTuple

import psutil
from prometheus_client import REGISTRY, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from runners.metrics import MODEL, OTEL_SECONDS
from runners.stats import PREDICT

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = Mapping[str, str]
Key = tuple[tuple[str, str], ...]
_OTEL_BOUNDS = frozenset(("+Inf", *(str(bound) for bound in OTEL_SECONDS)))
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_TRITON_REASONS = {
    "QueueFull": "REJECTED",
    "rejected": "REJECTED",
    "cancelled": "CANCELED",
    "InferenceFailed": "BACKEND",
}
"""Our reasons of failures in Triton's words; every other one is OTHER."""


class Family(NamedTuple):
    """One metric and its series.

    Attributes:
        name: as it is exported.
        type: `counter`, `gauge` or `histogram`.
        text: what it means.
        samples: the name, the labels and the value of each series.
    """

    name: str
    type: str
    text: str
    samples: Sequence[tuple[str, Labels, float]]


def counted_families() -> list[Family]:
    """Return what all processes of this server have counted; reads their files."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    metrics: Iterable[Metric] = REGISTRY.collect()
    if folder is not None:
        metrics = MultiProcessCollector.merge(_files(folder))  # type: ignore[no-untyped-call]
    return [_family(metric) for metric in metrics]


def exported(families: Iterable[Family]) -> list[Family]:
    """Return the families as they are exported, with those that follow from them."""
    by_name = {family.name: family for family in families}
    request = by_name.pop("vitrine_request_seconds", None)
    return [
        *(_requests(request) if request is not None else ()),
        *by_name.values(),
        *_triton(by_name),
    ]


def write_families(families: Iterable[Family]) -> bytes:
    """Return the families in Prometheus' text format."""
    lines = list[str]()
    for name, kind, text, samples in families:
        if samples:
            lines += [f"# HELP {name} {text.translate(_ESCAPES)}", f"# TYPE {name} {kind}"]
            lines += [f"{series}{_written(labels)} {_number(value)}" for series, labels, value in samples]
    return ("\n".join(lines) + "\n").encode()


def _files(folder: str) -> list[str]:
    """Return the files of all processes, without the gauges of those that have died."""
    files = glob(os.path.join(folder, "*.db"))
    return [file for file in files if not Path(file).name.startswith("gauge_") or _lives(file)]


def _lives(file: str) -> bool:
    return psutil.pid_exists(int(Path(file).stem.rpartition("_")[2]))


def _family(metric: Metric) -> Family:
    samples = [(sample.name, sample.labels, sample.value) for sample in metric.samples]
    samples = [sample for sample in samples if not sample[0].endswith("_created")]
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    return Family(name, metric.type, metric.documentation, samples)


def _summed(
    samples: Iterable[tuple[str, Labels, float]], renamed: Callable[[str, Labels], tuple[str, Labels] | None]
) -> list[tuple[str, Labels, float]]:
    """Return the sums of the samples that get the same name and labels; those that get none are left out."""
    sums = defaultdict[tuple[str, Key], float](float)
    for name, labels, value in samples:
        if (as_exported := renamed(name, labels)) is not None:
            sums[as_exported[0], tuple(as_exported[1].items())] += value
    return [(name, dict(labels), value) for (name, labels), value in sums.items()]


def _requests(counted: Family) -> list[Family]:
    """Return how long requests took by model and by OpenTelemetry's attributes, and how many there were."""

    def ours(name: str, labels: Labels) -> tuple[str, Labels]:
        return name, {key: value for key, value in labels.items() if key not in ("method", "protocol")}

    def totals(name: str, labels: Labels) -> tuple[str, Labels] | None:
        return ("vitrine_requests_total", ours(name, labels)[1]) if name.endswith("_count") else None

    def otel(name: str, labels: Labels) -> tuple[str, Labels] | None:
        if labels["protocol"] != "http" or labels.get("le", "+Inf") not in _OTEL_BOUNDS:
            return None
        attributes = {"http_request_method": labels["method"], "url_scheme": "http"}
        if labels["route"]:
            attributes["http_route"] = labels["route"]
        attributes["http_response_status_code"] = labels["status"]
        if labels["status"].startswith("5"):
            attributes["error_type"] = labels["status"]
        if "le" in labels:
            attributes["le"] = labels["le"]
        return name.replace("vitrine_request_seconds", "http_server_request_duration_seconds"), attributes

    samples = counted.samples
    text = "Duration of HTTP server requests."
    return [
        counted._replace(samples=_summed(samples, ours)),
        Family("vitrine_requests_total", "counter", "Requests that were answered.", _summed(samples, totals)),
        Family("http_server_request_duration_seconds", "histogram", text, _summed(samples, otel)),
    ]


def _triton(counted: Mapping[str, Family]) -> list[Family]:
    """Return Triton's metrics, which follow from ours: durations are in microseconds, an item is a request."""

    def total(name: str, text: str, *parts: str, scale: float = 1.0) -> Family:
        """Return the sum of some of our series for each model."""

        def of_model(series: str, labels: Labels) -> tuple[str, Labels] | None:
            is_part = series in parts and labels["runner"] == PREDICT
            return (name, {label: labels[label] for label in MODEL}) if is_part else None

        every = (sample for family in counted.values() if "vitrine_" in family.name for sample in family.samples)
        own = (sample for sample in every if sample[0] in parts)
        return Family(
            name, "counter", text, [(series, labels, value * scale) for series, labels, value in _summed(own, of_model)]
        )

    def failure(_: str, labels: Labels) -> tuple[str, Labels] | None:
        reason = _TRITON_REASONS.get(labels["reason"], "OTHER")
        series = "nv_inference_request_failure", {label: labels[label] for label in MODEL} | {"reason": reason}
        return series if labels["runner"] == PREDICT else None

    queue, decode, waited = "vitrine_queue_seconds_sum", "vitrine_decode_seconds_sum", "vitrine_waited_seconds_total"
    failures = counted.get("vitrine_failures_total")
    failed = _summed(failures.samples if failures else (), failure)
    return [
        total("nv_inference_request_success", "Inferences that succeeded.", "vitrine_queue_seconds_count"),
        Family("nv_inference_request_failure", "counter", "Inferences that failed.", failed),
        total("nv_inference_count", "Pictures or rows that were inferred.", "vitrine_batch_size_sum"),
        total("nv_inference_exec_count", "Batches that were inferred.", "vitrine_batch_size_count"),
        total("nv_inference_request_duration_us", "From queue to answer.", queue, decode, waited, scale=1e6),
        total("nv_inference_queue_duration_us", "Waiting for a lane.", queue, scale=1e6),
        total("nv_inference_compute_input_duration_us", "Decoding and transforming.", decode, scale=1e6),
        total("nv_inference_compute_infer_duration_us", "In the backend.", waited, scale=1e6),
        total("nv_inference_compute_output_duration_us", "Always 0: outputs are not copied.", queue, scale=0.0),
    ]


def _written(labels: Labels) -> str:
    pairs = (f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())
    return f"{{{','.join(pairs)}}}" if labels else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
