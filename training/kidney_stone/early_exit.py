"""Train kidney-stone's early exit and judge it: `python -m training.kidney_stone.early_exit --help`.

`fit` runs the shipped network over phantoms and augmented real slices, keeps the features of the layer that the card
names, and trains the head on them. Half of the loss compares the head with the truth, half with the output of the whole
network (Hinton et al. 2015); a third term is that of a map of where the stone is, as for the network itself. Then `fit`
chooses the limits on other phantoms and on the slices that the network was trained on, since no others are left.
`judge` measures head and network on what the report measures: the test slices, and held-out phantoms.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tqdm import tqdm

from export.early_exit import load_head
from models.architectures.early_exit import ExitHead
from models.card import EarlyExit, ImageCard, read_image_card
from models.checkpoint import read_checkpoint, round_weights
from models.package import EXIT
from postprocessing.classification import card_probabilities
from training import metrics
from training.kidney_stone.data import CALIBRATE, TEST, TRAIN
from training.kidney_stone.dataset import PhantomDataset, SliceDataset
from training.kidney_stone.exit_features import PACKAGE, Features, Samples, compute_features, join
from training.kidney_stone.mixture import BATCH, Mixture
from training.kidney_stone.phantom_figures import metrics_at
from training.kidney_stone.slice_folders import read_slices
from training.kidney_stone.slices import split_slices
from training.loop import take_step
from training.report import conditions

RUNS = Path("runs/early-exit")
FIRST_FIT_SEED, FIRST_CHOOSE_SEED = TRAIN + 8_000_000, CALIBRATE + 1_000_000
"""First seeds of the phantoms to train the head on and to choose the limits on; the network was trained on neither."""
MIXTURE_SEED = 1
"""Seed of the batches of real slices and phantoms; the network was trained on those of others."""
MAX_AUC_LOSS = 0.001
"""How much of the AUC the limits may cost on the phantoms that they are chosen on."""


def _exit_of(card: ImageCard) -> EarlyExit:
    if card.early_exit is None:
        raise click.ClickException(f"the card of {card.name} names no early exit")
    return card.early_exit


def train(head: ExitHead, data: Features, epochs: int, rate: float, batch: int = 64) -> None:
    """Train the head in one cycle (Smith & Topin 2018) with AdamW; half of the pictures are mirrored."""
    steps = epochs * (len(data.labels) // batch)
    optimiser = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=5e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    head.train()
    with tqdm(total=steps, desc="train", unit="step") as bar:
        for _ in range(epochs):
            for rows in torch.randperm(len(data.labels))[: len(data.labels) // batch * batch].reshape(-1, batch):
                mirrored = (torch.rand(batch) < 0.5)[:, None, None]
                features, masks = data.features[rows].float(), data.masks[rows].float()
                features = torch.where(mirrored[..., None], features.flip(3), features)
                masks = torch.where(mirrored, masks.flip(2), masks)
                known = ~masks.flatten(1).isnan().any(1)
                logits, maps = head.logits_and_map(features)
                loss = F.cross_entropy(logits, data.labels[rows]) / 2
                loss = loss + F.cross_entropy(logits, data.logits[rows].softmax(1)) / 2
                if known.any():
                    weight = torch.tensor(10.0)
                    loss = loss + F.binary_cross_entropy_with_logits(maps[known, 0], masks[known], pos_weight=weight)
                take_step(loss, optimiser, schedule, max_norm=1.0)
                bar.update()
                bar.set_postfix(loss=f"{loss.item():.3f}")
    head.eval()


@torch.inference_mode()
def probabilities(card: ImageCard, head: ExitHead, data: Features) -> tuple[metrics.Scores, metrics.Scores]:
    """Return P(stone), shape (n,), by the head and by the whole network, at the card's temperature."""
    chunks = torch.chunk(data.features, max(1, len(data.labels) // 256))
    early = torch.cat([head(features.float()) for features in chunks])
    return card_probabilities(early.numpy(), card)[:, 1], card_probabilities(data.logits.numpy(), card)[:, 1]


class Limits(NamedTuple):
    """The head answers where its P(stone) is less than `below` or at least `above`."""

    below: float
    above: float

    def answered_early(self, early: metrics.Scores) -> npt.NDArray[np.bool_]:
        """Return which samples the head answers, shape (n,), from its P(stone) for each."""
        return np.asarray((early < self.below) | (early >= self.above))


class Judged(NamedTuple):
    """P(stone) of samples of one kind by the head and by the whole network, and their labels; each of shape (n,)."""

    labels: metrics.Labels
    early: metrics.Scores
    whole: metrics.Scores


def choose_limits(parts: Sequence[Judged], threshold: float) -> Limits:
    """Return the limits with which the head answers most often without making the model worse on any of the parts.

    The AUC may fall by `MAX_AUC_LOSS`; sensitivity and specificity at the threshold must not fall.

    Args:
        parts: phantoms and real slices, which count equally.
        threshold: the card's.
    """
    best, highest_share = Limits(0.0, 1.0), 0.0
    early = np.concatenate([part.early for part in parts])
    quantiles = np.linspace(0, 1, 81)
    for below in np.unique(np.quantile(early[early < threshold], quantiles).round(4)):
        for above in np.unique(np.quantile(early[early >= threshold], quantiles).round(4)):
            limits = Limits(float(below), float(above))
            share = float(np.mean([limits.answered_early(part.early).mean() for part in parts]))
            if share > highest_share and all(_is_as_good(part, limits, threshold) for part in parts):
                best, highest_share = limits, share
    return best


def _is_as_good(part: Judged, limits: Limits, threshold: float) -> bool:
    labels, early, whole = part
    mixed = np.where(limits.answered_early(early), early, whole)
    rates = (metrics.sensitivity, metrics.specificity)
    keeps_rates = all(rate(labels, mixed, threshold) >= rate(labels, whole, threshold) for rate in rates)
    return keeps_rates and metrics.auc(labels, mixed) >= metrics.auc(labels, whole) - MAX_AUC_LOSS


@click.group()
def main() -> None:
    """Train kidney-stone's early exit and choose its limits, or measure it."""


@main.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of the real slices.")
@click.option("--count", default=8_000, show_default=True, help="Phantoms to train on, in pairs with and without.")
@click.option("--batches", default=500, show_default=True, help=f"Batches of {BATCH} real slices and phantoms as well.")
@click.option("--choose-on", default=4_000, show_default=True, help="Phantoms to choose the limits on.")
@click.option("--epochs", default=14, show_default=True)
@click.option("--rate", default=2e-3, show_default=True, help="Peak learning rate of the one cycle.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default=RUNS, type=click.Path(path_type=Path), help="Folder of features and head.")
def fit(data: Path, count: int, batches: int, choose_on: int, epochs: int, rate: float, seed: int, out: Path) -> None:
    """Train the head on features of the card's layer, and choose the limits, which are to be put on the card."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    card = read_image_card(PACKAGE / "card.toml")
    layer, spec, train_slices = _exit_of(card).layer, card.input, split_slices(read_slices(data)).train
    paired = PhantomDataset(spec, FIRST_FIT_SEED, count, paired=True)
    mixture = Mixture(train_slices, spec, MIXTURE_SEED, batches)
    phantoms = compute_features(card, layer, paired, "phantoms", out)
    training_data = join(phantoms, compute_features(card, layer, mixture, "mixture", out))
    head = ExitHead(training_data.features.shape[1], len(card.labels))
    train(head, training_data, epochs, rate)
    save_file(round_weights({f"exit.{name}": value for name, value in head.state_dict().items()}), out / EXIT)
    (out / EXIT).chmod(0o644)
    head = load_head(read_checkpoint(out / EXIT).weights)
    held_out: dict[str, Samples] = {
        "phantoms to choose on": PhantomDataset(spec, FIRST_CHOOSE_SEED, choose_on),
        "slices that were trained on": SliceDataset(train_slices, spec),
    }
    judged = {name: _judge(card, head, samples, name, out) for name, samples in held_out.items()}
    limits = choose_limits(list(judged.values()), card.threshold or 0.5)
    for name, (labels, early, whole) in judged.items():
        aucs = (
            f"AUC of the head {metrics.auc(labels, early):.4f}, of the whole network {metrics.auc(labels, whole):.4f}"
        )
        click.echo(f"{name}: {aucs}; answered early: {limits.answered_early(early).mean():.1%}")
    click.echo(f"Copy {out / EXIT} to {PACKAGE}. For its card:")
    click.echo(f"clear_below = {limits.below:.4f}\nclear_from = {limits.above:.4f}")


def _judge(card: ImageCard, head: ExitHead, samples: Samples, name: str, folder: Path) -> Judged:
    features = compute_features(card, _exit_of(card).layer, samples, name, folder)
    return Judged(features.labels.numpy(), *probabilities(card, head, features))


@main.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of the real slices.")
@click.option("--count", default=3000, show_default=True, help="Held-out phantoms.")
@click.option("--out", default=PACKAGE / "early_exit.json", type=click.Path(path_type=Path))
def judge(data: Path, count: int, out: Path) -> None:
    """Measure the card's early exit beside the whole network, on what the report measures."""
    card = read_image_card(PACKAGE / "card.toml")
    head = load_head(read_checkpoint(PACKAGE / EXIT).weights)
    tested: dict[str, Samples] = {
        "real": SliceDataset(split_slices(read_slices(data)).held_out, card.input),
        "phantoms": PhantomDataset(card.input, TEST, count),
    }
    report: dict[str, Any] = {
        name: compared(card, _judge(card, head, samples, f"{name} to test on", RUNS))
        for name, samples in tested.items()
    }
    report["conditions"] = conditions(f"python -m training.kidney_stone.early_exit judge --count {count} --data DIR")
    out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    click.echo(json.dumps(report, indent=2))


def compared(card: ImageCard, judged: Judged) -> dict[str, Any]:
    """Return the figures of the whole network, of both together and of the head alone."""
    labels, early, whole = judged
    answered_early = Limits(_exit_of(card).clear_below, _exit_of(card).clear_from).answered_early(early)
    mixed, threshold = np.where(answered_early, early, whole), card.threshold or 0.5
    figures: dict[str, Any] = {
        "answered_early": round(float(answered_early.mean()), 4),
        "calls_changed": int(((mixed >= threshold) != (whole >= threshold)).sum()),
        "largest_difference": round(float(np.abs(mixed - whole).max()), 4),
        "n": len(labels),
    }
    for name, scores in {"whole": whole, "with_exit": mixed, "head_alone": early}.items():
        figures[name] = {metric: round(compute(labels, scores), 4) for metric, compute in metrics_at(threshold).items()}
    return figures


if __name__ == "__main__":
    main()
