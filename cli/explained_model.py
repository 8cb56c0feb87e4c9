"""What the commands of `vitrine explain` share: an option, and the model they work on, installed or as it ships."""

from typing import TYPE_CHECKING

import click

from cli.stores import open_store
from errors import StoreError
from explain.rise import DEFAULT_SAMPLES, LEAST_SAMPLES, MOST_SAMPLES
from models import registry
from models.card import Card, ImageCard, read_card
from models.package import EARLY_EXIT_VARIANT, GRAPH, StoredModel

if TYPE_CHECKING:
    from backends.base import Backend

samples_option = click.option(
    "--samples",
    type=click.IntRange(LEAST_SAMPLES, MOST_SAMPLES),
    default=DEFAULT_SAMPLES,
    show_default=True,
    help="How many masks rise draws for a picture, a prediction each.",
)


def model_to_explain(name: str) -> tuple[StoredModel, ImageCard]:
    """Return a model of pictures with its card: the installed one, else the bundled one, with the weights that ship.

    Args:
        name: the model's name, or `name:version` of an installed one.

    Raises:
        ClickException: there is no such model, or it takes no pictures.
    """
    try:
        stored = open_store().find(name)
    except StoreError as error:
        package = registry.package_folder(name)
        if not (package / GRAPH).exists():
            raise click.ClickException(str(error)) from error
        stored = StoredModel(read_card(package / "card.toml"), "as shipped", package)
    card: Card = stored.card
    if not isinstance(card, ImageCard):
        raise click.ClickException(f"{name} takes no pictures: ask /models/{card.name}/explain about a row.")
    return stored, card


def backend_of(stored: StoredModel) -> "Backend":
    """Return what predicts with a model's graph, on all cores."""
    from backends.onnx import EarlyExitBackend, OnnxBackend
    from runners.cores import available_cores

    kind = EarlyExitBackend if stored.variant == EARLY_EXIT_VARIANT else OnnxBackend
    return kind(stored.graph, available_cores())
