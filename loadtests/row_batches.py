"""Where the time of a batch of rows goes, step by step, without a server: `python -m loadtests.row_batches`."""

import json
import platform
import statistics
import time
from datetime import UTC, datetime
from itertools import pairwise

import click

from api.row_answers import row_answers
from backends.onnx import OnnxBackend
from loadtests.figures import random_rows
from models.card import as_row_card, read_card
from models.package import GRAPH
from models.registry import package_folder
from preprocessing.rows import check_rows
from serving.predictions import PredictionParameters, row_results

STEPS = ("parse", "check", "infer", "judge", "write")
COMMON = {"version": "0123456789abcdef", "device": "cpu", "inference_time_ms": 1.234, "request_id": "0" * 32}


@click.command()
@click.option("--rows", default=1000, show_default=True, help="Rows in the batch.")
@click.option("--runs", default=50, show_default=True, help="Runs, of which the median counts.")
def main(rows: int, runs: int) -> None:
    """Print the milliseconds of this thread's CPU that each step of a batch takes, for both bundled models of rows."""
    click.echo(f"{platform.machine()}, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}, {runs} runs")
    for name in ("churn", "machine-anomaly"):
        steps, size = measure(name, rows, runs)
        medians = {step: statistics.median(taken) for step, taken in steps.items()}
        listed = ", ".join(f"{step} {taken:.1f}" for step, taken in medians.items())
        click.echo(f"{name}, {rows:,} rows: {sum(medians.values()):.1f} ms ({listed}); {size:,} bytes answered")


def measure(name: str, rows: int, runs: int) -> tuple[dict[str, list[float]], int]:
    """Return the milliseconds of each step in each run, and the bytes of the answers."""
    card, steps, size = as_row_card(read_card(package_folder(name) / "card.toml")), dict[str, list[float]](), 0
    backend = OnnxBackend(package_folder(name) / GRAPH)
    common = COMMON | {"model": card.name, "warnings": list(card.warnings)}
    if card.task != "anomaly-detection":
        common["timestamp"] = "2026-01-15T08:30:00.000Z"
    body = json.dumps({"samples": random_rows(card, rows)}).encode()

    for _ in range(runs):
        times = [time.thread_time_ns()]
        sent = json.loads(body)["samples"]
        times.append(time.thread_time_ns())
        checked = check_rows(sent, card.input)
        times.append(time.thread_time_ns())
        outputs = backend.run(checked.tensor).logits
        times.append(time.thread_time_ns())
        results = row_results(card, outputs, PredictionParameters())
        times.append(time.thread_time_ns())
        texts = ",".join(row_answers(results, sent, card, common))
        times.append(time.thread_time_ns())
        size = len(texts.encode())
        for step, (start, end) in zip(STEPS, pairwise(times), strict=True):
            steps.setdefault(step, []).append((end - start) / 1e6)
    return steps, size


if __name__ == "__main__":
    main()
