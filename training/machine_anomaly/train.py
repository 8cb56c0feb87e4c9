"""Train machine-anomaly on healthy readings and make its package: `python -m training.machine_anomaly.train`."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from export.onnx import export
from models.architectures.tabular import Autoencoder
from models.card import RowCard, read_card
from models.checkpoint import Checkpoint
from models.registry import package_of
from preprocessing.rows import transform_rows
from training.machine_anomaly import data
from training.report import conditions, write_report

PACKAGE = package_of("machine-anomaly")
FALSE_POSITIVE_RATE = 0.01
"""Share of healthy readings that the card's threshold is chosen to call anomalous."""


def fit(card: RowCard, steps: int, seed: int) -> Autoencoder:
    """A network trained on healthy readings alone, in evaluation mode."""
    torch.manual_seed(seed)
    rows = torch.from_numpy(transform_rows(data.healthy(50_000, data.TRAIN), card.input))
    network = Autoencoder(len(card.input.features), card.hidden)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    for _ in tqdm(range(steps), desc="train", unit="step"):
        loss = network(rows[torch.randint(len(rows), (512,))]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def scores(card: RowCard, network: Autoencoder, readings: data.Readings) -> npt.NDArray[np.float64]:
    """Mean squared error of each reading, (N,)."""
    with torch.inference_mode():
        errors = network(torch.from_numpy(transform_rows(readings, card.input))).double().numpy()
    return np.asarray(errors.mean(axis=1))


def figures(card: RowCard, network: Autoencoder, count: int) -> dict[str, Any]:
    """Quality on readings that training never saw; a fault's own rate beside the whole."""
    threshold = card.threshold or 0.0
    well = scores(card, network, data.healthy(count, data.TEST))
    ill = {fault: scores(card, network, data.faulty(count // 4, data.TEST, fault)) for fault in data.FAULTS}
    every = np.concatenate(list(ill.values()))
    labels = np.repeat([0, 1], [len(well), len(every)])
    return {
        "auc": round(float(roc_auc_score(labels, np.concatenate([well, every]))), 4),
        "false_positive_rate": round(float((well > threshold).mean()), 4),
        "wanted_false_positive_rate": FALSE_POSITIVE_RATE,
        "detected": round(float((every > threshold).mean()), 4),
        **{f"detected, {fault}": round(float((found > threshold).mean()), 4) for fault, found in ill.items()},
        "threshold": threshold,
        "n": len(labels),
        "data": "synthetic sensors",
    }


def goldens() -> list[tuple[str, bytes]]:
    """A healthy reading and one of each fault, as a client would send them."""
    rows = [data.healthy(1, data.THRESHOLD), *(data.faulty(1, data.THRESHOLD, fault) for fault in data.FAULTS)]
    names, said = ("temperature", "vibration", "pressure", "power"), []
    for index, row in enumerate(rows):
        values = dict(zip(names, np.round(row[0], 3).tolist(), strict=True))
        about = {"timestamp": f"2026-01-15T08:3{index}:00Z", "machine_id": f"press-0{index}"}
        said.append((f"{index}.json", json.dumps(values | about).encode()))
    return said


@click.command()
@click.option("--steps", default=6000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--count", default=20_000, show_default=True, help="Healthy readings in the report, and as many faulty.")
@click.option("--out", default=PACKAGE, type=click.Path(path_type=Path, file_okay=False), help="Folder of the package.")
def train(steps: int, seed: int, count: int, out: Path) -> None:
    """Train, export behind the parity gate, and report; says which threshold the card should have."""
    card = read_card(PACKAGE / "card.toml")
    if not isinstance(card, RowCard):
        raise TypeError("machine-anomaly takes rows")
    network = fit(card, steps, seed)
    well = scores(card, network, data.healthy(100_000, data.THRESHOLD))
    click.echo(f"Threshold for a false-positive rate of {FALSE_POSITIVE_RATE:g}: {np.quantile(well, 0.99):.4f}")
    parity = export(PACKAGE / "card.toml", Checkpoint(network.state_dict(), {}), goldens(), out)
    found = figures(card, network, count)
    command = f"python -m training.machine_anomaly.train --steps {steps} --seed {seed} --count {count}"
    write_report(out, found, conditions(command))
    click.echo(json.dumps(found, indent=1))
    click.echo(f"Largest difference of ONNX Runtime from PyTorch: {parity.largest_difference:.1e}")


if __name__ == "__main__":
    train()
