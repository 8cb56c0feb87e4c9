"""Training on with real CT slices and phantoms together, from trained weights whose batch norms are kept.

Real slices bring what CT looks like; phantoms bring masks, rare presentations and confounders, so that the network
keeps looking at the stone. The optimiser is AdamW (Loshchilov & Hutter 2019) in one cycle (Smith & Topin 2018), with
gradients clipped at norm 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from models.checkpoint import read_checkpoint
from preprocessing.spec import ImageInput
from training.checkpoints import load, save
from training.kidney_stone.dataset import Sample, SliceDataset
from training.kidney_stone.mixture import BATCH, Mixture
from training.kidney_stone.slices import Slice
from training.kidney_stone.trainee import Trainee, loss_of
from training.loop import take_step

LABEL_SMOOTHING = 0.05
FROZEN_BLOCKS = 2
"""Blocks of the backbone that keep their weights, with the stem: edges look the same in phantoms and in real slices.

They have the largest maps, half of all activations, so a step is a quarter faster without their gradients.
"""


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
        bfloat16: whether pointwise convolutions are computed in bfloat16, else in float32.
        compiled: whether the network is compiled first.
    """

    start_from: Path
    steps: int
    rate: float
    seed: int
    workers: int
    save_every: int
    bfloat16: bool
    compiled: bool


def slice_loader(slices: Sequence[Slice], spec: ImageInput) -> DataLoader[Sample]:
    """Return real slices in batches, in order, as serving sees them."""
    return DataLoader(SliceDataset(slices, spec), BATCH)


def fit(slices: Sequence[Slice], spec: ImageInput, plan: Plan, device: torch.device, out: Path) -> Trainee:
    """Train on from weights, or go on from the checkpoint in `out`; return the network in evaluation mode.

    Args:
        slices: to train on.
        spec: the card's input section.
        plan: how the training goes.
        device: where to compute.
        out: folder of the checkpoint.
    """
    torch.manual_seed(plan.seed)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, completed = out / "checkpoint.pt", 0
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
    # The schedule follows from the step alone, so that a resumed run may be given more steps than before.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, plan.rate, total_steps=plan.steps, pct_start=0.1, last_epoch=completed - 1
    )
    mixture = Mixture(slices, spec, plan.seed, plan.steps)
    rest = Subset(mixture, range(completed * BATCH, plan.steps * BATCH))
    trainee.set_training(freeze_norms=True)
    trainee.pointwise = torch.bfloat16 if plan.bfloat16 else torch.float32
    if plan.compiled:
        trainee.compile()
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
    return trainee.eval()
