"""The models that ship with the source: one folder each with a card, its weights there or still to be brought."""

from pathlib import Path

from errors import CardError
from models.card import ModelCard, read_card

FOLDER = Path(__file__).resolve().parent


def bundled(folder: Path = FOLDER) -> dict[str, ModelCard | CardError]:
    """Name → card of every bundled model; where a card is not valid, the error instead, and the others are as ever."""
    found: dict[str, ModelCard | CardError] = {}
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
    """Whether the model's weights ship with the source."""
    return (package_of(name, folder) / "weights.safetensors").exists()


def how_to_import(name: str, folder: Path = FOLDER) -> str:
    """The command that installs a bundled model."""
    return f"vitrine models import {name}" + ("" if has_weights(name, folder) else " --weights CHECKPOINT")
