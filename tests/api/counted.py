"""What the metrics of this process have counted."""

from runners.stats import metrics


def counted_requests(model: str, status: str = "") -> float:
    """Return how many requests were counted under a model, with any status or with one."""
    samples = (sample for metric in metrics().requests.collect() for sample in metric.samples)
    return sum(
        sample.value
        for sample in samples
        if sample.name.endswith("_total")
        and sample.labels["model"] == model
        and (not status or sample.labels["status"] == status)
    )
