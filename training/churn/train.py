"""Train churn on synthetic customers and make its package: `python -m training.churn.train` (a minute on a CPU)."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import brier_score_loss, roc_auc_score
from torch import Tensor
from tqdm import tqdm

from export.onnx import export
from models.architectures.tabular import Mlp
from models.card import RowCard, read_card
from models.checkpoint import Checkpoint
from models.registry import package_of
from preprocessing.rows import transform_rows
from training import figures as quality
from training.churn import data
from training.report import conditions, write_report

PACKAGE = package_of("churn")


def tensors(card: RowCard, count: int, seed: int) -> tuple[Tensor, Tensor, data.Customers]:
    """Transformed rows (N, 6), labels (N,), and the customers they are of."""
    customers = data.draw(count, seed)
    return (
        torch.from_numpy(transform_rows(customers.features, card.input)),
        torch.from_numpy(customers.label),
        customers,
    )


def fit(card: RowCard, steps: int, seed: int) -> Mlp:
    """A trained network, in evaluation mode."""
    torch.manual_seed(seed)
    rows, labels, _ = tensors(card, 100_000, data.TRAIN)
    network = Mlp(len(card.input.features), card.hidden, len(card.labels))
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in tqdm(range(steps), desc="train", unit="step"):
        chosen = torch.randint(len(rows), (512,))
        loss = F.cross_entropy(network(rows[chosen]), labels[chosen])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return network.eval()


def figures(card: RowCard, network: Mlp, count: int) -> dict[str, Any]:
    """Quality on customers that training never saw, beside the best that anyone could do."""
    rows, labels, customers = tensors(card, count, data.TEST)
    with torch.inference_mode():
        scores = network(rows).softmax(1)[:, 1].double().numpy()
    truth = labels.numpy()
    return {
        "auc": round(quality.auc(truth, scores), 4),
        "auc_ci95": quality.interval(quality.auc, truth, scores, resamples=200),
        "best_possible_auc": round(float(roc_auc_score(truth, customers.chance)), 4),
        "brier": round(float(brier_score_loss(truth, scores)), 4),
        "ece": round(quality.expected_calibration_error(truth, scores), 4),
        "n": count,
        "positives": int(truth.sum()),
        "data": "synthetic customers",
    }


def goldens() -> list[tuple[str, bytes]]:
    """Four customers as a client would send them."""
    card = read_card(PACKAGE / "card.toml")
    if not isinstance(card, RowCard):
        raise TypeError("churn takes rows")
    names = [feature.name for feature in card.input.features]
    rows = np.round(data.draw(4, data.VALIDATE).features, 2).tolist()
    return [
        (f"{index}.json", json.dumps(dict(zip(names, row, strict=True))).encode()) for index, row in enumerate(rows)
    ]


@click.command()
@click.option("--steps", default=4000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--count", default=20_000, show_default=True, help="Customers in the report.")
@click.option("--out", default=PACKAGE, type=click.Path(path_type=Path, file_okay=False), help="Folder of the package.")
def train(steps: int, seed: int, count: int, out: Path) -> None:
    """Train, export behind the parity gate, and report."""
    card = read_card(PACKAGE / "card.toml")
    if not isinstance(card, RowCard):
        raise TypeError("churn takes rows")
    network = fit(card, steps, seed)
    parity = export(PACKAGE / "card.toml", Checkpoint(network.state_dict(), {}), goldens(), out)
    found = figures(card, network, count)
    write_report(
        out, found, conditions(f"python -m training.churn.train --steps {steps} --seed {seed} --count {count}")
    )
    click.echo(json.dumps(found, indent=1))
    click.echo(f"Largest difference of ONNX Runtime from PyTorch: {parity.largest_difference:.1e}")


if __name__ == "__main__":
    train()
