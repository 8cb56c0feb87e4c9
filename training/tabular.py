"""What the trainings of models of rows share: the loop, the golden rows, and a package with its report."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import torch
from torch import Tensor, nn
from tqdm import tqdm

from export.onnx import export_package
from models.background import write_background
from models.card import RowCard, as_row_card, read_card
from models.checkpoint import Checkpoint
from models.registry import package_folder
from training.loop import take_step
from training.report import write_report

Command = TypeVar("Command", bound=Callable[..., Any])

BATCH = 512
"""Rows in a training batch."""


def training_options(name: str, steps: int, counted: str) -> Callable[[Command], Command]:
    """Return the decorator that gives a training command its `--steps`, `--seed`, `--count` and `--out`.

    Args:
        name: of the bundled model, whose folder is written by default.
        steps: how many batches a network is trained on by default.
        counted: what `--count` counts.
    """
    folder = click.Path(path_type=Path, file_okay=False)
    options = (
        click.option("--steps", default=steps, show_default=True),
        click.option("--seed", default=0, show_default=True),
        click.option("--count", default=20_000, show_default=True, help=counted),
        click.option("--out", default=package_folder(name), type=folder, help="The package folder."),
    )

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def read_row_card(name: str) -> RowCard:
    """Read the card of a bundled model of rows; InvalidInput says that the model takes pictures."""
    return as_row_card(read_card(package_folder(name) / "card.toml"))


def fit(
    network: nn.Module, optimiser: torch.optim.Optimizer, rows: int, steps: int, loss: Callable[[Tensor], Tensor]
) -> None:
    """Train a network on random batches in one cycle of the learning rate, then put it into evaluation mode.

    Args:
        network: is trained in place.
        optimiser: holds its parameters; its learning rate is the peak of the cycle (Smith & Topin 2018).
        rows: how many training rows there are.
        steps: how many batches the network is trained on.
        loss: computes the loss of a batch from the indices of its rows, shape (BATCH,), int64.
    """
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, optimiser.param_groups[0]["lr"], total_steps=steps)
    for _ in tqdm(range(steps), desc="train", unit="step"):
        take_step(loss(torch.randint(rows, (BATCH,))), optimiser, schedule)
    network.eval()


def encode_goldens(rows: Sequence[Mapping[str, object]]) -> list[tuple[str, bytes]]:
    """Return a file name and the JSON of each row, as a client would send it."""
    return [(f"{index}.json", json.dumps(row).encode()) for index, row in enumerate(rows)]


def write_package(
    name: str,
    network: nn.Module,
    goldens: Sequence[tuple[str, bytes]],
    background: Sequence[Mapping[str, object]],
    metrics: dict[str, Any],
    command: str,
    out: Path,
) -> None:
    """Export a trained network behind the parity check, write its report, and print what was measured.

    Args:
        name: of the bundled model, whose card is used.
        network: the trained network.
        goldens: name and encoded bytes of each golden row.
        background: rows that the network was trained on, with which explanations compare a row.
        metrics: what was measured of the network.
        command: the command that is running, for the report.
        out: folder of the package.

    Raises:
        StoreError: the exported graph differs from the network.
    """
    parity = export_package(package_folder(name) / "card.toml", Checkpoint(network.state_dict(), {}), goldens, out)
    write_background(out, background, metrics["data"])
    write_report(out, metrics, command)
    click.echo(json.dumps(metrics, indent=1))
    click.echo(f"Largest difference of ONNX Runtime from PyTorch: {parity.largest_difference:.1e}")
