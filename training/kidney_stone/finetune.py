"""Train kidney-stone on with real CT slices and phantoms together: `python -m training.kidney_stone.finetune --help`.

It starts from trained weights, whose batch norms it keeps. Real slices bring what CT looks like; phantoms bring masks,
rare presentations and confounders, so that the network keeps looking at the stone. The optimiser is AdamW (Loshchilov &
Hutter 2019) in one cycle (Smith & Topin 2018), with gradients clipped at norm 1. Then the logits are calibrated on the
validation slices, and the threshold is chosen there. The test slices are not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from scipy.special import expit, logit
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from models.card import read_image_card
from models.checkpoint import read_checkpoint
from models.registry import package_folder
from preprocessing.spec import ImageInput
from training import metrics
from training.checkpoints import load, save
from training.kidney_stone.calibration import fit_platt, rescale
from training.kidney_stone.dataset import Sample, SliceDataset
from training.kidney_stone.mixture import BATCH, Mixture
from training.kidney_stone.slice_folders import read_slices
from training.kidney_stone.slices import Parts, Slice, split_slices
from training.kidney_stone.train import append_history, best_device, score, validate
from training.kidney_stone.trainee import Trainee, loss_of
from training.loop import take_step, use_threads

PACKAGE = package_folder("kidney-stone")
LABEL_SMOOTHING = 0.05
FROZEN_BLOCKS = 1
"""Blocks of the backbone that keep their weights, with the stem: edges look the same in phantoms and in real slices.

They have the largest maps, so without their gradients a step is faster.
"""
PER_SCAN = 6
"""Slices of each validation scan that are scored while training goes on, evenly spaced."""
MIN_SENSITIVITY = 0.9
"""Least sensitivity on the validation slices at the threshold that is chosen."""


@dataclass(frozen=True)
class Plan:
    """How a training goes.

    Attributes:
        start_from: weights to begin with.
        steps: batches of `BATCH` items.
        rate: peak learning rate of the one cycle.
        seed: of the random choices.
        workers: processes that prepare batches.
        save_every: steps between checkpoints.
        validate_every: steps between validations.
    """

    start_from: Path
    steps: int
    rate: float
    seed: int
    workers: int
    save_every: int
    validate_every: int


def slice_loader(slices: Sequence[Slice], spec: ImageInput) -> DataLoader[Sample]:
    """Return real slices in batches, in order, as serving sees them."""
    return DataLoader(SliceDataset(slices, spec), BATCH)


def thin_out(slices: Sequence[Slice], per_scan: int) -> list[Slice]:
    """Return at most this many slices of each scan, evenly spaced."""
    scans: dict[str, list[Slice]] = {}
    for item in slices:
        scans.setdefault(item.scan, []).append(item)
    return [
        scan[index]
        for scan in scans.values()
        for index in np.unique(np.linspace(0, len(scan) - 1, min(per_scan, len(scan))).round().astype(int))
    ]


def fit(parts: Parts, spec: ImageInput, plan: Plan, device: torch.device, out: Path) -> Trainee:
    """Train on from weights, or go on from the checkpoint in `out`; return the network in evaluation mode.

    Args:
        parts: slices to train on, and to validate on.
        spec: the card's input section.
        plan: how the training goes.
        device: where to compute.
        out: folder of the checkpoint and of the table of validations.
    """
    torch.manual_seed(plan.seed)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, completed = out / "checkpoint.pt", 0
    held_out = slice_loader(thin_out(parts["validate"], PER_SCAN), spec)
    trainee = Trainee()
    trainee.start_from(read_checkpoint(plan.start_from).weights)
    trainee = trainee.to(device).to(memory_format=torch.channels_last)
    backbone = trainee.network.backbone
    for module in (backbone.conv_stem, backbone.bn1, *backbone.blocks[:FROZEN_BLOCKS]):
        module.requires_grad_(False)
    trained = [parameter for parameter in trainee.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=plan.rate, weight_decay=1e-2)
    if (state := load(checkpoint, device)) is not None:
        trainee.load_state_dict(state["trainee"])
        optimiser.load_state_dict(state["optimiser"])
        completed = int(state["step"])
    # The schedule follows from the step alone, so that a resumed run may be given fewer or more steps than before.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, plan.rate, total_steps=plan.steps, pct_start=0.1, last_epoch=completed - 1
    )
    mixture = Mixture(parts["train"], spec, plan.seed, plan.steps)
    rest = Subset(mixture, range(completed * BATCH, plan.steps * BATCH))
    trainee.set_training(freeze_norms=True)
    mean_loss = 0.0
    with tqdm(total=plan.steps, initial=completed, desc="train", unit="step", dynamic_ncols=True) as bar:
        for step, items in enumerate(DataLoader(rest, BATCH, num_workers=plan.workers), completed + 1):
            sample = Sample(*(item.to(device) for item in items))
            logits, maps = trainee(sample.image.contiguous(memory_format=torch.channels_last))
            loss = loss_of(logits, maps, sample, label_smoothing=LABEL_SMOOTHING)
            take_step(loss, optimiser, schedule, max_norm=1.0)
            mean_loss += (float(loss.detach()) - mean_loss) / min(step - completed, 50)
            bar.update()
            bar.set_postfix(loss=f"{mean_loss:.3f}")
            if step % plan.save_every == 0 or step == plan.steps:
                save({"trainee": trainee.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, checkpoint)
            if step % plan.validate_every == 0 or step == plan.steps:
                auc = validate(trainee.network, held_out, device)
                trainee.set_training(freeze_norms=True)
                bar.write(f"step {step}: loss {mean_loss:.4f}, validation AUC {auc:.4f}")
                append_history(out / "history.csv", step, mean_loss, auc)
    return trainee.eval()


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of the real slices.")
@click.option("--steps", default=750, show_default=True)
@click.option("--rate", default=3e-4, show_default=True, help="Peak learning rate of the one cycle.")
@click.option("--seed", default=0, show_default=True, help="Of the random choices; the split is always the same.")
@click.option("--device", default=None, help="cpu, cuda or mps; the best there is by default.")
@click.option("--threads", default=None, type=int, help="PyTorch's threads on a CPU; all cores by default.")
@click.option("--workers", default=1, show_default=True, help="Processes that prepare batches.")
@click.option("--save-every", default=20, show_default=True, help="Steps between checkpoints.")
@click.option("--validate-every", default=100, show_default=True, help="Steps between validations.")
@click.option(
    "--start-from", required=True, type=click.Path(path_type=Path, exists=True), help="Phantom-trained weights."
)
@click.option("--out", default=Path("runs/kidney-stone-real"), type=click.Path(path_type=Path), show_default=True)
def finetune(
    data: Path,
    steps: int,
    rate: float,
    seed: int,
    device: str | None,
    threads: int | None,
    workers: int,
    save_every: int,
    validate_every: int,
    start_from: Path,
    out: Path,
) -> None:
    """Train on from trained weights; run it again after an interruption and it goes on from the last checkpoint."""
    use_threads(threads)
    slices = read_slices(data)
    chosen_device, spec = torch.device(device or best_device()), read_image_card(PACKAGE / "card.toml").input
    parts = split_slices(slices)
    plan = Plan(start_from, steps, rate, seed, workers, save_every, validate_every)
    network = fit(parts, spec, plan, chosen_device, out).network
    labels, scores = score(network, slice_loader(parts["validate"], spec), chosen_device)
    prevalence, log_odds = float(np.mean([item.label for item in slices])), logit(scores)
    scale, shift = fit_platt(labels, log_odds, prevalence)
    rescale(network, scale, shift)
    threshold = metrics.highest_threshold(labels, expit(scale * log_odds + shift), MIN_SENSITIVITY)
    specificity = metrics.specificity(labels, expit(scale * log_odds + shift), threshold)
    click.echo(f"Validation AUC {metrics.auc(labels, scores):.4f}")
    click.echo(f"Calibrated for {prevalence:.0%} stones: log odds times {scale:.3f}, shifted by {shift:+.3f}")
    click.echo(f"Threshold for the card: {threshold:.4f}, with validation specificity {specificity:.3f}")
    save(network.state_dict(), out / "best_model.pth")
    click.echo(f"Weights: {out / 'best_model.pth'}")


if __name__ == "__main__":
    finetune()
