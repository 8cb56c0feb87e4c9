"""Train demonstration weights on the procedural pictures of `training.cifar10.pictures`; see `--help`."""

from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from models.architectures.pyramidnet import PyramidNet
from models.card import read_image_card
from models.registry import package_folder
from preprocessing.spec import ImageInput
from preprocessing.transform import transform
from training.checkpoints import save
from training.cifar10.pictures import LABELS, TEST, TRAIN, draw, golden_images
from training.loop import take_step, use_threads

DATA = "procedural pictures, not CIFAR-10"
CARD_FILE = package_folder("cifar10") / "card.toml"
HELD_OUT, BATCH, RATE = 500, 32, 2e-3
"""Pictures that the accuracy is measured on, pictures in a batch, and the peak learning rate."""


def draw_batch(spec: ImageInput, first_seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Draw pictures from consecutive seeds and transform them as serving does.

    Returns:
        Images (count, 3, h, w), float32, and labels (count,), int64.
    """
    pictures = [draw(first_seed + index) for index in range(count)]
    tensors = np.stack([transform(image, spec).tensor for image, _ in pictures])
    return torch.from_numpy(tensors), torch.tensor([label for _, label in pictures])


@torch.inference_mode()
def held_out_accuracy(network: nn.Module, spec: ImageInput) -> float:
    """Return the accuracy on `HELD_OUT` pictures that training never uses; the network ends in evaluation mode."""
    network.eval()
    correct = 0
    for first in range(0, HELD_OUT, 100):
        image, label = draw_batch(spec, TEST + first, 100)
        correct += int((network(image).argmax(1) == label).sum())
    return correct / HELD_OUT


def fit(spec: ImageInput, steps: int, seed: int) -> PyramidNet:
    """Train a network on pictures of which each is used once, and return it in training mode."""
    torch.manual_seed(seed)
    network = PyramidNet(len(LABELS)).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.2)
    first_seed, mean_loss = TRAIN + seed * 1_000_000, 0.0
    with tqdm(range(steps), desc="train", unit="step", dynamic_ncols=True) as bar:
        for step in bar:
            image, label = draw_batch(spec, first_seed + step * BATCH, BATCH)
            if step < steps // 2:
                image = F.avg_pool2d(image, 2)  # at half the side, a step takes a quarter of the time
            loss = F.cross_entropy(network(image.contiguous(memory_format=torch.channels_last)), label)
            take_step(loss, optimiser, schedule, max_norm=1.0)
            mean_loss += (float(loss.detach()) - mean_loss) / min(step + 1, 30)
            bar.set_postfix(loss=f"{mean_loss:.3f}")
    return network


@click.command()
@click.option("--out", default=Path("runs/cifar10-demo"), type=click.Path(path_type=Path), show_default=True)
@click.option("--steps", default=300, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=None, type=int, help="PyTorch's threads; all cores by default.")
@click.option("--goldens", type=click.Path(path_type=Path, file_okay=False), help="Only draw golden pictures there.")
def demo(out: Path, steps: int, seed: int, threads: int | None, goldens: Path | None) -> None:
    """Train PyramidNet-110 for a few minutes on procedural pictures, not CIFAR-10: demonstration weights."""
    if goldens is not None:
        goldens.mkdir(parents=True, exist_ok=True)
        for name, data in golden_images():
            (goldens / name).write_bytes(data)
            click.echo(f"{goldens / name}  {len(data):,} bytes")
        return
    use_threads(threads)
    click.echo(f"These weights come from {DATA}; they know nothing of photographs.")
    out.mkdir(parents=True, exist_ok=True)
    spec = read_image_card(CARD_FILE).input
    network = fit(spec, steps, seed)
    accuracy = held_out_accuracy(network, spec)
    click.echo(f"Accuracy on {HELD_OUT} held-out procedural pictures (not CIFAR-10): {accuracy:.3f}")
    state = {"model_state_dict": network.state_dict(), "epoch": 1, "best_val_acc": accuracy, "data": DATA}
    save(state, out / "best_model.pth")
    card = CARD_FILE.read_text("utf-8").replace("bring your own weights, trained on CIFAR-10", DATA)
    warning = f"Demonstration weights, trained on {DATA}: they know nothing of photographs."
    (out / "card.toml").write_text(card.replace("\n[input]", f'warnings = ["{warning}"]\n\n[input]', 1), "utf-8")
    click.echo(f"Weights: {out / 'best_model.pth'}, and a card that says what they are")


if __name__ == "__main__":
    demo()
