"""What the metrics of this process have counted."""

from runners.metrics import metrics, write_all


def counted_requests(model: str, status: str = "") -> float:
    """Return how many requests were counted under a model, with any status or with one."""
    write_all()
    samples = (sample for metric in metrics().request.collect() for sample in metric.samples)
    return sum(
        sample.value
        for sample in samples
        if sample.name.endswith("_count")
        and sample.labels["model"] == model
        and (not status or sample.labels["status"] == status)
    )
