"""Train kidney-stone from scratch on phantoms: `python -m training.kidney_stone.train --help`.

From class labels alone the network learns nothing for hundreds of steps, since a stone covers a thousandth of the
picture. So auxiliary 1x1 convolutions, on `blocks[2]`, `[4]` and `[6]` (strides 8, 16 and 32), predict where the
stone is; they are dropped from what is shipped. Stones are three times their size at first and shrink to true size
by half-way, unless training starts from weights that know them. Every slice comes twice in a batch, without its stones
and with them, so that nothing else tells the two apart. Optimiser: AdamW (Loshchilov & Hutter 2019) in one cycle
(Smith & Topin 2018), gradients clipped at 1.
"""

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from models.architectures.efficientnet import EfficientNetB4Head
from models.card import read_image_card
from models.checkpoint import read_checkpoint
from models.registry import package_of
from training.kidney_stone.data import CALIBRATE, TRAIN, VALIDATE, Phantoms, Sample

PACKAGE = package_of("kidney-stone")
CALIBRATION = 9_000_000
"""First of the training split's seeds that only the batch norms' statistics are taken from."""
TAPS = {2: 56, 4: 160, 6: 448}
"""Blocks with an auxiliary mask predictor, and their channels."""


class Trainee(nn.Module):
    """The network to be shipped and, beside it, the auxiliary mask predictors that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNetB4Head(2)
        for module in self.network.head:
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.aux = nn.ModuleDict({str(block): nn.Conv2d(width, 1, 1) for block, width in TAPS.items()})

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Go on from a trained network; predictors begin at zero, so that only the label moves it at first."""
        self.network.load_state_dict(weights)
        for parameter in self.aux.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(N, 3, h, w) float32 → logits (N, 2) and one mask logit map (N, 1, h/s, w/s) a tap."""
        backbone, maps = self.network.backbone, list[Tensor]()
        features = backbone.bn1(backbone.conv_stem(image))
        for number, block in enumerate(backbone.blocks):
            features = block(features)
            if number in TAPS:
                maps.append(self.aux[str(number)](features))
        return self.network.head(backbone.bn2(backbone.conv_head(features))), maps


def loss_of(logits: Tensor, maps: list[Tensor], sample: Sample) -> Tensor:
    """Cross-entropy of the label plus, for each map, binary cross-entropy of the mask (positive weight 10)."""
    loss = F.cross_entropy(logits, sample.label)
    weight = torch.tensor(10.0, device=logits.device)
    for predicted in maps:
        target = F.adaptive_max_pool2d(sample.mask[:, None], predicted.shape[-2:])
        loss = loss + F.binary_cross_entropy_with_logits(predicted, target, pos_weight=weight)
    return loss


@torch.inference_mode()
def validate(network: nn.Module, loader: DataLoader[Sample], device: torch.device) -> float:
    """Area under the ROC curve on true-size phantoms that training never sees."""
    network.eval()
    scores, labels = [], []
    for image, _, label in loader:
        scores.append(network(image.to(device)).softmax(1)[:, 1].cpu().numpy())
        labels.append(label.numpy())
    return float(roc_auc_score(np.concatenate(labels), np.concatenate(scores)))


@torch.no_grad()
def recalibrate(network: nn.Module, loader: DataLoader[Sample], device: torch.device) -> None:
    """Take batch norms' statistics anew, as plain averages under the final weights (Wu & Johnson 2021, section 3).

    Training's moving averages are of the last few batches of 16, half of them twins; that alone shifted logits.
    """
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    for image, _, _ in tqdm(loader, desc="batch norms", unit="batch"):
        network(image.to(device))
    network.eval()


@torch.inference_mode()
def calibrate(network: nn.Module, loader: Iterable[Sample], device: torch.device) -> tuple[float, float]:
    """Scale and shift the last layer so that P(stone) is a rate (Platt 1999); it changes no ranking.

    Returns:
        The scale of the logits, and the shift of P(stone)'s.
    """
    apart, labels = list[float](), list[int]()
    for image, _, label in tqdm(loader, desc="calibrate", unit="batch"):
        logits = network(image.to(device))
        apart += (logits[:, 1] - logits[:, 0]).tolist()
        labels += label.tolist()
    fitted = LogisticRegression(C=1e6).fit(np.array(apart)[:, None], labels)
    scale, shift = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    last: Any = network.get_submodule("head.7")
    last.weight.mul_(scale)
    last.bias.mul_(scale).add_(torch.tensor([-shift / 2, shift / 2], device=device))
    return scale, shift


def learn(trainee: nn.Module, *, freeze_norms: bool) -> None:
    """Training mode, but for batch norms that are to keep their statistics."""
    trainee.train()
    for module in trainee.modules():
        if freeze_norms and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()


def best_device() -> str:
    """CUDA where there is one, then MPS, then the CPU."""
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

    With batch norms free, a batch's own statistics tell its slices with stones from their twins without, so the loss
    falls further than an evaluation bears out. Weights that are near the end are best taken on with norms frozen.
    """
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    where, spec = torch.device(device or best_device()), read_image_card(PACKAGE / "card.toml").input
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"

    trainee = Trainee()
    if start_from is not None:
        trainee.start_from(read_checkpoint(start_from).weights)
    trainee = trainee.to(where).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(trainee.parameters(), lr=rate, weight_decay=1e-2)
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=where, weights_only=True)
        trainee.load_state_dict(state["trainee"])
        optimiser.load_state_dict(state["optimiser"])
        done = int(state["step"])
    # Made from the step alone, so that a resumed run may also be told to end sooner or later.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=steps, pct_start=0.1, last_epoch=done - 1
    )

    shrinking = 0 if start_from else steps * batch // 2
    phantoms = Phantoms(spec, TRAIN + seed * 1_000_000, steps * batch, big_until=shrinking, paired=True)
    loader = DataLoader(
        Subset(phantoms, range(done * batch, steps * batch)), batch, num_workers=workers, drop_last=True
    )
    held_out = DataLoader(Phantoms(spec, VALIDATE, validate_on), batch, num_workers=workers)
    natural = DataLoader(Phantoms(spec, TRAIN + CALIBRATION, calibrate_on), batch, num_workers=workers)
    if freeze_norms and done == 0:
        recalibrate(trainee.network, natural, where)
    learn(trainee, freeze_norms=freeze_norms)
    if compiled:
        trainee.compile()
    running = 0.0
    with tqdm(total=steps, initial=done, desc="train", unit="step", dynamic_ncols=True) as bar:
        for step, items in enumerate(loader, done + 1):
            sample = Sample(*(item.to(where) for item in items))
            logits, maps = trainee(sample.image.contiguous(memory_format=torch.channels_last))
            loss = loss_of(logits, maps, sample)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            running += (float(loss) - running) / min(step - done, 50)
            bar.update()
            bar.set_postfix(loss=f"{running:.3f}")
            if step % validate_every == 0 or step == steps:
                auc = validate(trainee.network, held_out, where)
                learn(trainee, freeze_norms=freeze_norms)
                bar.write(f"step {step}: loss {running:.4f}, validation AUC {auc:.4f}")
                _note(out / "history.csv", step, running, auc)
                state = {"trainee": trainee.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
                torch.save(state, checkpoint.with_suffix(".part"))
                checkpoint.with_suffix(".part").replace(checkpoint)
    if not freeze_norms:
        recalibrate(trainee.network, natural, where)
    trainee.network.eval()
    apart = DataLoader(Phantoms(spec, CALIBRATE, calibrate_on), batch, num_workers=workers)
    scale, shift = calibrate(trainee.network, apart, where)
    click.echo(f"Calibrated: logits times {scale:.3f}, shifted by {shift:+.3f}")
    click.echo(f"Validation AUC {validate(trainee.network, held_out, where):.4f}")
    torch.save(trainee.network.state_dict(), out / "best_model.pth")
    click.echo(f"Weights: {out / 'best_model.pth'}")


def _note(path: Path, step: int, loss: float, auc: float) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(["step", "loss", "validation_auc"])
        writer.writerow([step, f"{loss:.5f}", f"{auc:.5f}"])


if __name__ == "__main__":
    train()
