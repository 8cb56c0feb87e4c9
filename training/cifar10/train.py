"""Train PyramidNet-110 on CIFAR-10: `python -m training.cifar10.train --help`.

The recipe of the paper (Han et al. 2017, section 4): SGD with Nesterov momentum 0.9 and weight decay 1e-4, the rate a
tenth at half and again at three quarters of the epochs, random crops after padding by 4 and mirror images. Of the
50,000 training pictures 5,000 are held out to choose the best epoch; the test set is looked at once, at the end.
"""

import os
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms  # type: ignore[import-untyped]
from torchvision.datasets import CIFAR10  # type: ignore[import-untyped]
from tqdm import tqdm

from models.architectures.pyramidnet import PyramidNet

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Per RGB channel, for pixels scaled to [0, 1]."""

Loader = DataLoader[tuple[Tensor, Tensor]]


def loaders(data: Path, batch: int, held_out: int, seed: int) -> tuple[Loader, Loader, Loader]:
    """Batches to train on (augmented, shuffled), to validate on and to test on.

    Args:
        data: the folder in which `cifar-10-batches-py` lies.
        batch: pictures in a batch.
        held_out: how many training pictures are kept for validation; which ones, `seed` says.
        seed: of that choice.

    Raises:
        ClickException: CIFAR-10 is not there, or a file of it is damaged.
    """
    plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    varied = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), plain])
    try:
        training, validation = (CIFAR10(data, train=True, transform=each) for each in (varied, plain))
        test = CIFAR10(data, train=False, transform=plain)
    except RuntimeError:
        raise click.ClickException(
            f"CIFAR-10 is not in {data}, or a file of it is damaged. Download {CIFAR10.url} (163 MiB) and unpack it "
            f"there, so that {data / CIFAR10.base_folder / 'data_batch_1'} exists."
        )
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed)).tolist()
    return (
        DataLoader(Subset(training, order[held_out:]), batch, shuffle=True),
        DataLoader(Subset(validation, order[:held_out]), 500),
        DataLoader(test, 500),
    )


@torch.inference_mode()
def accuracy(network: nn.Module, loader: Loader, device: torch.device) -> float:
    """Share of the pictures whose class has the highest logit; leaves the network in evaluation mode."""
    network.eval()
    right = total = 0
    for image, label in loader:
        right += int((network(image.to(device)).argmax(1).cpu() == label).sum())
        total += len(label)
    return right / total


def rate_at(epoch: int, epochs: int, rate: float) -> float:
    """The learning rate of an epoch, counted from 0: a tenth from half-way on, a hundredth from three quarters on."""
    return float(rate * 0.1 ** ((2 * epoch >= epochs) + (4 * epoch >= 3 * epochs)))


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Where cifar-10-batches-py lies.")
@click.option("--out", default=Path("runs/cifar10"), type=click.Path(path_type=Path), show_default=True)
@click.option("--epochs", default=300, show_default=True, type=click.IntRange(1))
@click.option("--batch", default=128, show_default=True)
@click.option("--rate", default=0.1, show_default=True, help="Learning rate of the first half.")
@click.option("--seed", default=0, show_default=True)
@click.option("--held-out", default=5000, show_default=True, help="Training pictures kept for validation.")
@click.option("--device", default=None, help="cpu or cuda; the best there is by default.")
@click.option("--threads", default=None, type=int, help="PyTorch's threads on a CPU; all cores by default.")
def train(
    data: Path,
    out: Path,
    epochs: int,
    batch: int,
    rate: float,
    seed: int,
    held_out: int,
    device: str | None,
    threads: int | None,
) -> None:
    """Train from scratch; run it again after an interruption and it goes on from the last whole epoch."""
    use_threads(threads)
    torch.manual_seed(seed)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    training, validation, test = loaders(data, batch, held_out, seed)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, best = out / "checkpoint.pt", out / "best_model.pth"

    network = PyramidNet(10).to(where).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(network.parameters(), rate, momentum=0.9, weight_decay=1e-4, nesterov=True)
    done, best_accuracy = 0, -1.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=where, weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        done, best_accuracy = state["epochs"], state["best_val_acc"]
        click.echo(f"{checkpoint}: going on after {done} epochs")
    for epoch in range(done, epochs):
        torch.manual_seed(seed * 100_000 + epoch)  # order and crops are the epoch's own, interrupted before or not
        for group in optimiser.param_groups:
            group["lr"] = rate_at(epoch, epochs, rate)
        network.train()
        with tqdm(training, desc=f"epoch {epoch + 1}/{epochs}", unit="step", dynamic_ncols=True) as bar:
            for image, label in bar:
                loss = F.cross_entropy(network(image.to(where, memory_format=torch.channels_last)), label.to(where))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                bar.set_postfix(loss=f"{float(loss.detach()):.3f}")
        found = accuracy(network, validation, where)
        click.echo(f"epoch {epoch + 1}: validation accuracy {found:.4f}")
        if found > best_accuracy:
            best_accuracy = found
            save({"model_state_dict": network.state_dict(), "epoch": epoch + 1, "best_val_acc": found}, best)
        state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
        save({**state, "epochs": epoch + 1, "best_val_acc": best_accuracy}, checkpoint)
    kept = torch.load(best, map_location=where, weights_only=True)
    network.load_state_dict(kept["model_state_dict"])
    click.echo(f"Best epoch {kept['epoch']}: validation accuracy {kept['best_val_acc']:.4f}")
    click.echo(f"Test accuracy {accuracy(network, test, where):.4f}")
    click.echo(f"Weights: {best}")


def use_threads(threads: int | None) -> None:
    """Let PyTorch compute with so many threads; with one a core that this process may use, if None."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or available)


def save(state: dict[str, Any], path: Path) -> None:
    """Write a file of PyTorch's whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


if __name__ == "__main__":
    train()
