"""Cross-validate the training with real slices: `python -m training.kidney_stone.folds --help`.

Each fold trains from the same phantom-trained weights on two thirds of the studies that are not in the test set, and is
scored on the others. The spread between folds says how far the figures depend on who happens to be in which part.
"""

import json
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch

from models.card import read_image_card
from training.kidney_stone.finetune import PACKAGE, Plan, fit, slice_loader
from training.kidney_stone.judging import ScoredSlices, measure, rates, strata
from training.kidney_stone.slice_folders import read_slices
from training.kidney_stone.slices import fold_slices
from training.kidney_stone.train import best_device, score
from training.loop import use_threads
from training.report import conditions

FOLDS = 3


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of the real slices.")
@click.option(
    "--start-from", required=True, type=click.Path(path_type=Path, exists=True), help="Phantom-trained weights."
)
@click.option("--steps", default=400, show_default=True)
@click.option("--device", default=None, help="cpu, cuda or mps; the best there is by default.")
@click.option("--threads", default=None, type=int, help="PyTorch's threads on a CPU; all cores by default.")
@click.option("--workers", default=1, show_default=True, help="Processes that prepare batches.")
@click.option("--out", default=Path("runs/kidney-stone-folds"), type=click.Path(path_type=Path), show_default=True)
def cross_validate(
    data: Path, start_from: Path, steps: int, device: str | None, threads: int | None, workers: int, out: Path
) -> None:
    """Train and score three folds; an interrupted one goes on from its last checkpoint.

    Weights that have seen real slices are of no use with `--start-from`: they may have seen those that are scored.
    """
    use_threads(threads)
    slices = read_slices(data)
    chosen_device, spec = torch.device(device or best_device()), read_image_card(PACKAGE / "card.toml").input
    plan = Plan(start_from, steps, rate=3e-4, seed=0, workers=workers, save_every=20, validate_every=100)
    pooled_slices, pooled_scores, by_fold = [], [], []
    for fold in range(FOLDS):
        parts = fold_slices(slices, fold, FOLDS)
        network = fit(parts, spec, replace(plan, seed=fold), chosen_device, out / f"fold-{fold}").network
        _, scores = score(network, slice_loader(parts["validate"], spec), chosen_device)
        held_out = ScoredSlices(parts["validate"], scores)
        by_fold.append({"auc": measure(rates(0.5), held_out)["auc"], "strata": strata(held_out, 0.5)})
        pooled_slices += parts["validate"]
        pooled_scores.append(scores)
    pooled = ScoredSlices(pooled_slices, np.concatenate(pooled_scores))
    command = f"python -m training.kidney_stone.folds --steps {steps}"
    figures = {"pooled": measure(rates(0.5), pooled), "folds": by_fold, "conditions": conditions(command)}
    (out / "folds.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    click.echo(json.dumps(figures, indent=1))


if __name__ == "__main__":
    cross_validate()
