"""Train machine-anomaly on healthy readings and write its package: `python -m training.machine_anomaly.train`."""

from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch

from models.architectures.tabular import Autoencoder
from models.background import USUAL_ROWS
from models.card import RowCard
from preprocessing.row_transform import transform_rows
from training import metrics, tabular
from training.machine_anomaly import data

NAME = "machine-anomaly"
FALSE_POSITIVE_RATE = 0.01
"""Share of the healthy readings that may lie above the card's threshold."""


def fit(card: RowCard, steps: int, seed: int) -> Autoencoder:
    """Train a network on 50,000 healthy readings, and return it in evaluation mode."""
    torch.manual_seed(seed)
    rows = torch.from_numpy(transform_rows(data.healthy(50_000, data.TRAIN), card.input))
    network = Autoencoder(len(card.input.features), card.hidden)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    tabular.fit(network, optimiser, len(rows), steps, lambda batch: network(rows[batch]).mean())
    return network


def anomaly_scores(card: RowCard, network: Autoencoder, readings: data.Readings) -> npt.NDArray[np.float64]:
    """Return the mean squared error of each reading, shape (N,)."""
    with torch.inference_mode():
        errors = network(torch.from_numpy(transform_rows(readings, card.input))).double().numpy()
    return np.asarray(errors.mean(axis=1))


def measure(card: RowCard, network: Autoencoder, count: int) -> dict[str, Any]:
    """Measure a network on readings that training never saw, over all faults and for each of them."""
    threshold = card.threshold or 0.0
    healthy = anomaly_scores(card, network, data.healthy(count, data.TEST))
    by_fault = {
        fault: anomaly_scores(card, network, data.faulty(count // 4, data.TEST, fault)) for fault in data.FAULTS
    }
    faulty = np.concatenate(list(by_fault.values()))
    labels = np.repeat([0, 1], [len(healthy), len(faulty)])
    return {
        "auc": round(metrics.auc(labels, np.concatenate([healthy, faulty])), 4),
        "false_positive_rate": round(float((healthy > threshold).mean()), 4),
        "wanted_false_positive_rate": FALSE_POSITIVE_RATE,
        "detected": round(float((faulty > threshold).mean()), 4),
        **{f"detected, {fault}": round(float((scores > threshold).mean()), 4) for fault, scores in by_fault.items()},
        "threshold": threshold,
        "n": len(labels),
        "data": data.NAME,
    }


def goldens() -> list[tuple[str, bytes]]:
    """Return a file name and the JSON of a healthy reading and of one with each fault, as a client would send them."""
    readings = [data.healthy(1, data.THRESHOLD), *(data.faulty(1, data.THRESHOLD, fault) for fault in data.FAULTS)]
    rows: list[dict[str, object]] = []
    for index, reading in enumerate(readings):
        values = dict(zip(data.FEATURES, np.round(reading[0], 3).tolist(), strict=True))
        rows.append({**values, "timestamp": f"2026-01-15T08:3{index}:00Z", "machine_id": f"press-0{index}"})
    return tabular.encode_goldens(rows)


def background() -> list[dict[str, float]]:
    """Return the first of the readings that a network is trained on, with which explanations compare a reading."""
    rows = np.round(data.healthy(50_000, data.TRAIN)[:USUAL_ROWS], 3).tolist()
    return [dict(zip(data.FEATURES, row, strict=True)) for row in rows]


@click.command()
@tabular.training_options(NAME, steps=6000, counted="Healthy readings in the report, and as many faulty.")
def train(steps: int, seed: int, count: int, out: Path) -> None:
    """Train, export behind the parity check, and report; prints the threshold that the card should have."""
    card = tabular.read_row_card(NAME)
    network = fit(card, steps, seed)
    healthy = anomaly_scores(card, network, data.healthy(100_000, data.THRESHOLD))
    threshold = np.quantile(healthy, 1 - FALSE_POSITIVE_RATE)
    click.echo(f"Threshold for a false-positive rate of {FALSE_POSITIVE_RATE:g}: {threshold:.4f}")
    command = f"python -m training.machine_anomaly.train --steps {steps} --seed {seed} --count {count}"
    tabular.write_package(NAME, network, goldens(), background(), measure(card, network, count), command, out)


if __name__ == "__main__":
    train()
