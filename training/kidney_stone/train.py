"""Train kidney-stone from scratch on phantoms: `python -m training.kidney_stone.train --help`.

From class labels alone the network learns nothing for hundreds of steps, since a stone covers a thousandth of the
picture. Auxiliary 1x1 convolutions on `blocks[2]`, `[4]` and `[6]` (strides 8, 16 and 32) therefore predict where the
stone is; they are not shipped. Stones are three times their size at first and shrink to true size in the first half of
the training, unless it starts from trained weights. Every slice comes twice in a batch, without its stones and with
them, so that nothing else tells the two apart. The optimiser is AdamW (Loshchilov & Hutter 2019) in one cycle (Smith &
Topin 2018), with gradients clipped at norm 1.
"""

import csv
from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from models.card import read_image_card
from models.checkpoint import read_checkpoint
from models.registry import package_folder
from training import metrics
from training.checkpoints import load, save
from training.kidney_stone.calibration import calibrate, recompute_norms
from training.kidney_stone.data import CALIBRATE, TRAIN, VALIDATE
from training.kidney_stone.dataset import PhantomDataset, Sample
from training.kidney_stone.trainee import Trainee, loss_of
from training.loop import take_step, use_threads

PACKAGE = package_folder("kidney-stone")
FIRST_NORM_SEED = TRAIN + 9_000_000
"""First seed of the phantoms that only the batch norms' statistics are taken from."""


@torch.inference_mode()
def score(network: nn.Module, loader: Iterable[Sample], device: torch.device) -> tuple[metrics.Labels, metrics.Scores]:
    """Put a network into evaluation mode and return the labels of samples, shape (N,), and their P(stone), (N,)."""
    network.eval()
    scores, labels = [], []
    for image, _, label in loader:
        logits = network(image.to(device).contiguous(memory_format=torch.channels_last))
        scores.append(logits.double().softmax(1)[:, 1].cpu().numpy())
        labels.append(label.numpy())
    return np.concatenate(labels), np.concatenate(scores)


def validate(network: nn.Module, loader: Iterable[Sample], device: torch.device) -> float:
    """Return the AUC on samples that training never uses; the network ends in evaluation mode."""
    return metrics.auc(*score(network, loader, device))


def best_device() -> str:
    """Return `cuda` if this machine has it, else `mps` if it has that, else `cpu`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@click.command()
@click.option("--steps", default=3000, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--rate", default=6e-4, show_default=True, help="Peak learning rate of the one cycle.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default=None, help="cpu, cuda or mps; the best there is by default.")
@click.option("--threads", default=None, type=int, help="PyTorch's threads on a CPU; all cores by default.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the network first: 2 minutes, then a fifth faster.")
@click.option("--workers", default=1, show_default=True, help="Processes that draw phantoms.")
@click.option("--validate-every", default=200, show_default=True, help="Steps between checkpoints with a validation.")
@click.option("--validate-on", default=320, show_default=True, help="Phantoms in a validation.")
@click.option("--calibrate-on", default=512, show_default=True, help="Phantoms for batch norms, and for calibration.")
@click.option(
    "--start-from", type=click.Path(path_type=Path, exists=True), help="Weights to begin with, not at random."
)
@click.option("--freeze-norms", is_flag=True, help="Take batch norms' statistics first, and keep them.")
@click.option("--out", default=Path("runs/kidney-stone"), type=click.Path(path_type=Path), show_default=True)
def train(
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    device: str | None,
    threads: int | None,
    compiled: bool,
    workers: int,
    validate_every: int,
    validate_on: int,
    calibrate_on: int,
    start_from: Path | None,
    freeze_norms: bool,
    out: Path,
) -> None:
    """Train from scratch; run it again after an interruption and it goes on from the last checkpoint.

    Unless batch norms are frozen, the statistics of a batch tell its slices with stones from their twins without, so
    the loss falls further than the evaluation confirms. Nearly finished weights are best trained on with frozen norms.
    """
    use_threads(threads)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    chosen_device, spec = torch.device(device or best_device()), read_image_card(PACKAGE / "card.toml").input
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"

    trainee = Trainee()
    if start_from is not None:
        trainee.start_from(read_checkpoint(start_from).weights)
    trainee = trainee.to(chosen_device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(trainee.parameters(), lr=rate, weight_decay=1e-2)
    completed = 0
    if (state := load(checkpoint, chosen_device)) is not None:
        trainee.load_state_dict(state["trainee"])
        optimiser.load_state_dict(state["optimiser"])
        completed = int(state["step"])
    # The schedule follows from the step alone, so that a resumed run may be given more steps than before.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=steps, pct_start=0.1, last_epoch=completed - 1
    )

    def batches(phantoms: Dataset[Sample]) -> DataLoader[Sample]:
        return DataLoader(phantoms, batch, num_workers=workers)

    shrink_until = 0 if start_from else steps * batch // 2
    phantoms = PhantomDataset(spec, TRAIN + seed * 1_000_000, steps * batch, shrink_until=shrink_until, paired=True)
    remaining = batches(Subset(phantoms, range(completed * batch, steps * batch)))
    held_out = batches(PhantomDataset(spec, VALIDATE, validate_on))
    for_norms = batches(PhantomDataset(spec, FIRST_NORM_SEED, calibrate_on))
    if freeze_norms and completed == 0:
        recompute_norms(trainee.network, for_norms, chosen_device)
    trainee.set_training(freeze_norms=freeze_norms)
    if compiled:
        trainee.compile()
    mean_loss = 0.0
    with tqdm(total=steps, initial=completed, desc="train", unit="step", dynamic_ncols=True) as bar:
        for step, items in enumerate(remaining, completed + 1):
            sample = Sample(*(item.to(chosen_device) for item in items))
            logits, maps = trainee(sample.image.contiguous(memory_format=torch.channels_last))
            loss = loss_of(logits, maps, sample)
            take_step(loss, optimiser, schedule, max_norm=1.0)
            mean_loss += (float(loss) - mean_loss) / min(step - completed, 50)
            bar.update()
            bar.set_postfix(loss=f"{mean_loss:.3f}")
            if step % validate_every == 0 or step == steps:
                auc = validate(trainee.network, held_out, chosen_device)
                trainee.set_training(freeze_norms=freeze_norms)
                bar.write(f"step {step}: loss {mean_loss:.4f}, validation AUC {auc:.4f}")
                append_history(out / "history.csv", step, mean_loss, auc)
                state = {"trainee": trainee.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
                save(state, checkpoint)
    if not freeze_norms:
        recompute_norms(trainee.network, for_norms, chosen_device)
    trainee.network.eval()
    for_calibration = batches(PhantomDataset(spec, CALIBRATE, calibrate_on))
    scale, shift = calibrate(trainee.network, for_calibration, chosen_device)
    click.echo(f"Calibrated: logits times {scale:.3f}, shifted by {shift:+.3f}")
    click.echo(f"Validation AUC {validate(trainee.network, held_out, chosen_device):.4f}")
    save(trainee.network.state_dict(), out / "best_model.pth")
    click.echo(f"Weights: {out / 'best_model.pth'}")


def append_history(path: Path, step: int, loss: float, auc: float) -> None:
    """Append a row to the table of validations, which is begun with a heading."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(["step", "loss", "validation_auc"])
        writer.writerow([step, f"{loss:.5f}", f"{auc:.5f}"])


if __name__ == "__main__":
    train()
