"""What an added model is called: names that are free, and names that stand for another model."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from errors import CardError, StoreError
from models.card import Card, ImageCard, RowCard
from models.package import content_version, file_digests
from models.registry import bundled_cards, has_weights

if TYPE_CHECKING:
    from models.store import Store

RESERVED = {"stats": "it stands for the statistics of all models in the Open Inference Protocol"}
"""Name → why no model may have it."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 60


def model_name(stem: str) -> str:
    """Return a name made of a file's or a network's: small letters and digits, with hyphens between them."""
    words = re.findall(r"[a-z0-9]+", stem.lower())
    name = "-".join(words)[:_LONGEST].strip("-")
    return name if _NAME.fullmatch(name) else f"model-{name}"[:_LONGEST].strip("-") if name else "model"


def check_name(name: str, has_card: bool) -> None:
    """Return if a model may be added under a name.

    Args:
        name: what it is to be called.
        has_card: whether the operator brings a card, on which the name stands.

    Raises:
        CardError: it is no name, or is reserved, or is that of a bundled model.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise CardError(
            f"{name!r} cannot be a model's name: that is small letters and digits with single hyphens between them, a "
            f"letter first, {_LONGEST} at most, such as {model_name(name)!r}."
        )
    if name in RESERVED:
        raise CardError(f"{name!r} is reserved: {RESERVED[name]}. Choose another with --name.")
    if name in bundled_cards() and not has_card and not waits_for_graph(name):
        raise CardError(
            f"{name!r} is the name of a bundled model. Choose another with --name; to bring your own weights for it, "
            f"use `vitrine models import {name} --weights FILE`."
        )


def waits_for_graph(name: str) -> bool:
    """Return whether a model is bundled as a card for pictures that any graph may fill in, such as imagenet."""
    card = bundled_cards().get(name)
    return isinstance(card, ImageCard) and card.architecture == "onnx" and not has_weights(name)


def check_other_store(name: str, package: Path, store: "Store") -> None:
    """Return if a package's name means no other model in BentoML's store, where it goes into a folder of one's own.

    A server that found both would refuse to start.

    Raises:
        CardError: there is another model of that name; the message says what to do.
    """
    from models.store import bentoml_store  # BentoML takes a second to import

    if not store.is_own:
        return
    version = bentoml_store().read_lock().get(name)
    if version not in (None, content_version(file_digests(package))):
        raise CardError(
            f"BentoML's store serves a model {name!r} already ({name}:{version}), and beside it a server would refuse "
            f"the one in {store.models} (VITRINE_MODELS_DIR). Choose another name, or remove that one first: "
            f"`vitrine models remove {name}` where VITRINE_MODELS_DIR is not set."
        )


def check_contract(card: Card, installed: Card) -> None:
    """Return if a model may become the next version of one that is installed under its name.

    Clients of a name rely on what it takes and answers.

    Raises:
        StoreError: the two have another task, labels, features or outputs.
    """
    differing = [key for key in ("task", "labels", "outputs") if getattr(card, key, ()) != getattr(installed, key, ())]
    if isinstance(card, RowCard) and isinstance(installed, RowCard) and _features(card) != _features(installed):
        differing.append("features")
    if differing:
        raise StoreError(
            f"The name {card.name!r} is taken by another model: {_listed(differing, installed)}. Choose another with "
            "--name, or say --replace if its clients are to get this one."
        )


def _features(card: RowCard) -> list[str]:
    return [feature.name for feature in card.input.features]


def _listed(keys: list[str], installed: Card) -> str:
    """Return in which keys an installed model differs, and what it has there."""
    values = {
        "task": installed.task,
        "labels": ", ".join(installed.labels[:5]) + (", …" if len(installed.labels) > 5 else ""),
        "outputs": ", ".join(output.name for output in getattr(installed, "outputs", ())),
        "features": ", ".join(_features(installed)) if isinstance(installed, RowCard) else "",
    }
    return "; ".join(f"its {key}: {values[key] or 'none'}" for key in keys)
