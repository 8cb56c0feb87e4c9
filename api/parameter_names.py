"""The names of parameters: one that nearly is a known name is a mistake, and to ignore it would hide that."""

from collections.abc import Collection, Iterable
from itertools import islice

from errors import InvalidInput

MOST_CHECKED = 100
"""So many names of one request are looked at; more are no mistake in writing."""


def check_names(given: Iterable[str], known: Collection[str]) -> None:
    """Return if no name that is given is one edit, or only its capitals, away from a known one.

    Raises:
        InvalidInput: one is; the message names both.
    """
    for name in islice((name for name in given if name not in known), MOST_CHECKED):
        if near := next((other for other in known if is_one_edit_apart(name.lower(), other)), None):
            raise InvalidInput(f"{name:.80}: there is no such parameter. Did you mean {near}?")


def is_one_edit_apart(name: str, other: str) -> bool:
    """Return whether two names are the same but for one character, or for two neighbours that changed places."""
    if abs(len(name) - len(other)) > 1:
        return False
    start = next((place for place, pair in enumerate(zip(name, other, strict=False)) if pair[0] != pair[1]), None)
    if start is None:  # one is the beginning of the other
        return True
    rest, other_rest = name[start:], other[start:]
    if len(rest) != len(other_rest):
        longer, shorter = (rest, other_rest) if len(rest) > len(other_rest) else (other_rest, rest)
        return longer[1:] == shorter
    return rest[1:] == other_rest[1:] or (rest[:2] == other_rest[1::-1] and rest[2:] == other_rest[2:])
