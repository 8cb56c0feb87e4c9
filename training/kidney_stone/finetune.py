"""Train kidney-stone on with real CT slices and phantoms together: `python -m training.kidney_stone.finetune --help`.

It starts from trained weights, whose batch norms it keeps. Real slices bring what CT looks like; phantoms bring masks,
rare presentations and confounders, so that the network keeps looking at the stone.
"""

from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from models.card import read_image_card
from models.checkpoint import read_checkpoint
from models.registry import package_folder
from preprocessing.spec import ImageInput
from preprocessing.transform import transform
from training import metrics
from training.checkpoints import load, save
from training.kidney_stone.dataset import Sample
from training.kidney_stone.mixture import BATCH, Mixture, read_grey
from training.kidney_stone.slice_folders import read_slices
from training.kidney_stone.slices import Slice, split_slices
from training.kidney_stone.train import append_history, best_device
from training.kidney_stone.trainee import Trainee, loss_of
from training.loop import take_step, use_threads

PACKAGE = package_folder("kidney-stone")
LABEL_SMOOTHING = 0.05
FROZEN_BLOCKS = 2
"""Blocks of the backbone that keep their weights, with the stem: edges look the same in phantoms and in real slices.

They are the largest maps, and without their gradients a step takes three quarters of the time.
"""
CROPPED = 0.6
"""Share of the training that sees the middle of each picture, and then whole ones."""
PER_SCAN = 6
"""Slices of each validation scan that are scored while training goes on, evenly spaced."""


@torch.inference_mode()
def score_slices(
    network: nn.Module, slices: list[Slice], spec: ImageInput, device: torch.device, batch: int = 16
) -> metrics.Scores:
    """Return P(stone) of slices, shape (N,), from a network in evaluation mode."""
    scores: list[Tensor] = []
    for first in range(0, len(slices), batch):
        pictures = [np.dstack([read_grey(item, spec)] * 3) for item in slices[first : first + batch]]
        images = torch.from_numpy(np.stack([transform(picture, spec).tensor for picture in pictures]))
        scores.append(network(images.to(device, memory_format=torch.channels_last)).softmax(1)[:, 1].cpu())
    return np.asarray(torch.cat(scores).numpy(), np.float64)


def thin_out(slices: list[Slice], per_scan: int) -> list[Slice]:
    """Return at most this many slices of each scan, evenly spaced."""
    scans: dict[str, list[Slice]] = {}
    for item in slices:
        scans.setdefault(item.scan, []).append(item)
    return [
        scan[index]
        for scan in scans.values()
        for index in np.unique(np.linspace(0, len(scan) - 1, min(per_scan, len(scan))).round().astype(int))
    ]


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of the real slices.")
@click.option("--steps", default=1000, show_default=True)
@click.option("--rate", default=3e-4, show_default=True, help="Peak learning rate of the one cycle.")
@click.option("--seed", default=0, show_default=True, help="Of the random choices; the split has its own.")
@click.option("--split-seed", default=0, show_default=True)
@click.option("--device", default=None, help="cpu, cuda or mps; the best there is by default.")
@click.option("--threads", default=None, type=int, help="PyTorch's threads on a CPU; all cores by default.")
@click.option("--workers", default=1, show_default=True, help="Processes that prepare batches.")
@click.option("--save-every", default=25, show_default=True, help="Steps between checkpoints.")
@click.option("--validate-every", default=200, show_default=True, help="Steps between validations.")
@click.option("--start-from", default=PACKAGE / "weights.safetensors", type=click.Path(path_type=Path, exists=True))
@click.option("--out", default=Path("runs/kidney-stone-real"), type=click.Path(path_type=Path), show_default=True)
def finetune(
    data: Path,
    steps: int,
    rate: float,
    seed: int,
    split_seed: int,
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
    torch.manual_seed(seed)
    chosen_device, spec = torch.device(device or best_device()), read_image_card(PACKAGE / "card.toml").input
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    parts = split_slices(read_slices(data), split_seed)
    held_out = thin_out(parts["validate"], PER_SCAN)
    held_out_labels = np.array([item.label for item in held_out])

    trainee = Trainee()
    trainee.start_from(read_checkpoint(start_from).weights)
    trainee = trainee.to(chosen_device).to(memory_format=torch.channels_last)
    backbone = trainee.network.backbone
    for module in (backbone.conv_stem, backbone.bn1, *backbone.blocks[:FROZEN_BLOCKS]):
        module.requires_grad_(False)
    trained = [parameter for parameter in trainee.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=1e-2)
    completed = 0
    if (state := load(checkpoint, chosen_device)) is not None:
        trainee.load_state_dict(state["trainee"])
        optimiser.load_state_dict(state["optimiser"])
        completed = int(state["step"])
    # The schedule follows from the step alone, so that a resumed run may be given fewer or more steps than before.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=steps, pct_start=0.1, last_epoch=completed - 1
    )
    mixture = Mixture(parts["train"], spec, seed, steps, crop_until=round(CROPPED * steps))
    remaining = DataLoader(Subset(mixture, range(completed * BATCH, steps * BATCH)), BATCH, num_workers=workers)
    trainee.set_training(freeze_norms=True)
    mean_loss = 0.0
    with tqdm(total=steps, initial=completed, desc="train", unit="step", dynamic_ncols=True) as bar:
        for step, items in enumerate(remaining, completed + 1):
            sample = Sample(*(item.to(chosen_device) for item in items))
            logits, maps = trainee(sample.image.contiguous(memory_format=torch.channels_last))
            loss = loss_of(logits, maps, sample, label_smoothing=LABEL_SMOOTHING)
            take_step(loss, optimiser, schedule, max_norm=1.0)
            mean_loss += (float(loss.detach()) - mean_loss) / min(step - completed, 50)
            bar.update()
            bar.set_postfix(loss=f"{mean_loss:.3f}")
            if step % save_every == 0 or step == steps:
                state = {"trainee": trainee.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
                save(state, checkpoint)
            if step % validate_every == 0 or step == steps:
                trainee.network.eval()
                auc = metrics.auc(held_out_labels, score_slices(trainee.network, held_out, spec, chosen_device))
                trainee.set_training(freeze_norms=True)
                bar.write(f"step {step}: loss {mean_loss:.4f}, validation AUC {auc:.4f}")
                append_history(out / "history.csv", step, mean_loss, auc)
                save(trainee.network.state_dict(), out / f"weights-{step:05d}.pth")
    save(trainee.network.eval().state_dict(), out / "best_model.pth")
    click.echo(f"Weights: {out / 'best_model.pth'}")


if __name__ == "__main__":
    finetune()
