"""The models that ship with the source: one folder each with a card, its weights there or still to be brought."""

from pathlib import Path

from errors import CardError
from export.labelled import Source
from models.card import Card, read_card
from models.package import GRAPH

FOLDER = Path(__file__).resolve().parent


def bundled(folder: Path = FOLDER) -> dict[str, Card | CardError]:
    """Name → card of every bundled model; where a card is not valid, the error instead, and the others are as ever."""
    found: dict[str, Card | CardError] = {}
    for path in sorted(folder.glob("*/card.toml")):
        name = path.parent.name.replace("_", "-")
        try:
            card = read_card(path)
            if card.name != name:
                raise CardError(f"{path}: the card's name is {card.name!r}, its folder asks for {name!r}")
            found[name] = card
        except CardError as error:
            found[name] = error
    return found


def package_of(name: str, folder: Path = FOLDER) -> Path:
    """The folder of a bundled model; it is a whole package only where `has_weights`."""
    return folder / name.replace("-", "_")


def has_weights(name: str, folder: Path = FOLDER) -> bool:
    """Whether the model ships with the source, ready to be installed."""
    return (package_of(name, folder) / GRAPH).exists()


def how_to_import(name: str, folder: Path = FOLDER) -> str:
    """The command that installs a bundled model."""
    if has_weights(name, folder):
        return f"vitrine models import {name}"
    graph = read_card(package_of(name, folder) / "card.toml").architecture == "onnx"
    return f"vitrine models import {name} " + ("--onnx GRAPH --labels LABELS" if graph else "--weights CHECKPOINT")


def source_of(card: Card) -> Source | None:
    """The labelled data of a model, if it has any; that of kidney-stone needs PyTorch."""
    if card.name == "kidney-stone":
        from training.kidney_stone import data as phantoms

        return phantoms
    if card.name == "churn":
        from training.churn import data as customers

        return customers
    if card.name == "machine-anomaly":
        from training.machine_anomaly import data as readings

        return readings
    return None
