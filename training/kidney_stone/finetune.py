"""Train kidney-stone on with real CT slices and phantoms together: `python -m training.kidney_stone.finetune --help`.

It trains on all slices but the test slices, which are not read. None are left to calibrate on, so the logits are
calibrated on what the folds of `training.kidney_stone.folds` scored, each on scans that it had not trained on, and the
threshold is chosen there.
"""

from pathlib import Path

import click
import numpy as np
import torch
from scipy.special import expit, logit

from models.card import read_image_card
from models.registry import package_folder
from training import metrics
from training.checkpoints import save
from training.kidney_stone.calibration import fit_platt, rescale
from training.kidney_stone.finetuning import Plan, fit
from training.kidney_stone.folds import read_scores
from training.kidney_stone.slice_folders import read_slices
from training.kidney_stone.slices import split_slices
from training.kidney_stone.train import best_device
from training.loop import use_threads

PACKAGE = package_folder("kidney-stone")
MIN_SENSITIVITY = 0.9
"""Least sensitivity in the folds at the threshold that is chosen."""


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of the real slices.")
@click.option("--steps", default=2000, show_default=True)
@click.option("--rate", default=3e-4, show_default=True, help="Peak learning rate of the one cycle.")
@click.option("--seed", default=0, show_default=True, help="Of the random choices; the split is always the same.")
@click.option("--device", default=None, help="cpu, cuda or mps; the best there is by default.")
@click.option("--threads", default=None, type=int, help="PyTorch's threads on a CPU; all cores by default.")
@click.option("--bfloat16", is_flag=True, help="Compute pointwise convolutions in bfloat16: faster on a CPU with AMX.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the network first: 3 minutes, then a fifth faster.")
@click.option("--workers", default=1, show_default=True, help="Processes that prepare batches.")
@click.option("--save-every", default=20, show_default=True, help="Steps between checkpoints.")
@click.option(
    "--start-from", required=True, type=click.Path(path_type=Path, exists=True), help="Phantom-trained weights."
)
@click.option(
    "--folds",
    default=Path("runs/kidney-stone-folds"),
    type=click.Path(path_type=Path, exists=True),
    show_default=True,
    help="What the folds wrote.",
)
@click.option("--out", default=Path("runs/kidney-stone-real"), type=click.Path(path_type=Path), show_default=True)
def finetune(
    data: Path,
    steps: int,
    rate: float,
    seed: int,
    device: str | None,
    threads: int | None,
    bfloat16: bool,
    compiled: bool,
    workers: int,
    save_every: int,
    start_from: Path,
    folds: Path,
    out: Path,
) -> None:
    """Train on from trained weights; run it again after an interruption and it goes on from the last checkpoint."""
    use_threads(threads)
    slices = read_slices(data)
    chosen_device, spec = torch.device(device or best_device()), read_image_card(PACKAGE / "card.toml").input
    plan = Plan(start_from, steps, rate, seed, workers, save_every, bfloat16, compiled)
    labels, scores = read_scores(folds)
    train = split_slices(slices).train
    network = fit(train, spec, plan, chosen_device, out).network
    prevalence, log_odds = float(np.mean([item.label for item in train])), logit(scores)
    scale, shift = fit_platt(labels, log_odds, prevalence)
    rescale(network, scale, shift)
    calibrated = expit(scale * log_odds + shift)
    threshold = metrics.highest_threshold(labels, calibrated, MIN_SENSITIVITY)
    specificity = metrics.specificity(labels, calibrated, threshold)
    click.echo(f"Calibrated for {prevalence:.0%} stones: log odds times {scale:.3f}, shifted by {shift:+.3f}")
    click.echo(f"Threshold for the card: {threshold:.4f}, with a specificity of {specificity:.3f} in the folds")
    save(network.state_dict(), out / "best_model.pth")
    click.echo(f"Weights: {out / 'best_model.pth'}")


if __name__ == "__main__":
    finetune()
