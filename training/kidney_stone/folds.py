"""Cross-validate the training with real slices: `python -m training.kidney_stone.folds --help`.

Each fold trains from the same phantom-trained weights on two thirds of the studies that are not in the test set, and is
scored on the others. The spread between folds says how far the figures depend on who happens to be in which part, and
`training.kidney_stone.finetune` calibrates on the scores.
"""

import json
from pathlib import Path

import click
import numpy as np
import torch

from models.card import read_image_card
from models.registry import package_folder
from training import metrics
from training.kidney_stone.finetuning import Plan, fit, slice_loader
from training.kidney_stone.judging import ScoredSlices, measure, strata
from training.kidney_stone.slice_folders import read_slices
from training.kidney_stone.slices import Slice, fold_slices
from training.kidney_stone.train import best_device, score
from training.loop import use_threads
from training.report import conditions

FOLDS = 3


def read_scores(out: Path) -> tuple[metrics.Labels, metrics.Scores]:
    """Return the labels of the slices that the folds held out, shape (N,), and their P(stone), shape (N,).

    Args:
        out: the folder of the folds.

    Raises:
        ClickException: a fold has not been scored yet.
    """
    files = [_scores_file(out, fold) for fold in range(FOLDS)]
    if missing := [file.name for file in files if not file.exists()]:
        raise click.ClickException(f"{out} lacks {', '.join(missing)}: run `make folds` first.")
    parts = [np.load(file) for file in files]
    return np.concatenate([part["labels"] for part in parts]), np.concatenate([part["scores"] for part in parts])


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of the real slices.")
@click.option(
    "--start-from", required=True, type=click.Path(path_type=Path, exists=True), help="Phantom-trained weights."
)
@click.option("--fold", type=click.IntRange(0, FOLDS - 1), multiple=True, help="Only this; others may run beside it.")
@click.option("--steps", default=600, show_default=True)
@click.option("--device", default=None, help="cpu, cuda or mps; the best there is by default.")
@click.option("--threads", default=None, type=int, help="PyTorch's threads on a CPU; all cores by default.")
@click.option("--bfloat16", is_flag=True, help="Compute pointwise convolutions in bfloat16: faster on a CPU with AMX.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the network first: 3 minutes, then a fifth faster.")
@click.option("--workers", default=1, show_default=True, help="Processes that prepare batches.")
@click.option("--out", default=Path("runs/kidney-stone-folds"), type=click.Path(path_type=Path), show_default=True)
def cross_validate(
    data: Path,
    start_from: Path,
    fold: tuple[int, ...],
    steps: int,
    device: str | None,
    threads: int | None,
    bfloat16: bool,
    compiled: bool,
    workers: int,
    out: Path,
) -> None:
    """Train and score three folds; an interrupted one goes on from its last checkpoint.

    Weights that have seen real slices are of no use with `--start-from`: they may have seen those that are scored.
    """
    use_threads(threads)
    slices = read_slices(data)
    chosen_device = torch.device(device or best_device())
    spec = read_image_card(package_folder("kidney-stone") / "card.toml").input
    for number in fold or range(FOLDS):
        split = fold_slices(slices, number, FOLDS)
        plan = Plan(start_from, steps, 3e-4, number, workers, save_every=20, bfloat16=bfloat16, compiled=compiled)
        network = fit(split.train, spec, plan, chosen_device, out / f"fold-{number}").network
        labels, scores = score(network, slice_loader(split.held_out, spec), chosen_device)
        np.savez(_scores_file(out, number), labels=labels, scores=scores)
    if fold and not all(_scores_file(out, number).exists() for number in range(FOLDS)):
        return
    held_out = [fold_slices(slices, number, FOLDS).held_out for number in range(FOLDS)]
    command = f"python -m training.kidney_stone.folds --steps {steps} --data DIR --start-from WEIGHTS"
    figures = judge(held_out, read_scores(out)[1]) | {"conditions": conditions(command)}
    (out / "folds.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    click.echo(json.dumps(figures, indent=1))


def _scores_file(out: Path, fold: int) -> Path:
    return out / f"fold-{fold}.npz"


def judge(held_out: list[list[Slice]], scores: metrics.Scores) -> dict[str, object]:
    """Return the figures of all folds together, with strata, and the AUC of each.

    Args:
        held_out: the slices of each fold, in the order of `scores`.
        scores: P(stone) of all of them, one fold after the other, shape (N,).
    """
    pooled = ScoredSlices([item for part in held_out for item in part], scores)
    starts = np.cumsum([len(part) for part in held_out])[:-1]
    folds = [ScoredSlices(part, own) for part, own in zip(held_out, np.split(scores, starts), strict=True)]
    return {
        "pooled": measure({"auc": metrics.auc}, pooled) | {"strata": strata(pooled, 0.5)},
        "folds": [measure({"auc": metrics.auc}, fold) for fold in folds],
    }


if __name__ == "__main__":
    cross_validate()
