"""Train kidney-stone's early exit and judge it: `python -m training.kidney_stone.early_exit --help`.

`fit` runs the shipped network over phantoms that it was not trained on, keeps the features of the layer that the card
names, and trains the head on them: half of its loss is what the whole network says of the picture (Hinton et al. 2015),
half the truth, and a map of where the stone is comes on top, as for the network itself. Then it chooses the limits on
phantoms that neither saw. `judge` measures both on the report's held-out phantoms.
"""

import hashlib
import json
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import click
import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from explain.compile import split
from export.early_exit import head_of
from export.onnx import point_into, traced
from models.architectures.early_exit import ExitHead
from models.card import EarlyExit, ImageCard, read_image_card
from models.checkpoint import load_network, read_checkpoint, rounded
from models.package import EXIT, GRAPH, WEIGHTS, sha256
from models.registry import package_of
from postprocessing.interpret import softmax
from preprocessing.transform import transform
from training import figures as quality
from training.kidney_stone.data import CALIBRATE, TEST, TRAIN, TRAINING_MIX
from training.kidney_stone.phantom import draw
from training.kidney_stone.report import FIGURES
from training.report import conditions

PACKAGE, RUNS = package_of("kidney-stone"), Path("runs/early-exit")
FIT, CHOOSE = TRAIN + 8_000_000, CALIBRATE + 1_000_000
"""First seeds of the phantoms for the head's training, which the network's own used none of, and for its limits."""
AUC_FALL = 0.001
"""How far AUC may fall where the limits are chosen; sensitivity and specificity at the threshold must not."""


class _Cut(nn.Module):
    """Picture → the features of a layer, and logits."""

    def __init__(self, network: Any, layer: str) -> None:
        super().__init__()
        for name, child in network.named_children():
            self.add_module(name, child)
        self._parts = split(network.stages(), layer)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self._parts[0](image)
        return features, self._parts[1](features)


@dataclass(frozen=True)
class Seen:
    """Phantoms as the network sees them.

    features: (n, channels, h, w) float16. logits: of the whole network, (n, 2) float32. masks: where a stone is,
    (n, h / 2, w / 2) bool, as coarse as the head's map. labels: (n,) int64.
    """

    features: Tensor
    logits: Tensor
    masks: Tensor
    labels: Tensor


class _Task(NamedTuple):
    seed: int
    label: int | None = None


_session: Any = None


def _open(graph: Path) -> None:
    global _session
    cv2.setNumThreads(1)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    _session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _see(card: ImageCard, task: _Task) -> tuple[Any, ...]:
    mix = {} if task.label is None else {"label": task.label, "phase_mix": TRAINING_MIX}
    phantom = draw(task.seed, **mix)  # type: ignore[arg-type]
    features, logits = _session.run(None, {"image": transform(phantom.image, card.input).tensor[None]})
    width, height = ((side + 1) // 2 for side in features.shape[:1:-1])
    area = cv2.resize(phantom.mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return features[0].astype(np.float16), logits[0], area > 0, np.int64(phantom.label)


def see(card: ImageCard, tasks: list[_Task], out: Path) -> Seen:
    """Run the shipped network over phantoms, in parallel; those that were seen before are read from `out`.

    The file's name tells weights, input and seeds; whoever changes how phantoms are drawn removes the folder.
    """
    layer, cores = _exit_of(card).layer, len(os.sched_getaffinity(0))
    asked = f"{sha256(PACKAGE / WEIGHTS)} {card.input} {layer} {tasks}"
    cache = out / f"{hashlib.sha256(asked.encode()).hexdigest()[:12]}.npz"
    if not cache.exists():
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            graph, network = Path(folder) / GRAPH, load_network(card, read_checkpoint(PACKAGE / WEIGHTS).weights)
            cut = traced(_Cut(network, layer), {"image": torch.zeros(2, 3, *card.input.size)}, ["features", "logits"])
            point_into(cut, Path(shutil.copy(PACKAGE / WEIGHTS, folder)))
            graph.write_bytes(cut.SerializeToString())
            with ProcessPoolExecutor(cores, get_context("spawn"), _open, (graph,)) as pool:
                seen = pool.map(partial(_see, card), tasks, chunksize=8)
                columns = [np.stack(column) for column in zip(*tqdm(seen, "phantoms", len(tasks)), strict=True)]
        with cache.with_suffix(".part").open("wb") as file:
            np.savez(file, *columns)
        cache.with_suffix(".part").replace(cache)
    with np.load(cache) as kept:
        return Seen(*(torch.from_numpy(kept[name]) for name in kept.files))


def _exit_of(card: ImageCard) -> EarlyExit:
    if card.early_exit is None:
        raise click.ClickException(f"the card of {card.name} names no early exit")
    return card.early_exit


def train(head: ExitHead, seen: Seen, epochs: int, rate: float, batch: int = 64) -> None:
    """Train the head in one cycle (Smith & Topin 2018) with AdamW; half of the pictures are flipped."""
    steps = epochs * (len(seen.labels) // batch)
    optimiser = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=5e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    head.train()
    with tqdm(total=steps, desc="train", unit="step") as bar:
        for _ in range(epochs):
            for rows in torch.randperm(len(seen.labels))[: len(seen.labels) // batch * batch].reshape(-1, batch):
                flipped = (torch.rand(batch) < 0.5)[:, None, None]
                features, masks = seen.features[rows].float(), seen.masks[rows].float()
                features = torch.where(flipped[..., None], features.flip(3), features)
                masks = torch.where(flipped, masks.flip(2), masks)
                logits, where = head.logits_and_map(features)
                loss = F.cross_entropy(logits, seen.labels[rows]) / 2
                loss = loss + F.cross_entropy(logits, seen.logits[rows].softmax(1)) / 2
                loss = loss + F.binary_cross_entropy_with_logits(where[:, 0], masks, pos_weight=torch.tensor(10.0))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(head.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                bar.update()
                bar.set_postfix(loss=f"{loss.item():.3f}")
    head.eval()


@torch.inference_mode()
def chances(head: ExitHead, seen: Seen) -> tuple[quality.Scores, quality.Scores]:
    """P(stone) by the head, and by the whole network."""
    early = torch.cat(
        [head(features.float()) for features in torch.chunk(seen.features, max(1, len(seen.labels) // 256))]
    )
    return softmax(early.numpy())[:, 1], softmax(seen.logits.numpy())[:, 1]


class Limits(NamedTuple):
    """P(stone) under which, and from which on, the head answers."""

    below: float
    above: float

    def sure(self, early: quality.Scores) -> npt.NDArray[np.bool_]:
        """Where it does."""
        return (early < self.below) | (early >= self.above)


def choose(labels: quality.Labels, early: quality.Scores, whole: quality.Scores, threshold: float) -> Limits:
    """Those that stop most often while AUC falls by `AUC_FALL` at most, and neither rate at the threshold falls."""
    best, most = Limits(0.0, 1.0), 0.0
    rates = (quality.sensitivity, quality.specificity)
    steps = np.linspace(0, 1, 81)
    for below in np.unique(np.quantile(early[early < threshold], steps).round(4)):
        for above in np.unique(np.quantile(early[early >= threshold], steps).round(4)):
            limits = Limits(float(below), float(above))
            if (share := float(limits.sure(early).mean())) > most:
                mixed = np.where(limits.sure(early), early, whole)
                keeps = all(rate(labels, mixed, threshold) >= rate(labels, whole, threshold) for rate in rates)
                if keeps and quality.auc(labels, mixed) >= quality.auc(labels, whole) - AUC_FALL:
                    best, most = limits, share
    return best


@click.group()
def main() -> None:
    """Train kidney-stone's early exit, choose its limits, judge it."""


@main.command()
@click.option("--count", default=16_000, show_default=True, help="Phantoms to train on, in pairs with and without.")
@click.option("--choose-on", default=4_000, show_default=True, help="Phantoms to choose the limits on.")
@click.option("--epochs", default=14, show_default=True)
@click.option("--rate", default=2e-3, show_default=True, help="Peak learning rate of the one cycle.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default=RUNS, type=click.Path(path_type=Path), help="Folder of features and head.")
def fit(count: int, choose_on: int, epochs: int, rate: float, seed: int, out: Path) -> None:
    """Train the head on features of the card's layer, and choose the limits, which belong on the card."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    card = read_image_card(PACKAGE / "card.toml")
    seen = see(card, [_Task(FIT + index // 2, index % 2) for index in range(count)], out)
    head = ExitHead(seen.features.shape[1], len(card.labels))
    train(head, seen, epochs, rate)
    save_file(rounded({f"exit.{name}": value for name, value in head.state_dict().items()}), out / EXIT)
    (out / EXIT).chmod(0o644)
    head = head_of(read_checkpoint(out / EXIT).weights)
    others = see(card, [_Task(CHOOSE + index) for index in range(choose_on)], out)
    labels, (early, whole) = others.labels.numpy(), chances(head, others)
    limits = choose(labels, early, whole, card.threshold or 0.5)
    click.echo(
        f"AUC of the head {quality.auc(labels, early):.4f}, of the whole network {quality.auc(labels, whole):.4f}"
    )
    click.echo(f"Answered early: {limits.sure(early).mean():.1%}. Copy {out / EXIT} to {PACKAGE}. For its card:")
    click.echo(f"clear_below = {limits.below:.4f}\nclear_from = {limits.above:.4f}")


@main.command()
@click.option("--count", default=3000, show_default=True, help="Held-out phantoms.")
@click.option("--out", default=PACKAGE / "early_exit.json", type=click.Path(path_type=Path))
def judge(count: int, out: Path) -> None:
    """Measure the card's early exit beside the whole network, on the report's phantoms."""
    card = read_image_card(PACKAGE / "card.toml")
    seen = see(card, [_Task(TEST + index) for index in range(count)], RUNS)
    labels, (early, whole) = seen.labels.numpy(), chances(head_of(read_checkpoint(PACKAGE / EXIT).weights), seen)
    sure = Limits(_exit_of(card).clear_below, _exit_of(card).clear_from).sure(early)
    columns = {"whole": whole, "with_exit": np.where(sure, early, whole), "head_alone": early}
    figures = {
        name: {figure: round(of(labels, column), 4) for figure, of in FIGURES.items()}
        for name, column in columns.items()
    }
    threshold, mixed = card.threshold or 0.5, columns["with_exit"]
    measured = {
        "answered_early": round(float(sure.mean()), 4),
        "calls_changed": int(((mixed >= threshold) != (whole >= threshold)).sum()),
        "largest_difference": round(float(np.abs(mixed - whole).max()), 4),
        "n": count,
    }
    written = (
        measured
        | figures
        | {"conditions": conditions(f"python -m training.kidney_stone.early_exit judge --count {count}")}
    )
    out.write_text(json.dumps(written, indent=2) + "\n", "utf-8")
    click.echo(json.dumps(written, indent=2))


if __name__ == "__main__":
    main()
