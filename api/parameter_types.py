"""How single query parameters are read from their text."""

from collections.abc import Callable
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from preprocessing.rows import is_number

SWITCH = {"true": True, "1": True, "false": False, "0": False}


def _switch(text: str) -> bool:
    if text.lower() not in SWITCH:
        raise ValueError("must be true or false")
    return SWITCH[text.lower()]


def _number(text: str) -> str:
    """Return a number as it is written, in ASCII; pydantic takes other digits, spaces and underscores, too."""
    if not is_number(text):
        raise PydanticCustomError("number", "not a number")
    return text


Number = BeforeValidator(_number)
Switch = Annotated[bool | None, BeforeValidator(_switch)]


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return the validator of a whole number in ASCII from `low` to `high`."""

    def validate(text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
        if not low <= number <= high:
            raise ValueError(f"must be a whole number from {low:,} to {high:,}")
        return number

    return validate
