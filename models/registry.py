"""The models that ship with the source: a folder each, with a card and, unless an operator brings them, weights."""

from pathlib import Path

from errors import CardError
from models.card import Card, read_card
from models.package import GRAPH

FOLDER = Path(__file__).resolve().parent


def bundled_cards(folder: Path = FOLDER) -> dict[str, Card | CardError]:
    """Return the card of every bundled model by name; where a card is not valid, the error stands in its place."""
    cards: dict[str, Card | CardError] = {}
    for path in sorted(folder.glob("*/card.toml")):
        name = path.parent.name.replace("_", "-")
        try:
            card = read_card(path)
            if card.name != name:
                raise CardError(f"{path}: the card's name is {card.name!r}, its folder asks for {name!r}")
            cards[name] = card
        except CardError as error:
            cards[name] = error
    return cards


def package_folder(name: str) -> Path:
    """Return the folder of a bundled model; it is a complete package only if `has_weights`."""
    return FOLDER / name.replace("-", "_")


def has_weights(name: str) -> bool:
    """Return whether a bundled model ships with its weights, ready to be installed."""
    return (package_folder(name) / GRAPH).exists()


def import_command(name: str) -> str:
    """Return the command that installs a bundled model, or one that an operator brought."""
    command = f"vitrine models import {name}"
    if has_weights(name):
        return command
    if not (package_folder(name) / "card.toml").exists():
        return f"vitrine models add SOURCE --name {name}"
    comes_as_graph = read_card(package_folder(name) / "card.toml").architecture == "onnx"
    return (
        f"vitrine models add GRAPH --name {name} --labels FILE" if comes_as_graph else f"{command} --weights CHECKPOINT"
    )
