"""Train PyramidNet-110 on CIFAR-10: `python -m training.cifar10.train --help`.

The recipe is that of the paper (Han et al. 2017, section 4): SGD with Nesterov momentum 0.9 and weight decay 1e-4, a
learning rate that falls to a tenth at half and again at three quarters of the epochs, random crops after padding by 4,
and mirror images. Of the 50,000 training pictures 5,000 are held out to choose the best epoch. The test set is used
once, at the end.
"""

from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms  # type: ignore[import-untyped]
from torchvision.datasets import CIFAR10  # type: ignore[import-untyped]
from tqdm import tqdm

from models.architectures.pyramidnet import PyramidNet
from training.checkpoints import load, save
from training.loop import take_step, use_threads

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Mean and standard deviation of each RGB channel, for pixels scaled to [0, 1]."""

Loader = DataLoader[tuple[Tensor, Tensor]]


def loaders(data: Path, batch: int, held_out: int, seed: int) -> tuple[Loader, Loader, Loader]:
    """Return loaders of the training batches (augmented, shuffled), the validation batches and the test batches.

    Args:
        data: the folder that contains `cifar-10-batches-py`.
        batch: pictures in a training batch.
        held_out: how many training pictures are kept for validation.
        seed: determines which training pictures these are.

    Raises:
        ClickException: CIFAR-10 is not in the folder, or a file of it is damaged.
    """
    plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    augmented = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), plain])
    try:
        training, validation = (CIFAR10(data, train=True, transform=steps) for steps in (augmented, plain))
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
    """Return the share of pictures whose class has the highest logit; the network ends in evaluation mode."""
    network.eval()
    correct = total = 0
    for image, label in loader:
        correct += int((network(image.to(device)).argmax(1).cpu() == label).sum())
        total += len(label)
    return correct / total


def rate_at(epoch: int, epochs: int, rate: float) -> float:
    """Return the learning rate of an epoch, counted from 0: a tenth from half of them on, a hundredth from 3/4 on."""
    return float(rate * 0.1 ** ((2 * epoch >= epochs) + (4 * epoch >= 3 * epochs)))


def train_epoch(
    network: nn.Module, loader: Loader, optimiser: torch.optim.Optimizer, device: torch.device, title: str
) -> None:
    """Train a network on every batch of a loader, under a progress bar with this title."""
    network.train()
    with tqdm(loader, desc=title, unit="step", dynamic_ncols=True) as bar:
        for image, label in bar:
            logits = network(image.to(device, memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, label.to(device))
            take_step(loss, optimiser)
            bar.set_postfix(loss=f"{float(loss.detach()):.3f}")


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
    chosen_device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    training, validation, test = loaders(data, batch, held_out, seed)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, best = out / "checkpoint.pt", out / "best_model.pth"

    network = PyramidNet(10).to(chosen_device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(network.parameters(), rate, momentum=0.9, weight_decay=1e-4, nesterov=True)
    completed, best_accuracy = 0, -1.0
    if (state := load(checkpoint, chosen_device)) is not None:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        completed, best_accuracy = state["epochs"], state["best_val_acc"]
        click.echo(f"{checkpoint}: going on after {completed} epochs")
    for epoch in range(completed, epochs):
        torch.manual_seed(seed * 100_000 + epoch)  # so that an epoch's order and crops survive an interruption
        for group in optimiser.param_groups:
            group["lr"] = rate_at(epoch, epochs, rate)
        train_epoch(network, training, optimiser, chosen_device, f"epoch {epoch + 1}/{epochs}")
        validation_accuracy = accuracy(network, validation, chosen_device)
        click.echo(f"epoch {epoch + 1}: validation accuracy {validation_accuracy:.4f}")
        if validation_accuracy > best_accuracy:
            best_accuracy = validation_accuracy
            facts = {"epoch": epoch + 1, "best_val_acc": validation_accuracy}
            save({"model_state_dict": network.state_dict(), **facts}, best)
        state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
        save({**state, "epochs": epoch + 1, "best_val_acc": best_accuracy}, checkpoint)
    best_state = torch.load(best, map_location=chosen_device, weights_only=True)
    network.load_state_dict(best_state["model_state_dict"])
    click.echo(f"Best epoch {best_state['epoch']}: validation accuracy {best_state['best_val_acc']:.4f}")
    click.echo(f"Test accuracy {accuracy(network, test, chosen_device):.4f}")
    click.echo(f"Weights: {best}")


if __name__ == "__main__":
    train()
