"""Train PyramidNet-110 on CIFAR-10: `python -m training.cifar10.train --help`.

The recipe is for few epochs on a CPU, and the first ones are cheap: pictures are shrunk to 24 pixels and have their
full 32 only in the end (Howard 2018, DAWNBench), and two blocks of three are left out at first. Residual branches begin
at zero (Goyal et al. 2017, section 5.1), so a block changes nothing on the step at which it joins. The learning rate
rises and falls linearly in one cycle (Smith & Topin 2018). Filters are trained by Muon, which makes the singular values
of each step's update equal (Jordan et al. 2024), and kept at one length, since the norm behind each convolution takes
any other out again; all else by SGD with Nesterov momentum 0.9. The loss smooths labels by 0.1 (Szegedy et al. 2016).
Convolutions are computed in bfloat16 and `channels_last`, which is several times faster where a CPU has AMX.

What is kept is a moving average of the weights, with the statistics of its batch norms computed anew. Of the 50,000
training pictures 5,000 are held out: they give the validation accuracy and the temperature. The test pictures are never
read here; `training.cifar10.report` looks at them once.
"""

import time
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from tqdm import tqdm

from models.architectures.pyramidnet import Block, PyramidNet
from models.card import read_image_card
from models.checkpoint import read_checkpoint
from models.registry import package_folder
from training.checkpoints import load, save
from training.cifar10.data import SIDE, Pictures, augment, hold_out, normalise, read
from training.loop import use_threads
from training.temperature import divide_logits, fit_temperature

CARD_FILE = package_folder("cifar10") / "card.toml"
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
SAVE_EVERY_SECONDS = 240
STATISTICS = 5000
"""Training pictures that the statistics of batch norms are computed from."""
FILTERS_RATE = 0.3
"""The learning rate of filters, as a share of all else's."""


def side_at(progress: float, *, goes_on: bool = False) -> int:
    """Return the side in pixels of training pictures.

    Args:
        progress: share of all steps that are done, in [0, 1].
        goes_on: whether the cycle goes on from trained weights, whose last pictures had all pixels already.
    """
    return 24 if progress < (0.5 if goes_on else 0.85) else SIDE


def is_shallow_at(progress: float, *, goes_on: bool = False) -> bool:
    """Return whether two blocks of three are left out; the arguments are those of `side_at`."""
    return not goes_on and progress < 0.6


def rate_at(progress: float, peak: float, warm_up: float = 0.12) -> float:
    """Return the learning rate: linearly up to `peak` within a share `warm_up` of all steps, then down to 0."""
    return peak * min(progress / warm_up, (1 - progress) / (1 - warm_up))


def initial_network() -> PyramidNet:
    """Return a network whose blocks at first give what they get, since the scale of their last norm is zero."""
    network = PyramidNet(10)
    for module in network.modules():
        if isinstance(module, Block):
            nn.init.zeros_(module.bn3.weight)
    return network


class Shallow(nn.Module):
    """A network of which only every third block computes; of the others, only the shortcut.

    The parameters are the network's own. Those of blocks that are left out get no gradient, so they stay as they are.
    """

    def __init__(self, network: PyramidNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, classes) of normalised pictures (N, 3, h, w), float32."""
        network = self.network
        x: Tensor = network.bn1(network.conv1(image))
        for group in (network.layer1, network.layer2, network.layer3):
            for place, block in enumerate(group):
                assert isinstance(block, Block)
                x = block(x) if place % 3 == 0 else F.pad(x, (0, 0, 0, 0, 0, block.added))
        logits: Tensor = network.fc_out(F.relu(network.bn_out(x)).mean((2, 3)))
        return logits


class Optimiser:
    """Muon for the filters of convolutions, SGD for norms and the last layer, both at the rate of one schedule.

    Args:
        network: its weights are in `channels_last`, else RuntimeError: filters are trained in place.
    """

    def __init__(self, network: nn.Module) -> None:
        parameters = list(network.parameters())
        self._filters = [value for value in parameters if value.ndim == 4]
        # Muon takes matrices: views of the filters, (outputs, 9 x inputs), in the order in which they lie in memory.
        views = (value.detach().permute(0, 2, 3, 1).view(len(value), -1) for value in self._filters)  # never copies
        self._matrices = [nn.Parameter(view) for view in views]
        self.muon = torch.optim.Muon(self._matrices, lr=0.0, momentum=0.6, weight_decay=0.0)
        others = [value for value in parameters if value.ndim != 4]
        self.sgd = torch.optim.SGD(others, lr=0.0, momentum=0.9, nesterov=True)

    def step(self, loss: Tensor, rate: float) -> None:
        """Move the parameters one step down the gradient of a scalar loss; filters take `FILTERS_RATE` of `rate`."""
        for value in self._filters:
            value.grad = None
        for optimiser, share in ((self.muon, FILTERS_RATE), (self.sgd, 1.0)):
            for group in optimiser.param_groups:
                group["lr"] = rate * share
        self.sgd.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for value, matrix in zip(self._filters, self._matrices, strict=True):
            matrix.grad = None if value.grad is None else _matrix(value.grad)
        self.muon.step()  # type: ignore[no-untyped-call]
        self.sgd.step()
        with torch.no_grad():
            for matrix in self._matrices:
                if matrix.grad is not None:
                    matrix.mul_(len(matrix) ** 0.5 / matrix.norm())

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimisers."""
        return {"muon": self.muon.state_dict(), "sgd": self.sgd.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.muon.load_state_dict(state["muon"])
        self.sgd.load_state_dict(state["sgd"])


def _matrix(gradients: Tensor) -> Tensor:
    """Return gradients of filters (outputs, inputs, h, w) as (outputs, h x w x inputs)."""
    return gradients.permute(0, 2, 3, 1).flatten(1)


@torch.inference_mode()
def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """Return the logits (N, 10), float32, of normalised pictures; the network ends in evaluation mode."""
    network.eval()
    return torch.cat([network(chunk) for chunk in torch.split(images, 250)])


def accuracy_of(logits: Tensor, labels: Tensor) -> float:
    """Return the share of pictures whose label has the highest logit."""
    return float((logits.argmax(1) == labels).float().mean())


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="train/LABEL/*.jpg, or the batches.")
@click.option("--out", default=Path("runs/cifar10"), type=click.Path(path_type=Path), show_default=True)
@click.option("--epochs", default=12, show_default=True, type=click.IntRange(1))
@click.option("--batch", default=128, show_default=True)
@click.option("--rate", default=0.2, show_default=True, help="Peak learning rate.")
@click.option("--start-from", default=None, type=FILE, help="Weights that another cycle ended with, to go on from.")
@click.option("--seed", default=0, show_default=True)
@click.option("--held-out", default=5000, show_default=True, help="Training pictures kept for validation.")
@click.option("--device", default=None, help="cpu or cuda; the best there is by default.")
@click.option("--threads", default=None, type=int, help="PyTorch's threads on a CPU; all cores by default.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the step of all blocks: minutes once, then faster.")
def train(
    data: Path,
    out: Path,
    epochs: int,
    batch: int,
    rate: float,
    start_from: Path | None,
    seed: int,
    held_out: int,
    device: str | None,
    threads: int | None,
    compiled: bool,
) -> None:
    """Train for one cycle; run it again after an interruption and it goes on from the last checkpoint.

    Size, depth and learning rate depend on the step and the number of epochs alone, so that a training that goes on may
    be given fewer or more epochs than before.
    """
    use_threads(threads)
    torch.manual_seed(seed)
    chosen_device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    card = read_image_card(CARD_FILE)
    pictures, held = (part.to(chosen_device) for part in hold_out(read(data, "train", card), held_out, seed))
    held_images = normalise(held.images, card.input)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, best = out / "checkpoint.pt", out / "best_model.pth"

    network = initial_network()
    if start_from is not None:
        network.load_state_dict(read_checkpoint(start_from).weights)
    network = network.to(chosen_device).to(memory_format=torch.channels_last)
    shallow, goes_on = Shallow(network), start_from is not None
    deep = torch.compile(network, dynamic=False) if compiled else network
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.995))  # type: ignore[no-untyped-call]
    optimiser = Optimiser(network)
    completed = 0
    if (state := load(checkpoint, chosen_device)) is not None:
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimiser.load_state_dict(state["optimiser"])
        completed = int(state["step"])
        click.echo(f"{checkpoint}: going on after {completed} steps")

    def save_checkpoint(step: int) -> None:
        states = {"network": network.state_dict(), "averaged": averaged.state_dict()}
        save({**states, "optimiser": optimiser.state_dict(), "step": step}, checkpoint)

    def batch_at(step: int, per_epoch: int, side: int) -> Pictures:
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(len(pictures.labels), generator=torch.Generator().manual_seed(seed * 100_000 + epoch))
        chosen = order[place * batch : (place + 1) * batch].to(chosen_device)
        stream = torch.Generator().manual_seed((seed + 1) * 10_000_000 + step)
        return Pictures(augment(normalise(pictures.images[chosen], card.input), side, stream), pictures.labels[chosen])

    per_epoch = len(pictures.labels) // batch
    steps, saved_at, mean_loss = epochs * per_epoch, time.monotonic(), 0.0
    with tqdm(total=steps, initial=completed, desc="train", unit="step", dynamic_ncols=True) as bar:
        for step in range(completed, steps):
            network.train()
            images, labels = batch_at(step, per_epoch, side_at(step / steps, goes_on=goes_on))
            with torch.autocast(chosen_device.type, torch.bfloat16):
                logits = (shallow if is_shallow_at(step / steps, goes_on=goes_on) else deep)(images)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
            optimiser.step(loss, rate_at(step / steps, rate))
            averaged.update_parameters(network)
            mean_loss += (float(loss.detach()) - mean_loss) / min(step - completed + 1, 50)
            bar.update()
            bar.set_postfix(loss=f"{mean_loss:.3f}", side=images.shape[-1])
            if (step + 1) % per_epoch == 0:
                with torch.autocast(chosen_device.type, torch.bfloat16):
                    accuracy = accuracy_of(logits_of(network, held_images), held.labels)
                bar.write(f"epoch {(step + 1) // per_epoch}: loss {mean_loss:.4f}, validation accuracy {accuracy:.4f}")
            if (step + 1) % per_epoch == 0 or time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                save_checkpoint(step + 1)
                saved_at = time.monotonic()

    stream = torch.Generator().manual_seed(seed)
    chunks = torch.split(normalise(pictures.images[:STATISTICS], card.input), batch)
    update_bn(tqdm([augment(chunk, SIDE, stream) for chunk in chunks], desc="batch norms"), averaged)
    network.load_state_dict(averaged.module.state_dict())
    logits = logits_of(network, held_images)
    temperature = fit_temperature(logits, held.labels)
    divide_logits(network.fc_out, temperature)
    accuracy = accuracy_of(logits, held.labels)
    click.echo(f"Validation accuracy {accuracy:.4f}; the logits are divided by the temperature {temperature:.3f}")
    save({"model_state_dict": network.state_dict(), "epoch": epochs, "best_val_acc": accuracy}, best)
    click.echo(f"Weights: {best}")


if __name__ == "__main__":
    train()
