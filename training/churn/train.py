"""Train churn on synthetic customers and write its package: `python -m training.churn.train` (a minute on a CPU)."""

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import brier_score_loss

from models.architectures.tabular import Mlp
from models.background import USUAL_ROWS
from models.card import RowCard
from preprocessing.row_transform import transform_rows
from training import metrics, tabular
from training.churn import data

NAME = "churn"


def fit(card: RowCard, steps: int, seed: int) -> Mlp:
    """Train a network on 100,000 customers, and return it in evaluation mode."""
    torch.manual_seed(seed)
    customers = data.draw(100_000, data.TRAIN)
    rows, labels = torch.from_numpy(transform_rows(customers.features, card.input)), torch.from_numpy(customers.label)
    network = Mlp(len(card.input.features), card.hidden, len(card.labels))
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-3)
    tabular.fit(
        network, optimiser, len(rows), steps, lambda batch: F.cross_entropy(network(rows[batch]), labels[batch])
    )
    return network


def measure(card: RowCard, network: Mlp, count: int) -> dict[str, Any]:
    """Measure a network on customers that training never saw, beside the best AUC that is possible for them."""
    customers = data.draw(count, data.TEST)
    with torch.inference_mode():
        logits = network(torch.from_numpy(transform_rows(customers.features, card.input)))
    scores = logits.softmax(1)[:, 1].double().numpy()
    return {
        "auc": round(metrics.auc(customers.label, scores), 4),
        "auc_ci95": metrics.bootstrap_interval(metrics.auc, customers.label, scores, resamples=200),
        "best_possible_auc": round(metrics.auc(customers.label, customers.chance), 4),
        "brier": round(float(brier_score_loss(customers.label, scores)), 4),
        "ece": round(metrics.expected_calibration_error(customers.label, scores), 4),
        "n": count,
        "positives": int(customers.label.sum()),
        "data": data.NAME,
    }


def goldens() -> list[tuple[str, bytes]]:
    """Return a file name and the JSON of four customers, as a client would send them."""
    rows = np.round(data.draw(4, data.VALIDATE).features, 2).tolist()
    return tabular.encode_goldens([dict(zip(data.FEATURES, row, strict=True)) for row in rows])


def background() -> list[dict[str, float]]:
    """Return the first of the customers that a network is trained on, with which explanations compare a customer."""
    rows = np.round(data.draw(100_000, data.TRAIN).features[:USUAL_ROWS], 2).tolist()
    return [dict(zip(data.FEATURES, row, strict=True)) for row in rows]


@click.command()
@tabular.training_options(NAME, steps=4000, counted="Customers in the report.")
def train(steps: int, seed: int, count: int, out: Path) -> None:
    """Train, export behind the parity check, and report."""
    card = tabular.read_row_card(NAME)
    network = fit(card, steps, seed)
    command = f"python -m training.churn.train --steps {steps} --seed {seed} --count {count}"
    tabular.write_package(NAME, network, goldens(), background(), measure(card, network, count), command, out)


if __name__ == "__main__":
    train()
