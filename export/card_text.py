"""Changing values in the text of a card.toml, while comments and order stay as its author wrote them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from errors import CardError
from preprocessing.rows import is_unicode

OF_THE_BUNDLED_WEIGHTS = ("temperature", "head_activation")
"""Keys of a bundled card that say something of its weights, and nothing of any others."""


def replace_values(card_text: str, values: Mapping[str, Any], added: Mapping[str, Any] | None = None) -> str:
    """Return a card's text with some of its values replaced.

    Args:
        card_text: TOML.
        values: the new values by key; a key within a section is written with a dot, such as `input.size`.
        added: more of them, which get a line of their own where the text has none.

    Raises:
        CardError: the text is not TOML, or it has no such key as is to be replaced.
    """
    try:
        document = tomlkit.parse(card_text)
    except TOMLKitError as error:
        raise CardError(f"The card is not valid TOML: {error}") from error
    added = added or {}
    for key, value in {**values, **added}.items():
        *sections, name = key.split(".")
        table: Any = document
        for section in sections:
            table = table.get(section, {})
        if name not in table and key not in added:
            raise CardError(f"The card has no line for {key}; add one, and it is filled in.")
        table[name] = value
    return tomlkit.dumps(document)


def with_section(card_text: str, name: str, values: Mapping[str, Any]) -> str:
    """Return a card's text with a section more at its end."""
    document = tomlkit.parse(card_text)
    document[name] = dict(values)
    return tomlkit.dumps(document)


def with_assumptions(card_text: str, keys: Sequence[str]) -> str:
    """Return a card's text that says that only these of its keys are assumed; without the list if there are none."""
    document = tomlkit.parse(card_text)
    if keys:
        document["assumed"] = list(keys)
    else:
        document.pop("assumed", None)
    return tomlkit.dumps(document)


def card_for_own_weights(card_text: str, weights: Path) -> str:
    """Return a bundled card's text for other weights, without what it says of the bundled ones.

    Raises:
        CardError: the name of the weights' file is not Unicode.
    """
    if not is_unicode(weights.name):
        raise CardError(f"{weights}: the file's name is not Unicode, so the card cannot hold it; rename the file.")
    document = tomlkit.parse(card_text)
    for key in OF_THE_BUNDLED_WEIGHTS:
        document.pop(key, None)
    values: dict[str, Any] = {"data": f"your own weights ({weights.name})"}
    if "warnings" in document:
        values["warnings"] = []
    return replace_values(tomlkit.dumps(document), values)
